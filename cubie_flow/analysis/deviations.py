"""Differences between the stored numbers of runs and those of a reference, by kind of number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from cubie_flow.analysis.audited import PARTED
from cubie_flow.integrators.controllers import EPSILON
from cubie_flow.integrators.loop import METRICS
from cubie_flow.integrators.status import ended_well
from cubie_flow.study.accuracy import atol_of, rtol_of, scales_of

if TYPE_CHECKING:
    from xarray import Dataset

    from cubie_flow.analysis.references import Reference
    from cubie_flow.study.study import Study

Array = Any
Arrays = Mapping[str, Array]
#: An error is resolved if the uncertainty of the reference is at most this share of it.
RESOLVED = 0.1


@frozen
class Contents:
    """The numbers that a result holds for every run, by the names of its variables.

    Attributes
    ----------
    states : tuple of str
        States, whose final values are stored.
    timed : tuple of str
        Variables saved over time.
    summarised : tuple of str
        Quantities with stored metrics.
    misfits : tuple of str
        Misfits to measured data.
    counts, times : tuple of str
        Numbers and times of events.
    """

    states: tuple[str, ...]
    timed: tuple[str, ...]
    summarised: tuple[str, ...]
    misfits: tuple[str, ...]
    counts: tuple[str, ...]
    times: tuple[str, ...]

    @classmethod
    def of(cls, study: Study, data: Dataset) -> Contents:
        """Return the contents of a result of a study."""

        def present(names: list[str]) -> tuple[str, ...]:
            return tuple(name for name in names if name in data.variables)

        series = [] if study.measured is None else [one.name for one in study.measured.series]
        misfits = [f"{name}_{kind}" for name in series for kind in ("sse", "wls")]
        events = [event.name for event in study.recorded]
        return cls(
            states=tuple(state.name for state in study.integrated.states),
            timed=tuple(n for n in present(list(study.saved)) if "time" in data[n].dims),
            summarised=tuple(n for n in study.summarised if f"{n}_mean" in data.variables),
            misfits=present([*misfits, *(["loglik"] if series else [])]),
            counts=present([f"{name}_count" for name in events]),
            times=present([f"{name}_times" for name in events]),
        )

    @property
    def names(self) -> list[str]:
        """The names of all these variables and of ``status``."""
        metrics = [f"{name}_{metric}" for name in self.summarised for metric in METRICS]
        finals = [f"{name}_final" for name in self.states]
        return ["status", *finals, *self.timed, *metrics, *self.misfits, *self.counts, *self.times]


def sizes(study: Study, starts: Arrays, arrays: Arrays) -> dict[str, Array]:
    """Return the largest magnitude of every state and every stored quantity, in every run.

    Parameters
    ----------
    study : Study
    starts : mapping
        Initial values of the states that vary, by name; shape (runs,).
    arrays : mapping
        Stored numbers of the runs, by the names of the store; shape (runs,) or (runs, times).

    Returns
    -------
    dict of ndarray, shape (runs,)
        By name of the state or quantity.
    """
    magnitudes = {}
    runs = len(arrays["status"])
    values = {s.name: np.nan if s.start is not None else s.value for s in study.system.states}
    for name in dict.fromkeys((*values, *_quantities(study))):
        known = [np.broadcast_to(starts.get(name, values.get(name, np.nan)), runs)]
        keys = (f"{name}_final", f"{name}_min", f"{name}_max")
        known += [arrays[key].astype(np.float64) for key in keys if key in arrays]
        if name in arrays and arrays[name].ndim == 2:
            known.append(np.fmax.reduce(np.abs(arrays[name].astype(np.float64)), axis=1))
        magnitudes[name] = np.nan_to_num(np.fmax.reduce(np.abs(known), axis=0))
    return magnitudes


def _quantities(study: Study) -> tuple[str, ...]:
    states = tuple(state.name for state in study.integrated.states)
    return (*states, *study.saved, *study.summarised)


def deviations(
    study: Study, contents: Contents, stored: Arrays, best: Reference, second: Reference,
    starts: Arrays, times: Array,
) -> dict[str, Array]:  # fmt: skip
    """Return the differences of some runs from their references, by the variable of the audit.

    Parameters
    ----------
    study : Study
    contents : Contents
    stored : mapping
        Numbers of the runs in the result, by the names of the store.
    best, second : Reference
        The reference, and a second one with looser tolerances.
    starts : mapping
        See `sizes`.
    times : ndarray
        Saved times; empty if there are none.

    Returns
    -------
    dict of ndarray, shape (runs,)
    """
    one, two = best.arrays, second.arrays
    well = ended_well(best.status) & ended_well(second.status)
    scale = _scales(study, sizes(study, starts, one))

    def relative(arrays: Arrays, key: str, name: str) -> Array:
        """Return ``|y - r| / (|r| + scale)``, and 0 where both are equal or both are NaN."""
        value, reference = arrays[key].astype(np.float64), one[key].astype(np.float64)
        size = scale[name].reshape(-1, *[1] * (value.ndim - 1))
        with np.errstate(all="ignore"):
            error = np.abs(value - reference) / (np.abs(reference) + size)
        same = (value == reference) | (np.isnan(value) & np.isnan(reference))
        return np.where(same, 0.0, error)

    def where_known(values: Array) -> Array:
        """Return values, and NaN where a reference failed."""
        return np.where(well, values, np.nan)

    finals = [(f"{name}_final", name) for name in contents.states]
    results: dict[str, Array] = {"reference_status": best.status, "reference_method": best.method}
    for key, name in finals:
        difference = np.abs(stored[key].astype(np.float64) - one[key])
        results[f"{name}_error"] = where_known(difference)
    errors, doubts = (np.array([relative(a, *p) for p in finals]) for a in (stored, two))
    error, doubt = _worst(errors, doubts)
    results |= {"error": where_known(error), "reference_error": where_known(doubt)}
    if contents.timed:
        results |= _over_time(contents, stored, relative, where_known, times)
    results["ends_differ"] = _certainly_differs(stored["status"], one["status"], two["status"])
    if contents.summarised:
        metrics = [m for m in METRICS if m != "peaks"]
        pairs = [(f"{name}_{m}", name) for name in contents.summarised for m in metrics]
        results["metric_error"] = where_known(_certain_error(relative, stored, two, pairs))
        peaks = [f"{name}_peaks" for name in contents.summarised]
        results["peaks_differ"] = np.sum(
            [_certainly_differs(stored[key], one[key], two[key]) for key in peaks], axis=0
        )
    if contents.misfits:
        scale |= {
            name: np.full(len(well), np.nanmax(np.abs(one[name]))) for name in contents.misfits
        }
        pairs = [(name, name) for name in contents.misfits]
        results["misfit_error"] = where_known(_certain_error(relative, stored, two, pairs))
    if contents.counts:
        results["counts_differ"] = np.sum(
            [_certainly_differs(stored[key], one[key], two[key]) for key in contents.counts], axis=0
        )
    if contents.times:
        span = study.span or 1.0
        scale |= {name: np.full(len(well), span) for name in contents.times}
        results["event_time_error"] = where_known(
            _event_time_errors(contents.times, stored, one, two, span)
        )
    return results


def _scales(study: Study, largest: Mapping[str, Array]) -> dict[str, Array]:
    """Return the scale of every quantity in every run, see `relative` in `deviations`.

    The scale is atol/rtol, as in the error of a step, or the size of the quantity in the run if
    that is smaller: an absolute tolerance above all values of a state would hide any error. It is
    at least the rounding error of the other states with the same unit (but not above atol), since
    a smaller value may be rounding error itself.
    """
    atol, rtol = atol_of(study), rtol_of(study)
    natural, rounding = scales_of(study), EPSILON[study.precision]
    scales = {}
    for name, size in largest.items():
        if name in natural:
            allowed, least = atol[name] / rtol[name], min(rounding * natural[name], atol[name])
        else:
            allowed, least = math.inf, rounding * float(size.max(initial=0.0))
        usual = allowed if math.isfinite(allowed) else 1.0
        bounded = np.maximum(np.minimum(size, allowed), least)
        scale = np.where(size > 0.0, bounded, usual)
        scales[name] = np.maximum(scale, np.finfo(np.float64).tiny)
    return scales


def _worst(errors: Array, doubts: Array) -> tuple[Array, Array]:
    """Return, for each run, the error of its worst state and the uncertainty of the reference.

    The worst state is the one with the largest error; if the error of any state is certain to be
    large, only such states are compared.

    Parameters
    ----------
    errors, doubts : ndarray, shape (states, runs)
    """
    wrong = (errors > PARTED) & (doubts <= RESOLVED * errors)
    weight = np.where(wrong.any(axis=0), np.where(wrong, errors, -1.0), errors)
    worst = np.nan_to_num(weight, nan=np.inf).argmax(axis=0)[None]
    error, doubt = (np.take_along_axis(values, worst, axis=0)[0] for values in (errors, doubts))
    return error, doubt


def _over_time(
    contents: Contents, stored: Arrays, relative: Callable[[Arrays, str, str], Array],
    where_known: Callable[[Array], Array], times: Array,
) -> dict[str, Array]:  # fmt: skip
    over = np.max([relative(stored, name, name) for name in contents.timed], axis=0)
    # The result holds NaN after the end of a run, and for runs whose trajectory is not stored.
    over = np.where(np.isnan(over), 0.0, over)
    apart = over > PARTED
    first = np.where(apart.any(axis=1), times[apart.argmax(axis=1)], np.nan)
    return {"error_over_time": where_known(over.max(axis=1)), "parted_at": where_known(first)}


def _certainly_differs(stored: Array, one: Array, two: Array) -> Array:
    """Return 1 where a whole number differs from both references and these agree, otherwise 0."""
    return ((stored != one) & (one == two)).astype(np.int32)


def _certain_error(
    relative: Callable[[Arrays, str, str], Array], stored: Arrays, two: Arrays,
    pairs: list[tuple[str, str]],
) -> Array:  # fmt: skip
    """Return the largest error of each run among those that are small or resolved."""
    errors = np.array([relative(stored, *pair) for pair in pairs])
    doubts = np.array([relative(two, *pair) for pair in pairs])
    known = (doubts <= RESOLVED * errors) | (errors <= PARTED)
    return np.where(known, errors, 0.0).max(axis=0)


def _event_time_errors(
    names: tuple[str, ...], stored: Arrays, one: Arrays, two: Arrays, span: float
) -> Array:
    """Return the largest difference of event times that both have, as a share of the run."""
    errors = [np.zeros(len(stored["status"]))]
    for name in names:
        error, doubt = (np.abs(a[name] - one[name]) / span for a in (stored, two))
        known = (doubt <= RESOLVED * error) | (error <= PARTED)
        errors.append(np.where(known, error, 0.0).max(axis=1, initial=0.0))
    return np.max(errors, axis=0)
