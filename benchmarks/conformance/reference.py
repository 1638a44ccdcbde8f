"""The reference: a run integrated by SciPy from the text of its model, piece by piece.

A piece ends at every time at which the equations are not smooth, at every scheduled event and where
the dense output shows that a condition changes; there the run begins anew. Within a piece the
comparisons of states keep their truth, so that the integrator sees smooth equations only.
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
    ordered,
    parse,
    substituted,
)

Array = Any
#: Looks at the conditions per step of the integrator, least steps per run, events per run.
LOOKS, PIECES, EVENTS = 4, 60, 120
#: Events at one time with which a run of cubie_flow ends.
CROWD = 200
#: Part of a run within which an event that happens again is taken to pile up, as a ball at rest.
PILED = 1e-8
_CLOSE = 1e-12


class NoReferenceError(Exception):
    """The reference cannot be computed: the case is not well posed, or too expensive."""


@frozen
class Disturbance:
    """A small relative change of start values and equations, to see how much a run amplifies it.

    Parameters
    ----------
    size : float
    seed : int
        Of the signs.
    scale : ndarray, shape (states,)
        Magnitude of every state.
    """

    size: float
    seed: int
    scale: Array

    def signs(self, count: int) -> Array:
        return np.random.default_rng(self.seed).choice([-1.0, 1.0], (2, count))


@define
class Trajectory:
    """What the reference knows of a run.

    Attributes
    ----------
    saved : ndarray, shape (names, times)
        States and observables; NaN after the end of the run.
    final, scale : ndarray, shape (states,)
        At the end, and the largest magnitude.
    end : float
        When it ended.
    status : str
    counts : dict
    times : dict of list
        Times of the recorded events.
    jumps : list of float
        Times at which a condition changed or an event happened.
    shortest : float
        The shortest time for which a watched condition kept its truth.
    margin : float
        How near a watched difference came to zero without passing it, in units of its size.
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
    """An event as the reference sees it."""

    name: str
    given: Mapping[str, Any]
    truth: Callable[..., list[float]] | None
    root: Callable[..., list[float]] | None
    resets: Callable[..., list[float]]
    targets: list[str]
    priority: Callable[..., list[float]]
    recorded: bool
    #: Turns the names of the model's values into times, for a schedule.
    schedule: Callable[[Mapping[str, float]], _Schedule] | None = None

    @property
    def direction(self) -> str:
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
        """Return time number `k`, infinity after the last."""
        if self.listed:
            return self.listed[k] + self.lag if k < len(self.listed) else math.inf
        return self.start + k * self.every + self.lag if k < self.count else math.inf

    def first(self, t: float) -> int:
        """Return the number of the first time that begins at `t` or after."""
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
        Of SciPy's integrator.
    method : {"", "DOP853", "LSODA", "Radau"}
        Empty for what suits the case.
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
        for name in ordered(definitions):
            self._trees[name] = substituted(parse(definitions[name]), self._trees)
        self._infusions()
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
        #: Of the conditions of events, made when they are asked for.
        self.differences: dict[int, Callable[..., list[float]]] = {}

    # what the model says --------------------------------------------------------------------

    def _tree(self, text: Any) -> Tree:
        return substituted(parse(text), self._trees)

    def _function(
        self, trees: Sequence[Tree], arguments: Sequence[str], frozen: bool = False
    ) -> Callable[..., list[float]]:
        trees = [substituted(tree, self._trees) for tree in trees]
        unpacked = {"y": self.states, "p": self.parameters}
        names = {f"_driver_{name}": self._driven(name) for name in self.drivers}
        return function(
            trees, arguments, unpacked, set(self.states) if frozen else None,
            self.flags if frozen else None, names,
        )  # fmt: skip

    def _driven(self, name: str) -> Callable[[float, Sequence[float]], float]:
        entry = self.case.model["drivers"][name]
        value, several = self.drivers[name], isinstance(entry["values"][0], list)
        if not several:
            return lambda t, p: value(t, 0)
        place = self.parameters.index(entry.get("series") or f"{name}_series")
        return lambda t, p: value(t, int(p[place]))

    def _difference(self, tree: Tree) -> Callable[..., list[float]]:
        """Return the differences of both sides of every comparison in a tree."""
        found = [
            ast.BinOp(node.left, ast.Sub(), node.comparators[0])
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare)
        ]
        return self._function(found, ("t", "y", "p"))

    def _infusions(self) -> None:
        """Split doses into those at once and those that take time."""
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
        """Return events in the order of the model, then doses and the ends of infusions."""
        found = []
        for name, given in (self.case.model.get("events") or {}).items():
            found.append(self._event(name, given, bool(given.get("record", True))))
        for name, one in self._doses:
            into = one["into"]
            given = {"at": _times(one), "set": {into: f"{into} + ({one['amount']})"}}
            found.append(self._event(name, given, False))
        for number, one in enumerate(self._flows):
            for step, lag in ((1, "0"), (-1, one["span"])):
                given = {
                    "at": {**_schedule(_times(one)), "lag": lag},
                    "set": {},
                    "flow": (number, step),
                }
                found.append(self._event("", given, False))
        return found

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
            schedule = self._scheduled(given["at"])
        resets = given.get("set") or {}
        return _Event(
            name, given, truth, root,
            self._function([parse(text) for text in resets.values()], arguments),
            list(resets), self._function([parse(given.get("priority", 0))], arguments), recorded,
            schedule,
        )  # fmt: skip

    def _scheduled(self, given: Any) -> Callable[[Mapping[str, float]], _Schedule]:
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
        """Return start values and parameters of a run; what the batch gives replaces texts."""
        model = self.case.model
        texts = {**(model.get("parameters") or {}), **model["states"]}
        texts = {name: _plain(text) for name, text in texts.items()}
        texts |= {name: value for name, value in given.items() if name in texts}
        known: dict[str, float] = {"t": self.case.t_start}
        for name in ordered(texts):
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
    """One run on its way."""

    def __init__(
        self, about: Reference, given: Mapping[str, float], disturbance: Disturbance | None
    ) -> None:
        self.about, case = about, about.case
        y, self.p = about.start(given)
        self.y = np.array(y)
        self.t = self.t0 = case.t_start
        self.t1 = self.t0 + given.get("duration", case.duration)
        self.times = [self.t0 + time for time in case.times]
        for i, time in enumerate(self.times):
            if abs(time - self.t1) <= 4 * np.finfo(float).eps * abs(self.t1):
                self.times[i] = self.t1
        self.next_save = 0
        self.saved = np.full((len(about.states) + len(about.observables), len(self.times)), np.nan)
        self.factors = np.ones(len(y))
        if disturbance is not None:
            signs = disturbance.signs(len(y))
            self.y = self.y + disturbance.size * signs[0] * disturbance.scale
            self.factors = 1.0 + disturbance.size * signs[1]
        self.running = [0] * len(about._flows)
        self.found = Trajectory(self.saved, self.y, np.abs(self.y))
        self.found.counts = {event.name: 0 for event in about.events if event.recorded}
        self.found.times = {name: [] for name in self.found.counts}
        self.sides = [False] * len(about.events)
        self.untold = [True] * len(about.events)
        #: When the side of a root at zero was told by where the run goes.
        self.headed = [-math.inf] * len(about.events)
        self.history: dict[int, list[list[float]]] = {}
        self.m: list[bool] = []
        self.changed = [self.t0] * (len(about.events) + len(about.modes))
        self.crowd, self.latest, self.happened = 0, -math.inf, 0
        self.ended = False
        values = dict(zip((*about.parameters,), self.p, strict=True))
        self.schedules = [one.schedule(values) if one.schedule else None for one in about.events]
        self.following = [one.first(self.t0) if one else 0 for one in self.schedules]
        self.near = [math.inf] * (len(about.events) + len(about.modes))
        self.size = [0.0] * len(self.near)

    # pieces

    def integrate(self) -> Trajectory:
        found = self.found
        for i, event in enumerate(self.about.events):
            if event.truth is not None and "initially" in event.given:
                self.sides[i], self.untold[i] = bool(event.given["initially"]), False
        self._settle(None)
        self._set_modes()
        self._save_here()
        while not self.ended and self.t < self.t1:
            self._piece(self._stop())
            self._save_here()
        found.final, found.end = self.y, self.t
        watched = zip(self.near, self.size, strict=True)
        found.margin = min((n / s for n, s in watched if s > 0 and n < math.inf), default=math.inf)
        return found

    def _stop(self) -> float:
        """Return where the next piece must end."""
        stops = [self.t1]
        values = dict(zip(self.about.parameters, self.p, strict=True))
        for entry in self.about.case.switches:
            stops.append(_next_switch(entry, values, self.t, self.t1))
        stops += [driver.next_knot(self.t) for driver in self.about.drivers.values()]
        for schedule, k in zip(self.schedules, self.following, strict=True):
            if schedule is not None:
                stops.append(schedule.at(k))
        return min(stop for stop in stops if stop > self.t)

    def _piece(self, stop: float) -> None:
        from scipy.integrate import DOP853, LSODA, Radau

        about, a, b = self.about, self.t, stop
        inset = _CLOSE * max(abs(a), abs(b))
        if b - a <= 4 * inset:
            # Too short to be told apart: nothing happens in it but what is due at its end.
            self.t = b
            self._settle(None)
            self._set_modes()
            return
        low, high = a + inset, b - inset
        rates, factors, modes = about.rates, self.factors, self.m
        p, running = self.p, self.running

        def rhs(t: float, y: Array) -> Array:
            return factors * rates(min(max(t, low), high), y.tolist(), p, modes, running)

        scale = np.maximum(self.found.scale, 1e-3 * self._floor())
        watchers = self._watchers()
        kind = {"DOP853": DOP853, "LSODA": LSODA, "Radau": Radau}[about.method]
        solver = kind(
            rhs, a, self.y, b, rtol=about.rtol, atol=1e-2 * about.rtol * scale,
            max_step=(self.t1 - self.t0) / PIECES if watchers else np.inf,
        )  # fmt: skip
        steps = 0
        while solver.status == "running":
            t_old, y_old = solver.t, np.array(solver.y)
            message = solver.step()
            steps += 1
            if solver.status == "failed" or not np.isfinite(solver.y).all() or steps > 200_000:
                raise NoReferenceError(f"the integrator failed: {message}")
            self.found.scale = np.maximum(self.found.scale, np.abs(solver.y))
            dense = None
            if watchers:
                dense = solver.dense_output()
                hit = self._look(watchers, dense, t_old, solver.t, b)
                if hit is not None:
                    number, time = hit
                    self._save_until(time, dense, solver.t)
                    self.y = self._land(rhs, t_old, y_old, time, scale)
                    self.t = time
                    self._pass(number)
                    self._happen(number)
                    return
            if self.next_save < len(self.times) and self.times[self.next_save] < solver.t:
                self._save_until(solver.t, dense or solver.dense_output(), solver.t)
        self.t, self.y = b, np.array(solver.y)
        self._settle(None)
        self._set_modes()

    def _land(self, rhs: Any, t_old: float, y_old: Array, time: float, scale: Array) -> Array:
        """Return the state at a located time, by steps that end there."""
        from scipy.integrate import DOP853, Radau

        if not time > t_old:
            return y_old
        kind = DOP853 if self.about.method == "DOP853" else Radau
        solver = kind(
            rhs, t_old, y_old, time, rtol=self.about.rtol, atol=1e-2 * self.about.rtol * scale
        )
        while solver.status == "running":
            solver.step()
        if solver.status == "failed":
            raise NoReferenceError("the integrator failed on the way to an event")
        return np.array(solver.y)

    def _pass(self, number: int) -> None:
        """Go on by as little as it takes for a located condition to have changed."""
        events = self.about.events
        if number < len(events):
            truth, side = events[number].truth, self.sides[number]
        else:
            truth, side = self.about.modes[number - len(events)], self.m[number - len(events)]
        assert truth is not None
        t, y = self.t, self.y
        rates = np.array(self.about.rates(t, y.tolist(), self.p, self.m, self.running))
        further = 1e-15 * (self.t1 - self.t0)
        while bool(truth(self.t, self.y.tolist(), self.p)[0]) == side:
            if further > 1e-7 * (self.t1 - self.t0):
                raise NoReferenceError("a condition that is hardly passed")
            self.t, self.y = t + further, y + further * self.factors * rates
            further *= 4.0

    def _floor(self) -> float:
        return float(max(1e-12, self.found.scale.max()))

    # conditions

    def _set_modes(self) -> None:
        """Evaluate the comparisons of the equations just after the present time."""
        y = self._after()
        t = self.t + _CLOSE * max(1.0, abs(self.t))
        self.m = [bool(mode(t, y, self.p)[0]) for mode in self.about.modes]

    def _after(self) -> list[float]:
        """Return the state a moment later, so that what passes zero now is past it."""
        y = self.y.tolist()
        if not self.about.modes:
            return list(y)
        self.m = [bool(mode(self.t, y, self.p)[0]) for mode in self.about.modes]
        rates = self.about.rates(self.t, y, self.p, self.m, self.running)
        span = 1e-9 * (self.t1 - self.t0)
        return [value + span * rate for value, rate in zip(y, rates, strict=True)]

    def _watchers(self) -> list[tuple[int, Callable[..., list[float]], bool]]:
        """Return number, truth and present side of everything that is watched."""
        events, found = self.about.events, []
        for i, event in enumerate(events):
            if event.truth is not None:
                found.append((i, event.truth, self.sides[i]))
        for i, mode in enumerate(self.about.modes):
            found.append((len(events) + i, mode, self.m[i]))
        return found

    def _look(
        self, watchers: Sequence[Any], dense: Any, t_old: float, t_new: float, stop: float
    ) -> tuple[int, float] | None:
        """Return what changes first in a step, and when; sides that only fall back are noted."""
        p, events = self.p, self.about.events
        previous = t_old
        for look in range(1, LOOKS + 1):
            time = t_old + (t_new - t_old) * look / LOOKS
            y = dense(time).tolist()
            # At the end of a piece what is due there decides.
            seen = min(time, stop - _CLOSE * max(1.0, abs(stop)))
            hits = []
            for number, truth, side in watchers:
                now = bool(truth(seen, y, p)[0])
                if number < len(events) and not self._rising(number):
                    side = self.sides[number]
                    if now != side and side:
                        # It only becomes possible again.
                        self._note(number, self._when(truth, side, dense, previous, time, 10))
                        self.sides[number] = now
                        continue
                else:
                    side = self.sides[number] if number < len(events) else side
                if now != side:
                    hits.append((self._when(truth, side, dense, previous, time), number))
            self._measure(seen, y)
            if hits:
                time, number = min(hits)
                return number, time
            previous = time
        return None

    def _rising(self, number: int) -> bool:
        """Return whether both changes of a condition are events."""
        event = self.about.events[number]
        return event.root is not None and event.direction == "both"

    def _when(
        self, truth: Any, side: bool, dense: Any, low: float, high: float, halvings: int = 45
    ) -> float:
        """Return the first time at which a truth is not `side`, by halving."""
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
        """Note how near watched differences come to zero."""
        about = self.about
        for i, event in enumerate(about.events):
            if event.truth is None:
                continue
            if event.root is not None:
                differences = event.root(t, y, self.p)
            else:
                differences = self._differences(i)(t, y, self.p)
            self._measured(i, differences)
        for i, difference in enumerate(about.watched_by_modes):
            self._measured(len(about.events) + i, difference(t, y, self.p))

    def _measured(self, number: int, differences: list[float]) -> None:
        for value in differences:
            self.size[number] = max(self.size[number], abs(value))
        history = self.history.setdefault(number, [])
        history.append(differences)
        if len(history) < 3:
            return
        a, b, c = history[-3:]
        del history[0]
        for before, now, after in zip(a, b, c, strict=True):
            # The least magnitude, between three looks on one side: a parabola's.
            if before * now > 0 and now * after > 0 and abs(now) <= min(abs(before), abs(after)):
                curvature = before - 2 * now + after
                least = now - (after - before) ** 2 / (8 * curvature) if curvature else now
                least = 0.0 if least * now < 0 else abs(least)
                self.near[number] = min(self.near[number], least)

    def _differences(self, number: int) -> Callable[..., list[float]]:
        known = self.about.differences
        if number not in known:
            text = self.about.events[number].given["when"]
            known[number] = self.about._difference(parse(text))
        return known[number]

    def _note(self, number: int, time: float) -> None:
        """Note that a condition changed."""
        if self.changed[number] > self.t0:
            self.found.shortest = min(self.found.shortest, time - self.changed[number])
        else:
            self.found.shortest = min(self.found.shortest, max(time - self.t0, 1e-300))
        self.changed[number] = time
        self.found.jumps.append(time)
        self.history = {}

    def _happen(self, number: int) -> None:
        """Let happen what a condition that changed makes happen."""
        self._note(number, self.t)
        self.happened += 1
        if self.happened > EVENTS:
            raise NoReferenceError("too many events")
        events = self.about.events
        if number < len(events):
            self._settle(number)
            self._set_modes()
            return
        kept = list(self.m)
        self._settle(None)
        self._set_modes()
        place = number - len(events)
        if self.m[place] == kept[place]:
            raise NoReferenceError("a condition of the equations that states only touch")

    # events

    def _settle(self, hit: int | None) -> None:
        """Let happen what is due now, one by one; `hit` is an event that was located."""
        about, waiting = self.about, [0] * len(self.about.events)
        held: dict[int, list[float]] = {}
        while not self.ended:
            y = self.y.tolist()
            for i, event in enumerate(about.events):
                due = self._due(i, event, y, hit == i)
                if due and event.truth is None:
                    waiting[i] = 1
                elif due:
                    waiting[i] += 1
                if due and event.given.get("values") == "trigger":
                    held[i] = event.resets(self.t, y, self.p)
                if self._withdrawn(event, y) and hit != i:
                    waiting[i] = 0
            hit = None
            ready = [i for i, count in enumerate(waiting) if count]
            if not ready:
                break
            ranks = {i: about.events[i].priority(self.t, y, self.p)[0] for i in ready}
            chosen = max(ready, key=lambda i: (ranks[i], -i))
            waiting[chosen] -= 1
            self._apply(chosen, held.get(chosen), y)

    def _withdrawn(self, event: _Event, y: list[float]) -> bool:
        """Return whether an event no longer happens because its condition became false."""
        if event.given.get("persistent") is not False or event.truth is None:
            return False
        return not event.truth(self.t, y, self.p)[0]

    def _due(self, i: int, event: _Event, y: list[float], hit: bool) -> bool:
        """Return whether an event becomes due now; its side becomes what it is now."""
        if event.truth is None:
            schedule = self.schedules[i]
            assert schedule is not None
            return schedule.at(self.following[i]) <= self.t
        if hit:
            rises = not self.sides[i]
            self.sides[i] = rises
            return True
        truth = bool(event.truth(self.t, y, self.p)[0])
        if self.untold[i]:
            self.untold[i] = False
            if event.root is not None and event.root(self.t, y, self.p)[0] == 0.0:
                truth, self.headed[i] = self._heading(event, y), self.t
            self.sides[i] = truth
            return False
        if self.headed[i] == self.t:
            return False
        changes = truth != self.sides[i]
        self.sides[i] = truth
        return changes and (truth or self._rising(i))

    def _heading(self, event: _Event, y: list[float]) -> bool:
        """Return the side of a root at zero to which a run goes."""
        assert event.root is not None
        m = [bool(mode(self.t, y, self.p)[0]) for mode in self.about.modes]
        rates = self.about.rates(self.t, y, self.p, m, self.running)
        span = 1e-6 * (self.t1 - self.t0)
        ahead = [value + span * rate for value, rate in zip(y, rates, strict=True)]
        here, then = event.root(self.t, y, self.p)[0], event.root(self.t + span, ahead, self.p)[0]
        return then < here if event.direction == "falling" else then > here

    def _apply(self, i: int, held: list[float] | None, y: list[float]) -> None:
        """Let one event happen."""
        event, about = self.about.events[i], self.about
        root = abs(event.root(self.t, y, self.p)[0]) if event.root is not None else 0.0
        values = event.resets(self.t, y, self.p) if held is None else held
        self.y, self.p = np.array(y), list(self.p)
        for name, value in zip(event.targets, values, strict=True):
            if name in about.states:
                self.y[about.states.index(name)] = value
            else:
                self.p[about.parameters.index(name)] = value
        if not np.isfinite(self.y).all():
            raise NoReferenceError("an event sets what is not finite")
        self.found.scale = np.maximum(self.found.scale, np.abs(self.y))
        if "flow" in event.given:
            number, step = event.given["flow"]
            self.running = [n + step * (k == number) for k, n in enumerate(self.running)]
        if event.truth is None:
            self.following[i] += 1
        elif event.targets:
            new = self.y.tolist()
            if event.root is not None and (
                abs(event.root(self.t, new, self.p)[0]) <= max(2 * root, 1e-9 * self.size[i])
            ):
                self.sides[i], self.headed[i] = self._heading(event, new), self.t
            else:
                assert event.truth is not None
                self.sides[i] = bool(event.truth(self.t, new, self.p)[0])
        if event.recorded:
            earlier = self.found.times[event.name][-1:]
            if (
                event.truth is not None
                and earlier
                and (0.0 < self.t - earlier[0] < PILED * (self.t1 - self.t0))
            ):
                raise NoReferenceError("an event that happens faster and faster")
            self.found.counts[event.name] += 1
            self.found.times[event.name].append(float(self.t))
        self.found.jumps.append(float(self.t))
        self.history = {}
        self.crowd = self.crowd + 1 if self.latest == self.t else 1
        self.latest = self.t
        if event.given.get("stop"):
            self.ended, self.found.status = True, "event_stop"
        elif self.crowd > CROWD:
            self.ended, self.found.status = True, "event_limit"

    # saving

    def _values(self, t: float, y: list[float]) -> list[float]:
        return [*y, *self.about.observe(t, y, self.p)]

    def _save_until(self, time: float, dense: Any, limit: float) -> None:
        """Save what is due before a time."""
        while self.next_save < len(self.times) and self.times[self.next_save] < time:
            at = self.times[self.next_save]
            self.saved[:, self.next_save] = self._values(at, dense(min(at, limit)).tolist())
            self.next_save += 1

    def _save_here(self) -> None:
        """Save what is due at the present time."""
        while self.next_save < len(self.times) and self.times[self.next_save] <= self.t:
            self.saved[:, self.next_save] = self._values(self.t, self.y.tolist())
            self.next_save += 1


