"""Events of a run: their memory, and how the loop locates and applies them.

A step in which a condition becomes true is cut: an interpolant of the step gives the time of the
event, and the step is repeated so that it ends there (`crossings`, `extrema`). The error of that
time decreases quadratically with every cut. The cuts end when the condition is false just before
the end of the step and true at its end. An event thus acts on a state that the method itself
computed, and other lanes do not change.

Then the batch loop calls `react` until no event is due at that time (`reaction`). Each call applies
one event per lane, the one of the highest priority. A run whose state jumped restarts, as at its
start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cubie_flow.expressions.bit_operations import to_int
from cubie_flow.expressions.block import Block, BlockBuilder
from cubie_flow.expressions.derivatives import directional
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
    maximum,
    minimum,
    symbol,
    where,
)
from cubie_flow.expressions.traversal import substitute, topological
from cubie_flow.integrators.controllers import EPSILON
from cubie_flow.integrators.crossings import EventLocator
from cubie_flow.integrators.event_queue import EventQueues
from cubie_flow.integrators.event_schedule import (
    AGENDA,
    BY_SLOPE,
    BY_VALUE,
    CROWD,
    CUT,
    CUTS,
    DOUBT,
    DOUBTED,
    FIRST_SHORT,
    HELD_OFF,
    HELD_ON,
    JUMPED,
    LATEST,
    NEAR,
    OFF,
    ON,
    PENDING,
    ROW,
    SHORT,
    SLOPED,
    STOP,
    UNSETTLED,
    agenda,
)
from cubie_flow.integrators.margins import Source
from cubie_flow.integrators.reaction import Reaction
from cubie_flow.integrators.steps.base import Step
from cubie_flow.systems.events import Event

_NEVER = const(float("inf"))
_T = symbol("t")


class Events:
    """The events of a run, bound to its buffers.

    Parameters
    ----------
    events : tuple of Event
        Their expressions read states from ``u``, parameters from ``p``, and ``t``.
    targets : mapping
        The element, ``("u", i)`` or ``("p", i)``, of every quantity that they set, by name.
    times_kept : int
        Number of times that are recorded per event, the first ones.
    first_row : int
        Row of the final values where the counts begin. The times follow the counts.
    precision : {"float32", "float64"}
    rechecks : bool
        Whether events set parameters that decide when switches in time change.
    places : int
        Places of the queue of every event with a delay.
    """

    def __init__(
        self,
        events: tuple[Event, ...],
        targets: Mapping[str, tuple[str, int]],
        times_kept: int,
        first_row: int,
        precision: str,
        rechecks: bool = False,
        places: int = 1,
    ) -> None:
        self.events = events
        self.targets = targets
        self.precision = precision
        self.watched = [i for i, event in enumerate(events) if event.times is None]
        self.scheduled = [i for i, event in enumerate(events) if event.times is not None]
        self.recorded = [i for i, event in enumerate(events) if event.record]
        self.truths = {i: events[i].truth for i in self.watched}
        self.rechecks = rechecks
        self.sloped = [
            i for i in self.watched if events[i].root is not None and events[i].direction != "both"
        ]
        self.times_kept = times_kept if self.recorded else 0
        self.first_row = first_row
        self.side: dict[int, int] = {}
        self.waiting: dict[int, int] = {}
        self.count: dict[int, int] = {}
        self.stored: dict[int, int] = {}
        self.queues = EventQueues(events, places)
        self.memory_size = max(1, self._lay_out())
        self.agenda_size = AGENDA + 2 * len(self.scheduled)

    def _lay_out(self) -> int:
        """Assign elements of ``event_memory`` to every event; return their number."""
        element = 0
        for i, event in enumerate(self.events):
            for numbers, size in (
                (self.side, int(i in self.truths)),
                (self.waiting, int(event.delay is None)),
                (self.count, int(event.record)),
                (self.stored, len(event.resets) if event.early and event.delay is None else 0),
            ):
                if size:
                    numbers[i] = element
                    element += size
        return element

    @property
    def rows(self) -> int:
        """Number of rows of the final values: counts and times."""
        return len(self.recorded) * (1 + self.times_kept)

    # elements of the buffers ------------------------------------------------------------------

    def _memory(self, element: int) -> Node:
        return load("event_memory", element)

    def waiting_element(self, i: int) -> tuple[str, int]:
        """Return the element that holds how often an event without delay waits to happen."""
        return "event_memory", self.waiting[i]

    def waiting_count(self, i: int) -> Node:
        """Return how often an event without delay waits to happen."""
        return load(*self.waiting_element(i))

    def waits(self, i: int, t: Node) -> Node:
        """Return whether an event waits to happen at the time `t`."""
        if i in self.waiting:
            return compare("!=", self.waiting_count(i), 0.0)
        return compare("<=", self.queues.time(i), t + self.near(t, ZERO))

    def schedule_element(self, i: int) -> int:
        """Return the element of the agenda for the next time of a schedule."""
        return AGENDA + 2 * self.scheduled.index(i)

    def next_time(self, i: int) -> Node:
        """Return the next time of a schedule."""
        return agenda(self.schedule_element(i))

    def bind(self, nodes: Sequence[Node], t: Node, state: Source = "state") -> list[Node]:
        """Return bound expressions that read the buffers of the loop.

        Parameters
        ----------
        nodes : sequence of Node
            Expressions in ``u``, ``p`` and ``t``.
        t : Node
        state : str, (str, int) or mapping
            Buffer of the states, with their first element if that is not 0; or their values.
        """
        mapping: dict[Node, Node] = {_T: t}
        for node in topological(nodes):
            if node.op == "load" and node.value[0] == "u":
                i = node.value[1]
                if isinstance(state, Mapping):
                    mapping[node] = state[i]
                else:
                    buffer, base = (state, 0) if isinstance(state, str) else state
                    mapping[node] = load(buffer, base + i)
            elif node.op == "load" and node.value[0] == "p":
                mapping[node] = load("parameters", node.value[1])
        return substitute(nodes, mapping)

    def next_stop(self) -> Node:
        """Return the next time that a step must not go beyond."""
        if not (self.scheduled or self.queues.delayed):
            return agenda(CUT)
        return minimum(agenda(STOP), agenda(CUT)) if self.watched else agenda(STOP)

    def uncertainty(self, t: Node) -> Node:
        """Return how long before the present time `t` of a lane its event may have happened."""
        near = self.near(t, ZERO)
        located = compare("==", agenda(DOUBTED), t)
        return where(located, maximum(agenda(DOUBT), near), near)

    def side_element(self, i: int) -> tuple[str, int]:
        """Return the element that holds the side of a condition."""
        return "event_memory", self.side[i]

    def side_of(self, i: int) -> Node:
        """Return the side of a condition, see `event_schedule`."""
        return self._memory(self.side[i])

    def is_held(self, i: int) -> Node:
        """Return whether a condition counts as changed before it has changed."""
        side = self.side_of(i)
        return logical_or(compare("==", side, HELD_ON), compare("==", side, HELD_OFF))

    @staticmethod
    def pending() -> Node:
        """Return whether events may be due at the present time of the lane."""
        return compare("!=", agenda(PENDING), 0.0)

    def near(self, t: Node, h: Node) -> Node:
        """Return the difference below which two times are equal."""
        return (NEAR * EPSILON[self.precision]) * maximum(fabs(t), fabs(h))

    # the start of a run -----------------------------------------------------------------------

    def start(self, block: BlockBuilder, t: Node) -> None:
        """Write the initial memory of a run that starts at `t`."""
        values = {
            STOP: _NEVER, CUT: _NEVER, PENDING: ONE, CROWD: ZERO, LATEST: -_NEVER, CUTS: ZERO,
            ROW: const(-1.0), JUMPED: ZERO, SHORT: const(FIRST_SHORT), DOUBT: ZERO,
            DOUBTED: -_NEVER, UNSETTLED: ZERO,
        }  # fmt: skip
        for i in self.scheduled:
            times = self.events[i].times
            assert times is not None
            past = times.before(_T)
            upcoming = substitute([times.at(symbol("k"))], {symbol("k"): past})[0]
            index, time = self.bind([past, upcoming], t)
            values |= {self.schedule_element(i): time, self.schedule_element(i) + 1: index}
        block.assign([("agenda", i) for i in values], list(values.values()))
        memory = dict.fromkeys(range(self.memory_size), ZERO)
        for i, element in self.side.items():
            before = self.events[i].initially
            memory[element] = const(BY_VALUE if before is None else ON if before else OFF)
        block.assign([("event_memory", i) for i in memory], list(memory.values()))
        waiting = self.queues.empty()
        block.assign(list(waiting), list(waiting.values()))

    @staticmethod
    def restarts() -> Node:
        """Return whether the lane has to restart."""
        return compare("!=", agenda(JUMPED), 0.0)

    @staticmethod
    def request_check(block: BlockBuilder) -> None:
        """Make the next call of `react` check whether events are due."""
        block.assign([("agenda", PENDING)], [ONE])

    @staticmethod
    def clear_restart(block: BlockBuilder) -> None:
        """Mark the restart of the lane as done."""
        block.assign([("agenda", JUMPED)], [ZERO])

    def decide_sides(self, block: BlockBuilder, t: Node) -> None:
        """Decide the sides that depend on the derivative of a root at the start of a lane."""
        for i in self.watched:
            event = self.events[i]
            if event.root is None:
                continue
            slope = self.root_slope(i, t)
            side = self._memory(self.side[i])
            if event.direction == "both":
                truth = self.bind([self.truths[i]], t)[0]
                decided = where(truth, const(ON), const(OFF))
                decided = where(compare("<", slope, 0.0), const(OFF), decided)
                decided = where(compare(">", slope, 0.0), const(ON), decided)
            else:
                decided = where(compare(">", slope, 0.0), const(HELD_ON), const(SLOPED))
            undecided = compare("==", side, BY_SLOPE)
            block.assign([("event_memory", self.side[i])], [where(undecided, decided, side)])

    def slope(
        self,
        node: Node,
        t: Node,
        state: Source = "state",
        rate: Source = "derivative",
        pace: Node = ONE,
    ) -> Node:
        """Return the derivative of a bound expression along the solution, per unit of `pace`.

        Parameters
        ----------
        node : Node
            Expression in ``u``, ``p`` and ``t``.
        t : Node
        state, rate : str, (str, int) or mapping
            Where the states and their derivatives are, see `bind`.
        pace : Node
            The derivative of ``t``: 1, or the length of the step for derivatives by ``theta``.
        """
        used = self.states_in([node])
        if isinstance(rate, Mapping):
            rates = [rate[j] for j in used]
        else:
            buffer, base = (rate, 0) if isinstance(rate, str) else rate
            rates = [load(buffer, base + j) for j in used]
        directions = [load("way", j) for j in used]
        variables = [_T, *(load("u", j) for j in used)]
        (slope,) = directional([node], variables, [symbol("pace"), *directions])
        (slope,) = self.bind([slope], t, state)
        rated = {**dict(zip(directions, rates, strict=True)), symbol("pace"): pace}
        return substitute([slope], rated)[0]

    def root_slope(
        self,
        i: int,
        t: Node,
        state: Source = "state",
        rate: Source = "derivative",
        pace: Node = ONE,
    ) -> Node:
        """Return the derivative of a root, positive in the direction of its event.

        Parameters
        ----------
        i : int
            Number of the event.
        t, state, rate, pace
            See `slope`.
        """
        event = self.events[i]
        assert event.root is not None
        slope = self.slope(event.root, t, state, rate, pace)
        return -slope if event.direction == "falling" else slope

    # a step -----------------------------------------------------------------------------------

    def states_in(self, nodes: Sequence[Node]) -> list[int]:
        """Return the numbers of the states in bound expressions."""
        return sorted(
            {n.value[1] for n in topological(nodes) if n.op == "load" and n.value[0] == "u"}
        )

    def triggers(
        self,
        truths: Sequence[Node],
        t: Node,
        state: Source = "state",
        rate: Source = "derivative",
        pace: Node = ONE,
    ) -> list[Node]:
        """Return for every watched event whether the value of its condition makes it happen.

        Parameters
        ----------
        truths : sequence of Node
            Present values of the conditions.
        t, state, rate, pace
            See `slope`.
        """
        triggers = []
        for i, truth in zip(self.watched, truths, strict=True):
            event, side = self.events[i], self._memory(self.side[i])
            rises = logical_and(truth, compare("==", side, OFF))
            if event.direction == "both":
                falls = logical_and(logical_not(truth), compare("==", side, ON))
                rises = logical_or(rises, falls)
            elif i in self.sloped:
                slope = self.root_slope(i, t, state, rate, pace)
                going = logical_and(compare("==", side, SLOPED), compare(">", slope, 0.0))
                rises = logical_or(rises, logical_and(truth, going))
            triggers.append(rises)
        return triggers

    def side_after(self, i: int, truth: Node) -> Node:
        """Return the new side of a condition that did not make its event happen."""
        old = self.side_of(i)
        on: Node = const(ON)
        if self.events[i].direction == "both":
            on = where(compare("==", old, HELD_OFF), old, on)
        elif i in self.sloped:
            on = where(compare("==", old, SLOPED), old, on)
        return where(truth, on, where(compare("==", old, HELD_ON), old, const(OFF)))

    def locate(
        self,
        block: BlockBuilder,
        step: Step,
        h: Node,
        t: Node,
        t_end: Node,
        landing: Node,
        good: Node,
        ending: Node,
    ) -> tuple[Node, Node]:
        """Write the search for events in a step, before the loop moves the state.

        Parameters
        ----------
        step : Step
            It has just been tried.
        h, t, t_end : Node
            Length, start and end of the step.
        landing : Node
            Whether the step ends at a time that it must not pass.
        good : Node
            Whether the step would be accepted.
        ending : Node
            Whether it ends the run.

        Returns
        -------
        Node, Node
            Whether the step is cut, and whether its event cannot be located.
        """
        if self.watched:
            return EventLocator(self, block, step, h, t, t_end).locate(landing, good, ending)
        at_stop = logical_and(logical_and(good, landing), compare(">=", t_end, agenda(STOP)))
        landed = block.let("landed", at_stop)
        block.assign([("agenda", PENDING)], [where(landed, ONE, agenda(PENDING))])
        return FALSE, FALSE

    # reactions --------------------------------------------------------------------------------

    def react(self, code: Node, element: int, t: Node, flags: Mapping[str, float]) -> Block:
        """Return the block that applies one event in every lane where events are due.

        The parameters are those of `Reaction`.
        """
        return Reaction(self, code, element, t, flags).build()

    # results ------------------------------------------------------------------------------------

    def write_counts(self, block: BlockBuilder) -> None:
        """Write the number of times each recorded event happened to the final values."""
        targets = [("finals", self.first_row + i) for i in range(len(self.recorded))]
        block.assign(targets, [self._memory(self.count[i]) for i in self.recorded])

    def record_blocks(self, t: Node) -> dict[str, Block]:
        """Return the blocks that write the times of events, for one lane per call."""
        empty, full = BlockBuilder(), BlockBuilder()
        first = self.first_row + len(self.recorded)
        nan = const(float("nan"))
        empty.sweep(len(self.recorded) * self.times_kept, [("finals", first, 1, nan)])
        full.assign([("finals", 0)], [t])
        return {
            "event_row": Block("event_row", (), (), True, to_int(agenda(ROW))),
            "store_event": full.build("store_event", ("finals",), per_lane=True),
            "clear_events": empty.build("clear_events", ("finals",), per_lane=True),
        }
