"""Events: what happens to a run at a time that a condition, a root or a schedule decides."""

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
    """The times of a schedule: listed, or `count` of them from `start` on.

    Parameters
    ----------
    start, every, count : Node
        In symbols of parameters; ``start + k*every`` for ``k < count``.
    listed : tuple of Node
        Instead, in increasing order.
    lag : Node
        Every time is so much later; what would begin before a run starts does not happen in it,
        even if its end would.
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
        found = never
        for k in reversed(range(len(self.listed))):
            found = graph.where(
                graph.compare("<=", index, float(k)), self.listed[k] + self.lag, found
            )
        return found

    def before(self, t: Node) -> Node:
        """Return how many of the times are before `t`."""
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
    """Something that happens to a run; exactly one of `condition`, `root` and `times` is given.

    Parameters
    ----------
    name : str
    condition : Node, optional
        A truth in symbols of states, parameters and ``t``; it happens when this becomes true.
    root : Node, optional
        It happens where this goes through zero.
    direction : {"rising", "falling", "both"}
        Of the root.
    times : Times, optional
    resets : tuple of (str, Node)
        New value of states and parameters, computed before any of them is set.
    stop : bool
        Whether the run ends.
    priority : Node
        Of those at one time the highest happens first, in the order of the model if equal.
    initially : bool, optional
        What the condition counts as before the start; None for what it is at the start.
    persistent : bool
        Whether it still happens if one before it at the same time made the condition false.
    early : bool
        Whether values are those of the moment the condition became true, before others at the
        same time happened.
    record : bool
        Whether its number and times are kept.
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

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every expression, in one order."""
        when = [node for node in (self.condition, self.root) if node is not None]
        if self.times is not None:
            t = self.times
            when = [t.start, t.every, t.count, t.lag, *t.listed]
        return (*when, *(node for _, node in self.resets), self.priority)

    def replaced(self, change: Callable[[Sequence[Node]], list[Node]]) -> Event:
        """Return the event with its expressions changed all at once."""
        new = iter(change(self.nodes))
        condition = next(new) if self.condition is not None else None
        root = next(new) if self.root is not None else None
        times = self.times
        if times is not None:
            start, every, count, lag = (next(new) for _ in range(4))
            times = Times(start, every, count, tuple(next(new) for _ in times.listed), lag)
        resets = tuple((name, next(new)) for name, _ in self.resets)
        return evolve(
            self, condition=condition, root=root, times=times, resets=resets, priority=next(new)
        )

    @property
    def truth(self) -> Node:
        """Truth that stands for the side of the root, or the condition itself."""
        if self.condition is not None:
            return self.condition
        assert self.root is not None
        return graph.compare("<=" if self.direction == "falling" else ">=", self.root, 0.0)

    @property
    def content_hash(self) -> str:
        """SHA-256 digest of everything that decides what happens."""
        own = (
            self.name, self.condition is None, self.root is None, self.times is None,
            self.direction, [name for name, _ in self.resets], self.stop, self.initially,
            self.persistent, self.early, self.record, content_hash(self.nodes),
        )  # fmt: skip
        return hashlib.sha256(repr(own).encode()).hexdigest()


def check_events(events: Sequence[Event], targets: Iterable[str], where: str) -> None:
    """Refuse events that cannot be.

    Raises
    ------
    FlowError
        Naming the first one that does not say when it happens, or sets what it must not.
    """
    targets = set(targets)
    called = [event.name for event in events]
    for event in events:
        if called.count(event.name) > 1:
            raise FlowError(f"{where}: two events or doses are called '{event.name}'; rename one")
        place = f"{where}, event {event.name}"
        if sum(part is not None for part in (event.condition, event.root, event.times)) != 1:
            raise FlowError(f"{place}: it needs exactly one of 'when', 'root' and 'at'")
        names = [name for name, _ in event.resets]
        for name in names:
            if name not in targets:
                raise FlowError(f"{place}: it sets '{name}', which is no state or parameter")
            if names.count(name) > 1:
                raise FlowError(f"{place}: it sets '{name}' twice")


def margin(truth: Node) -> Node:
    """Return a number that is positive where a truth holds, about continuous where it can be."""
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
    """Return whether a truth holds where its margin is zero: no comparison in it is strict."""
    match truth.op:
        case "compare":
            return truth.value in (">=", "<=", "==")
        case "and" | "or":
            return all(map(is_closed, truth.args))
        case "not":
            return not _has_closed(truth.args[0])
    return True


def _has_closed(truth: Node) -> bool:
    """Return whether some comparison in a truth holds where its margin is zero."""
    if truth.op in ("and", "or", "not"):
        return any(map(_has_closed, truth.args))
    return truth.op == "compare" and truth.value in (">=", "<=", "==")
