"""Delayed events that wait to happen: one queue per event, in the buffer ``event_queue``.

A queue holds the times at which its event happens, in order; infinity marks a free place. An event
that uses the values of the moment when its condition became true keeps these values in as many rows
behind the times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cubie_flow.expressions.graph import (
    ZERO,
    Node,
    compare,
    const,
    load,
    logical_and,
    logical_not,
    logical_or,
    where,
)
from cubie_flow.systems.events import Event

_NEVER = const(float("inf"))
_Element = tuple[str, int]


class EventQueues:
    """The queues of the events with a delay.

    Parameters
    ----------
    events : sequence of Event
    places : int
        Places of one queue.
    """

    def __init__(self, events: Sequence[Event], places: int) -> None:
        self.events = events
        self.delayed = [i for i, event in enumerate(events) if event.delay is not None]
        self.places: dict[int, int] = {}
        self._first: dict[int, int] = {}
        self.size = 0
        for i in self.delayed:
            # The condition of an event that does not persist is false before it becomes true
            # again, and then nothing waits any more.
            self.places[i] = places if events[i].persistent else 1
            self._first[i] = self.size
            self.size += self.places[i] * (1 + self._kept(i))

    def _kept(self, i: int) -> int:
        """Return how many values an event keeps while it waits."""
        return len(self.events[i].resets) if self.events[i].early else 0

    def _element(self, i: int, row: int, place: int) -> _Element:
        return "event_queue", self._first[i] + row * self.places[i] + place

    def time(self, i: int) -> Node:
        """Return the next time at which an event happens after its delay."""
        return load(*self._element(i, 0, 0))

    def value(self, i: int, number: int) -> Node:
        """Return value `number` of the event that happens next."""
        return load(*self._element(i, 1 + number, 0))

    def empty(self) -> dict[_Element, Node]:
        """Return the values of all elements at the start of a run."""
        return {
            self._element(i, row, place): ZERO if row else _NEVER
            for i in self.delayed
            for row in range(1 + self._kept(i))
            for place in range(self.places[i])
        }

    def added(
        self, i: int, rose: Node, holds: Node, time: Node, values: Sequence[Node]
    ) -> tuple[dict[_Element, Node], Node]:
        """Return the elements of a queue with one more event, and whether it has no place.

        Parameters
        ----------
        i : int
        rose : Node
            Whether the event is added.
        holds : Node
            Whether its condition holds.
        time : Node
            When it happens. It stands behind those that happen at the same time.
        values : sequence of Node
            What it keeps.
        """
        times = [load(*self._element(i, 0, place)) for place in range(self.places[i])]
        if not self.events[i].persistent:
            forgotten = logical_or(rose, logical_not(holds))
            times = [where(forgotten, _NEVER, times[0])]
        full = logical_and(rose, compare("<", times[-1], _NEVER))
        new: dict[_Element, Node] = {}

        def held(row: int, place: int) -> Node:
            return load(*self._element(i, row, place)) if row else times[place]

        for place, waiting in enumerate(times):
            stays = logical_or(logical_not(rose), compare("<=", waiting, time))
            enters = compare("<=", times[place - 1], time) if place else None
            for row, given in enumerate((time, *values)):
                moved = given if enters is None else where(enters, given, held(row, place - 1))
                new[self._element(i, row, place)] = where(stays, held(row, place), moved)
        return new, full

    def removed(self, i: int, now: Node) -> Mapping[_Element, Node]:
        """Return the elements of a queue whose first event happens where `now` is true."""
        last = self.places[i] - 1
        return {
            self._element(i, row, place): where(
                now,
                load(*self._element(i, row, place + 1)) if place < last else _NEVER,
                load(*self._element(i, row, place)),
            )
            for row in range(1 + self._kept(i))
            for place in range(last + 1)
            if row == 0 or place < last
        }
