"""Where events happen in a step: whether one is in it, and where it has to end.

Rounding decides the sign of a margin that is small enough. So an event is placed where its margin
is positive by more than rounding can make of it, and a step that ends there is accepted when the
margin is no more than twice that shortly before its end: one such step is as good as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import (
    FALSE,
    ONE,
    TRUE,
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
    where,
)
from cubie_flow.expressions.rounding import rounding
from cubie_flow.integrators.controllers import EPSILON
from cubie_flow.integrators.event_schedule import (
    CUT,
    CUTS,
    DOUBT,
    DUE,
    HELD_OFF,
    HELD_ON,
    OFF,
    ON,
    SHORT,
    SLOPED,
    agenda,
)
from cubie_flow.integrators.steps.base import Step, any_of
from cubie_flow.systems.events import is_closed, margin

if TYPE_CHECKING:
    from cubie_flow.integrators.events import Events

# A step is cut so often at most.
_CUT_LIMIT = 8
# The first cut is so much of the step behind where the interpolant says, about what it errs: in a
# step that ends shortly behind the event it errs quadratically less. No more digits are asked for.
_BEYOND = 1e-4
# Around the top of a margin the interpolant may err by this part of what the margin bends within
# the step; not in so small a part of the step at its ends.
_CLOSE, _EDGE = 0.01, 0.02
# The bracket of a top: its ends, the margins there, and how fast these grow.
_BRACKET = ("left_end", "right_end", "left_height", "right_height", "left_slope", "right_slope")
# Passes of the searches for the crossing and for the top of a margin.
_ITERATIONS, _CLIMBS = 110, 40
# A margin is positive for sure when it is so many times what rounding may make of it.
_ROUNDINGS = 4.0
# What is out of reach.
_NOWHERE = -1e30
_NEVER = const(_NOWHERE)

#: States or derivatives by number, or the buffer and element where they begin.
Place = str | tuple[str, int] | Mapping[int, Node]
#: A time, the states and their derivatives then, and the unit of these.
At = tuple[Node, Place, Place, Node]


class Crossing:
    """The search for events in one step, as statements of the attempt's block.

    Parameters
    ----------
    events : Events
    block : BlockBuilder
    step : Step
        It has just been tried.
    h, t, t_end : Node
        Its length, start and end.
    """

    def __init__(
        self, events: Events, block: BlockBuilder, step: Step, h: Node, t: Node, t_end: Node
    ) -> None:
        self.events, self.block = events, block
        self.h, self.t, self.t_end = h, t, t_end
        self.truths = [events.truths[i] for i in events.watched]
        self.margins = [margin(one) for one in self.truths]
        self.states = events.states_in(self.truths)
        self.course = step.course(block, h, self.states)
        self.end = step.end_place
        self.near = block.let("near", events.near(t_end, h) * maximum(agenda(SHORT), ONE))

    # what holds within the step --------------------------------------------------------------

    def _inside(self, theta: Node) -> At:
        """Return time, states, their derivatives and that of time by `theta`."""
        return theta * self.h + self.t, self.course.values(theta), self.course.rates(theta), self.h

    @property
    def _start(self) -> At:
        return self.t, "state", "derivative", ONE

    @property
    def _stop(self) -> At:
        return self.t_end, "proposed_state", self.end, ONE

    def _edge(self, place: At) -> Node:
        """Return whether some condition makes its event happen."""
        time, state, rate, pace = place
        truths = self.events.bind(self.truths, time, state)
        return any_of(self.events.edges(truths, time, state, rate, pace))

    def _signed(self, place: At) -> list[Node]:
        """Return for every event a number that is positive where `_edge` holds for it."""
        time, state, rate, pace = place
        found = []
        for i, one in zip(
            self.events.watched, self.events.bind(self.margins, time, state), strict=True
        ):
            side = self.events.side_of(i)
            if self.events.events[i].direction == "both":
                signed = where(compare("==", side, ON), -one, _NEVER)
                one = where(compare("==", side, OFF), one, signed)
            else:
                off = one
                one = where(compare("==", side, OFF), one, _NEVER)
                if i in self.events.sloped:
                    (slope,) = self.events.slopes([i], time, state, rate, pace)
                    one = where(compare("==", side, SLOPED), minimum(off, slope), one)
            found.append(one)
        return found

    def _climbs(self, place: At) -> list[Node]:
        """Return how fast the numbers of `_signed` grow where nothing has to be armed first."""
        found = []
        for i, one in zip(self.events.watched, self.margins, strict=True):
            slope = self.events.slope(one, *place)
            if self.events.events[i].direction == "both":
                slope = where(compare("==", self.events.side_of(i), ON), -slope, slope)
            found.append(slope)
        return found

    def _open(self, i: int) -> Node:
        """Return whether an event happens as soon as its margin is positive."""
        side = self.events.side_of(i)
        closed = compare("==", side, OFF)
        if self.events.events[i].direction == "both":
            closed = logical_or(closed, compare("==", side, ON))
        return closed

    def _excess(self, theta: Node) -> Node:
        """Return a number that is positive where `_edge` holds."""
        found = _NEVER
        for one in self._signed(self._inside(theta)):
            found = maximum(found, one)
        return found

    def _noises(self) -> list[Node]:
        """Return what rounding may make of every margin at the end of the step."""
        sizes = {}
        for j in self.states:
            size = maximum(fabs(load("state", j)), fabs(load("proposed_state", j)))
            sizes[load("u", j)] = self.block.let(f"size_{j}", size)
        scale = (_ROUNDINGS * EPSILON[self.events.precision]) * maximum(agenda(SHORT), ONE)
        errors = self.events.bind(rounding(self.margins, sizes), self.t_end, "proposed_state")
        # What overflows or is no number is no bound.
        return [where(compare("<", one, 1e30), scale * one, ZERO) for one in errors]

    # the search -------------------------------------------------------------------------------

    def locate(self, landing: Node, good: Node, ending: Node) -> tuple[Node, Node, Node]:
        """Write the search.

        Parameters
        ----------
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
        block, events = self.block, self.events
        half = block.let("half", self._edge(self._inside(const(0.5))))
        at_end = block.let("at_end", self._edge(self._stop))
        crossing = logical_or(half, at_end)
        turns = self._turns()
        given = logical_and(landing, compare("<", self.t_end, agenda(CUT)))
        reasons = [crossing, given, *turns.values(), *map(events.is_held, events.watched)]
        rare = block.let("rare", logical_and(good, any_of(reasons)))
        names = ("cut", "happens", "lost")
        block.assign([(name, 0) for name in names], [FALSE] * 3)
        outcome = [load(name, 0, kind="bool") for name in names]
        with block.when(rare):
            block.assign(
                [("turned", 0), ("paused", 0), ("top", 0), ("place", 0)],
                [FALSE, FALSE, const(0.5), agenda(CUT)],
            )
            if turns:
                turning = any_of(list(turns.values()))
                turning = logical_and(logical_and(rare, logical_not(crossing)), turning)
                self._look_for_tops(block.let("turning", turning), turns)
            within = block.let("within", logical_or(half, load("turned", 0, kind="bool")))
            seen = block.let("seen", logical_and(rare, logical_or(within, at_end)))
            with block.when(seen):
                self._decide(seen, within, at_end, landing)
            paused = load("paused", 0, kind="bool")
            cut = block.let("cut", logical_or(load("cut", 0, kind="bool"), paused))
            wanted = logical_and(logical_and(rare, given), logical_not(logical_or(seen, paused)))
            with block.when(block.let("wanted", wanted)):
                self._reach(load("wanted", 0, kind="bool"), ending)
            happens = load("happens", 0, kind="bool")
            self._release(logical_and(rare, logical_not(logical_or(cut, happens))))
            place = where(paused, load("top", 0) * self.h + self.t, load("place", 0))
            block.assign(
                [("agenda", CUT), ("agenda", CUTS)],
                [
                    where(cut, place, agenda(CUT)),
                    where(cut, agenda(CUTS) + 1.0, agenda(CUTS)),
                ],
            )
        return outcome[0], outcome[1], outcome[2]

    def _release(self, accepted: Node) -> None:
        """Take back that a condition counts as changed where its margin moves away from that."""
        for i, climb in zip(self.events.watched, self._climbs(self._stop), strict=True):
            side = self.events.side_of(i)
            on = logical_and(compare("==", side, HELD_ON), compare("<=", climb, 0.0))
            off = logical_and(compare("==", side, HELD_OFF), compare(">=", climb, 0.0))
            new = where(logical_and(accepted, on), const(OFF), side)
            new = where(logical_and(accepted, off), const(ON), new)
            self.block.assign([self.events.side_place(i)], [new])

    def _decide(self, seen: Node, within: Node, at_end: Node, landing: Node) -> None:
        """Decide whether the step ends at its event, and where to cut it otherwise."""
        block, h, near = self.block, self.h, self.near
        inner = where(load("half", 0, kind="bool"), const(0.5), load("top", 0))
        inner = block.let("inner", inner)
        excess, noise, climb = _NEVER, ZERO, ZERO
        for one, own, slope in zip(
            self._signed(self._stop), self._noises(), self._climbs(self._stop), strict=True
        ):
            larger = compare(">", one, excess)
            noise, climb = where(larger, own, noise), where(larger, slope, climb)
            excess = maximum(excess, one)
        free = logical_and(compare("==", agenda(CUTS), 0.0), logical_not(landing))
        free = block.let("free", free)
        noise = block.let("noise", where(free, ZERO, noise))
        # What rounding can make within the step is none where its end has none.
        early = logical_and(within, compare(">=", self._excess(inner), 2.0 * noise))
        early = block.let("early", early)
        crossing = block.let("crossing", logical_and(seen, logical_or(early, at_end)))
        block.assign(
            [("low", 0), ("high", 0), ("settled", 0)], [ZERO, where(early, inner, ONE), FALSE]
        )
        nearest = block.let("nearest", near / h)
        block.let("beyond", where(free, const(_BEYOND), ZERO))
        self._narrow(crossing, logical_not(logical_or(free, early)), nearest, noise)
        spent = compare(">=", agenda(CUTS), float(_CUT_LIMIT))
        happens = logical_or(load("settled", 0, kind="bool"), logical_and(spent, at_end))
        happens = block.let("happens", logical_and(crossing, happens))
        cut = block.let("cut", logical_and(crossing, logical_not(happens)))
        # Seen inside steps only, again and again, and never at their end.
        block.let("lost", logical_and(cut, spent))
        # How long before the end of the step the margin may have been zero.
        late = where(compare(">", climb, 0.0), 2.0 * noise / climb, ZERO)
        late = maximum(minimum(late, 1e-3 * h), near)
        block.assign([("agenda", DOUBT)], [where(happens, late, agenda(DOUBT))])
        high = load("high", 0)
        further = minimum(high + load("beyond", 0), ONE)
        high = where(self._edge(self._inside(further)), further, high)
        place = maximum(high * h + self.t, self.t + near)
        block.let("place", where(cut, place, agenda(CUT)))

    def _narrow(self, wanted: Node, closing: Node, nearest: Node, noise: Node) -> None:
        """Narrow ``low < theta <= high`` as far as the interpolant is good for.

        No edge at `low`, one at `high`: regula falsi with halved weights (the Illinois method;
        Dowell and Jarratt, BIT 11, 1971), and bisection whenever that does not halve the bracket.
        Where a step may be `closing`, its end is the place unless something happens clearly before:
        ``settled``.
        """
        block = self.block
        low, high, trial = load("low", 0), load("high", 0), load("trial", 0)
        below, above = load("below", 0), load("above", 0)
        width, going = load("width", 0), load("narrowing", 0, kind="bool")
        last, asking = (load(name, 0, kind="bool") for name in ("last_hit", "asking"))
        start = high
        fine = block.let("fine", maximum(nearest, load("beyond", 0)))
        block.let("below", self._excess(ZERO) - noise)
        block.let("above", self._excess(high) - noise)
        guess = minimum(maximum(start * (below / (below - above)), fine), start - fine)
        guess = where(compare("<", below, 0.0), maximum(guess, ZERO), 0.5 * start)
        # Where the step was cut once, its end is about the place.
        once = compare("==", agenda(CUTS), 1.0)
        back = where(once, maximum(nearest, const(2.0 * _BEYOND)), nearest)
        told = where(closing, maximum(start - back, ZERO), maximum(start - back, 0.5 * start))
        told = where(logical_or(closing, once), told, guess)
        sharp = logical_and(closing, compare("<=", back, nearest))
        block.assign(
            [("trial", 0), ("width", 0), ("narrowing", 0), ("last_hit", 0), ("asking", 0)],
            [told, const(4.0), wanted, TRUE, sharp],
        )
        with block.repeat(lambda: going, _ITERATIONS):
            block.let("value", self._excess(trial) - where(asking, 2.0 * noise, noise))
            value = load("value", 0)
            sure = compare(">=", value, 0.0)
            block.let("hit", logical_and(self._edge(self._inside(trial)), sure))
            hit = load("hit", 0, kind="bool")
            up, down = logical_and(going, hit), logical_and(going, logical_not(hit))
            settles = logical_and(asking, down)
            block.assign(
                [
                    ("low", 0), ("high", 0), ("below", 0), ("above", 0), ("last_hit", 0),
                    ("settled", 0),
                ],
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
                    logical_or(load("settled", 0, kind="bool"), settles),
                ],
            )  # fmt: skip
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
            more = logical_and(going, logical_and(compare(">", gap, fine), logical_not(settles)))
            block.assign(
                [("trial", 0), ("width", 0), ("narrowing", 0), ("asking", 0)],
                [where(going, guess, trial), where(going, gap, width), more, FALSE],
            )

    # what turns back within the step ------------------------------------------------------------

    def _sides(self, numbers: Sequence[Node], place: At) -> list[Node]:
        """Return for every event a number that is positive where its condition has changed."""
        found = []
        for i, one in zip(self.events.watched, numbers, strict=True):
            one = self.events.bind([one], place[0], place[1])[0]
            found.append(where(compare("==", self.events.side_of(i), ON), -one, one))
        return found

    def _leanings(self, place: At) -> list[Node]:
        """Return how fast those numbers grow."""
        found = []
        for i, one in zip(self.events.watched, self.margins, strict=True):
            slope = self.events.slope(one, *place)
            found.append(where(compare("==", self.events.side_of(i), ON), -slope, slope))
        return found

    def _turns(self) -> dict[tuple[int, int], Node]:
        """Return by event and part of the step whether its condition may change there and back.

        The margin grows at the beginning of the part and falls at its end, and the tangents there
        meet where it is positive.
        """
        slopes, heights = self._leanings_at_nodes(), self._heights_at_nodes()
        width = self.h * (1.0 / self.course.pieces)
        found = {}
        for number, i in enumerate(self.events.watched):
            side = self.events.side_of(i)
            known = logical_or(compare("==", side, OFF), compare("==", side, ON))
            for k in range(self.course.pieces):
                rise, fall = slopes[k][number], slopes[k + 1][number]
                if rise is ZERO and fall is ZERO:
                    continue
                low, far_low = heights[k][number], heights[k + 1][number]
                turn = logical_and(compare(">", rise, 0.0), compare("<", fall, 0.0))
                high = compare(">", rise * far_low - fall * low - rise * fall * width, 0.0)
                found[number, k] = logical_and(known, logical_and(turn, high))
        return found

    @property
    def _thetas(self) -> list[Node]:
        """Where the parts of a step begin and end that are looked at by themselves."""
        return [const(k / self.course.pieces) for k in range(self.course.pieces + 1)]

    @property
    def _nodes(self) -> list[At]:
        return [self._start, *map(self._inside, self._thetas[1:-1]), self._stop]

    def _heights_at_nodes(self) -> list[list[Node]]:
        return [self._sides(self.margins, place) for place in self._nodes]

    def _leanings_at_nodes(self) -> list[list[Node]]:
        slopes = [self._leanings(place) for place in self._nodes]
        return [slopes[0], *([one / self.h for one in row] for row in slopes[1:-1]), slopes[-1]]

    def _look_for_tops(self, turning: Node, turns: Mapping[tuple[int, int], Node]) -> None:
        """Look at the top of one margin after another that turns back.

        Writes ``turned``, whether an event happens at ``top``, and ``paused``, whether the step has
        to end there so that it can be known.
        """
        block, thetas = self.block, self._thetas
        slopes, heights = self._leanings_at_nodes(), self._heights_at_nodes()
        with block.when(turning):
            hopes = [
                block.let(f"hope_{count}", logical_and(turning, turn))
                for count, turn in enumerate(turns.values())
            ]
            block.assign([("candidate", 0), ("searching", 0)], [const(-1.0), turning])
            searching = load("searching", 0, kind="bool")
            with block.repeat(lambda: searching, len(hopes)):
                before = load("candidate", 0)
                candidate, chosen = const(float(len(hopes))), const(-1.0)
                values: list[Node] = [ZERO] * len(_BRACKET)
                for count, (number, k) in reversed(list(enumerate(turns))):
                    next_one = logical_and(hopes[count], compare("<", before, float(count)))
                    candidate = where(next_one, const(float(count)), candidate)
                    chosen = where(next_one, const(float(number)), chosen)
                    own = [
                        numbers[j]
                        for numbers in (
                            thetas,
                            [row[number] for row in heights],
                            [row[number] for row in slopes],
                        )
                        for j in (k, k + 1)
                    ]
                    values = [where(next_one, *pair) for pair in zip(own, values, strict=True)]
                some = logical_and(searching, compare("<", candidate, float(len(hopes))))
                block.assign(
                    [("searching", 0), ("candidate", 0), ("chosen", 0)]
                    + [(name, 0) for name in _BRACKET],
                    [some, where(searching, candidate, before), chosen, *values],
                )
                self._climb(searching)
                done = logical_or(load("turned", 0, kind="bool"), load("paused", 0, kind="bool"))
                block.assign([("searching", 0)], [logical_and(searching, logical_not(done))])

    def _climb(self, wanted: Node) -> None:
        """Go to the top of the margin ``chosen``, until it is positive or cannot become so.

        Between the tangents at both ends of a bracket: at the top of a smooth margin its slope is
        zero, at that of a kink its tangents meet.
        """
        block, h = self.block, self.h
        left, right, low, far_low, rise, fall = (load(name, 0) for name in _BRACKET)
        top = load("summit", 0)
        climbing, kinked = (load(name, 0, kind="bool") for name in ("climbing", "kinked"))

        def meeting() -> tuple[Node, Node]:
            """Return where the tangents meet, and how high."""
            drop = far_low - low - fall * ((right - left) * h)
            ahead = block.let("meeting", drop / (rise - fall))
            return ahead / h + left, rise * ahead + low

        def level() -> Node:
            """Return where a slope that falls evenly is zero."""
            return (right - left) * (rise / (rise - fall)) + left

        block.let("bend", (rise - fall) * ((right - left) * h))
        block.assign(
            [("summit", 0), ("climbing", 0), ("kinked", 0), ("best", 0), ("best_height", 0)],
            [level(), wanted, TRUE, ZERO, _NEVER],
        )
        with block.repeat(lambda: climbing, _CLIMBS):
            place = self._inside(top)
            height, slope = _NEVER, ZERO
            sides, slopes = self._sides(self.margins, place), self._leanings(place)
            for number, (one, lean) in enumerate(zip(sides, slopes, strict=True)):
                own = compare("==", load("chosen", 0), float(number))
                height, slope = where(own, one, height), where(own, lean, slope)
            block.let("edge_there", self._edge(place))
            height = block.let("height_there", height)
            slope = block.let("slope_there", slope / h)
            best, highest_yet = load("best", 0), load("best_height", 0)
            better = logical_and(climbing, compare(">", height, highest_yet))
            block.assign(
                [("best", 0), ("best_height", 0)],
                [where(better, top, best), where(better, height, highest_yet)],
            )
            there = load("edge_there", 0, kind="bool")
            up = logical_and(climbing, compare(">", slope, 0.0))
            down = logical_and(climbing, logical_not(compare(">", slope, 0.0)))
            block.assign(
                [(name, 0) for name in _BRACKET],
                [
                    where(up, top, left), where(down, top, right), where(up, height, low),
                    where(down, height, far_low), where(up, slope, rise), where(down, slope, fall),
                ],
            )  # fmt: skip
            cross, highest = meeting()
            grain = 0.01 * (right - left)
            ahead = minimum(maximum(where(kinked, cross, level()), left + grain), right - grain)
            wide = compare(">", (right - left) * h, self.near)
            above = compare(">", height, 0.0)
            found = logical_and(climbing, there)
            # A condition that is false for a while within a step.
            dips = logical_and(logical_and(climbing, above), logical_not(there))
            more = logical_and(logical_and(climbing, logical_not(logical_or(there, above))), wide)
            more = block.let("more", logical_and(more, compare(">", highest, 0.0)))
            # So near that the interpolant does not tell.
            close = compare(">", highest_yet, (-_CLOSE) * load("bend", 0))
            amid = logical_and(compare(">", best, _EDGE), compare("<", best, 1.0 - _EDGE))
            close = logical_and(logical_and(climbing, logical_not(more)), logical_and(close, amid))
            pauses = logical_and(logical_or(dips, close), logical_not(found))
            pauses = logical_and(pauses, compare("==", agenda(CUTS), 0.0))
            ends = block.let("ends", logical_or(found, pauses))
            block.assign(
                [("turned", 0), ("paused", 0), ("top", 0), ("summit", 0), ("climbing", 0)]
                + [("kinked", 0)],
                [
                    logical_or(load("turned", 0, kind="bool"), found),
                    logical_or(load("paused", 0, kind="bool"), pauses),
                    where(ends, best, load("top", 0)),
                    where(more, ahead, top),
                    more,
                    logical_not(kinked),
                ],
            )

    # what is reached at the end ------------------------------------------------------------------

    def _reach(self, wanted: Node, ending: Node) -> None:
        """Let happen now what rounding alone keeps from it at the end of a step that has to end.

        Its margin is zero within rounding, and not because it has come to rest there. At the end
        of a run what needs more than zero has no time left.
        """
        block, events = self.block, self.events
        fine = float(EPSILON[events.precision] ** 0.5)
        reached = []
        signed, climbs = self._signed(self._stop), self._climbs(self._stop)
        for number, (i, noise) in enumerate(zip(events.watched, self._noises(), strict=True)):
            short, climb = signed[number], climbs[number]
            if climb is ZERO:
                continue
            noise = block.let(f"noise_{number}", noise)
            soon = compare(">=", climb * self.near + short, 0.0)
            moving = compare(">=", climb * (fine * self.h), noise)
            about = logical_and(compare(">=", short, -2.0 * noise), moving)
            met = logical_and(compare(">", climb, 0.0), logical_or(soon, about))
            met = logical_and(logical_and(met, wanted), self._open(i))
            if not is_closed(events.truths[i]):
                met = logical_and(met, logical_not(ending))
            met = block.let(f"met_{number}", met)
            reached.append(met)
            block.assign([events.side_place(i)], [where(met, const(DUE), events.side_of(i))])
        if reached:
            met = block.let("met", any_of(reached))
            happens = load("happens", 0, kind="bool")
            block.assign(
                [("happens", 0), ("agenda", DOUBT)],
                [logical_or(happens, met), where(met, self.near, agenda(DOUBT))],
            )
