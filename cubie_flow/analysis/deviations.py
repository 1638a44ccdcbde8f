"""Differences between the stored numbers of runs and those of a reference, by kind of number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
        if study.subjects is not None:
            series = list(study.subjects.observed)
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
    compared = _Comparison.of(study, stored, best, second, starts)
    results = {"reference_status": best.status, "reference_method": best.method}
    results |= compared.finals(contents.states)
    if contents.timed:
        results |= compared.over_time(contents.timed, times)
    results["ends_differ"] = compared.count_differences(["status"]).astype(np.int32)
    if contents.summarised:
        metrics = [metric for metric in METRICS if metric != "peaks"]
        pairs = [(f"{name}_{metric}", name) for name in contents.summarised for metric in metrics]
        results["metric_error"] = compared.certain_error(pairs)
        peaks = [f"{name}_peaks" for name in contents.summarised]
        results["peaks_differ"] = compared.count_differences(peaks)
    if contents.misfits:
        results["misfit_error"] = compared.certain_error(
            [(name, name) for name in contents.misfits]
        )
    if contents.counts:
        results["counts_differ"] = compared.count_differences(contents.counts)
    if contents.times:
        results["event_time_error"] = compared.event_time_error(contents.times, study.span or 1.0)
    return results


@frozen(eq=False)
class _Comparison:
    """Numbers of some runs in a result and in two references, by the names of the store.

    Attributes
    ----------
    stored, one, two : mapping
        In the result, in the reference, and in the reference with looser tolerances.
    scale : mapping
        Scale of every quantity in every run, see `_scales`.
    well : ndarray of bool, shape (runs,)
        Whether both references ended well.
    """

    stored: Arrays
    one: Arrays
    two: Arrays
    scale: Arrays
    well: Array

    @classmethod
    def of(
        cls, study: Study, stored: Arrays, best: Reference, second: Reference, starts: Arrays
    ) -> _Comparison:
        """Return the comparison of a result with its references; see `deviations`."""
        well = ended_well(best.status) & ended_well(second.status)
        scale = _scales(study, sizes(study, starts, best.arrays))
        return cls(stored, best.arrays, second.arrays, scale, well)

    def where_known(self, values: Array) -> Array:
        """Return values, and NaN where a reference failed."""
        return np.where(self.well, values, np.nan)

    def relative(self, arrays: Arrays, key: str, name: str) -> Array:
        """Return ``|y - r| / (|r| + scale)``, and 0 where both are equal or both are NaN."""
        value, reference = arrays[key].astype(np.float64), self.one[key].astype(np.float64)
        # The scale of a misfit is its largest value.
        size = self.scale[name] if name in self.scale else np.nanmax(np.abs(reference))
        size = np.reshape(size, (-1, *[1] * (value.ndim - 1)))
        with np.errstate(all="ignore"):
            error = np.abs(value - reference) / (np.abs(reference) + size)
        same = (value == reference) | (np.isnan(value) & np.isnan(reference))
        return np.where(same, 0.0, error)

    def finals(self, states: Iterable[str]) -> dict[str, Array]:
        """Return the errors of the final states, and the error of each run with its uncertainty."""
        pairs = [(f"{name}_final", name) for name in states]
        results = {
            f"{name}_error": self.where_known(
                np.abs(self.stored[key].astype(np.float64) - self.one[key])
            )
            for key, name in pairs
        }
        errors, doubts = self._errors(pairs)
        error, doubt = _worst(errors, doubts)
        return results | {
            "error": self.where_known(error), "reference_error": self.where_known(doubt)
        }  # fmt: skip

    def over_time(self, names: Iterable[str], times: Array) -> dict[str, Array]:
        """Return the largest error over the saved times, and the first time with a large error."""
        over = np.max([self.relative(self.stored, name, name) for name in names], axis=0)
        # The result holds NaN after the end of a run, and for runs without stored trajectory.
        over = np.where(np.isnan(over), 0.0, over)
        apart = over > PARTED
        first = np.where(apart.any(axis=1), times[apart.argmax(axis=1)], np.nan)
        return {
            "error_over_time": self.where_known(over.max(axis=1)),
            "parted_at": self.where_known(first),
        }

    def count_differences(self, keys: Iterable[str]) -> Array:
        """Return how many whole numbers differ from both references, where these agree."""
        differs = [
            (self.stored[key] != self.one[key]) & (self.one[key] == self.two[key]) for key in keys
        ]
        return np.sum(differs, axis=0)

    def certain_error(self, pairs: list[tuple[str, str]]) -> Array:
        """Return the largest error of each run among those that are small or resolved."""
        errors, doubts = self._errors(pairs)
        return self.where_known(_certain(errors, doubts).max(axis=0))

    def event_time_error(self, names: Iterable[str], span: float) -> Array:
        """Return the largest difference of event times that both have, as a share of the run."""
        errors = [np.zeros(len(self.well))]
        for name in names:
            error, doubt = (
                np.abs(a[name] - self.one[name]) / span for a in (self.stored, self.two)
            )
            errors.append(_certain(error, doubt).max(axis=1, initial=0.0))
        return self.where_known(np.max(errors, axis=0))

    def _errors(self, pairs: list[tuple[str, str]]) -> tuple[Array, Array]:
        """Return relative errors of the result and of the second reference, shape (pairs, ...)."""
        errors, doubts = (
            np.array([self.relative(arrays, *pair) for pair in pairs])
            for arrays in (self.stored, self.two)
        )
        return errors, doubts


def _certain(errors: Array, doubts: Array) -> Array:
    """Return errors, and 0 for those that are neither small nor resolved."""
    return np.where((doubts <= RESOLVED * errors) | (errors <= PARTED), errors, 0.0)


def _scales(study: Study, largest: Mapping[str, Array]) -> dict[str, Array]:
    """Return the scale of every quantity in every run, see `_Comparison.relative`.

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
