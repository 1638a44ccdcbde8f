"""Finding stores, and reading their metadata from one JSON file without the Zarr library."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import frozen

from cubie_flow.batches.store_names import STATUS
from cubie_flow.documents import read_json
from cubie_flow.errors import FlowError, nearest
from cubie_flow.process.safe_files import refuse_link
from cubie_flow.storage.folders import ELSEWHERE, RESULTS, SUFFIXES, VERSIONED, found_location
from cubie_flow.storage.inspection import MARK, METADATA, read_metadata
from cubie_flow.storage.latest import named_run
from cubie_flow.storage.location import ICECHUNK, Location
from cubie_flow.storage.provenance import SCHEMA_VERSION


def is_url(path: str | Path) -> bool:
    """Return whether a path is a URL rather than a folder of this machine."""
    return "://" in str(path)


def place_of(given: str | Path | Location, options: Mapping[str, Any] | None = None) -> Location:
    """Return the location of a store, given the store itself or the folder of its run.

    Parameters
    ----------
    given : path, str or Location
        A store, the folder of a run, or a URL; a `Location` is returned as it is.
    options : mapping, optional
        Options of the client that opens a URL.

    Raises
    ------
    FlowError
        If the path does not exist or holds no store, or a folder names an address outside of it.
    """
    if isinstance(given, Location):
        return given
    versioned = str(given).rstrip("/").endswith(".icechunk")
    if is_url(given):
        client = ICECHUNK if versioned else "fsspec"
        return Location(str(given), client=client, options=dict(options or {}))
    path = named_run(Path(given).expanduser())
    if not path.exists():
        raise FlowError(f"'{given}' does not exist{_nearest_folder(path)}")
    if not path.is_dir():
        raise FlowError(
            f"'{given}' is a file; a result is a folder, {RESULTS} or one that holds it"
        )
    if versioned:
        return Location(path, client=ICECHUNK)
    if (path / METADATA).exists() or path.suffix == ".zarr":
        return Location(path)
    refuse_link(path / RESULTS)
    if (path / RESULTS).is_dir():
        return Location(path / RESULTS)
    if (path / ".zgroup").exists():
        return Location(path)
    elsewhere = found_location(path, None, lambda address: f"{address} in place of the folder")
    if elsewhere is not None:
        return elsewhere
    inside = next(stores_below(path), None)
    hint = f"; there is one in '{os.path.relpath(run_of(inside))}'" if inside else ""
    raise FlowError(f"'{given}' holds no {RESULTS}{hint}")


def _nearest_folder(path: Path) -> str:
    """Return a hint at the existing folder whose name is nearest."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    return nearest(path.name, names)


def stores_below(folder: Path) -> Iterator[Path]:
    """Yield every store below a folder, in order of their paths.

    For a store at another location, yield the folder of its run, which names that location.
    """
    for parent, folders, files in os.walk(folder):
        stores = sorted(name for name in folders if name.endswith(SUFFIXES))
        yield from (Path(parent) / name for name in stores)
        # A store in the folder of a run is the one that the folder names.
        if ELSEWHERE in files and not {RESULTS, VERSIONED} & set(stores):
            yield Path(parent)
        folders[:] = sorted(set(folders) - set(stores))  # do not search inside stores


def run_of(path: Path) -> Path:
    """Return the folder of a run, given the folder itself or the store in it."""
    return path.parent if path.name in (RESULTS, VERSIONED) else path


@frozen
class Head:
    """The metadata of a store, from its first file.

    Attributes
    ----------
    path
        The store.
    attrs
        Attributes of its root.
    nodes
        Consolidated metadata of every array and group, by path.
    """

    path: str
    attrs: Mapping[str, Any]
    nodes: Mapping[str, Mapping[str, Any]]

    @property
    def lengths(self) -> dict[str, int]:
        """Length along ``run`` of the arrays of the root that have this dimension."""
        lengths = {}
        for name, node in self.nodes.items():
            dims = node.get("dimension_names") or ()
            if "/" not in name and dims and dims[0] == "run":
                lengths[name] = int(node["shape"][0])
        return lengths

    @property
    def is_multirun(self) -> bool:
        """Whether it holds several jobs."""
        return MARK in self.attrs

    @property
    def jobs(self) -> list[str]:
        """Groups of the jobs that hold runs, in order."""
        groups = {name.rpartition("/")[0] for name in self.nodes if name.endswith("/status")}
        return sorted(groups, key=lambda name: [len(name), name])


def head(path: str, comparing: bool = True) -> Head:
    """Read and check the first file of a local store.

    Parameters
    ----------
    path : str
    comparing : bool
        See `read_metadata`.

    Raises
    ------
    FlowError
        If it is not a cubie_flow store, its creation was interrupted, or a newer version made it.
    """
    try:
        found = read_metadata(Path(path), comparing)
    except FileNotFoundError:
        raise _no_store(Path(path)) from None
    attrs, nodes = found.attrs, found.nodes
    check(path, attrs)
    # Metadata that is being written is not consolidated.
    store = Head(path, attrs, nodes or _read_nodes(Path(path), MARK in attrs))
    if store.is_multirun:
        return store
    lengths = store.lengths
    if (not nodes and "status" not in store.nodes) or (
        lengths and (len(set(lengths.values())) > 1 or 0 in lengths.values())
    ):
        raise FlowError(f"'{path}' was left unfinished while it was made; delete it")
    return store


def _read_nodes(root: Path, multirun: bool) -> dict[str, dict[str, Any]]:
    """Read the metadata of every array and group below a folder; of a job only its status."""
    nodes: dict[str, dict[str, Any]] = {}
    for folder, below, files in os.walk(root):
        if METADATA not in files:
            below.clear()
            continue
        if multirun and Path(folder) != root:
            below[:] = [name for name in below if name == STATUS]
        refuse_link(Path(folder) / METADATA)
        with suppress(OSError, ValueError):
            node = read_json(Path(folder) / METADATA)
            if node["node_type"] == "array":
                below.clear()  # the folders of an array hold only chunks
            if Path(folder) != root:
                nodes[Path(folder).relative_to(root).as_posix()] = node
    return nodes


def check(path: str, attrs: Mapping[str, Any]) -> None:
    """Check that this version reads a store with these attributes.

    Raises
    ------
    FlowError
        If it is not a cubie_flow store, or a newer version made it.
    """
    version = attrs.get("schema_version")
    if version is None:
        raise FlowError(
            f"'{path}' is a Zarr store, but not one of cubie_flow (it has no schema_version); "
            "xarray.open_zarr opens others"
        )
    if not isinstance(version, int) or isinstance(version, bool) or version > SCHEMA_VERSION:
        raise FlowError(
            f"'{path}' has schema_version {version}, and this version of cubie_flow reads up to "
            f"{SCHEMA_VERSION}; install a newer one, or use xarray.open_zarr"
        )


def _no_store(path: Path) -> FlowError:
    """Return the error for a folder without metadata."""
    if (path / ".zgroup").exists() or (path / ".zattrs").exists():
        return FlowError(
            f"'{path}' is a Zarr store of format 2; cubie_flow writes and reads format 3"
        )
    inside = path.is_dir() and any(path.iterdir())
    reason = f"has no {METADATA}" if inside else "is empty"
    return FlowError(f"'{path}' is not a Zarr store: it {reason}")
