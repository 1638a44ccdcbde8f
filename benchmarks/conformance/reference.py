"""The reference: a run integrated by SciPy from the text of its model, piece by piece.

A piece ends at every time at which the equations are not smooth, at every scheduled event, and
where the dense output shows that a condition changes. The integrator restarts there. Comparisons of
states are constant within a piece, so that the integrator solves smooth equations only.
"""

from __future__ import annotations

import ast
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from attrs import define, field, frozen

from benchmarks.conformance.case import Case
from benchmarks.conformance.formulas import (
    Tree,
    function,
    names_in,
    parse,
    sort_by_use,
    substitute,
)

Array = Any
#: Evaluations of the conditions per step, least number of steps per run, and most events per run.
LOOKS, PIECES, EVENTS = 4, 60, 120
#: Number of events at one time at which cubie_flow ends a run.
CROWD = 200
#: Interval between two equal events, as a part of the run, below which events accumulate: for
#: example the impacts of a ball at the end of its bounces.
PILED = 1e-8
_CLOSE = 1e-12


class NoReferenceError(Exception):
    """The reference cannot be computed: the case is not well posed, or too expensive."""


@frozen
class Disturbance:
    """A small relative change of start values and rates, to measure its amplification.

    Parameters
    ----------
    size : float
        Relative size of the change.
    seed : int
        Seed of the random signs.
    scale : ndarray, shape (states,)
        Magnitude of every state.
    """

    size: float
    seed: int
    scale: Array

    def signs(self, count: int) -> Array:
        """Return the signs of the changes of start values and rates, shape (2, count)."""
        return np.random.default_rng(self.seed).choice([-1.0, 1.0], (2, count))


@define
class Trajectory:
    """The reference solution of a run.

    Attributes
    ----------
    saved : ndarray, shape (names, times)
        States and observables; NaN after the end of the run.
    final, scale : ndarray, shape (states,)
        States at the end, and the largest magnitude of each.
    end : float
        Time at which the run ended.
    status : str
    counts : dict
        Number of times each recorded event happened, by name.
    times : dict of list
        Times of the recorded events, by name.
    jumps : list of float
        Times at which a condition changed or an event happened.
    shortest : float
        The shortest time for which a watched condition was constant.
    margin : float
        Least magnitude of a watched difference at an extremum, divided by its largest magnitude.
    """

    saved: Array
    final: Array
    scale: Array
    end: float = 0.0
    status: str = "success"
    counts: dict[str, int] = field(factory=dict)
    times: dict[str, list[float]] = field(factory=dict)
    jumps: list[float] = field(factory=list)
    shortest: float = math.inf
    margin: float = math.inf


@define
class _Event:
    """An event with its expressions as functions."""

    name: str
    given: Mapping[str, Any]
    truth: Callable[..., list[float]] | None
    root: Callable[..., list[float]] | None
    resets: Callable[..., list[float]]
    targets: list[str]
    priority: Callable[..., list[float]]
    recorded: bool
    #: From the values of the parameters to the times, for an event with a schedule.
    schedule: Callable[[Mapping[str, float]], _Schedule] | None = None

    @property
    def direction(self) -> str:
        """Direction of the root."""
        return str(self.given.get("direction", "rising"))


@frozen
class _Schedule:
    """Times ``start + k*every + lag`` for ``k < count``, or the listed ones."""

    listed: tuple[float, ...] = ()
    start: float = 0.0
    every: float = 0.0
    count: float = 1.0
    lag: float = 0.0

    def at(self, k: int) -> float:
        """Return the time with number `k`, infinity after the last one."""
        if self.listed:
            return self.listed[k] + self.lag if k < len(self.listed) else math.inf
        return self.start + k * self.every + self.lag if k < self.count else math.inf

    def first(self, t: float) -> int:
        """Return the number of the first time that is not before `t`, without its lag."""
        k = 0
        while math.isfinite(self.at(k)) and self.at(k) - self.lag < t:
            k += 1
            if k > 100_000:
                raise NoReferenceError("a schedule without end before the start")
        return k


