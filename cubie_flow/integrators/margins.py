"""The conditions of events within one step: their margins, slopes and rounding errors.

The margin of a condition is positive where the condition holds. The functions here express margins
at a moment of the step; what is negated or out of reach depends on the side of each condition.
"""

from __future__ import annotations

from collections.abc import Mapping
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

# A margin is certainly positive where it exceeds its rounding error by this factor.
_ROUNDINGS = 4.0
#: Margin of an event that cannot happen.
NEVER = const(-1e30)

#: States or derivatives by number, or the buffer and element where they begin.
Place = str | tuple[str, int] | Mapping[int, Node]


class Moment(NamedTuple):
    """A time, the states and their derivatives then, and the unit of these derivatives."""

    t: Node
    state: Place
    rate: Place
    pace: Node


class Margins:
    """Margins of the watched events in the step just tried.

    Parameters
    ----------
    events : Events
    step : Step
    h, t, t_end : Node
        Its length, start and end.
    """

    def __init__(self, events: Events, step: Step, h: Node, t: Node, t_end: Node) -> None:
        self.events, self.h, self.t = events, h, t
        self.truths = [events.truths[i] for i in events.watched]
        self.margins = [margin(one) for one in self.truths]
        self.states = events.states_in(self.truths)
        self.course = step.course(h, self.states)
        self.start = Moment(t, "state", "derivative", ONE)
        self.stop = Moment(t_end, "proposed_state", step.end_place, ONE)

    def inside(self, theta: Node) -> Moment:
        """Return the moment at the part `theta` of the step."""
        course = self.course
        return Moment(theta * self.h + self.t, course.values(theta), course.rates(theta), self.h)

    def holding(self, t: Node, state: Place) -> list[Node]:
        """Return whether each condition holds."""
        return self.events.bind(self.truths, t, state)

    def edge(self, moment: Moment) -> Node:
        """Return whether some event would happen."""
        truths = self.holding(moment.t, moment.state)
        return any_of(self.events.edges(truths, *moment))

    def signed(self, moment: Moment) -> list[Node]:
        """Return for every event a number that is positive where it would happen."""
        events, found = self.events, []
        plain = events.bind(self.margins, moment.t, moment.state)
        for i, one in zip(events.watched, plain, strict=True):
            side = events.side_of(i)
            other = NEVER
            if events.events[i].direction == "both":
                other = where(is_on(side), -one, NEVER)
            elif i in events.sloped:
                slope = events.root_slope(i, *moment)
                other = where(compare("==", side, SLOPED), minimum(one, slope), NEVER)
            found.append(where(compare("==", side, OFF), one, other))
        return found

    def excess(self, theta: Node) -> Node:
        """Return a number that is positive where some event would happen."""
        found = NEVER
        for one in self.signed(self.inside(theta)):
            found = maximum(found, one)
        return found

    def excess_and_slope(self, theta: Node) -> tuple[Node, Node]:
        """Return that number and how fast it grows by `theta`."""
        moment = self.inside(theta)
        found, slope = NEVER, ZERO
        for one, climb in zip(self.signed(moment), self.climbs(moment), strict=True):
            slope = where(compare(">", one, found), climb, slope)
            found = maximum(found, one)
        return found, slope

    def climbs(self, moment: Moment) -> list[Node]:
        """Return how fast the numbers of `signed` grow where no slope decides."""
        events, found = self.events, []
        for i, one in zip(events.watched, self.margins, strict=True):
            slope = events.slope(one, *moment)
            if events.events[i].direction == "both":
                slope = where(is_on(events.side_of(i)), -slope, slope)
            found.append(slope)
        return found

    def changes(self, moment: Moment) -> list[Node]:
        """Return for every event a number that is positive where its condition has changed."""
        plain = self.events.bind(self.margins, moment.t, moment.state)
        return self._from_sides(plain)

    def change_rates(self, moment: Moment) -> list[Node]:
        """Return how fast the numbers of `changes` grow."""
        return self._from_sides([self.events.slope(one, *moment) for one in self.margins])

    def _from_sides(self, numbers: list[Node]) -> list[Node]:
        """Return numbers with the sign they have seen from the side of each condition."""
        sides = map(self.events.side_of, self.events.watched)
        return [where(is_on(side), -one, one) for side, one in zip(sides, numbers, strict=True)]

    def opens(self, i: int) -> Node:
        """Return whether an event happens as soon as its margin changes sign."""
        side = self.events.side_of(i)
        closed = compare("==", side, OFF)
        if self.events.events[i].direction == "both":
            closed = logical_or(closed, is_on(side))
        return closed

    def noises(self, block: BlockBuilder) -> list[Node]:
        """Return a bound of the rounding error of every margin at the end of the step."""
        sizes = {}
        for j in self.states:
            size = maximum(fabs(load("state", j)), fabs(load("proposed_state", j)))
            sizes[load("u", j)] = block.let(f"size_{j}", size)
        scale = (_ROUNDINGS * EPSILON[self.events.precision]) * maximum(agenda(SHORT), ONE)
        errors = self.events.bind(rounding(self.margins, sizes), self.stop.t, self.stop.state)
        # What overflows or is not a number is no bound.
        return [where(compare("<", one, 1e30), scale * one, ZERO) for one in errors]


def is_on(side: Node) -> Node:
    """Return whether a condition counts as true."""
    return compare("==", side, ON)
