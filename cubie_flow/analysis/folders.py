"""Finding stores and reading what they say of themselves: one JSON file, no Zarr library."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.storage.folders import ELSEWHERE, RESULTS, SUFFIXES, VERSIONED, found_location
from cubie_flow.storage.location import ICECHUNK, Location
from cubie_flow.storage.provenance import SCHEMA_VERSION
from cubie_flow.storage.schema import lacks_status

METADATA = "zarr.json"
#: Attribute of the root that tells a store of several jobs from that of a study.
MARK = "multirun"


def is_url(path: str | Path) -> bool:
    """Return whether a place is an address and no folder of this machine."""
    return "://" in str(path)


def place_of(given: str | Path, options: Mapping[str, Any] | None = None) -> Location:
    """Return the store that a path means: itself, or that of the folder of a run.

    Parameters
    ----------
    given
        A store, the folder of a run, or a URL.
    options
        Of a URL's client.

    Raises
    ------
    FlowError
        If there is nothing, or nothing of the kind.
    """
    versioned = str(given).rstrip("/").endswith(".icechunk")
    if is_url(given):
        client = ICECHUNK if versioned else "fsspec"
        return Location(str(given), client=client, options=dict(options or {}))
    path = Path(given).expanduser()
    if not path.exists():
        raise FlowError(f"'{given}' does not exist{_beside(path)}")
    if not path.is_dir():
        raise FlowError(
            f"'{given}' is a file; a result is a folder, {RESULTS} or one that holds it"
        )
    if versioned:
        return Location(path, client=ICECHUNK)
    if (path / METADATA).exists() or path.suffix == ".zarr":
        return Location(path)
    if (path / RESULTS).is_dir():
        return Location(path / RESULTS)
    if (path / ".zgroup").exists():
        return Location(path)
    elsewhere = found_location(path, options)
    if elsewhere is not None:
        return elsewhere
    inside = next(stores_below(path), None)
    hint = f"; there is one in '{os.path.relpath(run_of(inside))}'" if inside else ""
    raise FlowError(f"'{given}' holds no {RESULTS}{hint}")


def _beside(path: Path) -> str:
    """Name the nearest folder that is there."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    return nearest(path.name, names)


def stores_below(folder: Path) -> Iterator[Path]:
    """Yield every store below a folder, in order of their paths; no store is looked into.

    Of a store that is elsewhere, the folder that says where.
    """
    for place, folders, files in os.walk(folder):
        found = sorted(name for name in folders if name.endswith(SUFFIXES))
        yield from (Path(place) / name for name in found)
        if ELSEWHERE in files:
            yield Path(place)
        folders[:] = sorted(set(folders) - set(found))


def run_of(found: Path) -> Path:
    """Return the folder of the run whose store, or whose place of it, is this."""
    return found.parent if found.name in (RESULTS, VERSIONED) else found


@frozen
class Head:
    """What the first file of a store says.

    Attributes
    ----------
    path
        Of the store.
    attrs
        Attributes of its root.
    nodes
        Metadata of every array and group in it by path, as the store gathered it.
    """

    path: str
    attrs: Mapping[str, Any]
    nodes: Mapping[str, Mapping[str, Any]]

    @property
    def lengths(self) -> dict[str, int]:
        """Length along ``run`` of every array of the root that has it."""
        found = {}
        for name, node in self.nodes.items():
            dims = node.get("dimension_names") or ()
            if "/" not in name and dims and dims[0] == "run":
                found[name] = int(node["shape"][0])
        return found

    @property
    def is_multirun(self) -> bool:
        """Whether it holds several jobs."""
        return MARK in self.attrs

    @property
    def jobs(self) -> list[str]:
        """Groups of the jobs that hold runs, in order."""
        found = {name.rpartition("/")[0] for name in self.nodes if name.endswith("/status")}
        return sorted(found, key=lambda name: [len(name), name])


def head(path: str) -> Head:
    """Read and check the first file of a local store.

    Raises
    ------
    FlowError
        If it is no store of ours, was left unfinished while it was made, or was made by a newer
        version.
    """
    text = _metadata(Path(path))
    try:
        document = json.loads(text)
        attrs = document.get("attributes", {})
        kind = document["node_type"]
        nodes = (document.get("consolidated_metadata") or {}).get("metadata") or {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlowError(
            f"'{path}' is damaged: its {METADATA} holds no metadata of Zarr 3"
        ) from error
    if kind != "group":
        raise FlowError(f"'{path}' is one Zarr array; a result is the group that holds it")
    check(path, attrs)
    # While a store is still written its metadata is not gathered.
    found = Head(path, attrs, nodes or (_gathered(Path(path)) if MARK in attrs else {}))
    if found.is_multirun:
        return found
    lengths = found.lengths
    if not found.nodes or (lengths and (len(set(lengths.values())) > 1 or 0 in lengths.values())):
        raise FlowError(f"'{path}' was left unfinished while it was made; delete it")
    # Its metadata is gathered in the first file too, so readers would only find no run written.
    if "status" in found.nodes and not (Path(path) / "status" / METADATA).exists():
        raise FlowError(lacks_status(path))
    return found


def _gathered(root: Path) -> dict[str, dict[str, Any]]:
    """Read the metadata of every array and group below a folder."""
    found: dict[str, dict[str, Any]] = {}
    for place, below, files in os.walk(root):
        if METADATA not in files:
            below.clear()
            continue
        with suppress(OSError, ValueError):
            node = json.loads((Path(place) / METADATA).read_text(encoding="utf-8"))
            if node["node_type"] == "array":
                below.clear()  # only chunks
            if Path(place) != root:
                found[Path(place).relative_to(root).as_posix()] = node
    return found


def check(path: str, attrs: Mapping[str, Any]) -> None:
    """Refuse attributes that are not those of a store that this version reads.

    Raises
    ------
    FlowError
        Naming what is there instead.
    """
    version = attrs.get("schema_version")
    if version is None:
        raise FlowError(
            f"'{path}' is a Zarr store, but none of cubie_flow's (it has no schema_version); "
            "xarray.open_zarr opens others"
        )
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise FlowError(
            f"'{path}' has schema_version {version}, and this version of cubie_flow reads up to "
            f"{SCHEMA_VERSION}; install a newer one, or use xarray.open_zarr"
        )


def _metadata(path: Path) -> str:
    try:
        return (path / METADATA).read_text(encoding="utf-8")
    except FileNotFoundError:
        if (path / ".zgroup").exists() or (path / ".zattrs").exists():
            raise FlowError(
                f"'{path}' is a Zarr store of format 2; cubie_flow writes and reads format 3"
            ) from None
        inside = path.is_dir() and any(path.iterdir())
        reason = f"has no {METADATA}" if inside else "is empty"
        raise FlowError(f"'{path}' is no Zarr store: it {reason}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FlowError(f"'{path}' cannot be read: {reason}") from error