class Reference:
    """Integrates the runs of a case.

    Parameters
    ----------
    case : Case
    rtol : float
        Relative tolerance of the integrator of SciPy.
    method : {"", "DOP853", "LSODA", "Radau"}
        Integrator of SciPy; empty to choose it by the case.
    """

    def __init__(self, case: Case, rtol: float = 1e-11, method: str = "") -> None:
        self.case, self.rtol = case, rtol
        self.method = method or ("LSODA" if case.stiff else "DOP853")
        model = case.model
        self.states = list(model["states"])
        self.parameters = list(model.get("parameters") or {})
        self.drivers = {
            name: _driver(entry) for name, entry in (model.get("drivers") or {}).items()
        }
        self.observables = list(model.get("observables") or {})
        definitions = {**(model.get("definitions") or {}), **(model.get("observables") or {})}
        self._trees: dict[str, Tree] = {
            name: ast.parse(f"_driver_{name}(t, p)", mode="eval").body for name in self.drivers
        }
        for name in sort_by_use(definitions):
            self._trees[name] = substitute(parse(definitions[name]), self._trees)
        self._split_doses()
        self.flags: list[str] = []
        rates = [self._tree(model["equations"][name]) for name in self.states]
        for i, name in enumerate(self.states):
            for number, one in enumerate(self._flows):
                if one["into"] == name:
                    rate = self._tree(one["rate"])
                    rates[i] = _sum(rates[i], ast.parse(f"r[{number}]", mode="eval").body, rate)
        self.rates = self._function(rates, ("t", "y", "p", "m", "r"), frozen=True)
        self.modes = [self._function([parse(text)], ("t", "y", "p")) for text in self.flags]
        self.watched_by_modes = [self._difference(parse(text)) for text in self.flags]
        self.observe = self._function([self._trees[n] for n in self.observables], ("t", "y", "p"))
        self.events = self._events()
        #: Differences of the comparisons in conditions of events, computed on demand.
        self.differences: dict[int, Callable[..., list[float]]] = {}

    # the model ------------------------------------------------------------------------------

    def _tree(self, text: Any) -> Tree:
        return substitute(parse(text), self._trees)

    def _function(
        self, trees: Sequence[Tree], arguments: Sequence[str], frozen: bool = False
    ) -> Callable[..., list[float]]:
        trees = [substitute(tree, self._trees) for tree in trees]
        unpacked = {"y": self.states, "p": self.parameters}
        names = {f"_driver_{name}": self._driver_function(name) for name in self.drivers}
        return function(
            trees, arguments, unpacked, set(self.states) if frozen else None,
            self.flags if frozen else None, names,
        )  # fmt: skip

    def _driver_function(self, name: str) -> Callable[[float, Sequence[float]], float]:
        entry = self.case.model["drivers"][name]
        value, several = self.drivers[name], isinstance(entry["values"][0], list)
        if not several:
            return lambda t, p: value(t, 0)
        series = self.parameters.index(entry.get("series") or f"{name}_series")
        return lambda t, p: value(t, int(p[series]))

    def _difference(self, tree: Tree) -> Callable[..., list[float]]:
        """Return the function of the differences of both sides of every comparison in a tree."""
        differences = [
            ast.BinOp(node.left, ast.Sub(), node.comparators[0])
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare)
        ]
        return self._function(differences, ("t", "y", "p"))

    def _split_doses(self) -> None:
        """Separate the doses into boluses and infusions."""
        doses = self.case.model.get("doses") or []
        self._doses: list[tuple[str, Mapping[str, Any]]] = []
        self._flows: list[dict[str, Any]] = []
        for number, one in enumerate(doses):
            name = one.get("name", "dose" if len(doses) == 1 else f"dose_{number}")
            if "duration" not in one and "rate" not in one:
                self._doses.append((name, one))
                continue
            rate = one.get("rate", f"({one.get('amount')})/({one.get('duration')})")
            span = one.get("duration", f"({one.get('amount')})/({one.get('rate')})")
            self._flows.append({**one, "rate": rate, "span": span})

    def _events(self) -> list[_Event]:
        """Return the events of the model, then boluses, then starts and ends of infusions."""
        events = []
        for name, given in (self.case.model.get("events") or {}).items():
            events.append(self._event(name, given, bool(given.get("record", True))))
        for name, one in self._doses:
            into = one["into"]
            given = {"at": _times(one), "set": {into: f"{into} + ({one['amount']})"}}
            events.append(self._event(name, given, False))
        for number, one in enumerate(self._flows):
            for step, lag in ((1, "0"), (-1, one["span"])):
                given = {
                    "at": {**_schedule(_times(one)), "lag": lag},
                    "set": {},
                    "flow": (number, step),
                }
                events.append(self._event("", given, False))
        return events

    def _event(self, name: str, given: Mapping[str, Any], recorded: bool) -> _Event:
        arguments = ("t", "y", "p")
        truth = root = schedule = None
        if "when" in given:
            truth = self._function([parse(given["when"])], arguments)
        elif "root" in given:
            root = self._function([parse(given["root"])], arguments)
            sign = "<=" if given.get("direction") == "falling" else ">="
            truth = self._function([parse(f"({given['root']}) {sign} 0")], arguments)
        else:
            schedule = self._schedule_function(given["at"])
        resets = given.get("set") or {}
        return _Event(
            name, given, truth, root,
            self._function([parse(text) for text in resets.values()], arguments),
            list(resets), self._function([parse(given.get("priority", 0))], arguments), recorded,
            schedule,
        )  # fmt: skip

    def _schedule_function(self, given: Any) -> Callable[[Mapping[str, float]], _Schedule]:
        entry, number = _schedule(given), value_of

        def schedule(values: Mapping[str, float]) -> _Schedule:
            lag = number(entry.get("lag", 0), values)
            if "times" in entry:
                return _Schedule(tuple(number(one, values) for one in entry["times"]), lag=lag)
            every = number(entry.get("every", 0), values)
            count = number(entry.get("count", "1e15" if "every" in entry else 1), values)
            return _Schedule((), number(entry["start"], values), every, count, lag)

        return schedule

    # one run ----------------------------------------------------------------------------------

    def start(self, given: Mapping[str, float]) -> tuple[list[float], list[float]]:
        """Return the start values and the parameters of a run.

        `given` holds the values of the batch, which replace those of the model.
        """
        model = self.case.model
        texts = {**(model.get("parameters") or {}), **model["states"]}
        texts = {name: _plain(text) for name, text in texts.items()}
        texts |= {name: value for name, value in given.items() if name in texts}
        known: dict[str, float] = {"t": self.case.t_start}
        for name in sort_by_use(texts):
            known[name] = value_of(texts[name], known)
        return [known[name] for name in self.states], [known[name] for name in self.parameters]

    def run(self, number: int, disturbance: Disturbance | None = None) -> Trajectory:
        """Return the trajectory of a run of the case.

        Raises
        ------
        NoReferenceError
            If the run is not well posed.
        """
        try:
            return _Run(self, self.case.values(number), disturbance).integrate()
        except (ArithmeticError, ValueError, OverflowError) as error:
            raise NoReferenceError(f"{type(error).__name__}: {error}") from error


