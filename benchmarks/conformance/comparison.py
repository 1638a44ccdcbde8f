"""A result of cubie_flow beside the reference: what a tolerance explains, and what it does not.

A method with step control keeps the error of a step below ``rtol*|y| + atol``; how the errors of
all steps reach the end is measured: the reference is integrated once more with every start value
and every rate changed a little. An error is allowed `PER_STEP` times the number of steps times the
tolerance times that amplification.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve, frozen

from benchmarks.conformance.case import Case, solved
from benchmarks.conformance.generator import ORDERS
from benchmarks.conformance.reference import (
    Disturbance,
    NoReferenceError,
    Reference,
    Trajectory,
)
from cubie_flow.integrators.status import STATUS

Array = Any
#: Errors per step in units of the tolerance, and steps that even the longest ones count for.
PER_STEP, LEAST_STEPS = 3.0, 40.0
#: Roundings that a tolerance cannot go below.
ROUNDINGS = 64.0
#: Relative size of the disturbance, and tolerance of the disturbed reference.
DISTURBED, DISTURBED_RTOL = 1e-5, 1e-9
#: Features with which a fixed step does not show its order: no step ends where states switch.
_ROUGH = {"switches in states", "kinks of states", "smooth pulses"}
_NAMES = {code: name for name, code in STATUS.items()}


@frozen
class Finding:
    """One disagreement.

    Parameters
    ----------
    kind : str
        What differs, such as ``values``, ``counts`` or ``bits of threads``.
    text : str
        One sentence with the numbers.
    run : int
    size : float
        Error in units of what is allowed.
    """

    kind: str
    text: str
    run: int = 0
    size: float = np.inf


@frozen
class Judged:
    """The reference of one run with its amplification.

    Parameters
    ----------
    run : int
    right : Trajectory
    disturbed : tuple of Trajectory
    sizes : tuple of float
        Of the disturbances.
    """

    run: int
    right: Trajectory
    disturbed: tuple[Trajectory, ...]
    sizes: tuple[float, ...]

    @property
    def steady(self) -> bool:
        """Whether the same happens in the disturbed runs."""
        return all(
            one.counts == self.right.counts and one.status == self.right.status
            for one in self.disturbed
        )

    def amplified(self, right: Array, others: Sequence[Array]) -> Array:
        """Return the largest change per relative disturbance."""
        found = np.zeros_like(right)
        for other, size in zip(others, self.sizes, strict=True):
            with np.errstate(invalid="ignore"):
                found = np.fmax(found, np.abs(other - right) / size)
        return found


def judged(case: Case, run: int, thorough: bool = False) -> Judged:
    """Return the reference of a run.

    Parameters
    ----------
    case : Case
    run : int
    thorough : bool
        Whether to ask a second integrator too, and to disturb more often.

    Raises
    ------
    NoReferenceError
        If the run is not well posed or integrators do not agree.
    """
    about, coarse = Reference(case), Reference(case, DISTURBED_RTOL)
    right = about.run(run)
    sizes, disturbed = [DISTURBED], []
    if thorough:
        tolerance = max(case.rtol, ROUNDINGS * float(np.finfo(case.precision).eps))
        sizes += [DISTURBED, min(1e-3, max(30 * tolerance, 1e-8))]
        other = Reference(case, 1e-10, "Radau" if about.method == "DOP853" else "DOP853")
        again = other.run(run) if not case.stiff else Reference(case, 1e-10, "Radau").run(run)
        _agree(right, again)
    for seed, size in enumerate(sizes):
        disturbed.append(coarse.run(run, Disturbance(size, seed, right.scale)))
    return Judged(run, right, tuple(disturbed), tuple(sizes))


def _agree(a: Trajectory, b: Trajectory) -> None:
    """Refuse references that differ."""
    same = a.counts == b.counts and a.status == b.status
    with np.errstate(invalid="ignore"):
        apart = np.abs(a.final - b.final) / np.maximum(a.scale, 1e-300)
    if not same or not (apart < 1e-6).all():
        raise NoReferenceError("two integrators disagree")


def compare(
    case: Case, arrays: Mapping[str, Array], about: Judged, finer: Mapping[str, Array] | None = None
) -> Iterator[Finding]:
    """Yield what of one run the tolerance does not explain.

    Parameters
    ----------
    case : Case
    arrays : mapping
        What cubie_flow gave.
    about : Judged
        The reference of the run.
    finer : mapping, optional
        The result with half the step, of a method with a fixed step.
    """
    run, right = about.run, about.right
    status = _NAMES[int(arrays["status"][run])]
    if status != right.status:
        if case.dt and status == "solver_failed" and "switches in states" in case.features:
            # Across a switch an implicit step of fixed size may have no solution.
            return
        kind = "lost runs" if status not in ("success", "event_stop") else "status"
        yield Finding(kind, f"status is {status}, right is {right.status}", run)
        return
    steps = float(arrays["steps"][run])
    tolerance = max(case.rtol, ROUNDINGS * float(np.finfo(case.precision).eps))
    allowed = PER_STEP * max(steps, LEAST_STEPS) * tolerance
    if not about.steady or _nearly(about, allowed):
        return
    for name, count in right.counts.items():
        ours = int(arrays[f"{name}_count"][run])
        if ours != count:
            yield Finding("counts", f"{name}_count is {ours}, right is {count}", run)
            return
    fixed = _step_errors(case, arrays, finer, run) if finer is not None else {}
    yield from _event_times(case, arrays, about, allowed, fixed)
    yield from _values(case, arrays, about, allowed, fixed)


def _nearly(about: Judged, allowed: float) -> bool:
    """Return whether a condition came so near to a change that an allowed error decides."""
    right = about.right
    finals = about.amplified(right.final, [one.final for one in about.disturbed])
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = np.nanmax(np.where(right.scale > 0, finals / right.scale, 0.0))
    return bool(right.margin < 3.0 * allowed * (1.0 + gain))


def half_step(case: Case) -> dict[str, Array] | None:
    """Return the result of a case with half the step; None for methods that choose it."""
    return solved(evolve(case, dt=case.dt / 2)) if case.dt else None


def _step_errors(
    case: Case, arrays: Mapping[str, Array], finer: Mapping[str, Array], run: int
) -> dict[str, Array]:
    """Return the differences to the same method with half the step, for every array of reals."""
    return {
        name: np.abs(np.asarray(values[run], np.float64) - finer[name][run])
        for name, values in arrays.items()
        if np.ndim(values) and len(values) == case.runs and values.dtype.kind == "f"
    }


def _ratio(
    case: Case, error: Array, allowed: Array, fixed: Mapping[str, Array], name: str, scale: float
) -> Array:
    """Return an error in units of what is allowed."""
    if case.dt:
        # With half the step the error is smaller by 2**order: all of it is about the difference.
        apart = np.nanmax(fixed[name], initial=0.0)
        order = ORDERS.get(case.algorithm, 4)
        factor = 40.0 if _ROUGH & {*case.features} else 4.0
        allowed = factor * apart * (1 + 1 / (2**order - 1)) + 1e-3 * allowed + 1e-8 * scale
        if "switches in states" in case.features:
            # The step in which a switch is passed has an error of its size, whatever the order,
            # and with half the step it may be the same by chance.
            allowed = allowed + case.dt * scale
        if apart > 0.02 * scale:
            return np.zeros_like(error)
    with np.errstate(invalid="ignore", divide="ignore"):
        return error / allowed


def _event_times(
    case: Case, arrays: Mapping[str, Array], about: Judged, allowed: float,
    fixed: Mapping[str, Array],
) -> Iterator[Finding]:  # fmt: skip
    right, run = about.right, about.run
    eps = float(np.finfo(case.precision).eps)
    for name, times in right.times.items():
        key = f"{name}_times"
        if key not in arrays or not times:
            continue
        count = min(len(times), arrays[key].shape[1])
        wanted = np.array(times[:count])
        ours = np.asarray(arrays[key][run, :count], np.float64)
        others = [np.array(one.times[name][:count]) for one in about.disturbed]
        gain = np.maximum.accumulate(about.amplified(wanted, others))
        bound = allowed * gain + 256 * eps * np.maximum(np.abs(wanted), case.duration)
        ratio = _ratio(case, np.abs(ours - wanted), bound, fixed, key, case.duration)
        yield from _worst("event times", key, ratio, ours, wanted, run)


def _values(
    case: Case, arrays: Mapping[str, Array], about: Judged, allowed: float,
    fixed: Mapping[str, Array],
) -> Iterator[Finding]:  # fmt: skip
    right, run = about.right, about.run
    states = list(case.model["states"])
    atol = case.atol if isinstance(case.atol, Mapping) else dict.fromkeys(states, case.atol)
    gain = about.amplified(right.final, [one.final for one in about.disturbed])
    for i, name in enumerate(states):
        wanted = right.final[i : i + 1]
        ours = np.asarray(arrays[f"{name}_final"][run : run + 1], np.float64)
        peak = gain[i]
        if right.saved.size:
            with np.errstate(invalid="ignore"):
                row = about.amplified(right.saved[i], [one.saved[i] for one in about.disturbed])
            peak = np.fmax(peak, np.nanmax(row, initial=0.0))
        bound = allowed * (peak + right.scale[i] + atol[name] / case.rtol)
        ratio = _ratio(case, np.abs(ours - wanted), bound, fixed, f"{name}_final", right.scale[i])
        yield from _worst("values", f"{name}_final", ratio, ours, wanted, run)
    if not case.times:
        return
    near = _near_jumps(case, about, allowed)
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
        gains = about.amplified(wanted, [one.saved[i] for one in about.disturbed])
        gains = np.maximum.accumulate(np.nan_to_num(gains))
        scale = right.scale[i] if i < len(states) else float(np.nanmax(np.abs(wanted), initial=0.0))
        inner = max(scale, atol[name] / case.rtol) if i < len(states) else scale
        if i >= len(states):
            # What is computed from states has their errors, however small it is itself.
            gains = gains + _observable_gain(about, i)
        bound = allowed * (gains + inner)
        ratio = _ratio(case, np.abs(ours - wanted), bound, fixed, name, scale)
        ratio = np.where(near | np.isnan(wanted), 0.0, ratio)
        kind = "values" if i < len(states) else "observables"
        if ratio.size and case.times[int(np.argmax(ratio))] == 0.0:
            kind = "start values"
        yield from _worst(kind, name, ratio, ours, wanted, run)


def _observable_gain(about: Judged, row: int) -> float:
    found = about.amplified(about.right.saved[row], [one.saved[row] for one in about.disturbed])
    return float(np.nanmax(found, initial=0.0))


def _near_jumps(case: Case, about: Judged, allowed: float) -> Array:
    """Return which saved times an allowed error of a located time may put before or behind it."""
    times = case.t_start + np.asarray(case.times)
    near = np.zeros(len(times), bool)
    right = about.right
    fuzzy = 256 * float(np.finfo(case.precision).eps) * max(1.0, float(np.abs(times).max()))
    exact = {float(t) for t in times}
    for jump, others in zip(right.jumps, _jumps_of(about), strict=True):
        moved = about.amplified(np.array([jump]), [np.array([one]) for one in others])[0]
        width = fuzzy + 3.0 * allowed * moved
        if jump in exact and moved < 1e-12:
            # A scheduled event at a saved time: what is saved is what it leaves.
            width = 0.0
            close = np.abs(times - jump) < fuzzy
            near |= close & (times != jump)
            continue
        near |= np.abs(times - jump) <= width
    return near


def _jumps_of(about: Judged) -> Iterator[list[float]]:
    for i, jump in enumerate(about.right.jumps):
        yield [one.jumps[i] if i < len(one.jumps) else jump for one in about.disturbed]


def _worst(
    kind: str, name: str, ratio: Array, ours: Array, wanted: Array, run: int
) -> Iterator[Finding]:
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    if not ratio.size or not (ratio > 1.0).any():
        return
    at = int(np.argmax(ratio))
    yield Finding(
        kind, f"{name}[{at}] is {ours[at]:.9g}, right is {wanted[at]:.9g}", run, float(ratio[at])
    )
