"""Comparison of a result of cubie_flow with the reference: differences beyond the tolerance.

A method with step control keeps the error of a step below ``rtol*|y| + atol``. The effect of these
errors at the end of a run is measured: the reference is integrated again with small changes of all
start values and rates. The allowed error is `PER_STEP` times the number of steps, times the
tolerance, times the measured amplification.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve, frozen

from benchmarks.conformance.case import Case, solve_case
from benchmarks.conformance.generator import ORDERS
from benchmarks.conformance.reference import (
    Disturbance,
    NoReferenceError,
    Reference,
    Trajectory,
)
from cubie_flow.integrators.status import STATUS

Array = Any
#: Allowed error per step in units of the tolerance, and least number of steps that is assumed.
PER_STEP, LEAST_STEPS = 3.0, 40.0
#: Least tolerance, in roundings.
ROUNDINGS = 64.0
#: Relative size of the disturbance, and tolerance of the disturbed reference.
DISTURBED, DISTURBED_RTOL = 1e-5, 1e-9
#: Features at which a fixed step loses its order, because no step ends where states switch.
_ROUGH = {"switches in states", "kinks of states", "smooth pulses"}
_NAMES = {code: name for name, code in STATUS.items()}


@frozen
class Finding:
    """One disagreement.

    Parameters
    ----------
    kind : str
        Kind of the difference, such as ``values``, ``counts`` or ``bits of threads``.
    text : str
        One sentence with the numbers.
    run : int
        Number of the run.
    size : float
        Error divided by the allowed error.
    """

    kind: str
    text: str
    run: int = 0
    size: float = np.inf


@frozen
class RunReference:
    """The reference of one run, with the trajectories after small disturbances.

    Parameters
    ----------
    run : int
        Number of the run.
    right : Trajectory
        Trajectory without a disturbance.
    disturbed : tuple of Trajectory
    sizes : tuple of float
        Relative sizes of the disturbances.
    """

    run: int
    right: Trajectory
    disturbed: tuple[Trajectory, ...]
    sizes: tuple[float, ...]

    @property
    def steady(self) -> bool:
        """Whether the disturbed runs have the same events and status."""
        return all(
            one.counts == self.right.counts and one.status == self.right.status
            for one in self.disturbed
        )

    def amplified(self, right: Array, others: Sequence[Array]) -> Array:
        """Return the largest change of values per relative disturbance.

        Parameters
        ----------
        right : ndarray
            Values without a disturbance.
        others : sequence of ndarray
            The values of every disturbed run, of the same shape.
        """
        gain = np.zeros_like(right)
        for other, size in zip(others, self.sizes, strict=True):
            with np.errstate(invalid="ignore"):
                gain = np.fmax(gain, np.abs(other - right) / size)
        return gain


def solve_reference(case: Case, run: int, thorough: bool = False) -> RunReference:
    """Return the reference of a run.

    Parameters
    ----------
    case : Case
    run : int
    thorough : bool
        Whether to use a second integrator as well, and more disturbances.

    Raises
    ------
    NoReferenceError
        If the run is not well posed, or the integrators disagree.
    """
    exact, coarse = Reference(case), Reference(case, DISTURBED_RTOL)
    right = exact.run(run)
    sizes, disturbed = [DISTURBED], []
    if thorough:
        tolerance = max(case.rtol, ROUNDINGS * float(np.finfo(case.precision).eps))
        sizes += [DISTURBED, min(1e-3, max(30 * tolerance, 1e-8))]
        other = Reference(case, 1e-10, "Radau" if exact.method == "DOP853" else "DOP853")
        again = other.run(run) if not case.stiff else Reference(case, 1e-10, "Radau").run(run)
        _check_agreement(right, again)
    for seed, size in enumerate(sizes):
        disturbed.append(coarse.run(run, Disturbance(size, seed, right.scale)))
    return RunReference(run, right, tuple(disturbed), tuple(sizes))


def _check_agreement(a: Trajectory, b: Trajectory) -> None:
    """Raise a NoReferenceError if two references differ."""
    same = a.counts == b.counts and a.status == b.status
    with np.errstate(invalid="ignore"):
        apart = np.abs(a.final - b.final) / np.maximum(a.scale, 1e-300)
    if not same or not (apart < 1e-6).all():
        raise NoReferenceError("two integrators disagree")


def compare(
    case: Case,
    arrays: Mapping[str, Array],
    reference: RunReference,
    finer: Mapping[str, Array] | None = None,
) -> Iterator[Finding]:
    """Yield the differences of one run that the tolerance does not explain.

    Parameters
    ----------
    case : Case
    arrays : mapping
        Results of cubie_flow by name.
    reference : RunReference
        The reference of the run.
    finer : mapping, optional
        Results with half the step, for a method with a fixed step.
    """
    run, right = reference.run, reference.right
    status = _NAMES[int(arrays["status"][run])]
    if status != right.status:
        if case.dt and status == "solver_failed" and "switches in states" in case.features:
            # An implicit step of fixed size across a switch may have no solution.
            return
        kind = "lost runs" if status not in ("success", "event_stop") else "status"
        yield Finding(kind, f"status is {status}, right is {right.status}", run)
        return
    steps = float(arrays["steps"][run])
    tolerance = max(case.rtol, ROUNDINGS * float(np.finfo(case.precision).eps))
    allowed = PER_STEP * max(steps, LEAST_STEPS) * tolerance
    if not reference.steady or _is_undecided(reference, allowed):
        return
    for name, count in right.counts.items():
        ours = int(arrays[f"{name}_count"][run])
        if ours != count:
            yield Finding("counts", f"{name}_count is {ours}, right is {count}", run)
            return
    fixed = _step_errors(case, arrays, finer, run) if finer is not None else {}
    yield from _event_times(case, arrays, reference, allowed, fixed)
    yield from _final_values(case, arrays, reference, allowed, fixed)
    if case.times:
        yield from _saved_values(case, arrays, reference, allowed, fixed)


def _is_undecided(reference: RunReference, allowed: float) -> bool:
    """Return whether a condition was so close to a change that an allowed error decides it."""
    right = reference.right
    finals = reference.amplified(right.final, [one.final for one in reference.disturbed])
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = np.nanmax(np.where(right.scale > 0, finals / right.scale, 0.0))
    return bool(right.margin < 3.0 * allowed * (1.0 + gain))


def half_step(case: Case) -> dict[str, Array] | None:
    """Return the results of a case with half the step; None for methods with step control."""
    return solve_case(evolve(case, dt=case.dt / 2)) if case.dt else None


def _step_errors(
    case: Case, arrays: Mapping[str, Array], finer: Mapping[str, Array], run: int
) -> dict[str, Array]:
    """Return the differences to the results with half the step, for every array of reals."""
    return {
        name: np.abs(np.asarray(values[run], np.float64) - finer[name][run])
        for name, values in arrays.items()
        if np.ndim(values) and len(values) == case.runs and values.dtype.kind == "f"
    }


def _ratio(
    case: Case, error: Array, allowed: Array, fixed: Mapping[str, Array], name: str, scale: float
) -> Array:
    """Return an error divided by the allowed error.

    Parameters
    ----------
    case : Case
    error, allowed : ndarray
    fixed : mapping
        See `_step_errors`.
    name : str
        Name of the array.
    scale : float
        Magnitude of its values.
    """
    if case.dt:
        # Half the step divides the error by 2**order, so that the error is close to the difference.
        apart = np.nanmax(fixed[name], initial=0.0)
        order = ORDERS.get(case.algorithm, 4)
        factor = 40.0 if _ROUGH & {*case.features} else 4.0
        allowed = factor * apart * (1 + 1 / (2**order - 1)) + 1e-3 * allowed + 1e-8 * scale
        if "switches in states" in case.features:
            # The error of a step across a switch is its own length for all orders, and half the
            # step may have the same error by chance.
            allowed = allowed + case.dt * scale
        if apart > 0.02 * scale:
            return np.zeros_like(error)
    with np.errstate(invalid="ignore", divide="ignore"):
        return error / allowed


def _event_times(
    case: Case, arrays: Mapping[str, Array], reference: RunReference, allowed: float,
    fixed: Mapping[str, Array],
) -> Iterator[Finding]:  # fmt: skip
    """Yield the differences of recorded times of events."""
    right, run = reference.right, reference.run
    eps = float(np.finfo(case.precision).eps)
    for name, times in right.times.items():
        key = f"{name}_times"
        if key not in arrays or not times:
            continue
        count = min(len(times), arrays[key].shape[1])
        wanted = np.array(times[:count])
        ours = np.asarray(arrays[key][run, :count], np.float64)
        others = [np.array(one.times[name][:count]) for one in reference.disturbed]
        gain = np.maximum.accumulate(reference.amplified(wanted, others))
        bound = allowed * gain + 256 * eps * np.maximum(np.abs(wanted), case.duration)
        ratio = _ratio(case, np.abs(ours - wanted), bound, fixed, key, case.duration)
        yield from _worst("event times", key, ratio, ours, wanted, run)


def _final_values(
    case: Case, arrays: Mapping[str, Array], reference: RunReference, allowed: float,
    fixed: Mapping[str, Array],
) -> Iterator[Finding]:  # fmt: skip
    """Yield the differences of the states at the end."""
    right, run, atol = reference.right, reference.run, _absolute(case)
    gain = reference.amplified(right.final, [one.final for one in reference.disturbed])
    for i, name in enumerate(case.model["states"]):
        wanted = right.final[i : i + 1]
        ours = np.asarray(arrays[f"{name}_final"][run : run + 1], np.float64)
        peak = np.fmax(gain[i], _largest_gain(reference, i)) if right.saved.size else gain[i]
        bound = allowed * (peak + right.scale[i] + atol[name] / case.rtol)
        ratio = _ratio(case, np.abs(ours - wanted), bound, fixed, f"{name}_final", right.scale[i])
        yield from _worst("values", f"{name}_final", ratio, ours, wanted, run)


def _saved_values(
    case: Case, arrays: Mapping[str, Array], reference: RunReference, allowed: float,
    fixed: Mapping[str, Array],
) -> Iterator[Finding]:  # fmt: skip
    """Yield the differences of the variables at the saved times."""
    right, run, states = reference.right, reference.run, len(case.model["states"])
    near = _near_jumps(case, reference, allowed)
    for i, name in enumerate(case.saved):
        wanted = right.saved[i]
        ours = np.asarray(arrays[name][run], np.float64)
        missing = np.isnan(ours) != np.isnan(wanted)
        if missing[~near].any():
            at = int(np.argmax(missing & ~near))
            yield Finding(
                "saved times",
                f"{name} at {case.times[at]:g} is {ours[at]}, right is {wanted[at]}",
                run,
            )
            continue
        gains, scale, size = _saved_bounds(case, reference, i)
        ratio = _ratio(case, np.abs(ours - wanted), allowed * (gains + size), fixed, name, scale)
        ratio = np.where(near | np.isnan(wanted), 0.0, ratio)
        kind = "values" if i < states else "observables"
        if ratio.size and case.times[int(np.argmax(ratio))] == 0.0:
            kind = "start values"
        yield from _worst(kind, name, ratio, ours, wanted, run)


def _saved_bounds(case: Case, reference: RunReference, row: int) -> tuple[Array, float, float]:
    """Return the amplification, the magnitude and the least magnitude of a saved variable."""
    right, states = reference.right, list(case.model["states"])
    wanted = right.saved[row]
    gains = reference.amplified(wanted, [one.saved[row] for one in reference.disturbed])
    gains = np.maximum.accumulate(np.nan_to_num(gains))
    if row < len(states):
        scale = right.scale[row]
        return gains, scale, max(scale, _absolute(case)[states[row]] / case.rtol)
    scale = float(np.nanmax(np.abs(wanted), initial=0.0))
    # An observable has the errors of the states, even if it is small itself.
    return gains + _largest_gain(reference, row), scale, scale


def _absolute(case: Case) -> Mapping[str, float]:
    """Return the absolute tolerance of every state by name."""
    if isinstance(case.atol, Mapping):
        return case.atol
    return dict.fromkeys(case.model["states"], case.atol)


def _largest_gain(reference: RunReference, row: int) -> float:
    """Return the largest amplification of a saved variable over time."""
    gain = reference.amplified(
        reference.right.saved[row], [one.saved[row] for one in reference.disturbed]
    )
    return float(np.nanmax(gain, initial=0.0))


def _near_jumps(case: Case, reference: RunReference, allowed: float) -> Array:
    """Return the saved times that an allowed error may move to the other side of a jump.

    The result has shape (times,).
    """
    times = case.t_start + np.asarray(case.times)
    near = np.zeros(len(times), bool)
    right = reference.right
    fuzzy = 256 * float(np.finfo(case.precision).eps) * max(1.0, float(np.abs(times).max()))
    exact = {float(t) for t in times}
    for jump, others in zip(right.jumps, _disturbed_jumps(reference), strict=True):
        moved = reference.amplified(np.array([jump]), [np.array([one]) for one in others])[0]
        width = fuzzy + 3.0 * allowed * moved
        if jump in exact and moved < 1e-12:
            # At the time of a scheduled event the values after the event are saved.
            width = 0.0
            close = np.abs(times - jump) < fuzzy
            near |= close & (times != jump)
            continue
        near |= np.abs(times - jump) <= width
    return near


def _disturbed_jumps(reference: RunReference) -> Iterator[list[float]]:
    """Yield the times of every jump in the disturbed runs."""
    for i, jump in enumerate(reference.right.jumps):
        yield [one.jumps[i] if i < len(one.jumps) else jump for one in reference.disturbed]


def _worst(
    kind: str, name: str, ratio: Array, ours: Array, wanted: Array, run: int
) -> Iterator[Finding]:
    """Yield the largest difference of an array, if it exceeds the allowed error."""
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    if not ratio.size or not (ratio > 1.0).any():
        return
    at = int(np.argmax(ratio))
    yield Finding(
        kind, f"{name}[{at}] is {ours[at]:.9g}, right is {wanted[at]:.9g}", run, float(ratio[at])
    )