class _Run:
    """The state of one run during its integration."""

    def __init__(
        self, reference: Reference, given: Mapping[str, float], disturbance: Disturbance | None
    ) -> None:
        self.reference, case = reference, reference.case
        y, self.p = reference.start(given)
        self.y = np.array(y)
        self.t = self.t0 = case.t_start
        self.t1 = self.t0 + given.get("duration", case.duration)
        self.times = [self.t0 + time for time in case.times]
        for i, time in enumerate(self.times):
            if abs(time - self.t1) <= 4 * np.finfo(float).eps * abs(self.t1):
                self.times[i] = self.t1
        self.next_save = 0
        self.saved = np.full(
            (len(reference.states) + len(reference.observables), len(self.times)), np.nan
        )
        self.factors = np.ones(len(y))
        if disturbance is not None:
            signs = disturbance.signs(len(y))
            self.y = self.y + disturbance.size * signs[0] * disturbance.scale
            self.factors = 1.0 + disturbance.size * signs[1]
        self.running = [0] * len(reference._flows)
        self.result = Trajectory(self.saved, self.y, np.abs(self.y))
        self.result.counts = {event.name: 0 for event in reference.events if event.recorded}
        self.result.times = {name: [] for name in self.result.counts}
        self.sides = [False] * len(reference.events)
        self.undecided = [True] * len(reference.events)
        #: Time at which the direction of the run decided the side of a root at zero.
        self.headed = [-math.inf] * len(reference.events)
        self.history: dict[int, list[list[float]]] = {}
        self.m: list[bool] = []
        self.changed = [self.t0] * (len(reference.events) + len(reference.modes))
        self.crowd, self.latest, self.changes = 0, -math.inf, 0
        self.ended = False
        values = dict(zip((*reference.parameters,), self.p, strict=True))
        self.schedules = [
            one.schedule(values) if one.schedule else None for one in reference.events
        ]
        self.following = [one.first(self.t0) if one else 0 for one in self.schedules]
        self.near = [math.inf] * (len(reference.events) + len(reference.modes))
        self.size = [0.0] * len(self.near)

    # pieces

    def integrate(self) -> Trajectory:
        """Return the trajectory of the run."""
        result = self.result
        for i, event in enumerate(self.reference.events):
            if event.truth is not None and "initially" in event.given:
                self.sides[i], self.undecided[i] = bool(event.given["initially"]), False
        self._apply_due(None)
        self._set_modes()
        self._save_here()
        while not self.ended and self.t < self.t1:
            self._piece(self._stop())
            self._save_here()
        result.final, result.end = self.y, self.t
        watched = zip(self.near, self.size, strict=True)
        result.margin = min((n / s for n, s in watched if s > 0 and n < math.inf), default=math.inf)
        return result

    def _stop(self) -> float:
        """Return the time at which the next piece must end."""
        stops = [self.t1]
        values = dict(zip(self.reference.parameters, self.p, strict=True))
        for entry in self.reference.case.switches:
            stops.append(_next_switch(entry, values, self.t, self.t1))
        stops += [driver.next_knot(self.t) for driver in self.reference.drivers.values()]
        for schedule, k in zip(self.schedules, self.following, strict=True):
            if schedule is not None:
                stops.append(schedule.at(k))
        return min(stop for stop in stops if stop > self.t)

    def _piece(self, stop: float) -> None:
        """Integrate to the end of a piece, or to the first change of a condition before it."""
        a, b = self.t, stop
        inset = _CLOSE * max(abs(a), abs(b))
        if b - a <= 4 * inset:
            # Both ends of the piece are equal within rounding: only events at its end matter.
            self.t = b
            self._apply_due(None)
            self._set_modes()
            return
        rhs = self._right_hand_side(a + inset, b - inset)
        scale = np.maximum(self.result.scale, 1e-3 * self._floor())
        watchers = self._watchers()
        solver = self._solver(rhs, b, scale, bool(watchers))
        steps = 0
        while solver.status == "running":
            t_old, y_old = solver.t, np.array(solver.y)
            message = solver.step()
            steps += 1
            if solver.status == "failed" or not np.isfinite(solver.y).all() or steps > 200_000:
                raise NoReferenceError(f"the integrator failed: {message}")
            self.result.scale = np.maximum(self.result.scale, np.abs(solver.y))
            dense = None
            if watchers:
                dense = solver.dense_output()
                hit = self._first_change(watchers, dense, t_old, solver.t, b)
                if hit is not None:
                    number, time = hit
                    self._save_until(time, dense, solver.t)
                    self.y = self._land(rhs, t_old, y_old, time, scale)
                    self.t = time
                    self._pass(number)
                    self._react(number)
                    return
            if self.next_save < len(self.times) and self.times[self.next_save] < solver.t:
                self._save_until(solver.t, dense or solver.dense_output(), solver.t)
        self.t, self.y = b, np.array(solver.y)
        self._apply_due(None)
        self._set_modes()

    def _right_hand_side(self, low: float, high: float) -> Callable[[float, Array], Array]:
        """Return the equations of a piece; `low` and `high` are the ends of their domain."""
        rates, factors, modes = self.reference.rates, self.factors, self.m
        p, running = self.p, self.running

        def rhs(t: float, y: Array) -> Array:
            return factors * rates(min(max(t, low), high), y.tolist(), p, modes, running)

        return rhs

    def _solver(self, rhs: Any, stop: float, scale: Array, watched: bool) -> Any:
        """Return the integrator of a piece.

        Parameters
        ----------
        rhs : callable
        stop : float
            End of the piece.
        scale : ndarray, shape (states,)
            Magnitudes of the states, for absolute tolerances.
        watched : bool
            Whether conditions are watched, so that steps are bounded.
        """
        from scipy.integrate import DOP853, LSODA, Radau

        reference = self.reference
        kind = {"DOP853": DOP853, "LSODA": LSODA, "Radau": Radau}[reference.method]
        return kind(
            rhs, self.t, self.y, stop, rtol=reference.rtol, atol=1e-2 * reference.rtol * scale,
            max_step=(self.t1 - self.t0) / PIECES if watched else np.inf,
        )  # fmt: skip

    def _land(self, rhs: Any, t_old: float, y_old: Array, time: float, scale: Array) -> Array:
        """Return the state at a located time, by steps that end there."""
        from scipy.integrate import DOP853, Radau

        if not time > t_old:
            return y_old
        kind = DOP853 if self.reference.method == "DOP853" else Radau
        solver = kind(
            rhs,
            t_old,
            y_old,
            time,
            rtol=self.reference.rtol,
            atol=1e-2 * self.reference.rtol * scale,
        )
        while solver.status == "running":
            solver.step()
        if solver.status == "failed":
            raise NoReferenceError("the integrator failed on the way to an event")
        return np.array(solver.y)

    def _pass(self, number: int) -> None:
        """Advance by small steps until a located condition has changed."""
        events = self.reference.events
        if number < len(events):
            truth, side = events[number].truth, self.sides[number]
        else:
            truth, side = self.reference.modes[number - len(events)], self.m[number - len(events)]
        assert truth is not None
        t, y = self.t, self.y
        rates = np.array(self.reference.rates(t, y.tolist(), self.p, self.m, self.running))
        further = 1e-15 * (self.t1 - self.t0)
        while bool(truth(self.t, self.y.tolist(), self.p)[0]) == side:
            if further > 1e-7 * (self.t1 - self.t0):
                raise NoReferenceError("a condition that a run does not pass")
            self.t, self.y = t + further, y + further * self.factors * rates
            further *= 4.0

    def _floor(self) -> float:
        return float(max(1e-12, self.result.scale.max()))

    # conditions

    def _set_modes(self) -> None:
        """Evaluate the comparisons of the equations just after the present time."""
        y = self._after()
        t = self.t + _CLOSE * max(1.0, abs(self.t))
        self.m = [bool(mode(t, y, self.p)[0]) for mode in self.reference.modes]

    def _after(self) -> list[float]:
        """Return the state a short time later, beyond a zero of a difference at this time."""
        y = self.y.tolist()
        if not self.reference.modes:
            return list(y)
        self.m = [bool(mode(self.t, y, self.p)[0]) for mode in self.reference.modes]
        rates = self.reference.rates(self.t, y, self.p, self.m, self.running)
        span = 1e-9 * (self.t1 - self.t0)
        return [value + span * rate for value, rate in zip(y, rates, strict=True)]

    def _watchers(self) -> list[tuple[int, Callable[..., list[float]], bool]]:
        """Return the number, condition and present side of everything that is watched."""
        events, watchers = self.reference.events, []
        for i, event in enumerate(events):
            if event.truth is not None:
                watchers.append((i, event.truth, self.sides[i]))
        for i, mode in enumerate(self.reference.modes):
            watchers.append((len(events) + i, mode, self.m[i]))
        return watchers

    def _first_change(
        self, watchers: Sequence[Any], dense: Any, t_old: float, t_new: float, stop: float
    ) -> tuple[int, float] | None:
        """Return the number and time of the first change in a step, None without a change.

        A condition that becomes false without an event only changes its side.
        """
        p, events = self.p, self.reference.events
        previous = t_old
        for look in range(1, LOOKS + 1):
            time = t_old + (t_new - t_old) * look / LOOKS
            y = dense(time).tolist()
            # The end of a piece belongs to the events at that time.
            evaluated = min(time, stop - _CLOSE * max(1.0, abs(stop)))
            hits = []
            for number, truth, side in watchers:
                now = bool(truth(evaluated, y, p)[0])
                if number < len(events) and not self._has_both_directions(number):
                    side = self.sides[number]
                    if now != side and side:
                        # The event only becomes possible again.
                        self._record_change(
                            number, self._when(truth, side, dense, previous, time, 10)
                        )
                        self.sides[number] = now
                        continue
                else:
                    side = self.sides[number] if number < len(events) else side
                if now != side:
                    hits.append((self._when(truth, side, dense, previous, time), number))
            self._measure(evaluated, y)
            if hits:
                time, number = min(hits)
                return number, time
            previous = time
        return None

    def _has_both_directions(self, number: int) -> bool:
        """Return whether both changes of a condition are events."""
        event = self.reference.events[number]
        return event.root is not None and event.direction == "both"

    def _when(
        self, truth: Any, side: bool, dense: Any, low: float, high: float, halvings: int = 45
    ) -> float:
        """Return the first time at which a condition is not `side`, by bisection.

        Parameters
        ----------
        truth : callable
            The condition.
        side : bool
            Its value at `low`.
        dense : callable
            States as a function of time.
        low, high : float
            Interval of the change.
        halvings : int
        """
        for _ in range(halvings):
            middle = 0.5 * (low + high)
            if not low < middle < high:
                break
            if bool(truth(middle, dense(middle).tolist(), self.p)[0]) == side:
                low = middle
            else:
                high = middle
        return high

    def _measure(self, t: float, y: list[float]) -> None:
        """Update the least magnitudes of the watched differences."""
        reference = self.reference
        for i, event in enumerate(reference.events):
            if event.truth is None:
                continue
            if event.root is not None:
                differences = event.root(t, y, self.p)
            else:
                differences = self._differences(i)(t, y, self.p)
            self._add_differences(i, differences)
        for i, difference in enumerate(reference.watched_by_modes):
            self._add_differences(len(reference.events) + i, difference(t, y, self.p))

    def _add_differences(self, number: int, differences: list[float]) -> None:
        """Update the least and the largest magnitude of differences by their latest values."""
        for value in differences:
            self.size[number] = max(self.size[number], abs(value))
        history = self.history.setdefault(number, [])
        history.append(differences)
        if len(history) < 3:
            return
        a, b, c = history[-3:]
        del history[0]
        for before, now, after in zip(a, b, c, strict=True):
            # The extremum of the parabola through three values of the same sign.
            if before * now > 0 and now * after > 0 and abs(now) <= min(abs(before), abs(after)):
                curvature = before - 2 * now + after
                least = now - (after - before) ** 2 / (8 * curvature) if curvature else now
                least = 0.0 if least * now < 0 else abs(least)
                self.near[number] = min(self.near[number], least)

    def _differences(self, number: int) -> Callable[..., list[float]]:
        """Return the differences of the comparisons in the condition of an event."""
        known = self.reference.differences
        if number not in known:
            text = self.reference.events[number].given["when"]
            known[number] = self.reference._difference(parse(text))
        return known[number]

    def _record_change(self, number: int, time: float) -> None:
        """Record the change of a condition."""
        if self.changed[number] > self.t0:
            self.result.shortest = min(self.result.shortest, time - self.changed[number])
        else:
            self.result.shortest = min(self.result.shortest, max(time - self.t0, 1e-300))
        self.changed[number] = time
        self.result.jumps.append(time)
        self.history = {}

    def _react(self, number: int) -> None:
        """Apply the consequences of the change of a condition."""
        self._record_change(number, self.t)
        self.changes += 1
        if self.changes > EVENTS:
            raise NoReferenceError("too many events")
        events = self.reference.events
        if number < len(events):
            self._apply_due(number)
            self._set_modes()
            return
        before = list(self.m)
        self._apply_due(None)
        self._set_modes()
        mode = number - len(events)
        if self.m[mode] == before[mode]:
            raise NoReferenceError(
                "a condition of the equations that states touch without a change"
            )

    # events

    def _apply_due(self, hit: int | None) -> None:
        """Apply the events that are due now, one by one; `hit` is an event that was located."""
        reference, waiting = self.reference, [0] * len(self.reference.events)
        stored: dict[int, list[float]] = {}
        while not self.ended:
            y = self.y.tolist()
            for i, event in enumerate(reference.events):
                due = self._due(i, event, y, hit == i)
                if due and event.truth is None:
                    waiting[i] = 1
                elif due:
                    waiting[i] += 1
                if due and event.given.get("values") == "trigger":
                    stored[i] = event.resets(self.t, y, self.p)
                if self._withdrawn(event, y) and hit != i:
                    waiting[i] = 0
            hit = None
            ready = [i for i, count in enumerate(waiting) if count]
            if not ready:
                break
            ranks = {i: reference.events[i].priority(self.t, y, self.p)[0] for i in ready}
            chosen = max(ready, key=lambda i: (ranks[i], -i))
            waiting[chosen] -= 1
            self._apply(chosen, stored.get(chosen), y)

    def _withdrawn(self, event: _Event, y: list[float]) -> bool:
        """Return whether an event does not happen because its condition became false again."""
        if event.given.get("persistent") is not False or event.truth is None:
            return False
        return not event.truth(self.t, y, self.p)[0]

    def _due(self, i: int, event: _Event, y: list[float], hit: bool) -> bool:
        """Return whether an event becomes due now; update its side."""
        if event.truth is None:
            schedule = self.schedules[i]
            assert schedule is not None
            return schedule.at(self.following[i]) <= self.t
        if hit:
            rises = not self.sides[i]
            self.sides[i] = rises
            return True
        truth = bool(event.truth(self.t, y, self.p)[0])
        if self.undecided[i]:
            self.undecided[i] = False
            if event.root is not None and event.root(self.t, y, self.p)[0] == 0.0:
                truth, self.headed[i] = self._heading(event, y), self.t
            self.sides[i] = truth
            return False
        if self.headed[i] == self.t:
            return False
        changes = truth != self.sides[i]
        self.sides[i] = truth
        return changes and (truth or self._has_both_directions(i))

    def _heading(self, event: _Event, y: list[float]) -> bool:
        """Return the side of a root at zero towards which the run moves."""
        assert event.root is not None
        m = [bool(mode(self.t, y, self.p)[0]) for mode in self.reference.modes]
        rates = self.reference.rates(self.t, y, self.p, m, self.running)
        span = 1e-6 * (self.t1 - self.t0)
        ahead = [value + span * rate for value, rate in zip(y, rates, strict=True)]
        here, then = event.root(self.t, y, self.p)[0], event.root(self.t + span, ahead, self.p)[0]
        return then < here if event.direction == "falling" else then > here

    def _apply(self, i: int, stored: list[float] | None, y: list[float]) -> None:
        """Apply one event.

        Parameters
        ----------
        i : int
            Number of the event.
        stored : list of float, optional
            Values to set, if they were computed when the event was triggered.
        y : list of float
            Present state.
        """
        event, reference = self.reference.events[i], self.reference
        root = abs(event.root(self.t, y, self.p)[0]) if event.root is not None else 0.0
        values = event.resets(self.t, y, self.p) if stored is None else stored
        self.y, self.p = np.array(y), list(self.p)
        for name, value in zip(event.targets, values, strict=True):
            if name in reference.states:
                self.y[reference.states.index(name)] = value
            else:
                self.p[reference.parameters.index(name)] = value
        if not np.isfinite(self.y).all():
            raise NoReferenceError("an event sets a value that is not finite")
        self.result.scale = np.maximum(self.result.scale, np.abs(self.y))
        if "flow" in event.given:
            number, step = event.given["flow"]
            self.running = [n + step * (k == number) for k, n in enumerate(self.running)]
        if event.truth is None:
            self.following[i] += 1
        elif event.targets:
            self._update_side(i, event, root)
        if event.recorded:
            self._record(event)
        self.result.jumps.append(float(self.t))
        self.history = {}
        self.crowd = self.crowd + 1 if self.latest == self.t else 1
        self.latest = self.t
        if event.given.get("stop"):
            self.ended, self.result.status = True, "event_stop"
        elif self.crowd > CROWD:
            self.ended, self.result.status = True, "event_limit"

    def _update_side(self, i: int, event: _Event, root: float) -> None:
        """Decide the side of a condition after the resets of its event.

        `root` is the magnitude of the root before the resets.
        """
        assert event.truth is not None
        new = self.y.tolist()
        if event.root is not None and (
            abs(event.root(self.t, new, self.p)[0]) <= max(2 * root, 1e-9 * self.size[i])
        ):
            self.sides[i], self.headed[i] = self._heading(event, new), self.t
        else:
            self.sides[i] = bool(event.truth(self.t, new, self.p)[0])

    def _record(self, event: _Event) -> None:
        """Record the time of an event."""
        earlier = self.result.times[event.name][-1:]
        interval = self.t - earlier[0] if earlier else 0.0
        if event.truth is not None and 0.0 < interval < PILED * (self.t1 - self.t0):
            raise NoReferenceError("an event that happens faster and faster")
        self.result.counts[event.name] += 1
        self.result.times[event.name].append(float(self.t))

    # saving

    def _values(self, t: float, y: list[float]) -> list[float]:
        """Return states and observables."""
        return [*y, *self.reference.observe(t, y, self.p)]

    def _save_until(self, time: float, dense: Any, limit: float) -> None:
        """Save the values at the saved times before a time.

        Parameters
        ----------
        time : float
        dense : callable
            States as a function of time.
        limit : float
            Last time at which `dense` is valid.
        """
        while self.next_save < len(self.times) and self.times[self.next_save] < time:
            at = self.times[self.next_save]
            self.saved[:, self.next_save] = self._values(at, dense(min(at, limit)).tolist())
            self.next_save += 1

    def _save_here(self) -> None:
        """Save the values at the present time, if it is a saved time."""
        while self.next_save < len(self.times) and self.times[self.next_save] <= self.t:
            self.saved[:, self.next_save] = self._values(self.t, self.y.tolist())
            self.next_save += 1


