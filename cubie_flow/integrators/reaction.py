"""The reaction to events: one event is applied in every lane where events are due."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cubie_flow.expressions.block import Block, BlockBuilder
from cubie_flow.expressions.graph import (
    FALSE,
    ONE,
    ZERO,
    Node,
    compare,
    const,
    fabs,
    load,
    logical_and,
    logical_not,
    logical_or,
    minimum,
    symbol,
    where,
)
from cubie_flow.expressions.traversal import substitute
from cubie_flow.integrators.event_schedule import (
    BY_SLOPE,
    BY_VALUE,
    CROWD,
    DUE,
    HELD_OFF,
    HELD_ON,
    JUMPED,
    LATEST,
    OFF,
    ON,
    PENDING,
    ROW,
    STOP,
    agenda,
)
from cubie_flow.integrators.steps.base import any_of
from cubie_flow.integrators.switches import SwitchBlocks
from cubie_flow.systems.events import margin

if TYPE_CHECKING:
    from cubie_flow.integrators.events import Events

#: Events at one time after which a run ends with the status ``event_limit``.
CROWD_LIMIT = 200
_NEVER = const(float("inf"))
_NO_ROW = const(-1.0)


def _any(truths: list[Node]) -> Node:
    return any_of(truths) if truths else FALSE


class Reaction:
    """The statements that apply one event, the one of the highest priority.

    Parameters
    ----------
    events : Events
    code : Node
        Status of the run.
    element : int
        Element of ``counters`` that holds the status.
    t : Node
        Present time of the lane.
    flags : mapping
        Codes of the status ``running``, ``success``, ``event_stop``, ``event_limit`` and
        ``event_queue``.
    """

    def __init__(
        self, events: Events, code: Node, element: int, t: Node, flags: Mapping[str, float]
    ) -> None:
        self.plan, self.code, self.element, self.flags = events, code, element, flags
        self.events = events.events
        self.block = BlockBuilder()
        self.t = self.block.let("t", t)
        ended = compare("==", code, flags["success"])
        alive = logical_or(compare("==", code, flags["running"]), ended)
        self.open = self.block.let("open", logical_and(events.pending(), alive))
        self.happening: dict[int, Node] = {}
        #: Whether a delayed event found no place.
        self.refused: Node = FALSE

    def build(self) -> Block:
        """Return the block; its mask holds the lanes in which the time of an event is stored."""
        with self.block.when(self.open):
            self._trigger()
            self._choose()
            self._apply()
            self._conclude()
        mask = logical_and(self.open, compare(">=", agenda(ROW), 0.0))
        return self.block.build("react", mask=mask)

    def _bind(self, node: Node) -> Node:
        """Return an expression of the model at the present time and state of the lane."""
        return self.plan.bind([node], self.t)[0]

    # what is due ------------------------------------------------------------------------------

    def _trigger(self) -> None:
        """Count an event as waiting if its condition became true or its time has come."""
        plan, block = self.plan, self.block
        values = [block.let(f"truth_{i}", self._bind(plan.truths[i])) for i in plan.watched]
        truths = dict(zip(plan.watched, values, strict=True))
        triggers = dict(zip(plan.watched, plan.triggers(values, self.t), strict=True))
        new: dict[tuple[str, int], Node] = {}
        refused: list[Node] = []
        for i in range(len(self.events)):
            if i in truths:
                due = compare("==", plan.side_of(i), DUE)
                rose = logical_and(self.open, logical_or(triggers[i], due))
                new[plan.side_element(i)] = self._side_now(i, truths[i], rose)
                if i not in plan.waiting:
                    added, full = self._queued(i, truths[i], rose)
                    new |= added
                    refused.append(full)
                    continue
                waits = self._waits(i, truths[i], rose)
            else:
                rose = logical_and(self.open, compare("<=", plan.next_time(i), self.t))
                waits = where(rose, ONE, plan.waiting_count(i))
            new[plan.waiting_element(i)] = waits
            new |= self._stored_values(i, rose)
        if refused:
            self.refused = block.let("refused", _any(refused))
        block.assign(list(new), list(new.values()))

    def _waits(self, i: int, truth: Node, rose: Node) -> Node:
        """Return how often an event waits: once for each time that its condition became true."""
        plan = self.plan
        waits = where(rose, plan.waiting_count(i) + 1.0, plan.waiting_count(i))
        if self.events[i].persistent:
            return waits
        lapsed = logical_and(self.open, logical_not(self._holds(i, truth)))
        return where(lapsed, ZERO, waits)

    def _holds(self, i: int, truth: Node) -> Node:
        """Return whether a condition holds, or counts as true already."""
        side = self.plan.side_of(i)
        early = logical_or(compare("==", side, DUE), compare("==", side, HELD_ON))
        return logical_or(truth, early)

    def _queued(self, i: int, truth: Node, rose: Node) -> tuple[dict[tuple[str, int], Node], Node]:
        """Return the queue of an event whose condition may have become true, by element.

        The second value says whether the event has no place, or a delay that is negative or NaN.
        """
        plan, event = self.plan, self.events[i]
        assert event.delay is not None
        delay = self.block.let(f"delay_{i}", self._bind(event.delay))
        values = plan.bind([node for _, node in event.resets] if event.early else [], self.t)
        values = [self.block.let(f"kept_{i}_{k}", node) for k, node in enumerate(values)]
        holds = logical_or(self._holds(i, truth), logical_not(self.open))
        new, full = plan.queues.added(i, rose, holds, self.t + delay, values)
        # A delay that reaches zero may be negative by rounding.
        wrong = logical_not(compare(">=", delay, -plan.near(self.t, ZERO)))
        return new, logical_or(full, logical_and(rose, wrong))

    def _side_now(self, i: int, truth: Node, rose: Node) -> Node:
        """Return the side of a condition after its evaluation."""
        event, side = self.events[i], self.plan.side_of(i)
        early = where(truth, const(HELD_OFF if event.direction == "both" else ON), const(HELD_ON))
        plain = where(truth, const(ON), const(OFF))
        risen = where(compare("==", side, DUE), early, plain)
        new = where(rose, risen, self.plan.side_after(i, truth))
        if event.root is not None:
            zero = compare("==", self._bind(event.root), 0.0)
            first = logical_and(zero, compare("==", side, BY_VALUE))
            new = where(first, const(BY_SLOPE), new)
            new = where(compare("==", side, BY_SLOPE), side, new)
        return where(self.open, new, side)

    def _stored_values(self, i: int, rose: Node) -> dict[tuple[str, int], Node]:
        """Return the values to set that an event computes when it is triggered, by element."""
        if i not in self.plan.stored:
            return {}
        values = self.plan.bind([node for _, node in self.events[i].resets], self.t)
        first = self.plan.stored[i]
        return {
            ("event_memory", first + k): where(rose, node, load("event_memory", first + k))
            for k, node in enumerate(values)
        }

    def _choose(self) -> None:
        """Choose the event that happens now, one per lane."""
        block, plan = self.block, self.plan
        numbers = range(len(self.events))
        waits = [logical_and(self.open, plan.waits(i, self.t)) for i in numbers]
        if len(waits) == 1:
            self.happening = {0: block.let("happening_0", waits[0])}
            return
        best, chosen = block.let("best", -_NEVER), block.let("chosen", const(-1.0))
        for i, event in enumerate(self.events):
            rank = block.let("rank", self._bind(event.priority))
            none = compare("<", chosen, 0.0)
            better = logical_and(waits[i], logical_or(none, compare(">", rank, best)))
            block.assign(
                [("best", 0), ("chosen", 0)],
                [where(better, rank, best), where(better, const(float(i)), chosen)],
            )
        self.happening = {
            i: block.let(f"happening_{i}", compare("==", chosen, float(i))) for i in numbers
        }

    # the effects of the event -----------------------------------------------------------------

    def _apply(self) -> None:
        """Apply the resets of the event, and update the memory of all events."""
        plan, block = self.plan, self.block
        self.anything = block.let("anything", _any(list(self.happening.values())))
        before = {
            i: block.let(f"root_{i}", fabs(self._distance(i)))
            for i in plan.watched
            if any(event.resets for event in self.events)
        }
        self._reset()
        new: dict[tuple[str, int], Node] = {}
        for i, event in enumerate(self.events):
            new |= self._count(i)
            if event.times is not None:
                new |= self._advance_schedule(i)
            elif i in before:
                new[plan.side_element(i)] = self._side_after_reset(i, before[i])
        block.assign(list(new), list(new.values()))
        stop: Node = _NEVER
        for time in (
            *map(plan.next_time, plan.scheduled),
            *map(plan.queues.time, plan.queues.delayed),
        ):
            stop = minimum(time, stop)
        block.assign([("agenda", STOP)], [where(self.open, stop, agenda(STOP))])
        if plan.rechecks:
            SwitchBlocks.recheck(block, self.anything)

    def _reset(self) -> None:
        """Set states and parameters to the values of the event, all at once."""
        plan = self.plan
        new: dict[tuple[str, int], Node] = {}
        for i, event in enumerate(self.events):
            values = plan.bind([node for _, node in event.resets], self.t)
            for number, ((name, _), value) in enumerate(zip(event.resets, values, strict=True)):
                buffer, element = plan.targets[name]
                target = ("state" if buffer == "u" else "parameters", element)
                if i in plan.stored:
                    value = load("event_memory", plan.stored[i] + number)
                elif event.early and event.delay is not None:
                    value = plan.queues.value(i, number)
                new[target] = where(self.happening[i], value, new.get(target, load(*target)))
        self.block.assign(list(new), list(new.values()))

    def _count(self, i: int) -> dict[tuple[str, int], Node]:
        """Return how often an event still waits and how often it happened, by element."""
        plan, now = self.plan, self.happening[i]
        if i in plan.waiting:
            waits = plan.waiting_count(i)
            rest = ZERO if self.events[i].times is not None else waits - 1.0
            new = {plan.waiting_element(i): where(now, rest, waits)}
        else:
            new = dict(plan.queues.removed(i, now))
        if i in plan.count:
            happened = ("event_memory", plan.count[i])
            new[happened] = where(now, load(*happened) + 1.0, load(*happened))
        return new

    def _advance_schedule(self, i: int) -> dict[tuple[str, int], Node]:
        """Return the next time of a schedule and its number, by element."""
        times, now, first = self.events[i].times, self.happening[i], self.plan.schedule_element(i)
        assert times is not None
        following = self.block.let(f"following_{i}", agenda(first + 1) + 1.0)
        (upcoming,) = substitute([times.at(symbol("k"))], {symbol("k"): following})
        return {
            ("agenda", first): where(now, self._bind(upcoming), agenda(first)),
            ("agenda", first + 1): where(now, following, agenda(first + 1)),
        }

    def _distance(self, i: int) -> Node:
        """Return the root of a condition, or its margin."""
        root = self.events[i].root
        return self._bind(margin(self.plan.truths[i]) if root is None else root)

    def _side_after_reset(self, i: int, before: Node) -> Node:
        """Return the side of a condition after the resets of the event that happens."""
        plan, event, side = self.plan, self.events[i], self.plan.side_of(i)
        truth, held = self._bind(plan.truths[i]), plan.is_held(i)
        stays = compare("<=", fabs(self._distance(i)), 2.0 * before)
        # Another event moved a condition that counted as changed before it had changed.
        changed = _any([self.happening[k] for k, one in enumerate(self.events) if one.resets])
        changed = logical_and(changed, logical_and(held, logical_not(stays)))
        other = where(changed, where(truth, const(ON), const(OFF)), side)
        # The condition of a delayed event may have changed since, and may become true again.
        if not event.resets or event.delay is not None:
            return other
        # An event does not happen again because of its own reset. The derivative decides the side
        # of a root that the reset left at zero.
        if event.root is not None:
            # A condition that another event at this time made true has not crossed zero.
            apart = compare("<", agenda(LATEST), self.t)
            own = where(logical_and(apart, stays), const(BY_SLOPE), const(BY_VALUE))
        else:
            own = where(logical_and(held, stays), side, const(BY_VALUE))
        return where(self.happening[i], own, other)

    # the continuation of the run --------------------------------------------------------------

    def _conclude(self) -> None:
        """Write the new status of the run, and the row that receives the time of the event."""
        block, anything, flags = self.block, self.anything, self.flags
        again = block.let("again", self._restarts())
        stops = _any([self.happening[i] for i, event in enumerate(self.events) if event.stop])
        stops = block.let("stops", stops)
        crowd = block.let("crowd", where(anything, self._crowd(), agenda(CROWD)))
        over = logical_and(anything, compare(">", crowd, float(CROWD_LIMIT)))
        over = block.let("over", over)
        ends = any_of([stops, over, self.refused])
        new = where(again, const(flags["running"]), self.code)
        new = where(self.refused, const(flags["event_queue"]), new)
        new = where(over, const(flags["event_limit"]), new)
        new = where(stops, const(flags["event_stop"]), new)
        more = logical_and(self._follows(), logical_and(anything, logical_not(ends)))
        more = block.let("more", more)
        targets = [("agenda", i) for i in (JUMPED, PENDING, CROWD, LATEST, ROW)]
        block.assign(
            [("counters", self.element), *targets],
            [
                new,
                where(ends, ZERO, where(again, ONE, agenda(JUMPED))),
                where(self.open, where(more, ONE, ZERO), agenda(PENDING)),
                crowd,
                where(anything, self.t, agenda(LATEST)),
                self._row(),
            ],
        )

    def _restarts(self) -> Node:
        """Return whether the lane restarts: after a reset, or to compute a derivative."""
        plan = self.plan
        reasons = [self.happening[i] for i, event in enumerate(self.events) if event.resets]
        for i in plan.watched:
            if self.events[i].root is not None:
                asked = compare("==", plan.side_of(i), BY_SLOPE)
                reasons.append(logical_and(self.open, asked))
        return _any(reasons)

    def _crowd(self) -> Node:
        """Return the number of earlier events at the present time."""
        apart = self.t - agenda(LATEST)
        together = compare("<=", apart, 4.0 * self.plan.near(self.t, ZERO))
        return where(together, agenda(CROWD) + 1.0, ZERO)

    def _follows(self) -> Node:
        """Return whether another event waits, or may be triggered by this one."""
        plan = self.plan
        waits = [plan.waits(i, self.t) for i in range(len(self.events))]
        changes = [
            self.happening[i]
            for i, event in enumerate(self.events)
            if event.resets or event.times is not None
        ]
        return _any(waits + changes)

    def _row(self) -> Node:
        """Return the row of the final values for the time of the event, negative for none."""
        plan, row = self.plan, _NO_ROW
        for number, i in enumerate(plan.recorded if plan.times_kept else []):
            number_of_time = load("event_memory", plan.count[i]) - 1.0
            first = plan.first_row + len(plan.recorded) + number * plan.times_kept
            room = compare("<", number_of_time, float(plan.times_kept))
            row = where(logical_and(self.happening[i], room), number_of_time + float(first), row)
        return row
