"""How accurate is a result? Some runs, integrated again far more accurately.

The error of a run is measured against a reference in float64 with tolerances 1,000 times tighter
(a step that much more accurate where it is fixed), by the same method. A second reference, ten
times less tight, says how far the reference itself can be trusted: where the two differ by more
than a tenth of the error, the error is not resolved. That is the honest answer for a chaotic
system, of which no integration has a reference beyond its horizon.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cubie_flow.analysis import runs
from cubie_flow.analysis.audited import GROUP, PARTED
from cubie_flow.analysis.groups import location
from cubie_flow.analysis.rerun import stored_study
from cubie_flow.errors import FlowError
from cubie_flow.integrators.status import WELL, ended_well

if TYPE_CHECKING:
    from xarray import Dataset

    from cubie_flow.study.definition import Study

FRACTION, TIGHTER, LEAST = 0.001, 1000.0, 8
#: No tolerance below this means anything in float64.
FLOOR = 1e-13
#: Bytes of saved trajectories integrated at once.
PIECE = 200_000_000
Array = NDArray[Any]


@frozen
class _Reference:
    """Runs integrated more accurately: arrays by name and how they ended."""

    arrays: Mapping[str, Array]
    status: Array


def audit(
    path: str | Path,
    *,
    fraction: float = FRACTION,
    seed: int = 0,
    tighter: float = TIGHTER,
    target: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
    on_unkept: Callable[[str], None] | None = None,
) -> Dataset:
    """Estimate the error of a random part of a result's runs, and keep it in the store.

    Parameters
    ----------
    path : path or str
        ``results.zarr`` or the folder of a run; ``::JOB`` after it names a job of a multirun.
    fraction : float
        Of the runs, at least 8 of them; only runs that ended well can be chosen.
    seed : int
        Of the choice.
    tighter : float
        By how much the reference's tolerances are below the result's.
    target : str
        What integrates: ``auto``, ``cpu``, ``cuda`` or ``simulator``.
    on_progress : callable, optional
        Called with the runs audited so far and in all.
    on_unkept : callable, optional
        Called with the reason, instead of an error, if the store cannot be written: what was
        measured is returned all the same.

    Returns
    -------
    xarray.Dataset
        What the group ``/audit`` of the store now holds, along ``audited``.

    Raises
    ------
    FlowError
        If the result cannot be audited: no run ended well, its store cannot be written, another
        process writes it.
    """
    from cubie_flow.analysis.opening import open_runs
    from cubie_flow.storage import ResultStore, leased, locked

    if not 0 < fraction <= 1:
        raise FlowError(f"fraction is {fraction}; it must be above 0 and at most 1")
    if not 1 < tighter <= 1e9:
        raise FlowError(f"tighter is {tighter}; it must be above 1 and at most 1e9")
    data = open_runs(path)
    place = location(data)
    assert place is not None
    if seed < 0:
        raise FlowError(f"seed is {seed}; it must be a whole number of at least 0")
    chosen = sample(data, fraction, seed)
    with locked(place.folder.parent) if place.folder is not None else leased(place):
        table = measure(data, chosen, tighter, target, on_progress)
        table.attrs.update({"fraction": fraction, "seed": seed})
        try:
            ResultStore.open(place).put_group(GROUP, table)
        except FlowError as error:
            if on_unkept is None:
                raise
            on_unkept(str(error))
    return table


def sample(data: Dataset, fraction: float = FRACTION, seed: int = 0) -> NDArray[np.int64]:
    """Return the positions of a random part of the runs that ended well, in order.

    Raises
    ------
    FlowError
        If no run ended well.
    """
    known = runs.flags(data["status"]) if "status" in data.variables else {}
    well = [known[word] for word in WELL if word in known]
    parts = [
        part.start + np.flatnonzero(np.isin(runs.column(data, "status", part), well))
        for part in (runs.blocks(data) if known else ())
    ]
    good = np.concatenate(parts) if parts else np.empty(0, np.int64)
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
    """Return the estimated errors of some runs.

    The error of a value ``y`` beside its reference ``r`` is ``|y - r| / (|r| + atol/rtol)``: in
    units of rtol, it is what the tolerances of the result allow in one step. Of a run it is the
    largest over its states at the end, and over all saved times.

    Parameters
    ----------
    data : xarray.Dataset
    positions : ndarray of int64, shape (n,)
    tighter, target, on_progress
        See `audit`.

    Returns
    -------
    xarray.Dataset
        With the dimension ``audited``.
    """
    told = stored_study(data, positions[:1], {"target": target})
    finals = [f"{state.name}_final" for state in told.integrated.states]
    timed = [
        s.name for s in told.integrated.states if s.name in data and "time" in data[s.name].dims
    ]
    scale = _scale(told)
    changes = reference_changes(told, tighter)
    looser = reference_changes(told, tighter / 10)
    bytes_a_run = 8 * (len(finals) + len(timed) * data.sizes.get("time", 0))
    step = int(max(1, PIECE // max(bytes_a_run, 1)))
    found: dict[str, list[Array]] = {}
    for start in range(0, len(positions), step):
        part = positions[start : start + step]
        stored = data[[*finals, *timed]].isel(run=part).load()
        best = _reference(data, part, {**changes, "target": target})
        second = _reference(data, part, {**looser, "target": target})
        piece = _errors(stored, best, second, finals, timed, scale)
        for name, values in piece.items():
            found.setdefault(name, []).append(values)
        if on_progress is not None:
            on_progress(start + len(part), len(positions))
    joined = {name: np.concatenate(values) for name, values in found.items()}
    return _table(data, positions, joined, changes, told, tighter, bool(timed))


def reference_changes(study: Study, tighter: float) -> dict[str, Any]:
    """Return what makes a study's runs more accurate by a factor.

    A tolerance is divided by it, down to `FLOOR`; a fixed step is made smaller so that the
    method's order promises as much.
    """
    from cubie_flow.integrators.tableaus import method

    known, c = method(study.algorithm), study.controller
    kind = known.controller if c.kind == "default" else c.kind
    limit = int(min(c.max_steps * tighter, 2**31 - 1))
    changes: dict[str, Any] = {"precision": "float64", "max_steps": limit}
    if kind == "fixed":
        return {**changes, "dt": (c.dt or 0.0) * tighter ** (-1 / known.order)}
    floor = {"rtol": FLOOR, "atol": 0.0}
    for name, least in floor.items():
        value = getattr(c, name)
        if isinstance(value, Mapping):
            changes[name] = {key: max(one / tighter, least) for key, one in value.items()}
        else:
            changes[name] = max(value / tighter, least)
    # Bounds of the step that were meant for the result would stop the reference.
    return {**changes, "dt_min": 0.0}


def _scale(study: Study) -> dict[str, float]:
    """Return atol/rtol of every state: what is added to a value to measure its error."""
    c = study.controller

    def of(value: Any, name: str) -> float:
        return float(value.get(name, 1e-6)) if isinstance(value, Mapping) else float(value)

    return {s.name: of(c.atol, s.name) / of(c.rtol, s.name) for s in study.integrated.states}


def _reference(data: Dataset, part: NDArray[np.int64], changes: dict[str, Any]) -> _Reference:
    from cubie_flow.solve import solve_study

    solved = solve_study(stored_study(data, part, changes))
    arrays = {str(name): np.asarray(values.values) for name, values in solved.data_vars.items()}
    return _Reference(arrays, arrays["status"])


def _errors(
    stored: Dataset,
    best: _Reference,
    second: _Reference,
    finals: list[str],
    timed: list[str],
    scale: Mapping[str, float],
) -> dict[str, Array]:
    """Return the errors of one piece, by the name of the variable."""

    def scaled(values: Array, reference: Array, name: str) -> Array:
        with np.errstate(all="ignore"):
            error = np.abs(values.astype(np.float64) - reference) / (
                np.abs(reference) + scale[name]
            )
        return np.where(values == reference, 0.0, error)

    well = ended_well(best.status) & ended_well(second.status)
    found: dict[str, Array] = {"reference_status": best.status}
    per_state, doubts = [], []
    for final in finals:
        name = final.removesuffix("_final")
        error = scaled(stored[final].values, best.arrays[final], name)
        found[f"{name}_error"] = np.where(
            well, np.abs(stored[final].values.astype(np.float64) - best.arrays[final]), np.nan
        )
        per_state.append(error)
        doubts.append(scaled(second.arrays[final], best.arrays[final], name))
    found["error"] = np.where(well, np.max(per_state, axis=0), np.nan)
    found["reference_error"] = np.where(well, np.max(doubts, axis=0), np.nan)
    if timed:
        over = np.max([scaled(stored[n].values, best.arrays[n], n) for n in timed], axis=0)
        # Times after the end of a run are NaN in both.
        over = np.where(np.isnan(over), 0.0, over)
        found["error_over_time"] = np.where(well, over.max(axis=1), np.nan)
        apart = over > PARTED
        times = stored["time"].values
        first = np.where(apart.any(axis=1), times[apart.argmax(axis=1)], np.nan)
        found["parted_at"] = np.where(well, first, np.nan)
    return found


_ATTRS: Mapping[str, dict[str, str]] = {
    "run": {"long_name": "number of the run in its study"},
    "error": {"units": "1", "long_name": "estimated error at the end"},
    "error_over_time": {"units": "1", "long_name": "largest estimated error at the saved times"},
    "reference_error": {"units": "1", "long_name": "uncertainty of the reference at the end"},
    "resolved": {"long_name": "1 where the reference is ten times surer than the error is large"},
    "parted_at": {"long_name": "first saved time with an error above 0.01"},
    "reference_status": {"long_name": "how the reference ended"},
}


def _table(
    data: Dataset,
    positions: NDArray[np.int64],
    found: dict[str, Array],
    changes: Mapping[str, Any],
    study: Study,
    tighter: float,
    timed: bool,
) -> Dataset:
    import xarray as xr

    from cubie_flow.storage.provenance import utc_now

    found = {"run": runs.numbers(data, positions), **found}
    found["resolved"] = (found["reference_error"] <= 0.1 * found["error"]).astype(np.uint8)
    made = {}
    for name, values in found.items():
        attrs = dict(_ATTRS.get(name, {}))
        if name.endswith("_error") and name not in _ATTRS:
            state = name.removesuffix("_error")
            units = data[f"{state}_final"].attrs.get("units")
            attrs = {"long_name": f"estimated absolute error of {state} at the end"}
            attrs.update({"units": units} if units else {})
        if name == "reference_status":
            attrs.update({k: v for k, v in data["status"].attrs.items() if k.startswith("flag_")})
        if name == "parted_at" and timed and data["time"].attrs.get("units"):
            attrs["units"] = data["time"].attrs["units"]
        made[name] = (("audited",), values, attrs)
    told = {
        "measure": "|y - r| / (|r| + atol/rtol), the largest over the states",
        "reference": json.dumps({"algorithm": study.algorithm, **changes}),
        "tighter": tighter,
        "created": utc_now(),
    }
    return xr.Dataset(made, attrs=told)
