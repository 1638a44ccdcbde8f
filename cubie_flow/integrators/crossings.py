"""Where events happen in a step: whether one is in it, and where it has to end.

Rounding decides the sign of a margin that is small enough. So an event is placed where its margin
is positive by more than its rounding error, and a step that ends there is accepted when the margin
is no more than twice that shortly before its end: one such step is as good as any other.

Little happens in most steps. A few comparisons per event decide whether the step is examined; what
follows is in a branch that a group of lanes takes if one of them needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from cubie_flow.expressions.block import BlockBuilder
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
    where,
)
from cubie_flow.integrators.controllers import EPSILON
from cubie_flow.integrators.event_schedule import (
    COARSER,
    CUT,
    CUTS,
    DOUBT,
    DOUBTED,
    DUE,
    FIRST_SHORT,
    HELD_OFF,
    HELD_ON,
    OFF,
    ON,
    PENDING,
    SHORT,
    STOP,
    UNSETTLED,
    agenda,
)
from cubie_flow.integrators.margins import NEVER, Margins
from cubie_flow.integrators.steps.base import Step, any_of
from cubie_flow.integrators.tops import Tops
from cubie_flow.systems.events import is_closed

if TYPE_CHECKING:
    from cubie_flow.integrators.events import Events

# Largest number of cuts of one step.
_CUT_LIMIT = 8
# The first cut is behind the event that the interpolant has by this part of the step, about what
# the interpolant errs: in a step that ends shortly behind the event it errs quadratically less.
_BEYOND = 1e-4
# Largest number of passes of the search for the crossing.
_PASSES = 110
# Where a cut step ends, between cuts.
_NOWHERE = const(float("inf"))


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
        self.margins = Margins(events, step, h, t, t_end)
        self.near = load("near", 0)
        self.tops = Tops(self.margins, block, self.near)

    def locate(self, landing: Node, good: Node, ending: Node) -> tuple[Node, Node]:
        """Write the search and what it leaves for the next step.

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
        Node, Node
            Whether the step is cut, and whether what happens in it cannot be located.
        """
        block = self.block
        at_end = self.margins.holding(self.t_end, "proposed_state")
        numbered = zip(self.events.watched, at_end, strict=True)
        self._held_at_end = [block.let(f"truth_{i}", truth) for i, truth in numbered]
        turns = self.tops.possible()
        unusual = [*self._departures(), *turns.values(), landing, _unsettled()]
        rare = block.let("rare", logical_and(good, any_of(unusual)))
        block.assign(_places(("cut", "lost")), [FALSE, FALSE])
        with block.when(rare):
            self._examine(rare, turns, landing, ending)
            self._note(rare, landing)
        return _truth("cut"), _truth("lost")

    def _departures(self) -> list[Node]:
        """Return what holds if a condition is not on its side in the middle or at the end.

        In the middle this need not be exact: it is looked at again where a step is examined.
        """
        events, margins = self.events, self.margins
        middle = margins.holding(0.5 * self.h + self.t, margins.course.middle())
        found = []
        for i, half, end in zip(events.watched, middle, self._held_at_end, strict=True):
            side = events.side_of(i)
            if events.events[i].direction == "both":
                found.append(compare("!=", side, where(half, const(ON), const(OFF))))
            else:
                found.append(logical_and(half, compare("==", side, OFF)))
            found.append(compare("!=", side, where(end, const(ON), const(OFF))))
        return found

    def _examine(
        self, rare: Node, turns: Mapping[tuple[int, int], Node], landing: Node, ending: Node
    ) -> None:
        """Look for events in the step: write ``cut``, ``happens``, ``lost`` and ``place``."""
        block, margins = self.block, self.margins
        margins.course.prepare(block)
        block.let("near", self.events.near(self.t_end, self.h) * maximum(agenda(SHORT), ONE))
        half = block.let("half", margins.edge(margins.inside(const(0.5))))
        at_end = block.let("at_end", margins.edge(margins.stop))
        block.assign(
            _places(("happens", "turned", "paused", "top", "place")),
            [FALSE, FALSE, FALSE, const(0.5), agenda(CUT)],
        )
        if turns:
            turning = logical_and(rare, logical_not(logical_or(half, at_end)))
            turning = logical_and(turning, any_of(list(turns.values())))
            turning = block.let("turning", turning)
            with block.when(turning):
                self.tops.search(turning, turns)
        within = block.let("within", logical_or(half, _truth("turned")))
        seen = block.let("seen", logical_and(rare, logical_or(within, at_end)))
        with block.when(seen):
            self._decide(seen, within, at_end, landing)
        given = logical_and(landing, compare("<", self.t_end, agenda(CUT)))
        unseen = logical_not(logical_or(seen, _truth("paused")))
        wanted = block.let("wanted", logical_and(logical_and(rare, given), unseen))
        with block.when(wanted):
            self._reach(wanted, ending)
        top = load("top", 0) * self.h + self.t
        block.assign(
            _places(("cut", "place")),
            [
                logical_or(_truth("cut"), _truth("paused")),
                where(_truth("paused"), top, load("place", 0)),
            ],
        )

    def _note(self, rare: Node, landing: Node) -> None:
        """Remember the sides after an accepted step, and what is due at its end."""
        block, events = self.block, self.events
        cut, happens = _truth("cut"), _truth("happens")
        accepted = block.let("accepted", logical_and(rare, logical_not(cut)))
        moved = block.let("moved", logical_and(accepted, logical_not(happens)))
        self._release(moved)
        for i, truth in zip(events.watched, self._held_at_end, strict=True):
            side = events.side_of(i)
            block.assign([events.side_place(i)], [where(moved, events.seen(i, truth), side)])
        landed = logical_and(landing, compare(">=", self.t_end, agenda(STOP)))
        due = logical_and(accepted, logical_or(happens, landed))
        missed = block.let("missed", logical_and(moved, compare(">=", self.t_end, agenda(CUT))))
        short = where(missed, COARSER * agenda(SHORT), const(FIRST_SHORT))
        again = logical_or(cut, missed)
        block.assign(
            [("agenda", i) for i in (SHORT, CUT, CUTS, PENDING, UNSETTLED)],
            [
                where(accepted, short, agenda(SHORT)),
                where(cut, load("place", 0), where(accepted, _NOWHERE, agenda(CUT))),
                where(cut, agenda(CUTS) + 1.0, where(accepted, ZERO, agenda(CUTS))),
                where(due, ONE, agenda(PENDING)),
                where(rare, where(again, ONE, ZERO), agenda(UNSETTLED)),
            ],
        )

    def _release(self, moved: Node) -> None:
        """Take back that a condition counts as changed where its margin moves away from that."""
        events = self.events
        held = logical_and(moved, any_of([events.is_held(i) for i in events.watched]))
        with self.block.when(self.block.let("held", held)):
            climbs = self.margins.climbs(self.margins.stop)
            for i, climb in zip(events.watched, climbs, strict=True):
                side = events.side_of(i)
                on = logical_and(compare("==", side, HELD_ON), compare("<=", climb, 0.0))
                off = logical_and(compare("==", side, HELD_OFF), compare(">=", climb, 0.0))
                new = where(logical_and(moved, on), const(OFF), side)
                new = where(logical_and(moved, off), const(ON), new)
                self.block.assign([events.side_place(i)], [new])

    # the place of an event in the step ---------------------------------------------------------

    def _decide(self, seen: Node, within: Node, at_end: Node, landing: Node) -> None:
        """Decide whether the step ends at its event, and where to cut it otherwise."""
        block, near = self.block, self.near
        noise, climb = self._foremost()
        free = logical_and(compare("==", agenda(CUTS), 0.0), logical_not(landing))
        free = block.let("free", free)
        noise = block.let("noise", where(free, ZERO, noise))
        crossing = self._search(seen, within, at_end, noise)
        spent = compare(">=", agenda(CUTS), float(_CUT_LIMIT))
        # A step as short as times can be told apart ends at its event.
        least = logical_or(spent, compare("<=", self.h, 2.0 * near))
        happens = logical_or(_truth("settled"), logical_and(least, at_end))
        happens = block.let("happens", logical_and(crossing, happens))
        cut = block.let("cut", logical_and(crossing, logical_not(happens)))
        # Seen inside steps only, again and again, and never at their end.
        block.let("lost", logical_and(cut, spent))
        with block.when(happens):
            # How long before the end of the step the margin may have been zero.
            late = where(compare(">", climb, 0.0), 2.0 * noise / climb, ZERO)
            self._doubt(happens, maximum(minimum(late, 1e-3 * self.h), near))
        high = load("high", 0)
        further = minimum(high + load("beyond", 0), ONE)
        high = where(self.margins.edge(self.margins.inside(further)), further, high)
        place = maximum(high * self.h + self.t, self.t + near)
        block.let("place", where(cut, place, agenda(CUT)))

    def _search(self, seen: Node, within: Node, at_end: Node, noise: Node) -> Node:
        """Search for the event: write ``settled`` and ``high``; return whether there is one."""
        block, free = self.block, _truth("free")
        inner = block.let("inner", where(_truth("half"), const(0.5), load("top", 0)))
        # Where the margin at the end has no rounding error, none within the step has one.
        early = logical_and(within, compare(">=", self.margins.excess(inner), 2.0 * noise))
        early = block.let("early", early)
        crossing = block.let("crossing", logical_and(seen, logical_or(early, at_end)))
        block.assign(_places(("low", "high", "settled")), [ZERO, where(early, inner, ONE), FALSE])
        nearest = block.let("nearest", self.near / self.h)
        block.let("beyond", where(free, const(_BEYOND), ZERO))
        # A step that was cut once ends about a first cut behind its event.
        once = compare("==", agenda(CUTS), 1.0)
        coarse = logical_and(once, compare("<", nearest, 2.0 * _BEYOND))
        closing = logical_and(crossing, logical_not(logical_or(logical_or(free, early), coarse)))
        closing = block.let("closing", closing)
        with block.when(closing):
            self._ask(closing, noise)
        searching = logical_and(crossing, logical_not(_truth("settled")))
        searching = block.let("searching", searching)
        with block.when(searching):
            self._narrow(searching, noise)
        return crossing

    def _foremost(self) -> tuple[Node, Node]:
        """Return the rounding error and slope of the margin that is largest at the end."""
        margins, stop = self.margins, self.margins.stop
        excess, noise, climb = NEVER, ZERO, ZERO
        for one, own, slope in zip(
            margins.signed(stop), margins.noises(self.block), margins.climbs(stop), strict=True
        ):
            larger = compare(">", one, excess)
            noise, climb = where(larger, own, noise), where(larger, slope, climb)
            excess = maximum(excess, one)
        return noise, climb

    def _ask(self, closing: Node, noise: Node) -> None:
        """Ask whether something happens clearly before the end of a step: ``settled`` if not."""
        high = load("high", 0)
        before = self.block.let("before_end", maximum(high - load("nearest", 0), ZERO))
        hit = compare(">=", self.margins.excess(before), 2.0 * noise)
        hit = logical_and(hit, self.margins.edge(self.margins.inside(before)))
        self.block.assign(
            _places(("settled", "high")),
            [
                logical_and(closing, logical_not(hit)),
                where(logical_and(closing, hit), before, high),
            ],
        )

    def _narrow(self, wanted: Node, noise: Node) -> None:
        """Narrow ``low < theta <= high`` as far as the interpolant is good for.

        No event would happen at `low`, one would at `high`: Newton's method from the last trial,
        and bisection where that leaves the bracket or slows down.
        """
        block = self.block
        low, high, trial = load("low", 0), load("high", 0), load("trial", 0)
        fine = block.let("fine", maximum(load("nearest", 0), load("beyond", 0)))
        block.assign(
            _places(("trial", "pace", "aim", "narrowing")),
            [self._first_guess(noise), const(4.0), 0.25 * fine, wanted],
        )
        going = _truth("narrowing")
        with block.repeat(lambda: going, _PASSES):
            value, slope = self.margins.excess_and_slope(trial)
            value = block.let("value", value - noise)
            block.let("slope", slope)
            edge = self.margins.edge(self.margins.inside(trial))
            hit = block.let("hit", logical_and(edge, compare(">=", value, 0.0)))
            up, down = logical_and(going, hit), logical_and(going, logical_not(hit))
            block.assign(
                _places(("low", "high")), [where(down, trial, low), where(up, trial, high)]
            )
            self._try_next(going)

    def _first_guess(self, noise: Node) -> Node:
        """Return where the margin is about zero: inverse cubic interpolation, kept monotone."""
        block, high = self.block, load("high", 0)
        below, first = self.margins.excess_and_slope(ZERO)
        above, last = self.margins.excess_and_slope(high)
        below, above = block.let("below", below - noise), block.let("above", above - noise)
        rise = block.let("rise", above - below)

        def inverse(slope: Node) -> Node:
            run = slope * high
            return where(compare(">", 3.0 * run, rise), rise / run, const(3.0))

        part = block.let("part", -below / rise)
        rest = 1.0 - part
        bent = rest * inverse(first) - part * inverse(last)
        guess = high * (part * (part * (3.0 - 2.0 * part) + rest * bent))
        step = 0.25 * load("fine", 0)
        guess = minimum(maximum(guess, step), high - step)
        return where(compare("<", below, 0.0), guess, 0.5 * high)

    def _try_next(self, going: Node) -> None:
        """Choose the next trial, or end the search behind the root by no more than ``fine``.

        Trials are a little beyond the root, and further beyond as long as they stay before it.
        """
        block = self.block
        low, high, trial, pace = (load(name, 0) for name in ("low", "high", "trial", "pace"))
        fine, slope, hit = load("fine", 0), load("slope", 0), _truth("hit")
        gap = block.let("gap", high - low)
        move = block.let("move", load("value", 0) / slope)
        root = trial - move
        aim = block.let("aim", where(hit, 0.25 * fine, 4.0 * load("aim", 0)))
        rises = compare(">", slope, 0.0)
        shrinks = compare("<=", fabs(move), maximum(0.5 * pace, 2.0 * aim))
        inside = logical_and(compare(">", root, low), compare("<", root, high))
        usable = logical_and(logical_and(rises, shrinks), inside)
        beyond = minimum(root + aim, high - 0.25 * fine)
        behind = logical_and(hit, logical_and(rises, compare("<=", move, fine)))
        more = logical_not(logical_or(behind, compare("<=", gap, fine)))
        block.assign(
            _places(("trial", "pace", "narrowing")),
            [
                where(going, where(usable, beyond, 0.5 * gap + low), trial),
                fabs(move),
                logical_and(going, more),
            ],
        )

    # what is reached at the end ----------------------------------------------------------------

    def _reach(self, wanted: Node, ending: Node) -> None:
        """Let happen now what rounding alone keeps from it at the end of a step that has to end."""
        block, events, stop = self.block, self.events, self.margins.stop
        signed, climbs = self.margins.signed(stop), self.margins.climbs(stop)
        noises, reached = self.margins.noises(block), []
        for number, i in enumerate(events.watched):
            if climbs[number] is ZERO:
                continue
            noise = block.let(f"noise_{number}", noises[number])
            met = logical_and(self._meets(signed[number], climbs[number], noise), wanted)
            met = logical_and(met, self.margins.opens(i))
            if not is_closed(events.truths[i]):
                # At the end of a run what needs more than zero has no time left.
                met = logical_and(met, logical_not(ending))
            met = block.let(f"met_{number}", met)
            reached.append(met)
            block.assign([events.side_place(i)], [where(met, const(DUE), events.side_of(i))])
        if reached:
            met = block.let("met", any_of(reached))
            block.let("happens", logical_or(_truth("happens"), met))
            self._doubt(met, self.near)

    def _meets(self, short: Node, climb: Node, noise: Node) -> Node:
        """Return whether a margin is zero within rounding, and has not come to rest there."""
        fine = float(EPSILON[self.events.precision] ** 0.5)
        soon = compare(">=", climb * self.near + short, 0.0)
        moving = compare(">=", climb * (fine * self.h), noise)
        about = logical_and(compare(">=", short, -2.0 * noise), moving)
        return logical_and(compare(">", climb, 0.0), logical_or(soon, about))

    def _doubt(self, lanes: Node, doubt: Node) -> None:
        """Remember how long before the end of the step an event may have happened."""
        self.block.assign(
            [("agenda", DOUBT), ("agenda", DOUBTED)],
            [
                where(lanes, doubt, agenda(DOUBT)),
                where(lanes, self.t_end, agenda(DOUBTED)),
            ],
        )


def _unsettled() -> Node:
    """Return whether a step before this one left something to clear."""
    return compare("!=", agenda(UNSETTLED), 0.0)


def _truth(name: str) -> Node:
    return load(name, 0, kind="bool")


def _places(names: Iterable[str]) -> list[tuple[str, int]]:
    return [(name, 0) for name in names]