# pieces of models -------------------------------------------------------------------------


@cache
def _compiled(text: str, names: tuple[str, ...]) -> Callable[..., list[float]]:
    return function([parse(text)], names, {})


def value_of(text: Any, values: Mapping[str, float]) -> float:
    """Return the number that a text is for values of its names."""
    return float(_compiled(str(text), tuple(values))(*values.values())[0])


def _plain(given: Any) -> Any:
    return given["value"] if isinstance(given, Mapping) else given


def _sum(rate: Tree, running: Tree, flow: Tree) -> Tree:
    return ast.BinOp(rate, ast.Add(), ast.BinOp(running, ast.Mult(), flow))


def _times(dose: Mapping[str, Any]) -> Any:
    if "at" in dose:
        return dose["at"]
    return {"start": 0, **{k: dose[k] for k in ("start", "every", "count") if k in dose}}


def _schedule(given: Any) -> dict[str, Any]:
    """Return any form of a schedule as a mapping."""
    if isinstance(given, Mapping):
        return dict(given)
    return {"times": list(given)} if isinstance(given, list) else {"start": given}


def _next_switch(
    entry: Mapping[str, str], values: Mapping[str, float], t: float, t1: float
) -> float:
    """Return the next time after `t` of an entry of ``switches``, infinity if there is none."""
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
    """Return the first root of a function of time."""
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
    """A series over time as the documentation describes it."""

    times: list[float]
    rows: list[list[float]]
    interpolation: str
    outside: str
    splines: list[Any]

    @property
    def period(self) -> float:
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
        """Return the next time of the series after `t`."""
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
