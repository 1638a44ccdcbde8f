"""Events inside the loop: noticing, locating, and what they do, as statements of its blocks.

A step in which a condition becomes true is cut: its cubic Hermite interpolant says where, and the
step is tried again so that it ends there. Cutting again makes the guess better quadratically, until
the condition is false just before the end of the step and true at its end. So what an event sees is
a state that the method itself computed, with every method, and the lanes beside it do not change.

Then the driver calls `react` until nothing happens any more at that time: one event a pass and
lane, the one of the highest priority. What jumped is begun anew, as a fresh lane is.
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
from cubie_flow.integrators.crossings import Crossing, Place
from cubie_flow.integrators.event_schedule import (
    AGENDA,
    BY_SLOPE,
    BY_VALUE,
    COARSER,
    CROWD,
    CUT,
    CUTS,
    DOUBT,
    DUE,
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
    agenda,
)
from cubie_flow.integrators.steps.base import Step, any_of
from cubie_flow.integrators.switches import SwitchBlocks
from cubie_flow.systems.events import Event, margin

#: Events at one time after which a run ends with the status ``event_limit``.
CROWD_LIMIT = 200
_NEVER = const(float("inf"))
_T = symbol("t")


def _or(truths: Sequence[Node]) -> Node:
    return any_of(truths) if truths else FALSE


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
        place = 0
        self.side: dict[int, int] = {}
        self.waiting: dict[int, int] = {}
        self.count: dict[int, int] = {}
        self.held: dict[int, int] = {}
        for i, event in enumerate(events):
            for numbers, size in (
                (self.side, int(i in self.truths)),
                (self.waiting, 1),
                (self.count, int(event.record)),
                (self.held, len(event.resets) if event.early else 0),
            ):
                if size:
                    numbers[i] = place
                    place += size
        self.memory_size = max(1, place)
        self.agenda_size = AGENDA + 2 * len(self.scheduled)

    @property
    def rows(self) -> int:
        """Rows of the final values: counts and times."""
        return len(self.recorded) * (1 + self.times_kept)

    # places ---------------------------------------------------------------------------------

    def _memory(self, place: int) -> Node:
        return load("event_memory", place)

    def _next(self, i: int) -> int:
        return AGENDA + 2 * self.scheduled.index(i)

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

    @staticmethod
    def stop() -> Node:
        """Return the next time that a step must not go beyond."""
        return minimum(agenda(STOP), agenda(CUT))

    def doubt(self, t: Node) -> Node:
        """Return how long before `t`, where a lane is, what happens there may have happened."""
        return maximum(agenda(DOUBT), self.near(t, ZERO))

    def side_place(self, i: int) -> tuple[str, int]:
        """Return where the side of a condition is remembered."""
        return "event_memory", self.side[i]

    def side_of(self, i: int) -> Node:
        """Return the side of a condition."""
        return self._memory(self.side[i])

    @staticmethod
    def pending() -> Node:
        """Return whether something is due at the lane's time."""
        return compare("!=", agenda(PENDING), 0.0)

    def near(self, t: Node, h: Node) -> Node:
        """Return the distance of times that are one."""
        return (NEAR * EPSILON[self.precision]) * maximum(fabs(t), fabs(h))

    # the start of a run -----------------------------------------------------------------------

    def start(self, block: BlockBuilder, t: Node) -> None:
        """Write the memory of a run that starts at `t`."""
        values = {
            STOP: _NEVER, CUT: _NEVER, PENDING: ONE, CROWD: ZERO, LATEST: -_NEVER, CUTS: ZERO,
            ROW: const(-1.0), JUMPED: ZERO, SHORT: const(FIRST_SHORT), DOUBT: ZERO,
        }  # fmt: skip
        for i in self.scheduled:
            times = self.events[i].times
            assert times is not None
            past = times.before(_T)
            upcoming = substitute([times.at(symbol("k"))], {symbol("k"): past})[0]
            index, time = self.bind([past, upcoming], t)
            values |= {self._next(i): time, self._next(i) + 1: index}
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
        """Tell by the derivative on which side of its root a lane goes that begins."""
        for i in self.watched:
            event = self.events[i]
            if event.root is None:
                continue
            (slope,) = self.slopes([i], t)
            side = self._memory(self.side[i])
            if event.direction == "both":
                truth = self.bind([self.truths[i]], t)[0]
                told = where(truth, const(ON), const(OFF))
                told = where(compare("<", slope, 0.0), const(OFF), told)
                told = where(compare(">", slope, 0.0), const(ON), told)
            else:
                told = where(compare(">", slope, 0.0), const(HELD_ON), const(SLOPED))
            asked = compare("==", side, BY_SLOPE)
            block.assign([("event_memory", self.side[i])], [where(asked, told, side)])

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

    def slopes(
        self,
        numbers: Sequence[int],
        t: Node,
        state: Place = "state",
        rate: Place = "derivative",
        pace: Node = ONE,
    ) -> list[Node]:
        """Return how fast roots move in the direction of their events."""
        found = []
        for i in numbers:
            root = self.events[i].root
            assert root is not None
            slope = self.slope(root, t, state, rate, pace)
            found.append(-slope if self.events[i].direction == "falling" else slope)
        return found

    # a step -----------------------------------------------------------------------------------

    def states_in(self, nodes: Sequence[Node]) -> list[int]:
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
                (slope,) = self.slopes([i], t, state, rate, pace)
                going = logical_and(compare("==", side, SLOPED), compare(">", slope, 0.0))
                rises = logical_or(rises, logical_and(truth, going))
            found.append(rises)
        return found

    def _seen(self, i: int, truth: Node) -> Node:
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
    ) -> tuple[Node, Node, Node]:
        """Look for events in a step that is good otherwise.

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
        Node, Node, Node
            Whether the step is cut, whether something happens at its end, and whether what
            happens in it cannot be located.
        """
        if not self.watched:
            return FALSE, FALSE, FALSE
        return Crossing(self, block, step, h, t, t_end).locate(landing, good, ending)

    def note(
        self,
        block: BlockBuilder,
        accept: Node,
        happens: Node,
        reached: Node,
        t_new: Node,
    ) -> None:
        """Remember the sides after an accepted step, and what is due at its end.

        It runs before the loop moves the state.
        """
        landed = logical_and(reached, compare(">=", t_new, agenda(STOP)))
        due = logical_and(accept, logical_or(happens, landed))
        moved = logical_and(accept, logical_not(happens))
        targets, values = [], []
        if self.watched:
            placed = self.bind([self.truths[i] for i in self.watched], t_new, "proposed_state")
            for i, truth in zip(self.watched, placed, strict=True):
                side = self._memory(self.side[i])
                targets.append(("event_memory", self.side[i]))
                seen = self._seen(i, truth)
                values.append(where(moved, seen, side))
        targets += [("agenda", i) for i in (SHORT, DOUBT, CUT, CUTS, PENDING)]
        missed = logical_and(moved, compare(">=", t_new, agenda(CUT)))
        coarser = where(missed, COARSER * agenda(SHORT), const(FIRST_SHORT))
        values += [
            where(accept, coarser, agenda(SHORT)),
            where(moved, ZERO, agenda(DOUBT)),
            where(accept, _NEVER, agenda(CUT)),
            where(accept, ZERO, agenda(CUTS)),
            where(due, ONE, agenda(PENDING)),
        ]
        block.assign(targets, values)

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
        block = BlockBuilder()
        ended = compare("==", code, flags["success"])
        alive = logical_or(compare("==", code, flags["running"]), ended)
        open_ = block.let("open", logical_and(self.pending(), alive))
        t = block.let("t", t)
        self._trigger(block, open_, t)
        happening = self._choose(block, open_, t)
        anything = block.let("anything", _or(list(happening.values())))
        before = {
            i: block.let(f"root_{i}", fabs(self._distance(i, t)))
            for i in self.watched
            if any(event.resets for event in self.events)
        }
        self._reset(block, happening, t)
        self._remember(block, happening, before, t)
        self._next_stop(block, open_)
        if self.rechecks:
            SwitchBlocks.recheck(block, anything)
        again: Node = FALSE
        for i, event in enumerate(self.events):
            if event.resets:
                again = logical_or(again, happening[i])
        for i in self.watched:
            if self.events[i].root is not None:
                asked = compare("==", self._memory(self.side[i]), BY_SLOPE)
                again = logical_or(again, logical_and(open_, asked))
        again = block.let("again", again)
        stops = _or([happening[i] for i, event in enumerate(self.events) if event.stop])
        stops = block.let("stops", stops)
        apart = t - agenda(LATEST)
        together = compare("<=", apart, 4.0 * self.near(t, ZERO))
        crowd = where(together, agenda(CROWD) + 1.0, ZERO)
        crowd = block.let("crowd", where(anything, crowd, agenda(CROWD)))
        over = logical_and(anything, compare(">", crowd, float(CROWD_LIMIT)))
        over = block.let("over", over)
        ends = logical_or(stops, over)
        new = where(again, const(flags["running"]), code)
        new = where(over, const(flags["event_limit"]), new)
        new = where(stops, const(flags["event_stop"]), new)
        # Another one waits, or what this one did, or the time after it, may make one happen.
        follow = [compare("!=", self._memory(place), 0.0) for place in self.waiting.values()]
        follow += [
            happening[i]
            for i, event in enumerate(self.events)
            if event.resets or event.times is not None
        ]
        more = block.let("more", logical_and(_or(follow), logical_and(anything, logical_not(ends))))
        row: Node = const(-1.0)
        for number, i in enumerate(self.recorded):
            if self.times_kept:
                seen = self._memory(self.count[i]) - 1.0
                first = self.first_row + len(self.recorded) + number * self.times_kept
                room = compare("<", seen, float(self.times_kept))
                row = where(logical_and(happening[i], room), seen + float(first), row)
        block.assign(
            [
                ("counters", place), ("agenda", JUMPED), ("agenda", PENDING),
                ("agenda", CROWD), ("agenda", LATEST), ("agenda", ROW),
            ],
            [
                new,
                where(ends, ZERO, where(again, ONE, agenda(JUMPED))),
                where(open_, where(more, ONE, ZERO), agenda(PENDING)),
                crowd,
                where(anything, t, agenda(LATEST)),
                row,
            ],
        )  # fmt: skip
        return block.build("react", mask=compare(">=", agenda(ROW), 0.0))

    def _trigger(self, block: BlockBuilder, open_: Node, t: Node) -> None:
        """Put on the list what became true or due."""
        targets: list[tuple[str, int]] = []
        values: list[Node] = []
        looked = [block.let(f"truth_{i}", self.bind([self.truths[i]], t)[0]) for i in self.watched]
        edges = dict(zip(self.watched, self.edges(looked, t), strict=True))
        for i, event in enumerate(self.events):
            waiting = self._memory(self.waiting[i])
            if event.times is not None:
                rose = logical_and(open_, compare("<=", agenda(self._next(i)), t))
                waits = where(rose, ONE, waiting)
            else:
                truth = looked[self.watched.index(i)]
                due = compare("==", self.side_of(i), DUE)
                rose = logical_and(open_, logical_or(edges[i], due))
                # Once for every time that it became true.
                waits = where(rose, waiting + 1.0, waiting)
                if not event.persistent:
                    held = compare("==", self.side_of(i), HELD_ON)
                    holds = logical_or(truth, logical_or(due, held))
                    waits = where(logical_and(open_, logical_not(holds)), ZERO, waits)
                side = self._memory(self.side[i])
                early = const(HELD_OFF if event.direction == "both" else ON)
                early = where(truth, early, const(HELD_ON))
                taken = where(due, early, where(truth, const(ON), const(OFF)))
                seen = where(rose, taken, self._seen(i, truth))
                if event.root is not None:
                    zero = compare("==", self.bind([event.root], t)[0], 0.0)
                    first = logical_and(zero, compare("==", side, BY_VALUE))
                    seen = where(first, const(BY_SLOPE), seen)
                    seen = where(compare("==", side, BY_SLOPE), side, seen)
                targets.append(("event_memory", self.side[i]))
                values.append(where(open_, seen, side))
            targets.append(("event_memory", self.waiting[i]))
            values.append(waits)
            if i in self.held:
                given = self.bind([node for _, node in event.resets], t)
                for number, node in enumerate(given):
                    place = self.held[i] + number
                    targets.append(("event_memory", place))
                    values.append(where(rose, node, self._memory(place)))
        block.assign(targets, values)

    def _choose(self, block: BlockBuilder, open_: Node, t: Node) -> dict[int, Node]:
        """Return for every event whether it happens now: one a lane."""
        waits = {
            i: logical_and(open_, compare("!=", self._memory(place), 0.0))
            for i, place in self.waiting.items()
        }
        if len(waits) == 1:
            return {i: block.let(f"happening_{i}", truth) for i, truth in waits.items()}
        best, chosen = block.let("best", -_NEVER), block.let("chosen", const(-1.0))
        for i, event in enumerate(self.events):
            rank = block.let("rank", self.bind([event.priority], t)[0])
            none = compare("<", chosen, 0.0)
            better = logical_and(waits[i], logical_or(none, compare(">", rank, best)))
            block.assign(
                [("best", 0), ("chosen", 0)],
                [where(better, rank, best), where(better, const(float(i)), chosen)],
            )
        return {i: block.let(f"happening_{i}", compare("==", chosen, float(i))) for i in waits}

    def _reset(self, block: BlockBuilder, happening: Mapping[int, Node], t: Node) -> None:
        """Set what the events that happen set, all at once."""
        new: dict[tuple[str, int], Node] = {}
        for i, event in enumerate(self.events):
            values = self.bind([node for _, node in event.resets], t)
            for number, ((name, _), value) in enumerate(zip(event.resets, values, strict=True)):
                buffer, element = self.targets[name]
                place = ("state" if buffer == "u" else "parameters", element)
                if i in self.held:
                    value = self._memory(self.held[i] + number)
                new[place] = where(happening[i], value, new.get(place, load(*place)))
        block.assign(list(new), list(new.values()))

    def _remember(
        self,
        block: BlockBuilder,
        happening: Mapping[int, Node],
        before: Mapping[int, Node],
        t: Node,
    ) -> None:
        """Cross off what happened, count it, and find the next time of its schedule."""
        targets: list[tuple[str, int]] = []
        values: list[Node] = []
        for i, event in enumerate(self.events):
            now = happening[i]
            targets.append(("event_memory", self.waiting[i]))
            rest = ZERO if event.times is not None else self._memory(self.waiting[i]) - 1.0
            values.append(where(now, rest, self._memory(self.waiting[i])))
            if i in self.count:
                count = self._memory(self.count[i])
                targets.append(("event_memory", self.count[i]))
                values.append(where(now, count + 1.0, count))
            if event.times is not None:
                place = self._next(i)
                following = block.let(f"following_{i}", agenda(place + 1) + 1.0)
                upcoming = substitute([event.times.at(symbol("k"))], {symbol("k"): following})
                time = self.bind(upcoming, t)[0]
                targets += [("agenda", place), ("agenda", place + 1)]
                values += [
                    where(now, time, agenda(place)),
                    where(now, following, agenda(place + 1)),
                ]
            elif i in before:
                targets.append(self.side_place(i))
                values.append(self._side_left(i, happening, before[i], t))
        block.assign(targets, values)

    def _distance(self, i: int, t: Node) -> Node:
        """Return how far a condition is from changing."""
        root = self.events[i].root
        return self.bind([margin(self.truths[i]) if root is None else root], t)[0]

    def _side_left(self, i: int, happening: Mapping[int, Node], before: Node, t: Node) -> Node:
        """Return the side of a condition behind the resets of what happens."""
        event, side = self.events[i], self.side_of(i)
        (truth,) = self.bind([self.truths[i]], t)
        stays = compare("<=", fabs(self._distance(i, t)), 2.0 * before)
        # Its own reset is no reason to happen again; a root left where it was is gone through
        # in the direction in which the run goes on.
        if event.root is not None:
            # What another event at this time made true was no passage.
            apart = compare("<", agenda(LATEST), t)
            own = where(logical_and(apart, stays), const(BY_SLOPE), const(BY_VALUE))
        else:
            own = where(logical_and(self.is_held(i), stays), side, const(BY_VALUE))
        # What counted as changed because it was about to is moved elsewhere by another event.
        changed = _or([happening[k] for k, one in enumerate(self.events) if one.resets])
        changed = logical_and(changed, logical_and(self.is_held(i), logical_not(stays)))
        other = where(changed, where(truth, const(ON), const(OFF)), side)
        return where(happening[i], own, other) if event.resets else other

    def is_held(self, i: int) -> Node:
        """Return whether a condition counts as changed that has yet to change."""
        side = self.side_of(i)
        return logical_or(compare("==", side, HELD_ON), compare("==", side, HELD_OFF))

    def _next_stop(self, block: BlockBuilder, open_: Node) -> None:
        """Write the next time to land on."""

        stop: Node = _NEVER
        for i in self.scheduled:
            stop = minimum(agenda(self._next(i)), stop)
        block.assign([("agenda", STOP)], [where(open_, stop, agenda(STOP))])

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
