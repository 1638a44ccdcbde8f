"""The accuracy of a result, estimated from some runs that are integrated again.

The numbers of a run (final values, trajectories, metrics, events, misfits) are compared with those
of a reference by another method with far tighter tolerances, see `cubie_flow.analysis.references`.
A second reference with ten times looser tolerances estimates the uncertainty of the first. If the
two differ by more than a tenth of the error, the error is not resolved. This is always so for a
chaotic system beyond its horizon, where no integration gives a reference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cubie_flow.analysis import runs
from cubie_flow.analysis.audited import GROUP
from cubie_flow.analysis.deviations import RESOLVED, Contents, deviations, sizes
from cubie_flow.analysis.groups import location
from cubie_flow.analysis.references import Accuracy, accuracy_for, methods_for, solve_reference
from cubie_flow.analysis.rerun import stored_study, varied
from cubie_flow.errors import FlowError
from cubie_flow.integrators.status import WELL
from cubie_flow.study.accuracy import rtol_of

if TYPE_CHECKING:
    from xarray import Dataset

    from cubie_flow.study.study import Study

FRACTION, TIGHTER, LEAST = 0.001, 1000.0, 8
#: Most bytes of saved trajectories that are integrated at once.
PIECE = 200_000_000
Array = NDArray[Any]


def estimate(
    data: Dataset,
    *,
    fraction: float = FRACTION,
    seed: int = 0,
    tighter: float = TIGHTER,
    target: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
    on_unkept: Callable[[str], None] | None = None,
) -> Dataset:
    """Estimate the error of a random sample of the runs of a result, and store the estimate.

    Parameters
    ----------
    data : xarray.Dataset
        A result; the estimate for one that was never in a store is only returned.
    fraction : float
        Share of the runs in the sample, which has at least 8 runs. Only runs that ended well are
        sampled.
    seed : int
        Seed of the sample.
    tighter : float
        Ratio of the tolerances of the result to those of the reference.
    target : str
        Target that integrates the references: ``auto``, ``cpu``, ``cuda`` or ``simulator``.
    on_progress : callable, optional
        Called with the number of runs audited so far and the size of the sample.
    on_unkept : callable, optional
        Called with the reason if the store cannot be written, instead of raising an error; the
        estimate is returned all the same.

    Returns
    -------
    xarray.Dataset
        The contents of the group ``/audit`` of the store, along ``audited``.

    Raises
    ------
    FlowError
        If no run ended well, the store cannot be written, or another process is writing it.
    """
    from cubie_flow.storage import ResultStore, leased, locked

    if not 0 < fraction <= 1:
        raise FlowError(f"fraction is {fraction}; it must be above 0 and at most 1")
    if not 1 < tighter <= 1e9:
        raise FlowError(f"tighter is {tighter}; it must be above 1 and at most 1e9")
    store = location(data)
    if seed < 0:
        raise FlowError(f"seed is {seed}; it must be a whole number of at least 0")
    chosen = sample(data, fraction, seed)
    if store is None:
        return measure(data, chosen, tighter, target, on_progress)
    with locked(store.folder.parent) if store.folder is not None else leased(store):
        table = measure(data, chosen, tighter, target, on_progress)
        table.attrs.update({"fraction": fraction, "seed": seed})
        try:
            ResultStore.open(store).put_group(GROUP, table)
        except FlowError as error:
            if on_unkept is None:
                raise
            on_unkept(str(error))
    return table


def sample(data: Dataset, fraction: float = FRACTION, seed: int = 0) -> NDArray[np.int64]:
    """Return the positions of a random sample of the runs that ended well, in order.

    Parameters
    ----------
    data : xarray.Dataset
    fraction : float
        Share of all runs.
    seed : int

    Raises
    ------
    FlowError
        If no run ended well.
    """
    good = runs.with_status(data, WELL)
    if not good.size:
        raise FlowError("no run of this result ended well, so there is nothing to audit")
    count = min(max(LEAST, math.ceil(fraction * runs.length(data))), good.size)
    return np.sort(np.random.default_rng(seed).choice(good, count, replace=False))


def measure(
    data: Dataset,
    positions: NDArray[np.int64],
    tighter: float = TIGHTER,
    target: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Return the errors of some runs, compared with their references.

    The error of a value ``y`` with the reference ``r`` is ``|y - r| / (|r| + s)``, where ``s`` is
    atol/rtol, or the size of the quantity in the run if that is smaller. An error of rtol is what
    the tolerances of the result allow in one step. The error of a run is the largest error of its
    states, at the end or over all saved times.

    Parameters
    ----------
    data : xarray.Dataset
    positions : ndarray of int64, shape (n,)
        Positions of the runs in `data`.
    tighter, target, on_progress
        See `audit`.

    Returns
    -------
    xarray.Dataset
        With the dimension ``audited``.
    """
    study = stored_study(data, positions[:1], {"target": target})
    contents, methods = Contents.of(study, data), methods_for(study)
    timed = len(contents.timed) * data.sizes.get("time", 0)
    step = int(max(1, PIECE // (8 * (len(contents.names) + timed))))
    columns = varied(data, study.system, positions)
    names = {state.name for state in study.system.states}
    times = np.asarray(data["time"].values) if "time" in data.variables else np.empty(0)
    best = _accuracy(study, data, contents, positions, columns, tighter)
    pieces: dict[str, list[Array]] = {}
    for start in range(0, len(positions), step):
        part = positions[start : start + step]
        starts = {n: v[start : start + step] for n, v in columns.items() if n in names}
        stored = _arrays(data, contents.names, part)
        first = solve_reference(data, part, best, methods, target)
        second = solve_reference(data, part, best.looser(10.0), methods, target)
        piece = deviations(study, contents, stored, first, second, starts, times)
        for name, values in piece.items():
            pieces.setdefault(name, []).append(values)
        if on_progress is not None:
            on_progress(start + len(part), len(positions))
    joined = {name: np.concatenate(values) for name, values in pieces.items()}
    return _table(data, positions, joined, study, methods, best, tighter)


def _accuracy(
    study: Study, data: Dataset, contents: Contents, positions: NDArray[np.int64],
    columns: Mapping[str, Array], tighter: float,
) -> Accuracy:  # fmt: skip
    """Return the accuracy of the references, from the smallest size of every state."""
    stored = _arrays(data, [n for n in contents.names if n not in contents.timed], positions)
    spans = columns.get("duration", np.asarray([study.span]))
    least = {name: float(size.min()) for name, size in sizes(study, columns, stored).items()}
    return accuracy_for(study, least, tighter, (float(spans.min()), float(spans.max())))


def _arrays(data: Dataset, names: list[str], positions: NDArray[np.int64]) -> dict[str, Array]:
    """Read some variables of some runs."""
    part = data[names].isel(run=positions).load()
    return {name: np.asarray(part[name].values) for name in names}


_ATTRS: Mapping[str, dict[str, str]] = {
    "run": {"long_name": "number of the run in its study"},
    "error": {"units": "1", "long_name": "estimated error at the end"},
    "error_over_time": {"units": "1", "long_name": "largest estimated error at the saved times"},
    "reference_error": {"units": "1", "long_name": "uncertainty of the reference at the end"},
    "resolved": {"long_name": "1 if the uncertainty of the reference is at most 0.1 error"},
    "parted_at": {"long_name": "first saved time with an error above 0.01"},
    "reference_status": {"long_name": "status of the reference"},
    "reference_method": {"long_name": "method of the reference"},
    "ends_differ": {"long_name": "1 if the run ended differently from its references"},
    "metric_error": {"units": "1", "long_name": "largest estimated error of the metrics"},
    "peaks_differ": {"long_name": "numbers of maxima that differ from those of the references"},
    "misfit_error": {"units": "1", "long_name": "largest estimated error of the misfits"},
    "counts_differ": {"long_name": "numbers of events that differ from those of the references"},
    "event_time_error": {
        "units": "1",
        "long_name": "largest error of the first times of events, as a share of the run",
    },
}


def _table(
    data: Dataset,
    positions: NDArray[np.int64],
    results: dict[str, Array],
    study: Study,
    methods: tuple[str, ...],
    best: Accuracy,
    tighter: float,
) -> Dataset:
    """Return the results of an audit as a dataset with descriptions and units."""
    import xarray as xr

    from cubie_flow.storage.provenance import utc_now

    results = {"run": runs.numbers(data, positions), **results}
    resolved = results["reference_error"] <= RESOLVED * results["error"]
    results["resolved"] = resolved.astype(np.uint8)
    variables = {
        name: (("audited",), values, _describe(name, data, methods))
        for name, values in results.items()
    }
    rtol = max(best.rtol.values())
    reference = {"algorithm": methods[0], "rtol": rtol, "dt_max": best.dt_max, "text": str(best)}
    attributes = {
        "measure": "|y - r| / (|r| + s), the largest over the states; s is atol/rtol, or the size "
        "of the state where that is smaller",
        "reference": json.dumps(reference),
        "rtol": min(rtol_of(study).values()),
        "tighter": tighter,
        "created": utc_now(),
    }
    return xr.Dataset(variables, attrs=attributes)


def _describe(name: str, data: Dataset, methods: tuple[str, ...]) -> dict[str, Any]:
    """Return the attributes of a variable of an audit."""
    attrs: dict[str, Any] = dict(_ATTRS.get(name, {}))
    if name.endswith("_error") and name not in _ATTRS:
        state = name.removesuffix("_error")
        units = data[f"{state}_final"].attrs.get("units")
        attrs = {"long_name": f"estimated absolute error of {state} at the end"}
        attrs.update({"units": units} if units else {})
    if name == "reference_status":
        attrs.update({k: v for k, v in data["status"].attrs.items() if k.startswith("flag_")})
    if name == "reference_method":
        attrs.update(flag_values=list(range(len(methods))), flag_meanings=" ".join(methods))
    if name == "parted_at" and data["time"].attrs.get("units"):
        attrs["units"] = data["time"].attrs["units"]
    return attrs