# parts of models --------------------------------------------------------------------------


@cache
def _compile(text: str, names: tuple[str, ...]) -> Callable[..., list[float]]:
    """Return the function of an expression."""
    return function([parse(text)], names, {})


def value_of(text: Any, values: Mapping[str, float]) -> float:
    """Return the value of an expression for values of its names."""
    return float(_compile(str(text), tuple(values))(*values.values())[0])


def _plain(given: Any) -> Any:
    """Return the value of an entry of a model, with or without a unit."""
    return given["value"] if isinstance(given, Mapping) else given


def _sum(rate: Tree, running: Tree, flow: Tree) -> Tree:
    """Return ``rate + running*flow``."""
    return ast.BinOp(rate, ast.Add(), ast.BinOp(running, ast.Mult(), flow))


def _times(dose: Mapping[str, Any]) -> Any:
    """Return the schedule of a dose."""
    if "at" in dose:
        return dose["at"]
    return {"start": 0, **{k: dose[k] for k in ("start", "every", "count") if k in dose}}


def _schedule(given: Any) -> dict[str, Any]:
    """Return a schedule of any form as a mapping."""
    if isinstance(given, Mapping):
        return dict(given)
    return {"times": list(given)} if isinstance(given, list) else {"start": given}


def _next_switch(
    entry: Mapping[str, str], values: Mapping[str, float], t: float, t1: float
) -> float:
    """Return the next time after `t` of an entry of ``switches``, infinity without one.

    Parameters
    ----------
    entry : mapping
        See `Case`.
    values : mapping
        Parameters by name.
    t, t1 : float
        Present time, and the end of the run.
    """
    close = _CLOSE * max(1.0, abs(t))
    if "at" in entry:
        time = value_of(entry["at"], values)
        return time if time > t + close else math.inf
    if "root" in entry:
        return _root(lambda s: value_of(entry["root"], {**values, "t": s}), t + 10 * close, t1)
    start, every = (value_of(entry[key], values) for key in ("start", "every"))
    k = math.floor((t - start) / every) - 1
    while start + k * every <= t + close:
        k += 1
    return start + k * every


