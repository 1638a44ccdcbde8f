"""Events of a run: what is remembered of them, and how the loop finds and applies them.

A step in which a condition becomes true is cut: an interpolant of the step shows where, and the
step is tried again so that it ends there (`crossings`, `tops`). Every cut improves the place
quadratically, until the condition is false just before the end of the step and true at its end. So
an event acts on a state that the method itself computed, and other lanes do not change.

Then the driver calls `react` until nothing happens any more at that time (`reaction`): in each pass
one event per lane, the one of the highest priority. A run that jumped begins anew, as a fresh run.
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
from cubie_flow.integrators.crossings import Crossing
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
from cubie_flow.integrators.margins import Place
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
        Their expressions read states from ``u``, parameters from ``p``, and ``t``; they set
        ``u[i]`` and ``p[i]`` under the names ``("u", i)`` of `targets`.
    targets : mapping
        Buffer and element of everything they set, by name.
    times_kept : int
        First times that are kept of every recorded event.
    first_row : int
        Row of the final values where counts begin; after them come the times.
    precision : str
    rechecks : bool
        Whether they set parameters that decide when switches in time change.
    """

    def __init__(
        self,
        events: tuple[Event, ...],
        targets: Mapping[str, tuple[str, int]],
        times_kept: int,
        first_row: int,
        precision: str,
        rechecks: bool = False,
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
        self.held: dict[int, int] = {}
        self.memory_size = max(1, self._lay_out())
        self.agenda_size = AGENDA + 2 * len(self.scheduled)

    def _lay_out(self) -> int:
        """Assign elements of ``event_memory`` to every event; return their number."""
        place = 0
        for i, event in enumerate(self.events):
            for numbers, size in (
                (self.side, int(i in self.truths)),
                (self.waiting, 1),
                (self.count, int(event.record)),
                (self.held, len(event.resets) if event.early else 0),
            ):
                if size:
                    numbers[i] = place
                    place += size
        return place

    @property
    def rows(self) -> int:
        """Rows of the final values: counts and times."""
        return len(self.recorded) * (1 + self.times_kept)

    # places ---------------------------------------------------------------------------------

    def _memory(self, place: int) -> Node:
        return load("event_memory", place)

    def waiting_place(self, i: int) -> tuple[str, int]:
        """Return where it is remembered how often an event waits to happen."""
        return "event_memory", self.waiting[i]

    def waiting_of(self, i: int) -> Node:
        """Return how often an event waits to happen."""
        return load(*self.waiting_place(i))

    def next_place(self, i: int) -> int:
        """Return the element of the agenda for the next time of a schedule."""
        return AGENDA + 2 * self.scheduled.index(i)

    def next_time(self, i: int) -> Node:
        """Return the next time of a schedule."""
        return agenda(self.next_place(i))

    def bind(self, nodes: Sequence[Node], t: Node, state: Place = "state") -> list[Node]:
        """Return bound expressions where they read real buffers."""
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

    def stop(self) -> Node:
        """Return the next time that a step must not go beyond."""
        if not self.scheduled:
            return agenda(CUT)
        return minimum(agenda(STOP), agenda(CUT)) if self.watched else agenda(STOP)

    def doubt(self, t: Node) -> Node:
        """Return how long before `t`, the time of a lane, an event at `t` may have happened."""
        near = self.near(t, ZERO)
        located = compare("==", agenda(DOUBTED), t)
        return where(located, maximum(agenda(DOUBT), near), near)

    def side_place(self, i: int) -> tuple[str, int]:
        """Return where the side of a condition is remembered."""
        return "event_memory", self.side[i]

    def side_of(self, i: int) -> Node:
        """Return the side of a condition."""
        return self._memory(self.side[i])

    def is_held(self, i: int) -> Node:
        """Return whether a condition counts as changed that has yet to change."""
        side = self.side_of(i)
        return logical_or(compare("==", side, HELD_ON), compare("==", side, HELD_OFF))

    @staticmethod
    def pending() -> Node:
        """Return whether something is due at the lane's time."""
        return compare("!=", agenda(PENDING), 0.0)

    def near(self, t: Node, h: Node) -> Node:
        """Return the distance below which two times count as one."""
        return (NEAR * EPSILON[self.precision]) * maximum(fabs(t), fabs(h))

    # the start of a run -----------------------------------------------------------------------

    def start(self, block: BlockBuilder, t: Node) -> None:
        """Write the memory of a run that starts at `t`."""
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
            values |= {self.next_place(i): time, self.next_place(i) + 1: index}
        block.assign([("agenda", i) for i in values], list(values.values()))
        memory = dict.fromkeys(range(self.memory_size), ZERO)
        for i, place in self.side.items():
            before = self.events[i].initially
            memory[place] = const(BY_VALUE if before is None else ON if before else OFF)
        block.assign([("event_memory", i) for i in memory], list(memory.values()))

    @staticmethod
    def jumped() -> Node:
        """Return whether the lane is to begin anew."""
        return compare("!=", agenda(JUMPED), 0.0)

    @staticmethod
    def look(block: BlockBuilder) -> None:
        """Ask whether something happens, the next time that the lane is looked at."""
        block.assign([("agenda", PENDING)], [ONE])

    @staticmethod
    def landed(block: BlockBuilder) -> None:
        """Note that the lane has begun anew."""
        block.assign([("agenda", JUMPED)], [ZERO])

    def settle(self, block: BlockBuilder, t: Node) -> None:
        """Find by the derivative on which side of its root a lane begins."""
        for i in self.watched:
            event = self.events[i]
            if event.root is None:
                continue
            slope = self.root_slope(i, t)
            side = self._memory(self.side[i])
            if event.direction == "both":
                truth = self.bind([self.truths[i]], t)[0]
                found = where(truth, const(ON), const(OFF))
                found = where(compare("<", slope, 0.0), const(OFF), found)
                found = where(compare(">", slope, 0.0), const(ON), found)
            else:
                found = where(compare(">", slope, 0.0), const(HELD_ON), const(SLOPED))
            asked = compare("==", side, BY_SLOPE)
            block.assign([("event_memory", self.side[i])], [where(asked, found, side)])

    def slope(
        self,
        node: Node,
        t: Node,
        state: Place = "state",
        rate: Place = "derivative",
        pace: Node = ONE,
    ) -> Node:
        """Return how fast a bound expression grows; `rate` is in units of `pace`."""
        used = self.states_in([node])
        if isinstance(rate, Mapping):
            rates = [rate[j] for j in used]
        else:
            buffer, base = (rate, 0) if isinstance(rate, str) else rate
            rates = [load(buffer, base + j) for j in used]
        ways = [load("way", j) for j in used]
        variables = [_T, *(load("u", j) for j in used)]
        (slope,) = directional([node], variables, [symbol("pace"), *ways])
        (slope,) = self.bind([slope], t, state)
        rated = {**dict(zip(ways, rates, strict=True)), symbol("pace"): pace}
        return substitute([slope], rated)[0]

    def root_slope(
        self,
        i: int,
        t: Node,
        state: Place = "state",
        rate: Place = "derivative",
        pace: Node = ONE,
    ) -> Node:
        """Return how fast a root moves in the direction of its event."""
        event = self.events[i]
        assert event.root is not None
        slope = self.slope(event.root, t, state, rate, pace)
        return -slope if event.direction == "falling" else slope

    # a step -----------------------------------------------------------------------------------

    def states_in(self, nodes: Sequence[Node]) -> list[int]:
        """Return the numbers of the states in bound expressions."""
        found = {n.value[1] for n in topological(nodes) if n.op == "load" and n.value[0] == "u"}
        return sorted(found)

    def edges(
        self,
        truths: Sequence[Node],
        t: Node,
        state: Place = "state",
        rate: Place = "derivative",
        pace: Node = ONE,
    ) -> list[Node]:
        """Return for every watched event whether its condition, now `truths`, makes it happen."""
        found = []
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
            found.append(rises)
        return found

    def seen(self, i: int, truth: Node) -> Node:
        """Return the side of a condition that did not make its event happen."""
        old = self.side_of(i)
        on: Node = const(ON)
        if self.events[i].direction == "both":
            on = where(compare("==", old, HELD_OFF), old, on)
        elif i in self.sloped:
            on = where(compare("==", old, SLOPED), old, on)
        return where(truth, on, where(compare("==", old, HELD_ON), old, const(OFF)))

    def watch(
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
        """Look for events in a step that is good otherwise, before the loop moves the state.

        Parameters
        ----------
        step : Step
        h, t, t_end : Node
        landing : Node
            Whether the step ends where it does because it must not go further.
        good : Node
            Whether the step would be accepted.
        ending : Node
            Whether it ends the run.

        Returns
        -------
        Node, Node
            Whether the step is cut, and whether what happens in it cannot be located.
        """
        if self.watched:
            return Crossing(self, block, step, h, t, t_end).locate(landing, good, ending)
        landed = logical_and(logical_and(good, landing), compare(">=", t_end, agenda(STOP)))
        landed = block.let("landed", landed)
        block.assign([("agenda", PENDING)], [where(landed, ONE, agenda(PENDING))])
        return FALSE, FALSE

    # what happens -----------------------------------------------------------------------------

    def react(self, code: Node, place: int, t: Node, flags: Mapping[str, float]) -> Block:
        """Return the block that lets one event happen in every lane that waits for one.

        Parameters
        ----------
        code : Node
        place : int
            Element of ``counters`` where it is.
        t : Node
        flags : mapping
            Codes: ``running``, ``success``, ``event_stop`` and ``event_limit``.
        """
        return Reaction(self, code, place, t, flags).build()

    # what is written ----------------------------------------------------------------------------

    def counts(self, block: BlockBuilder) -> None:
        """Write the counts among the final values."""
        places = [("finals", self.first_row + i) for i in range(len(self.recorded))]
        block.assign(places, [self._memory(self.count[i]) for i in self.recorded])

    def record_blocks(self, t: Node) -> dict[str, Block]:
        """Return the blocks that write the times of events, one lane at a time."""
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
