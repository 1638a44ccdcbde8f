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
    TRUE,
    ZERO,
    Node,
    compare,
    const,
    load,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    where,
)
from cubie_flow.integrators.agenda import (
    COARSER,
    CUT,
    CUTS,
    DOUBT,
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
from cubie_flow.integrators.controllers import EPSILON
from cubie_flow.integrators.margins import NEVER, Margins
from cubie_flow.integrators.steps.base import Step, any_of
from cubie_flow.integrators.tops import Tops
from cubie_flow.systems.events import is_closed

if TYPE_CHECKING:
    from cubie_flow.integrators.events import Events

# A step is cut so often at most.
_CUT_LIMIT = 8
# The first cut is behind the event that the interpolant has by this part of the step, about what
# the interpolant errs: in a step that ends shortly behind the event it errs quadratically less.
_BEYOND = 1e-4
# Largest number of passes of the search for the crossing.
_PASSES = 110
_CLEAR = const(float("inf"))


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
        self._held_at_end = [
            block.let(f"truth_{i}", truth)
            for i, truth in zip(
                self.events.watched,
                self.margins.holding(self.t_end, "proposed_state"),
                strict=True,
            )
        ]
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
        again = logical_or(cut, logical_or(happens, missed))
        block.assign(
            [("agenda", i) for i in (SHORT, DOUBT, CUT, CUTS, PENDING, UNSETTLED)],
            [
                where(accepted, short, agenda(SHORT)),
                where(moved, ZERO, agenda(DOUBT)),
                where(cut, load("place", 0), where(accepted, _CLEAR, agenda(CUT))),
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
        block, h, near = self.block, self.h, self.near
        inner = block.let("inner", where(_truth("half"), const(0.5), load("top", 0)))
        noise, climb = self._foremost()
        free = logical_and(compare("==", agenda(CUTS), 0.0), logical_not(landing))
        free = block.let("free", free)
        noise = block.let("noise", where(free, ZERO, noise))
        # Where the margin at the end has no rounding error, none within the step has one.
        early = logical_and(within, compare(">=", self.margins.excess(inner), 2.0 * noise))
        early = block.let("early", early)
        crossing = block.let("crossing", logical_and(seen, logical_or(early, at_end)))
        block.assign(_places(("low", "high", "settled")), [ZERO, where(early, inner, ONE), FALSE])
        nearest = block.let("nearest", near / h)
        block.let("beyond", where(free, const(_BEYOND), ZERO))
        self._narrow(crossing, logical_not(logical_or(free, early)), nearest, noise)
        spent = compare(">=", agenda(CUTS), float(_CUT_LIMIT))
        happens = logical_or(_truth("settled"), logical_and(spent, at_end))
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
        high = where(self.margins.edge(self.margins.inside(further)), further, high)
        place = maximum(high * h + self.t, self.t + near)
        block.let("place", where(cut, place, agenda(CUT)))

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
        block.let("below", self.margins.excess(ZERO) - noise)
        block.let("above", self.margins.excess(high) - noise)
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
        with block.repeat(lambda: going, _PASSES):
            block.let("value", self.margins.excess(trial) - where(asking, 2.0 * noise, noise))
            value = load("value", 0)
            sure = compare(">=", value, 0.0)
            block.let("hit", logical_and(self.margins.edge(self.margins.inside(trial)), sure))
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

    def _reach(self, wanted: Node, ending: Node) -> None:
        """Let happen now what rounding alone keeps from it at the end of a step that has to end.

        Its margin is zero within rounding, and not because it has come to rest there. At the end
        of a run what needs more than zero has no time left.
        """
        block, events = self.block, self.events
        fine = float(EPSILON[events.precision] ** 0.5)
        reached, stop = [], self.margins.stop
        signed, climbs = self.margins.signed(stop), self.margins.climbs(stop)
        for number, (i, noise) in enumerate(
            zip(events.watched, self.margins.noises(block), strict=True)
        ):
            short, climb = signed[number], climbs[number]
            if climb is ZERO:
                continue
            noise = block.let(f"noise_{number}", noise)
            soon = compare(">=", climb * self.near + short, 0.0)
            moving = compare(">=", climb * (fine * self.h), noise)
            about = logical_and(compare(">=", short, -2.0 * noise), moving)
            met = logical_and(compare(">", climb, 0.0), logical_or(soon, about))
            met = logical_and(logical_and(met, wanted), self.margins.opens(i))
            if not is_closed(events.truths[i]):
                met = logical_and(met, logical_not(ending))
            met = block.let(f"met_{number}", met)
            reached.append(met)
            block.assign([events.side_place(i)], [where(met, const(DUE), events.side_of(i))])
        if reached:
            met = block.let("met", any_of(reached))
            happens = _truth("happens")
            block.assign(
                [("happens", 0), ("agenda", DOUBT)],
                [logical_or(happens, met), where(met, self.near, agenda(DOUBT))],
            )


def _unsettled() -> Node:
    """Return whether a step before this one left something to clear."""
    return compare("!=", agenda(UNSETTLED), 0.0)


def _truth(name: str) -> Node:
    return load(name, 0, kind="bool")


def _places(names: Iterable[str]) -> list[tuple[str, int]]:
    return [(name, 0) for name in names]