def _root(value: Callable[[float], float], low: float, high: float) -> float:
    """Return the first root of a function between two times, infinity without one."""
    from scipy.optimize import brentq

    if not high > low:
        return math.inf
    grid = np.linspace(low, high, 400)
    values = [value(float(s)) for s in grid]
    for a, b, fa, fb in zip(grid, grid[1:], values, values[1:], strict=False):
        if fa * fb < 0:
            return float(brentq(value, a, b, xtol=1e-15, rtol=1e-15))
    return math.inf


@frozen
class _Driver:
    """A driver as the documentation defines it."""

    times: list[float]
    rows: list[list[float]]
    interpolation: str
    outside: str
    splines: list[Any]

    @property
    def period(self) -> float:
        """Period of a periodic driver."""
        return self.times[-1] - self.times[0]

    def __call__(self, t: float, row: int) -> float:
        times, values = self.times, self.rows[row]
        if self.outside == "periodic":
            t = times[0] + (t - times[0]) % self.period
        elif t < times[0] or t >= times[-1]:
            edge = values[0] if t < times[0] else values[-1]
            return edge if self.outside == "hold" else 0.0
        i = min(max(bisect_right(times, t) - 1, 0), len(times) - 2)
        if self.interpolation == "step":
            return values[i]
        if self.interpolation == "linear":
            part = (t - times[i]) / (times[i + 1] - times[i])
            return values[i] + part * (values[i + 1] - values[i])
        return float(self.splines[row](t))

    def next_knot(self, t: float) -> float:
        """Return the next knot of the series after `t`."""
        close, shift = _CLOSE * max(1.0, abs(t)), 0.0
        if self.outside == "periodic":
            shift = math.floor((t - self.times[0]) / self.period) * self.period
        for turn in (0, 1, 2):
            for time in self.times:
                knot = time + shift + turn * self.period
                if knot > t + close:
                    return knot
            if self.outside != "periodic":
                break
        return math.inf


def _driver(entry: Mapping[str, Any]) -> _Driver:
    """Return the driver of an entry of a model."""
    from scipy.interpolate import CubicSpline

    times = [float(time) for time in entry["times"]]
    values = entry["values"]
    rows = [list(map(float, row)) for row in (values if isinstance(values[0], list) else [values])]
    outside = entry.get("outside", "hold")
    interpolation = entry.get("interpolation", "linear")
    ends = "periodic" if outside == "periodic" else "not-a-knot"
    splines = (
        [CubicSpline(times, row, bc_type=ends) for row in rows] if interpolation == "cubic" else []
    )
    return _Driver(times, rows, interpolation, outside, splines)


__all__ = ["Disturbance", "NoReferenceError", "Reference", "Trajectory", "names_in"]
