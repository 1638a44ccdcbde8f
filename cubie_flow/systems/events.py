"""Events of a run, at times that a condition, a root or a schedule determines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from attrs import evolve, field, frozen

from cubie_flow.errors import FlowError, one_of
from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import ONE, ZERO, Node
from cubie_flow.expressions.traversal import content_hash

DIRECTIONS = ("rising", "falling", "both")


@frozen
class Times:
    """The times of a schedule: a list, or `count` times from `start` on.

    Parameters
    ----------
    start, every, count : Node
        In symbols of parameters; ``start + k*every`` for ``k < count``.
    listed : tuple of Node
        Times in increasing order, instead of the above.
    lag : Node
        Delay of every time. A pair of events whose first time without it is before the start of
        a run does not happen, even if the second time is after the start.
    """

    start: Node = ZERO
    every: Node = ZERO
    count: Node = ONE
    listed: tuple[Node, ...] = ()
    lag: Node = ZERO

    def at(self, index: Node) -> Node:
        """Return time number `index`, infinity after the last one."""
        never = graph.const(float("inf"))
        if not self.listed:
            given = graph.compare("<", index, self.count)
            return graph.where(given, (index * self.every + self.start) + self.lag, never)
        time = never
        for k in reversed(range(len(self.listed))):
            time = graph.where(
                graph.compare("<=", index, float(k)), self.listed[k] + self.lag, time
            )
        return time

    def before(self, t: Node) -> Node:
        """Return the number of times before `t`."""
        if not self.listed:
            past = ONE
            if self.every is not ZERO:
                past = graph.maximum(graph.call("ceil", (t - self.start) / self.every), ONE)
            return graph.where(graph.compare("<", self.start, t), past, ZERO)
        total = ZERO
        for time in self.listed:
            total = total + graph.where(graph.compare("<", time, t), ONE, ZERO)
        return total


@frozen
class Event:
    """An event of a run; exactly one of `condition`, `root` and `times` is given.

    Parameters
    ----------
    name : str
    condition : Node, optional
        A truth in symbols of states, parameters and ``t``; the event happens when it becomes
        true.
    root : Node, optional
        The event happens where this goes through zero.
    direction : {"rising", "falling", "both"}
        Direction of the root.
    times : Times, optional
    resets : tuple of (str, Node)
        New values of states and parameters, all computed from the old values.
    stop : bool
        Whether the run ends.
    priority : Node
        Of the events at one time, the one with the highest priority happens first. Events of
        equal priority happen in the order of the model.
    initially : bool, optional
        Value of the condition before the start; None for its value at the start.
    persistent : bool
        Whether it still happens if the condition becomes false again before it happens: by an
        earlier event at the same time, or during its delay.
    early : bool
        Whether it uses the values from the moment when the condition became true, before other
        events at the same time and before its delay.
    record : bool
        Whether its number and times are saved.
    delay : Node, optional
        Time from the moment when the condition becomes true to the event, with the values of that
        moment; None for none. It may become true again before, then the event happens again.
    """

    name: str
    condition: Node | None = None
    root: Node | None = None
    direction: str = field(default="rising", validator=one_of(*DIRECTIONS))
    times: Times | None = None
    resets: tuple[tuple[str, Node], ...] = ()
    stop: bool = False
    priority: Node = ZERO
    initially: bool | None = None
    persistent: bool = True
    early: bool = False
    record: bool = True
    delay: Node | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All expressions, in a fixed order."""
        when = [node for node in (self.condition, self.root) if node is not None]
        if self.times is not None:
            t = self.times
            when = [t.start, t.every, t.count, t.lag, *t.listed]
        waits = [] if self.delay is None else [self.delay]
        return (*when, *(node for _, node in self.resets), self.priority, *waits)

    def replaced(self, change: Callable[[Sequence[Node]], list[Node]]) -> Event:
        """Return the event with other expressions; `change` gets all of them at once."""
        new = iter(change(self.nodes))
        condition = next(new) if self.condition is not None else None
        root = next(new) if self.root is not None else None
        times = self.times
        if times is not None:
            start, every, count, lag = (next(new) for _ in range(4))
            times = Times(start, every, count, tuple(next(new) for _ in times.listed), lag)
        resets = tuple((name, next(new)) for name, _ in self.resets)
        priority, delay = next(new), None if self.delay is None else next(new)
        return evolve(
            self, condition=condition, root=root, times=times, resets=resets, priority=priority,
            delay=delay,
        )  # fmt: skip

    @property
    def truth(self) -> Node:
        """The condition, or the truth that the root is beyond zero."""
        if self.condition is not None:
            return self.condition
        assert self.root is not None
        return graph.compare("<=" if self.direction == "falling" else ">=", self.root, 0.0)

    @property
    def content_hash(self) -> str:
        """SHA-256 digest of everything that determines the event."""
        own = (
            self.name, self.condition is None, self.root is None, self.times is None,
            self.direction, [name for name, _ in self.resets], self.stop, self.initially,
            self.persistent, self.early, self.record, content_hash(self.nodes),
        )  # fmt: skip
        if self.delay is not None:
            own = (*own, "delay")  # type: ignore[assignment]
        return hashlib.sha256(repr(own).encode()).hexdigest()


