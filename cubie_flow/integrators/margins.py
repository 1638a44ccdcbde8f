"""The conditions of events within one step: their margins, slopes and rounding errors.

The margin of a condition is positive where the condition holds. This module expresses margins at a
moment of the step. The side of each condition decides which of them are negated or ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import (
    ONE,
    ZERO,
    Node,
    compare,
    const,
    fabs,
    load,
    logical_or,
    maximum,
    minimum,
    where,
)
from cubie_flow.expressions.rounding import rounding
from cubie_flow.integrators.controllers import EPSILON
from cubie_flow.integrators.event_schedule import OFF, ON, SHORT, SLOPED, agenda
from cubie_flow.integrators.steps.base import Step, any_of
from cubie_flow.systems.events import margin

if TYPE_CHECKING:
    from cubie_flow.integrators.events import Events

# A margin is positive beyond doubt if it exceeds its rounding error by this factor.
_ROUNDINGS = 4.0
#: Margin of an event that cannot happen.
NEVER = const(-1e30)

#: Values by the number of the state; or the buffer, or buffer and element, where they begin.
Source = str | tuple[str, int] | Mapping[int, Node]


class Moment(NamedTuple):
    """A time within a step, the states and their derivatives at it, and the unit of these.

    The derivatives are per `pace`: per 1 for derivatives in time, per step for those by ``theta``.
    """

    t: Node
    state: Source
    rate: Source
    pace: Node


class Margins:
    """Margins of the watched events in the step just tried.

    Parameters
    ----------
    events : Events
    step : Step
    h, t, t_end : Node
        Length, start and end of the step.
    """

    def __init__(self, events: Events, step: Step, h: Node, t: Node, t_end: Node) -> None:
        self.events, self.h, self.t = events, h, t
        self.truths = [events.truths[i] for i in events.watched]
        self.margins = [margin(one) for one in self.truths]
        self.states = events.states_in(self.truths)
        self.course = step.course(h, self.states)
        self.start = Moment(t, "state", "derivative", ONE)
        self.stop = Moment(t_end, "proposed_state", step.end_element, ONE)

    def inside(self, theta: Node) -> Moment:
        """Return the moment at the part `theta` of the step."""
        course = self.course
        return Moment(theta * self.h + self.t, course.values(theta), course.rates(theta), self.h)

    def conditions(self, t: Node, state: Source) -> list[Node]:
        """Return whether each condition holds."""
        return self.events.bind(self.truths, t, state)

    def triggers(self, moment: Moment) -> Node:
        """Return whether at least one event would happen at a moment."""
        truths = self.conditions(moment.t, moment.state)
        return any_of(self.events.triggers(truths, *moment))

    def trigger_margins(self, moment: Moment) -> list[Node]:
        """Return for every event a number that is positive where it would happen."""
        events, margins = self.events, []
        plain = events.bind(self.margins, moment.t, moment.state)
        for i, one in zip(events.watched, plain, strict=True):
            side = events.side_of(i)
            other = NEVER
            if events.events[i].direction == "both":
                other = where(is_on(side), -one, NEVER)
            elif i in events.sloped:
                slope = events.root_slope(i, *moment)
                other = where(compare("==", side, SLOPED), minimum(one, slope), NEVER)
            margins.append(where(compare("==", side, OFF), one, other))
        return margins

    def excess(self, theta: Node) -> Node:
        """Return the largest number of `trigger_margins` at the part `theta` of the step."""
        largest = NEVER
        for one in self.trigger_margins(self.inside(theta)):
            largest = maximum(largest, one)
        return largest

    def excess_and_slope(self, theta: Node) -> tuple[Node, Node]:
        """Return `excess` and its derivative by `theta`."""
        moment = self.inside(theta)
        largest, slope = NEVER, ZERO
        for one, own in zip(self.trigger_margins(moment), self.slopes(moment), strict=True):
            slope = where(compare(">", one, largest), own, slope)
            largest = maximum(largest, one)
        return largest, slope

    def slopes(self, moment: Moment) -> list[Node]:
        """Return the derivatives of `trigger_margins`, of events that no slope decides."""
        events, slopes = self.events, []
        for i, one in zip(events.watched, self.margins, strict=True):
            slope = events.slope(one, *moment)
            if events.events[i].direction == "both":
                slope = where(is_on(events.side_of(i)), -slope, slope)
            slopes.append(slope)
        return slopes

    def changes(self, moment: Moment) -> list[Node]:
        """Return for every event a number that is positive where its condition has changed."""
        plain = self.events.bind(self.margins, moment.t, moment.state)
        return self._from_sides(plain)

    def change_rates(self, moment: Moment) -> list[Node]:
        """Return the derivatives of the numbers of `changes`."""
        return self._from_sides([self.events.slope(one, *moment) for one in self.margins])

    def _from_sides(self, numbers: list[Node]) -> list[Node]:
        """Return numbers, negated for conditions that count as true."""
        sides = map(self.events.side_of, self.events.watched)
        return [where(is_on(side), -one, one) for side, one in zip(sides, numbers, strict=True)]

    def triggers_on_sign_change(self, i: int) -> Node:
        """Return whether an event happens as soon as its margin changes sign."""
        side = self.events.side_of(i)
        closed = compare("==", side, OFF)
        if self.events.events[i].direction == "both":
            closed = logical_or(closed, is_on(side))
        return closed

    def rounding_errors(self, block: BlockBuilder) -> list[Node]:
        """Return a bound of the rounding error of every margin at the end of the step."""
        sizes = {}
        for j in self.states:
            size = maximum(fabs(load("state", j)), fabs(load("proposed_state", j)))
            sizes[load("u", j)] = block.let(f"size_{j}", size)
        scale = (_ROUNDINGS * EPSILON[self.events.precision]) * maximum(agenda(SHORT), ONE)
        errors = self.events.bind(rounding(self.margins, sizes), self.stop.t, self.stop.state)
        # An overflow or NaN is not a bound.
        return [where(compare("<", one, 1e30), scale * one, ZERO) for one in errors]


def is_on(side: Node) -> Node:
    """Return whether a condition counts as true."""
    return compare("==", side, ON)


def first_elements(names: Iterable[str]) -> list[tuple[str, int]]:
    """Return the first elements of buffers or values, as targets of assignments."""
    return [(name, 0) for name in names]
