"""Opening results as xarray objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubie_flow.analysis import folders
from cubie_flow.errors import FlowError, nearest

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

#: Groups of a store that are about its runs; any other group is a job of a multirun.
OWN = ("memory", "config", "checksums", "audit")


def open_results(path: str | Path, *, chunks: Any = None) -> Dataset | DataTree:
    """Open a result; nothing but its metadata and the saved times are read.

    Parameters
    ----------
    path : path or str
        ``results.zarr``, the folder of a run that holds it, or a URL that Zarr can read.
    chunks : optional
        As of `xarray.open_zarr`; None reads with NumPy when values are asked for, ``{}`` makes
        Dask arrays (needs Dask).

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        A dataset with the accessor ``.flow``; for a store of several jobs a tree with one group
        a job and the table of jobs at its root.

    Raises
    ------
    FlowError
        If there is no result, it was left unfinished while it was made, or a newer version made
        it.

    Examples
    --------
    >>> data = open_results("outputs/lorenz_sweep/2026-01-31/12-00-00")  # doctest: +SKIP
    >>> data.flow.sel_runs("rho > 24 and status == 'success'").z_max.plot()  # doctest: +SKIP
    """
    import cubie_flow.analysis.accessor  # noqa: F401  (registers ``.flow``)

    store = folders.store_of(path)
    if folders.is_url(store):
        return _remote(store, chunks)
    found = folders.head(store)
    jobs = job_groups(found)
    return open_tree(store, jobs, chunks) if jobs else open_group(store, None, chunks)


def job_groups(head: folders.Head) -> list[str]:
    """Return the groups of a store that hold runs of their own."""
    return sorted(
        {name.rpartition("/")[0] for name in head.nodes if "/" in name and name.endswith("/status")}
    )


def open_group(path: str, group: str | None, chunks: Any = None) -> Dataset:
    """Open one group of a store, lazily.

    Raises
    ------
    FlowError
        If it is not there or cannot be read.
    """
    import xarray

    try:
        # Times of an ODE are numbers, whatever their unit is called.
        data: Dataset = xarray.open_zarr(path, group=group, chunks=chunks, decode_times=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        where = f"'{path}'" if group is None else f"the group '{group}' of '{path}'"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FlowError(f"{where} cannot be opened: {reason}") from error
    data.encoding["source"] = path
    if group is not None:
        data.encoding["group"] = group
    return data


def open_runs(path: str | Path) -> Dataset:
    """Open a result that is one dataset of runs: what most commands work on.

    A job of a multirun is named by its group after the path: ``results.zarr::3``.

    Raises
    ------
    FlowError
        As `open_results`, and if the result holds several jobs and none is named, or no runs.
    """
    import xarray

    place, sign, job = str(path).partition("::")
    opened = open_results(place)
    if isinstance(opened, xarray.DataTree):
        jobs = [name for name in opened.groups if name != "/"]
        names = [name.strip("/") for name in jobs]
        if not sign:
            raise FlowError(
                f"'{path}' holds {len(jobs)} jobs; name one of them, such as '{place}::{names[0]}'"
            )
        if job not in names:
            raise FlowError(
                f"'{place}' has no job '{job}'{nearest(job, names)} (it has {', '.join(names[:8])})"
            )
        opened = opened[job].to_dataset()
    elif sign:
        raise FlowError(f"'{place}' is one study and has no job '{job}'")
    if "run" not in opened.sizes:
        raise FlowError(
            f"'{path}' holds no runs, but {', '.join(map(str, opened.sizes)) or 'nothing'}"
        )
    return opened


def open_tree(path: str, jobs: list[str], chunks: Any = None) -> DataTree:
    """Open a store of several jobs as a tree, whose nodes are the jobs."""
    import xarray

    nodes = {"/": open_group(path, None, chunks)}
    nodes.update({f"/{job}": open_group(path, job, chunks) for job in jobs})
    return xarray.DataTree.from_dict(nodes)


def _remote(url: str, chunks: Any) -> Dataset | DataTree:
    data = open_group(url, None, chunks)
    folders.check(url, data.attrs)
    return data