def check_events(events: Sequence[Event], targets: Iterable[str], where: str) -> None:
    """Refuse events that are incomplete or contradict each other.

    Parameters
    ----------
    events : sequence of Event
    targets : iterable of str
        Names that events may set.
    where : str
        Names the system in errors.

    Raises
    ------
    FlowError
        For the first event without a time, with a name twice, or that sets an unknown name.
    """
    targets = set(targets)
    called = [event.name for event in events]
    for event in events:
        if called.count(event.name) > 1:
            raise FlowError(f"{where}: two events or doses are called '{event.name}'; rename one")
        place = f"{where}, event {event.name}"
        if sum(part is not None for part in (event.condition, event.root, event.times)) != 1:
            raise FlowError(f"{place}: it needs exactly one of 'when', 'root' and 'at'")
        if event.delay is not None and event.times is not None:
            raise FlowError(f"{place}: 'delay' is not for times; add it to the times, as their lag")
        names = [name for name, _ in event.resets]
        for name in names:
            if name not in targets:
                raise FlowError(f"{place}: it sets '{name}', which is not a state or parameter")
            if names.count(name) > 1:
                raise FlowError(f"{place}: it sets '{name}' twice")


def margin(truth: Node) -> Node:
    """Return a number that is positive where a truth holds, and continuous if possible."""
    a = truth.args
    match truth.op:
        case "truth":
            return graph.const(1.0 if truth.value else -1.0)
        case "compare":
            if truth.value in (">", ">="):
                return a[0] - a[1]
            if truth.value in ("<", "<="):
                return a[1] - a[0]
            apart = graph.fabs(a[0] - a[1])
            return apart if truth.value == "!=" else -apart
        case "and":
            return graph.minimum(margin(a[0]), margin(a[1]))
        case "or":
            return graph.maximum(margin(a[0]), margin(a[1]))
        case "not":
            return -margin(a[0])
    return graph.where(truth, 1.0, -1.0)


def is_closed(truth: Node) -> bool:
    """Return whether a truth holds where its margin is zero: it has no strict comparison."""
    match truth.op:
        case "compare":
            return truth.value in (">=", "<=", "==")
        case "and" | "or":
            return all(map(is_closed, truth.args))
        case "not":
            return not _has_closed(truth.args[0])
    return True


def _has_closed(truth: Node) -> bool:
    """Return whether any comparison in a truth holds where its margin is zero."""
    if truth.op in ("and", "or", "not"):
        return any(map(_has_closed, truth.args))
    return truth.op == "compare" and truth.value in (">=", "<=", "==")
