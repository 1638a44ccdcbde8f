"""Opening results as xarray objects."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubie_flow.analysis import folders
from cubie_flow.analysis.groups import open_group, open_tree
from cubie_flow.errors import FlowError, nearest

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

    from cubie_flow.storage import Location


def open_results(
    path: str | Path, *, chunks: Any = None, options: Mapping[str, Any] | None = None
) -> Dataset | DataTree:
    """Open a result; nothing but its metadata and the saved times are read.

    Parameters
    ----------
    path : path or str
        ``results.zarr``, the folder of a run that holds it or says where it is, or a URL that
        fsspec knows.
    chunks : optional
        As of `xarray.open_zarr`; None reads with NumPy when values are asked for, ``{}`` makes
        Dask arrays (needs Dask).
    options : mapping, optional
        Of a URL's client: region, endpoint, credentials. They are not kept in the dataset's
        attributes.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        A dataset with the accessor ``.flow``; for a store of several jobs a tree with one group
        a job and the table of jobs at its root, with ``.flow`` as well.

    Raises
    ------
    FlowError
        If there is no result, it was left unfinished while it was made, or a newer version made
        it.

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

    if not isinstance(path, str | PathLike):
        raise FlowError(f"a result is named by its path, not by {path!r:.60}")
    place = folders.place_of(path, options)
    if place.folder is None:
        return _remote(place, chunks)
    found = folders.head(place.address)
    if found.is_multirun:
        return open_tree(place, found.jobs, chunks)
    return open_group(place, "", chunks)


def open_runs(path: str | Path) -> Dataset:
    """Open a result that is one dataset of runs: what most commands work on.

    A job of a multirun is named after the path: ``results.zarr::3``.

    Raises
    ------
    FlowError
        As `open_results`, and if the result holds several jobs and none is named, or no runs.
    """
    import xarray

    place, sign, job = str(path).rpartition("::")
    opened = open_results(place if sign else path)
    if isinstance(opened, xarray.DataTree):
        names = [name.strip("/") for name in opened.groups if name != "/"]
        if not sign:
            raise FlowError(
                f"'{path}' holds {len(names)} jobs; name one of them, such as '{path}::0'"
            )
        wanted = f"job_{job}" if job.isdecimal() else job
        if wanted not in names:
            raise FlowError(
                f"'{place}' has no job '{job}'{nearest(wanted, names)} "
                f"(it has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"
            )
        opened = opened.children[wanted].to_dataset(inherit=False)
    elif sign:
        raise FlowError(f"'{place}' is one study and has no job '{job}'")
    if "run" not in opened.sizes:
        raise FlowError(
            f"'{path}' holds no runs, but {', '.join(map(str, opened.sizes)) or 'nothing'}"
        )
    return opened


def _remote(place: Location, chunks: Any) -> Dataset | DataTree:
    import zarr

    data = open_group(place, "", chunks)
    folders.check(place.name, data.attrs)
    if folders.MARK not in data.attrs:
        return data
    # A job that failed before it began has none.
    root = zarr.open_group(place.store(read_only=True), mode="r", zarr_format=3)
    groups = [str(name) for name in data["group"].values]
    return open_tree(place, [name for name in groups if f"{name}/status" in root], chunks)
