"""How far the stored numbers of runs are from those of a reference: one measure for each kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from cubie_flow.analysis.audited import PARTED
from cubie_flow.integrators.controllers import EPSILON
from cubie_flow.integrators.metrics import METRICS
from cubie_flow.integrators.status import ended_well
from cubie_flow.study.accuracy import atol_of, rtol_of, scales_of

if TYPE_CHECKING:
    from xarray import Dataset

    from cubie_flow.analysis.references import Reference
    from cubie_flow.study.study import Study

Array = Any
Arrays = Mapping[str, Array]
#: Part of an error that the uncertainty of the reference may be.
RESOLVED = 0.1


@frozen
class Kept:
    """What a result keeps of every run, by the names of its variables.

    Attributes
    ----------
    states : tuple of str
        States whose final values are kept.
    timed : tuple of str
        What is saved over time.
    summarised : tuple of str
        What metrics are kept of.
    misfits : tuple of str
    counts, times : tuple of str
        Of events.
    """

    states: tuple[str, ...]
    timed: tuple[str, ...]
    summarised: tuple[str, ...]
    misfits: tuple[str, ...]
    counts: tuple[str, ...]
    times: tuple[str, ...]

    @classmethod
    def of(cls, study: Study, data: Dataset) -> Kept:
        """Return what a result of a study keeps."""

        def there(names: list[str]) -> tuple[str, ...]:
            return tuple(name for name in names if name in data.variables)

        series = [] if study.measured is None else [one.name for one in study.measured.series]
        misfits = [f"{name}_{kind}" for name in series for kind in ("sse", "wls")]
        events = [event.name for event in study.recorded]
        return cls(
            states=tuple(state.name for state in study.integrated.states),
            timed=tuple(n for n in there(list(study.saved)) if "time" in data[n].dims),
            summarised=tuple(n for n in study.summarised if f"{n}_mean" in data.variables),
            misfits=there([*misfits, *(["loglik"] if series else [])]),
            counts=there([f"{name}_count" for name in events]),
            times=there([f"{name}_times" for name in events]),
        )

    @property
    def names(self) -> list[str]:
        """Names of all of it, the status too."""
        metrics = [f"{name}_{metric}" for name in self.summarised for metric in METRICS]
        finals = [f"{name}_final" for name in self.states]
        return ["status", *finals, *self.timed, *metrics, *self.misfits, *self.counts, *self.times]


def sizes(study: Study, starts: Arrays, arrays: Arrays) -> dict[str, Array]:
    """Return the largest magnitude of every state and of what is kept, in every run.

    Parameters
    ----------
    study : Study
    starts : mapping
        Initial values of the states that vary, by name.
    arrays : mapping
        By the names of the store.
    """
    found = {}
    runs = len(arrays["status"])
    values = {s.name: np.nan if s.start is not None else s.value for s in study.system.states}
    for name in dict.fromkeys((*values, *_quantities(study))):
        known = [np.broadcast_to(starts.get(name, values.get(name, np.nan)), runs)]
        keys = (f"{name}_final", f"{name}_min", f"{name}_max")
        known += [arrays[key].astype(np.float64) for key in keys if key in arrays]
        if name in arrays and arrays[name].ndim == 2:
            known.append(np.fmax.reduce(np.abs(arrays[name].astype(np.float64)), axis=1))
        found[name] = np.nan_to_num(np.fmax.reduce(np.abs(known), axis=0))
    return found


def _quantities(study: Study) -> tuple[str, ...]:
    states = tuple(state.name for state in study.integrated.states)
    return (*states, *study.saved, *study.summarised)


def deviations(
    study: Study, kept: Kept, stored: Arrays, best: Reference, second: Reference,
    starts: Arrays, times: Array,
) -> dict[str, Array]:  # fmt: skip
    """Return what an audit keeps of some runs, by the name of its variable.

    Parameters
    ----------
    study : Study
    kept : Kept
    stored : mapping
        What the result holds of the runs.
    best, second : Reference
    starts : mapping
        See `sizes`.
    times : ndarray
        Saved times; empty if there are none.
    """
    one, two = best.arrays, second.arrays
    well = ended_well(best.status) & ended_well(second.status)
    scale = _scales(study, sizes(study, starts, one))

    def relative(arrays: Arrays, key: str, name: str) -> Array:
        """Return ``|y - r| / (|r| + scale)``, 0 where both are the same or missing."""
        value, reference = arrays[key].astype(np.float64), one[key].astype(np.float64)
        size = scale[name].reshape(-1, *[1] * (value.ndim - 1))
        with np.errstate(all="ignore"):
            error = np.abs(value - reference) / (np.abs(reference) + size)
        same = (value == reference) | (np.isnan(value) & np.isnan(reference))
        return np.where(same, 0.0, error)

    def where_known(values: Array) -> Array:
        return np.where(well, values, np.nan)

    finals = [(f"{name}_final", name) for name in kept.states]
    found: dict[str, Array] = {"reference_status": best.status, "reference_method": best.method}
    for key, name in finals:
        difference = np.abs(stored[key].astype(np.float64) - one[key])
        found[f"{name}_error"] = where_known(difference)
    errors, doubts = (np.array([relative(a, *p) for p in finals]) for a in (stored, two))
    error, doubt = _judged(errors, doubts)
    found |= {"error": where_known(error), "reference_error": where_known(doubt)}
    if kept.timed:
        found |= _over_time(kept, stored, relative, where_known, times)
    found["ends_differ"] = _certain(stored["status"], one["status"], two["status"])
    if kept.summarised:
        metrics = [m for m in METRICS if m != "peaks"]
        pairs = [(f"{name}_{m}", name) for name in kept.summarised for m in metrics]
        found["metric_error"] = where_known(_sure(relative, stored, two, pairs))
        peaks = [f"{name}_peaks" for name in kept.summarised]
        found["peaks_differ"] = np.sum(
            [_certain(stored[key], one[key], two[key]) for key in peaks], axis=0
        )
    if kept.misfits:
        scale |= {name: np.full(len(well), np.nanmax(np.abs(one[name]))) for name in kept.misfits}
        pairs = [(name, name) for name in kept.misfits]
        found["misfit_error"] = where_known(_sure(relative, stored, two, pairs))
    if kept.counts:
        found["counts_differ"] = np.sum(
            [_certain(stored[key], one[key], two[key]) for key in kept.counts], axis=0
        )
    if kept.times:
        span = study.span or 1.0
        scale |= {name: np.full(len(well), span) for name in kept.times}
        found["event_time_error"] = where_known(_times_apart(kept.times, stored, one, two, span))
    return found


def _scales(study: Study, largest: Mapping[str, Array]) -> dict[str, Array]:
    """Return what is added to a value to measure its error, in every run.

    It is atol/rtol, as the error of a step is measured, or the size of the quantity in the run
    where that is smaller: an absolute tolerance above everything that a state ever is would hide
    any error. What is smaller than the rounding of other states of its unit, and than atol, may be
    rounding itself.
    """
    atol, rtol = atol_of(study), rtol_of(study)
    natural, rounding = scales_of(study), EPSILON[study.precision]
    found = {}
    for name, size in largest.items():
        if name in natural:
            allowed, least = atol[name] / rtol[name], min(rounding * natural[name], atol[name])
        else:
            allowed, least = math.inf, rounding * float(size.max(initial=0.0))
        usual = allowed if math.isfinite(allowed) else 1.0
        bounded = np.maximum(np.minimum(size, allowed), least)
        found[name] = np.where(size > 0.0, bounded, usual)
        found[name] = np.maximum(found[name], np.finfo(np.float64).tiny)
    return found


def _judged(errors: Array, doubts: Array) -> tuple[Array, Array]:
    """Return the error of each run and the uncertainty of its reference, from those of states.

    They are those of the state that is furthest off; of one whose error is certain if there is any.
    """
    wrong = (errors > PARTED) & (doubts <= RESOLVED * errors)
    weight = np.where(wrong.any(axis=0), np.where(wrong, errors, -1.0), errors)
    worst = np.nan_to_num(weight, nan=np.inf).argmax(axis=0)[None]
    error, doubt = (np.take_along_axis(values, worst, axis=0)[0] for values in (errors, doubts))
    return error, doubt


def _over_time(
    kept: Kept, stored: Arrays, relative: Callable[[Arrays, str, str], Array],
    where_known: Callable[[Array], Array], times: Array,
) -> dict[str, Array]:  # fmt: skip
    over = np.max([relative(stored, name, name) for name in kept.timed], axis=0)
    # Times after the end of a run, and runs whose trajectory was not kept, are NaN in the result.
    over = np.where(np.isnan(over), 0.0, over)
    apart = over > PARTED
    first = np.where(apart.any(axis=1), times[apart.argmax(axis=1)], np.nan)
    return {"error_over_time": where_known(over.max(axis=1)), "parted_at": where_known(first)}


def _certain(stored: Array, one: Array, two: Array) -> Array:
    """Return where a whole number differs from both references, which agree."""
    return ((stored != one) & (one == two)).astype(np.int32)


def _sure(
    relative: Callable[[Arrays, str, str], Array], stored: Arrays, two: Arrays,
    pairs: list[tuple[str, str]],
) -> Array:  # fmt: skip
    """Return the largest error of each run among those that the references can tell."""
    errors = np.array([relative(stored, *pair) for pair in pairs])
    doubts = np.array([relative(two, *pair) for pair in pairs])
    told = (doubts <= RESOLVED * errors) | (errors <= PARTED)
    return np.where(told, errors, 0.0).max(axis=0)


def _times_apart(
    names: tuple[str, ...], stored: Arrays, one: Arrays, two: Arrays, span: float
) -> Array:
    """Return by how much of a run the first times of events differ, where both have them."""
    apart = [np.zeros(len(stored["status"]))]
    for name in names:
        error, doubt = (np.abs(a[name] - one[name]) / span for a in (stored, two))
        told = (doubt <= RESOLVED * error) | (error <= PARTED)
        apart.append(np.where(told, error, 0.0).max(axis=1, initial=0.0))
    return np.max(apart, axis=0)
