"""The accuracy of a stored result, see `cubie_flow.analysis.estimates`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubie_flow.analysis.estimates import estimate
from cubie_flow.analysis.opening import open_runs

if TYPE_CHECKING:
    from xarray import Dataset


def audit(path: str | Path, **options: Any) -> Dataset:
    """Estimate the error of a random sample of the runs of a result, and store the estimate.

    Parameters
    ----------
    path : path or str
        ``results.zarr`` or the folder of a run; ``::JOB`` after it names a job of a multirun.
    **options
        See `cubie_flow.analysis.estimates.estimate`.

    Returns
    -------
    xarray.Dataset
        The contents of the group ``/audit`` of the store, along ``audited``.

    Raises
    ------
    FlowError
        If no run ended well, the store cannot be written, or another process is writing it.
    """
    return estimate(open_runs(path), **options)
