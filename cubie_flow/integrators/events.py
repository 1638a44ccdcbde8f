"""Events inside the loop: noticing, locating, and what they do, as statements of its blocks.

A step in which a condition becomes true is cut: its cubic Hermite interpolant says where, and the
step is tried again so that it ends there. Cutting again makes the guess better quadratically, until
the condition is false just before the end of the step and true at its end. So what an event sees is
a state that the method itself computed, with every method, and the lanes beside it do not change.

Then the driver calls `react` until nothing happens any more at that time: one event a pass and
lane, the one of the highest priority. What jumped is begun anew, as a fresh lane is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cubie_flow.expressions.block import Block, BlockBuilder
from cubie_flow.expressions.graph import (
    FALSE,
    ONE,
    TRUE,
    ZERO,
    Node,
    compare,
    const,
    directional,
    fabs,
    load,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    substitute,
    symbol,
    to_int,
    topological,
    where,
)
from cubie_flow.expressions.rounding import rounding
from cubie_flow.integrators.controllers import EPSILON
from cubie_flow.integrators.steps.base import any_of
from cubie_flow.integrators.switches import SwitchBlocks
from cubie_flow.systems.events import Event, margin

# Elements of the buffer `agenda`, before two for every schedule: the next time to land on, where
# a cut step ends, whether events are due, how many happened without time going on, when the last
# one did, how often the step was cut, where the time of an event is to be stored, whether the lane
# begins anew, and by how much locating is coarser because cut steps ended short of their event.
STOP, CUT, PENDING, CROWD, LATEST, CUTS, ROW, JUMPED, SHORT, AGENDA = range(10)
# What is known of the side a condition is on: false, true, to be told by the derivative (just
# after a reset that left a root at zero) or by the next look at it, or false as long as the root
# does not move in the direction of the event.
OFF, ON, BY_SLOPE, BY_VALUE, SLOPED = 0.0, 1.0, 2.0, 3.0, 4.0
#: Events at one time after which a run ends with the status ``event_limit``.
CROWD_LIMIT = 200
_CUT_LIMIT = 8
# The first cut is so much of the step behind where the interpolant says, about what it errs: in a
# step that ends shortly behind the event it errs quadratically less. No more digits are asked for.
_BEYOND = 1e-4
_ITERATIONS = 110
# Times nearer than so many roundings are one.
_NEAR = 16.0
# A margin is positive for sure when it is so many times what rounding may make of it.
_ROUNDINGS = 4.0
# Steps that were cut at an event and ended short of it: from the ninth in a row on each one makes
# locating coarser by a factor, so that it ends whatever the equations and the method do.
_FIRST_SHORT, _COARSER = 4.0**-8, 4.0
_NEVER = const(float("inf"))
_T = symbol("t")


def _agenda(place: int) -> Node:
    return load("agenda", place)


def _or(truths: Sequence[Node]) -> Node:
    return any_of(truths) if truths else FALSE


class Events:
    """The events of a run, bound to its buffers.

    Parameters
    ----------
    events : tuple of Event
        Their expressions read states from ``u``, parameters from ``p``, and ``t``; they set
        ``u[i]`` and ``p[i]`` under the names ``("u", i)`` of `targets`.
    truths : sequence of Node
        Conditions of those without a schedule, in order; switches in time are slots in them.
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
        truths: Sequence[Node],
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
        self.truths = dict(zip(self.watched, truths, strict=True))
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

    def _placed(
        self, nodes: Sequence[Node], t: Node, state: str | Mapping[int, Node] = "state"
    ) -> list[Node]:
        """Return bound expressions where they read real buffers."""
        mapping: dict[Node, Node] = {_T: t}
        for node in topological(nodes):
            if node.op == "load" and node.value[0] == "u":
                i = node.value[1]
                mapping[node] = load(state, i) if isinstance(state, str) else state[i]
            elif node.op == "load" and node.value[0] == "p":
                mapping[node] = load("parameters", node.value[1])
        return substitute(nodes, mapping)

    @staticmethod
    def stop() -> Node:
        """Return the next time that a step must not go beyond."""
        return minimum(_agenda(STOP), _agenda(CUT))

    @staticmethod
    def pending() -> Node:
        """Return whether something is due at the lane's time."""
        return compare("!=", _agenda(PENDING), 0.0)

    def _near(self, t: Node, h: Node) -> Node:
        return (_NEAR * EPSILON[self.precision]) * maximum(fabs(t), fabs(h))

    # the start of a run -----------------------------------------------------------------------

    def start(self, block: BlockBuilder, t: Node) -> None:
        """Write the memory of a run that starts at `t`."""
        values = {
            STOP: _NEVER, CUT: _NEVER, PENDING: ONE, CROWD: ZERO, LATEST: -_NEVER, CUTS: ZERO,
            ROW: const(-1.0), JUMPED: ZERO, SHORT: const(_FIRST_SHORT),
        }  # fmt: skip
        for i in self.scheduled:
            times = self.events[i].times
            assert times is not None
            past = times.before(_T)
            upcoming = substitute([times.at(symbol("k"))], {symbol("k"): past})[0]
            index, time = self._placed([past, upcoming], t)
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
        return compare("!=", _agenda(JUMPED), 0.0)

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
            (slope,) = self._slopes([i], t)
            side = self._memory(self.side[i])
            if event.direction == "both":
                truth = self._placed([self.truths[i]], t)[0]
                told = where(truth, const(ON), const(OFF))
                told = where(compare("<", slope, 0.0), const(OFF), told)
                told = where(compare(">", slope, 0.0), const(ON), told)
            else:
                told = where(compare(">", slope, 0.0), const(ON), const(SLOPED))
            asked = compare("==", side, BY_SLOPE)
            block.assign([("event_memory", self.side[i])], [where(asked, told, side)])

    def _slopes(
        self,
        numbers: Sequence[int],
        t: Node,
        state: str | Mapping[int, Node] = "state",
        rate: str | tuple[str, int] | Mapping[int, Node] = "derivative",
        pace: Node = ONE,
    ) -> list[Node]:
        """Return how fast roots move in the direction of their events; `rate` in units of pace."""
        found = []
        for i in numbers:
            root = self.events[i].root
            assert root is not None
            used = self._states_in([root])
            if isinstance(rate, Mapping):
                rates = [rate[j] for j in used]
            else:
                buffer, base = (rate, 0) if isinstance(rate, str) else rate
                rates = [load(buffer, base + j) for j in used]
            ways = [load("way", j) for j in used]
            variables = [_T, *(load("u", j) for j in used)]
            (slope,) = directional([root], variables, [symbol("pace"), *ways])
            (slope,) = self._placed([slope], t, state)
            rated = {**dict(zip(ways, rates, strict=True)), symbol("pace"): pace}
            (slope,) = substitute([slope], rated)
            found.append(-slope if self.events[i].direction == "falling" else slope)
        return found

    # a step -----------------------------------------------------------------------------------

    def _states_in(self, nodes: Sequence[Node]) -> list[int]:
        found = {n.value[1] for n in topological(nodes) if n.op == "load" and n.value[0] == "u"}
        return sorted(found)

    def _edges(
        self,
        truths: Sequence[Node],
        t: Node,
        state: str | Mapping[int, Node] = "state",
        rate: str | tuple[str, int] | Mapping[int, Node] = "derivative",
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
                (slope,) = self._slopes([i], t, state, rate, pace)
                going = logical_and(compare("==", side, SLOPED), compare(">", slope, 0.0))
                rises = logical_or(rises, logical_and(truth, going))
            found.append(rises)
        return found

    def _seen(self, i: int, truth: Node) -> Node:
        """Return the side of a condition that did not make its event happen."""
        side: Node = const(ON)
        if i in self.sloped:
            old = self._memory(self.side[i])
            side = where(compare("==", old, SLOPED), old, side)
        return where(truth, side, const(OFF))

    def watch(
        self,
        block: BlockBuilder,
        end: tuple[str, int],
        h: Node,
        t: Node,
        t_end: Node,
        landing: Node,
        good: Node,
    ) -> tuple[Node, Node, Node]:
        """Look for events in a step that is good otherwise.

        Parameters
        ----------
        end : tuple
            Where the derivative at the end of the step is.
        h, t, t_end : Node
        landing : Node
            Whether the step ends where it does because it must not go further.
        good : Node
            Whether the step would be accepted.

        Returns
        -------
        Node, Node, Node
            Whether the step is cut, whether something happens at its end, and whether what
            happens in it cannot be located.
        """
        if not self.watched:
            return FALSE, FALSE, FALSE
        truths = [self.truths[i] for i in self.watched]
        margins = [margin(one) for one in truths]
        states = self._states_in(truths)
        # y = y0 + theta*(a + theta*(b + theta*c)), the cubic through both ends and slopes.
        for j in states:
            y0, y1 = load("state", j), load("proposed_state", j)
            a = block.let(f"bend_a_{j}", h * load("derivative", j))
            d = block.let(f"bend_d_{j}", y1 - y0)
            f = block.let(f"bend_f_{j}", h * load(end[0], end[1] + j))
            block.let(f"bend_b_{j}", 3.0 * d - (2.0 * a + f))
            block.let(f"bend_c_{j}", (a + f) - 2.0 * d)

        def inside(theta: Node) -> dict[int, Node]:
            return {
                j: theta
                * (
                    theta * (theta * load(f"bend_c_{j}", 0) + load(f"bend_b_{j}", 0))
                    + load(f"bend_a_{j}", 0)
                )
                + load("state", j)
                for j in states
            }

        def rates(theta: Node) -> dict[int, Node]:
            return {
                j: theta * (3.0 * (theta * load(f"bend_c_{j}", 0)) + 2.0 * load(f"bend_b_{j}", 0))
                + load(f"bend_a_{j}", 0)
                for j in states
            }

        def edges(theta: Node) -> Node:
            time, at = theta * h + t, inside(theta)
            return _or(self._edges(self._placed(truths, time, at), time, at, rates(theta), h))

        def excess(theta: Node) -> Node:
            """Return a number that is positive where `edges` holds."""
            time, at = theta * h + t, inside(theta)
            return self._largest(self._placed(margins, time, at), time, at, rates(theta), h)[0]

        half = block.let("half", edges(const(0.5)))
        ends = self._edges(
            self._placed(truths, t_end, "proposed_state"), t_end, "proposed_state", end
        )
        at_end = block.let("at_end", _or(ends))
        seen = block.let("seen", logical_and(good, logical_or(half, at_end)))
        near = block.let("near", self._near(t_end, h) * maximum(_agenda(SHORT), ONE))
        names = ("happens", "cut", "lost")
        block.assign(
            [(name, 0) for name in names] + [("place", 0)],
            [FALSE, FALSE, FALSE, _agenda(CUT)],
        )
        with block.when(seen):
            noise = self._noise(block, margins, states, t_end, end, h)
            free = logical_and(compare("==", _agenda(CUTS), 0.0), logical_not(landing))
            noise = block.let("noise", where(free, ZERO, noise))

            def firm(theta: Node) -> Node:
                """Return whether an edge is no matter of rounding."""
                return logical_and(edges(theta), compare(">=", excess(theta), 2.0 * noise))

            nearest = block.let("nearest", near / h)
            early = block.let("early", logical_and(half, firm(const(0.5))))
            crossing = block.let("crossing", logical_and(seen, logical_or(early, at_end)))
            before = block.let("before_end", maximum(ONE - nearest, ZERO))
            late = block.let("late", firm(before))
            # The end of the step is the place: nothing happens clearly before it.
            settled = logical_and(at_end, logical_not(logical_or(early, late)))
            spent = compare(">=", _agenda(CUTS), float(_CUT_LIMIT))
            happens = logical_or(settled, logical_and(spent, at_end))
            happens = block.let("happens", logical_and(crossing, happens))
            cut = block.let("cut", logical_and(crossing, logical_not(happens)))
            # Seen inside steps only, again and again, and never at their end.
            block.let("lost", logical_and(cut, spent))
            block.let("low", ZERO)
            block.let("high", where(early, const(0.5), ONE))
            beyond = block.let("beyond", where(free, const(_BEYOND), ZERO))
            self._locate(block, cut, free, nearest, noise, edges, excess)
            high = load("high", 0)
            further = minimum(high + beyond, ONE)
            high = block.let("target", where(edges(further), further, high))
            block.let("place", where(cut, maximum(high * h + t, t + near), _agenda(CUT)))
        cut = load("cut", 0, kind="bool")
        cuts = where(cut, _agenda(CUTS) + 1.0, _agenda(CUTS))
        block.assign([("agenda", CUT), ("agenda", CUTS)], [load("place", 0), cuts])
        return cut, load("happens", 0, kind="bool"), load("lost", 0, kind="bool")

    def _largest(
        self,
        margins: Sequence[Node],
        t: Node,
        state: str | Mapping[int, Node],
        rate: str | tuple[str, int] | Mapping[int, Node],
        pace: Node,
        uncertain: Sequence[Node] | None = None,
    ) -> tuple[Node, Node]:
        """Return the largest of what is positive where events happen, and how uncertain it is."""
        found, doubt = const(-1e30), ZERO
        for place, (i, one) in enumerate(zip(self.watched, margins, strict=True)):
            side = self._memory(self.side[i])
            own = uncertain[place] if uncertain is not None else ZERO
            if self.events[i].direction == "both":
                one = where(compare("==", side, ON), -one, one)
            else:
                off = one
                one = where(compare("==", side, OFF), one, const(-1e30))
                if i in self.sloped:
                    (slope,) = self._slopes([i], t, state, rate, pace)
                    one = where(compare("==", side, SLOPED), minimum(off, slope), one)
            doubt = where(compare(">", one, found), own, doubt)
            found = maximum(found, one)
        return found, doubt

    def _noise(
        self,
        block: BlockBuilder,
        margins: Sequence[Node],
        states: Sequence[int],
        t: Node,
        end: tuple[str, int],
        h: Node,
    ) -> Node:
        """Return what rounding may make of the margin of the event at the end of a step."""
        sizes = {}
        for j in states:
            size = maximum(fabs(load("state", j)), fabs(load("proposed_state", j)))
            sizes[load("u", j)] = block.let(f"size_{j}", size)
        placed = self._placed(margins, t, "proposed_state")
        doubts = self._placed(rounding(margins, sizes), t, "proposed_state")
        _, doubt = self._largest(placed, t, "proposed_state", end, ONE, doubts)
        scale = (_ROUNDINGS * EPSILON[self.precision]) * maximum(_agenda(SHORT), ONE)
        # What overflows or is no number is no bound.
        return where(compare("<", doubt, 1e30), scale * doubt, ZERO)

    def _locate(
        self,
        block: BlockBuilder,
        wanted: Node,
        free: Node,
        nearest: Node,
        noise: Node,
        edges: Callable[[Node], Node],
        excess: Callable[[Node], Node],
    ) -> None:
        """Narrow ``low < theta <= high`` as far as the interpolant is good for.

        No edge at `low`, one at `high`: regula falsi with halved weights (the Illinois method;
        Dowell and Jarratt, BIT 11, 1971), and bisection whenever that does not halve the bracket.
        """
        low, high, trial = load("low", 0), load("high", 0), load("trial", 0)
        below, above = load("below", 0), load("above", 0)
        width, going = load("width", 0), load("going", 0, kind="bool")
        last = load("last_hit", 0, kind="bool")
        start = high
        fine = block.let("fine", maximum(nearest, load("beyond", 0)))
        block.let("below", excess(ZERO) - noise)
        block.let("above", excess(high) - noise)
        guess = minimum(maximum(start * (below / (below - above)), fine), start - fine)
        guess = where(compare("<", below, 0.0), maximum(guess, ZERO), 0.5 * start)
        # Where the step was cut before, its end is about the place.
        once = compare("==", _agenda(CUTS), 1.0)
        told = maximum(start - maximum(2.0 * nearest, const(2.0 * _BEYOND)), 0.5 * start)
        block.assign(
            [("trial", 0), ("width", 0), ("going", 0), ("last_hit", 0)],
            [where(once, told, guess), const(4.0), wanted, TRUE],
        )
        with block.repeat(lambda: going, _ITERATIONS):
            block.let("value", excess(trial) - noise)
            value = load("value", 0)
            block.let("hit", logical_and(edges(trial), compare(">=", value, 0.0)))
            hit = load("hit", 0, kind="bool")
            up, down = logical_and(going, hit), logical_and(going, logical_not(hit))
            block.assign(
                [("low", 0), ("high", 0), ("below", 0), ("above", 0), ("last_hit", 0)],
                [
                    where(down, trial, low),
                    where(up, trial, high),
                    where(down, value, where(logical_and(up, last), 0.5 * below, below)),
                    where(
                        up,
                        value,
                        where(logical_and(down, logical_not(last)), 0.5 * above, above),
                    ),
                    hit,
                ],
            )
            gap = block.let("gap", high - low)
            usable = logical_and(compare("<", below, 0.0), compare(">", above, 0.0))
            slow = compare(">", gap, 0.5 * width)
            halves = 0.5 * gap + low
            guess = low + gap * (below / (below - above))
            # A little beyond, so that the bracket closes from both sides.
            step = 0.25 * fine
            guess = where(hit, guess - step, guess + step)
            guess = minimum(maximum(guess, low + step), high - step)
            guess = where(logical_and(usable, logical_not(slow)), guess, halves)
            more = logical_and(going, compare(">", gap, fine))
            block.assign(
                [("trial", 0), ("width", 0), ("going", 0)],
                [where(going, guess, trial), where(going, gap, width), more],
            )

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
        landed = logical_and(reached, compare(">=", t_new, _agenda(STOP)))
        due = logical_and(accept, logical_or(happens, landed))
        moved = logical_and(accept, logical_not(happens))
        targets, values = [], []
        if self.watched:
            placed = self._placed([self.truths[i] for i in self.watched], t_new, "proposed_state")
            for i, truth in zip(self.watched, placed, strict=True):
                side = self._memory(self.side[i])
                targets.append(("event_memory", self.side[i]))
                values.append(where(moved, self._seen(i, truth), side))
        targets += [("agenda", SHORT), ("agenda", CUT), ("agenda", CUTS), ("agenda", PENDING)]
        missed = logical_and(moved, compare(">=", t_new, _agenda(CUT)))
        coarser = where(missed, _COARSER * _agenda(SHORT), const(_FIRST_SHORT))
        values += [
            where(accept, coarser, _agenda(SHORT)),
            where(accept, _NEVER, _agenda(CUT)),
            where(accept, ZERO, _agenda(CUTS)),
            where(due, ONE, _agenda(PENDING)),
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
            i: block.let(f"root_{i}", fabs(self._placed([root], t)[0]))
            for i in self.watched
            if (root := self.events[i].root) is not None and self.events[i].resets
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
        apart = t - _agenda(LATEST)
        together = compare("<=", apart, 4.0 * self._near(t, ZERO))
        crowd = where(together, _agenda(CROWD) + 1.0, ZERO)
        crowd = block.let("crowd", where(anything, crowd, _agenda(CROWD)))
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
                where(ends, ZERO, where(again, ONE, _agenda(JUMPED))),
                where(open_, where(more, ONE, ZERO), _agenda(PENDING)),
                crowd,
                where(anything, t, _agenda(LATEST)),
                row,
            ],
        )  # fmt: skip
        return block.build("react", mask=compare(">=", _agenda(ROW), 0.0))

    def _trigger(self, block: BlockBuilder, open_: Node, t: Node) -> None:
        """Put on the list what became true or due."""
        targets: list[tuple[str, int]] = []
        values: list[Node] = []
        looked = [
            block.let(f"truth_{i}", self._placed([self.truths[i]], t)[0]) for i in self.watched
        ]
        edges = dict(zip(self.watched, self._edges(looked, t), strict=True))
        for i, event in enumerate(self.events):
            waiting = self._memory(self.waiting[i])
            if event.times is not None:
                rose = logical_and(open_, compare("<=", _agenda(self._next(i)), t))
                waits = where(rose, ONE, waiting)
            else:
                truth = looked[self.watched.index(i)]
                rose = logical_and(open_, edges[i])
                # Once for every time that it became true.
                waits = where(rose, waiting + 1.0, waiting)
                if not event.persistent:
                    waits = where(logical_and(open_, logical_not(truth)), ZERO, waits)
                side = self._memory(self.side[i])
                seen = where(rose, where(truth, const(ON), const(OFF)), self._seen(i, truth))
                if event.root is not None:
                    zero = compare("==", self._placed([event.root], t)[0], 0.0)
                    first = logical_and(zero, compare("==", side, BY_VALUE))
                    seen = where(first, const(BY_SLOPE), seen)
                    seen = where(compare("==", side, BY_SLOPE), side, seen)
                targets.append(("event_memory", self.side[i]))
                values.append(where(open_, seen, side))
            targets.append(("event_memory", self.waiting[i]))
            values.append(waits)
            if i in self.held:
                given = self._placed([node for _, node in event.resets], t)
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
            rank = block.let("rank", self._placed([event.priority], t)[0])
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
            values = self._placed([node for _, node in event.resets], t)
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
                following = block.let(f"following_{i}", _agenda(place + 1) + 1.0)
                upcoming = substitute([event.times.at(symbol("k"))], {symbol("k"): following})
                time = self._placed(upcoming, t)[0]
                targets += [("agenda", place), ("agenda", place + 1)]
                values += [
                    where(now, time, _agenda(place)),
                    where(now, following, _agenda(place + 1)),
                ]
            elif event.resets:
                # Its own reset is no reason to happen again; a root left where it was is
                # gone through in the direction in which the run goes on.
                told: Node = const(BY_VALUE)
                if i in before and event.root is not None:
                    after = fabs(self._placed([event.root], t)[0])
                    # What another event at this time made true was no passage.
                    apart = compare("<", _agenda(LATEST), t)
                    left = logical_and(apart, compare("<=", after, 2.0 * before[i]))
                    told = where(left, const(BY_SLOPE), told)
                side = self._memory(self.side[i])
                targets.append(("event_memory", self.side[i]))
                values.append(where(now, told, side))
        block.assign(targets, values)

    def _next_stop(self, block: BlockBuilder, open_: Node) -> None:
        """Write the next time to land on."""

        stop: Node = _NEVER
        for i in self.scheduled:
            stop = minimum(_agenda(self._next(i)), stop)
        block.assign([("agenda", STOP)], [where(open_, stop, _agenda(STOP))])

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
            "event_row": Block("event_row", (), (), True, to_int(_agenda(ROW))),
            "store_event": full.build("store_event", ("finals",), per_lane=True),
            "clear_events": empty.build("clear_events", ("finals",), per_lane=True),
        }
