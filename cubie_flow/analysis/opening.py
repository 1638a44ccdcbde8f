"""Opening results as xarray objects."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubie_flow.analysis import folders
from cubie_flow.analysis.groups import nodes, open_group
from cubie_flow.errors import FlowError, nearest
from cubie_flow.storage.location import Location

if TYPE_CHECKING:
    from xarray import Dataset, DataTree


def open_results(
    path: str | Path | Location,
    *,
    chunks: Any = None,
    options: Mapping[str, Any] | None = None,
) -> Dataset | DataTree:
    """Open a result; only its metadata and the saved times are read.

    Parameters
    ----------
    path : path, str or Location
        ``results.zarr``, the folder of a run that holds it, or a URL that fsspec knows. A
        `Location` names the client as well. An address that only a folder names is not contacted.
    chunks : optional
        As of `xarray.open_zarr`: None reads NumPy arrays when their values are used, ``{}`` makes
        Dask arrays (needs Dask).
    options : mapping, optional
        Options of the client that opens a URL: region, endpoint, credentials. They are not stored
        in the attributes of the dataset.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        A dataset with the accessor ``.flow`` (`FlowAccessor`). For a store of several jobs a tree
        with one group per job and the table of jobs at its root, with the accessor ``.flow``
        (`FlowTreeAccessor`).

    Raises
    ------
    FlowError
        If there is no result, its creation was interrupted, or a newer version made it.

    Examples
    --------
    >>> from cubie_flow import OdeSystem, open_results
    >>> from cubie_flow.api import Study, run_study
    >>> from cubie_flow.batches import make_design
    >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
    >>> design = make_design("zip", {"k": [0.5, 1.0, 2.0]})
    >>> report = run_study(Study(decay, design, duration=1.0), "decay.zarr")
    >>> open_results("decay.zarr").x_final.astype("float64").values.round(4).tolist()
    [0.6065, 0.3679, 0.1353]
    """
    import cubie_flow.analysis.accessor  # noqa: F401  (registers ``.flow``)

    if not isinstance(path, str | PathLike | Location):
        raise FlowError(f"a result is named by its path, not by {path!r:.60}")
    location = folders.place_of(path, options)
    if location.folder is None:
        return _open_remote(location, chunks)
    head = folders.head(location.address)
    if head.is_multirun:
        return _open_tree(location, head, chunks)
    return open_group(location, "", chunks)


def open_runs(path: str | Path) -> Dataset:
    """Open a result as one dataset of runs.

    Parameters
    ----------
    path : path or str
        As in `open_results`; ``results.zarr::3`` is job 3 of a multirun.

    Raises
    ------
    FlowError
        As `open_results`, and if the result holds no runs, or several jobs of which none is named.
    """
    import xarray

    store, separator, job = str(path).rpartition("::")
    opened = open_results(store if separator else path)
    if isinstance(opened, xarray.DataTree):
        names = list(opened.children)
        if not separator:
            raise FlowError(
                f"'{path}' holds {len(names)} jobs with runs; name one of them, such as "
                f"'{path}::{names[0].removeprefix('job_') if names else 0}'"
            )
        wanted = f"job_{job}" if job.isdecimal() else job
        if wanted not in names:
            raise FlowError(
                f"'{store}' has no job '{job}'{nearest(wanted, names)} "
                f"(it has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"
            )
        opened = opened.children[wanted].to_dataset(inherit=False)
    elif separator:
        raise FlowError(f"'{store}' is one study and has no job '{job}'")
    if "run" not in opened.sizes:
        dims = ", ".join(map(str, opened.sizes)) or "none"
        raise FlowError(f"'{path}' holds no runs (its dimensions: {dims})")
    return opened


def _open_remote(location: Location, chunks: Any) -> Dataset | DataTree:
    head = remote_head(location)
    return (
        _open_tree(location, head, chunks) if head.is_multirun else open_group(location, "", chunks)
    )


def _open_tree(location: Location, head: folders.Head, chunks: Any = None) -> DataTree:
    """Open a store of several jobs as a tree with one node per job, opened when it is asked for.

    Parameters
    ----------
    location : Location
        The store.
    head : Head
        Its metadata.
    chunks : optional
        As of `xarray.open_zarr`.
    """
    from cubie_flow.analysis.jobs import text
    from cubie_flow.analysis.xarray_private import lazy_tree
    from cubie_flow.storage.groups import OwnArrays

    store = location.store(read_only=True)
    root = open_group(location, "", chunks, OwnArrays(store, head.attrs, head.nodes))
    tree = lazy_tree(root, head.jobs, lambda job: open_group(location, job, chunks, store), text)
    tree.encoding["source"] = location.name
    return tree


def remote_head(location: Location) -> folders.Head:
    """Return the metadata of a store that is not a folder of Zarr files.

    Raises
    ------
    FlowError
        If it cannot be read, is not a cubie_flow store, or a newer version made it.
    """
    attrs, found = nodes(location)
    folders.check(location.name, attrs)
    return folders.Head(location.name, attrs, found)
