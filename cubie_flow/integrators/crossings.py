"""Locate events in a step: whether it contains one, and where the step has to end.

Rounding decides the sign of a margin that is close to zero. An event is therefore located where its
margin exceeds the rounding error. A step that ends there is accepted if shortly before its end the
margin is at most twice the rounding error, since no other end would be more accurate.

Most steps contain no event. A few comparisons per event decide whether the step is examined. The
examination is in a branch, which a group of lanes takes if one of them needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from cubie_flow.integrators.extrema import MaximumSearch
from cubie_flow.integrators.margins import NEVER, Margins, first_elements
from cubie_flow.integrators.steps.base import Step, any_of
from cubie_flow.systems.events import is_closed

if TYPE_CHECKING:
    from cubie_flow.integrators.events import Events

# Largest number of cuts of one step.
_CUT_LIMIT = 8
# The first cut is later than the event of the interpolant by this part of the step, which is about
# the error of the interpolant. In a step that ends shortly after the event that error is
# quadratically smaller.
_BEYOND = 1e-4
# Largest number of iterations of the search for the crossing.
_PASSES = 110
# End of a cut step while no step is cut.
_NOWHERE = const(float("inf"))


class EventLocator:
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
        self.maxima = MaximumSearch(self.margins, block, self.near)

    def locate(self, landing: Node, good: Node, ending: Node) -> tuple[Node, Node]:
        """Write the search and its results for the next step.

        Parameters
        ----------
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
        block = self.block
        at_end = self.margins.conditions(self.t_end, "proposed_state")
        numbered = zip(self.events.watched, at_end, strict=True)
        self._truths_at_end = [block.let(f"truth_{i}", truth) for i, truth in numbered]
        turns = self.maxima.candidates()
        unusual = [*self._departures(), *turns.values(), landing, _unsettled()]
        rare = block.let("rare", logical_and(good, any_of(unusual)))
        block.assign(first_elements(("cut", "lost")), [FALSE, FALSE])
        with block.when(rare):
            self._examine(rare, turns, landing, ending)
            self._update_memory(rare, landing)
        return _truth("cut"), _truth("lost")

    def _departures(self) -> list[Node]:
        """Return truths: whether a condition has left its side in the middle or at the end.

        The middle is approximate here. It is computed again where a step is examined.
        """
        events, margins = self.events, self.margins
        middle = margins.conditions(0.5 * self.h + self.t, margins.course.middle())
        departures = []
        for i, half, end in zip(events.watched, middle, self._truths_at_end, strict=True):
            side = events.side_of(i)
            if events.events[i].direction == "both":
                departures.append(compare("!=", side, where(half, const(ON), const(OFF))))
            else:
                departures.append(logical_and(half, compare("==", side, OFF)))
            departures.append(compare("!=", side, where(end, const(ON), const(OFF))))
        return departures

    def _examine(
        self, rare: Node, turns: Mapping[tuple[int, int], Node], landing: Node, ending: Node
    ) -> None:
        """Look for events in the step: write ``cut``, ``happens``, ``lost`` and ``place``."""
        block, margins = self.block, self.margins
        margins.course.prepare(block)
        block.let("near", self.events.near(self.t_end, self.h) * maximum(agenda(SHORT), ONE))
        half = block.let("half", margins.triggers(margins.inside(const(0.5))))
        at_end = block.let("at_end", margins.triggers(margins.stop))
        block.assign(
            first_elements(("happens", "turned", "paused", "top", "place")),
            [FALSE, FALSE, FALSE, const(0.5), agenda(CUT)],
        )
        if turns:
            turning = logical_and(rare, logical_not(logical_or(half, at_end)))
            turning = logical_and(turning, any_of(list(turns.values())))
            turning = block.let("turning", turning)
            with block.when(turning):
                self.maxima.search(turning, turns)
        within = block.let("within", logical_or(half, _truth("turned")))
        detected = block.let("seen", logical_and(rare, logical_or(within, at_end)))
        with block.when(detected):
            self._decide(detected, within, at_end, landing)
        at_stop = logical_and(landing, compare("<", self.t_end, agenda(CUT)))
        none = logical_not(logical_or(detected, _truth("paused")))
        wanted = block.let("wanted", logical_and(logical_and(rare, at_stop), none))
        with block.when(wanted):
            self._trigger_at_end(wanted, ending)
        top = load("top", 0) * self.h + self.t
        block.assign(
            first_elements(("cut", "place")),
            [
                logical_or(_truth("cut"), _truth("paused")),
                where(_truth("paused"), top, load("place", 0)),
            ],
        )

    def _update_memory(self, rare: Node, landing: Node) -> None:
        """Store the sides after an accepted step, and whether events are due at its end."""
        block, events = self.block, self.events
        cut, happens = _truth("cut"), _truth("happens")
        accepted = block.let("accepted", logical_and(rare, logical_not(cut)))
        moved = block.let("moved", logical_and(accepted, logical_not(happens)))
        self._release(moved)
        for i, truth in zip(events.watched, self._truths_at_end, strict=True):
            side = events.side_of(i)
            block.assign(
                [events.side_element(i)], [where(moved, events.side_after(i, truth), side)]
            )
        at_stop = logical_and(landing, compare(">=", self.t_end, agenda(STOP)))
        due = logical_and(accepted, logical_or(happens, at_stop))
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
        """Reset a condition that counts as changed where its margin moves the other way."""
        events = self.events
        held = logical_and(moved, any_of([events.is_held(i) for i in events.watched]))
        with self.block.when(self.block.let("held", held)):
            slopes = self.margins.slopes(self.margins.stop)
            for i, climb in zip(events.watched, slopes, strict=True):
                side = events.side_of(i)
                on = logical_and(compare("==", side, HELD_ON), compare("<=", climb, 0.0))
                off = logical_and(compare("==", side, HELD_OFF), compare(">=", climb, 0.0))
                new = where(logical_and(moved, on), const(OFF), side)
                new = where(logical_and(moved, off), const(ON), new)
                self.block.assign([events.side_element(i)], [new])

    # the time of an event in the step ----------------------------------------------------------

    def _decide(self, detected: Node, within: Node, at_end: Node, landing: Node) -> None:
        """Decide whether the step ends at its event, and choose the cut otherwise."""
        block, near = self.block, self.near
        noise, climb = self._largest_at_end()
        free = logical_and(compare("==", agenda(CUTS), 0.0), logical_not(landing))
        free = block.let("free", free)
        noise = block.let("noise", where(free, ZERO, noise))
        crossing = self._search(detected, within, at_end, noise)
        spent = compare(">=", agenda(CUTS), float(_CUT_LIMIT))
        # A step of the smallest length that times can resolve ends at its event.
        least = logical_or(spent, compare("<=", self.h, 2.0 * near))
        happens = logical_or(_truth("settled"), logical_and(least, at_end))
        happens = block.let("happens", logical_and(crossing, happens))
        cut = block.let("cut", logical_and(crossing, logical_not(happens)))
        # The event was detected inside every cut step, but never at the end of one.
        block.let("lost", logical_and(cut, spent))
        with block.when(happens):
            # The time before the end of the step at which the margin may have been zero.
            late = where(compare(">", climb, 0.0), 2.0 * noise / climb, ZERO)
            self._set_uncertainty(happens, maximum(minimum(late, 1e-3 * self.h), near))
        high = load("high", 0)
        later = minimum(high + load("beyond", 0), ONE)
        high = where(self.margins.triggers(self.margins.inside(later)), later, high)
        end = maximum(high * self.h + self.t, self.t + near)
        block.let("place", where(cut, end, agenda(CUT)))

    def _search(self, detected: Node, within: Node, at_end: Node, noise: Node) -> Node:
        """Search for the event: write ``settled`` and ``high``; return whether one exists."""
        block, free = self.block, _truth("free")
        inner = block.let("inner", where(_truth("half"), const(0.5), load("top", 0)))
        # An event inside the step counts if its margin exceeds the rounding error at the end.
        early = logical_and(within, compare(">=", self.margins.excess(inner), 2.0 * noise))
        early = block.let("early", early)
        crossing = block.let("crossing", logical_and(detected, logical_or(early, at_end)))
        block.assign(
            first_elements(("low", "high", "settled")), [ZERO, where(early, inner, ONE), FALSE]
        )
        nearest = block.let("nearest", self.near / self.h)
        block.let("beyond", where(free, const(_BEYOND), ZERO))
        # A step that was cut once ends about `_BEYOND` after its event.
        once = compare("==", agenda(CUTS), 1.0)
        coarse = logical_and(once, compare("<", nearest, 2.0 * _BEYOND))
        closing = logical_and(crossing, logical_not(logical_or(logical_or(free, early), coarse)))
        closing = block.let("closing", closing)
        with block.when(closing):
            self._check_end(closing, noise)
        searching = logical_and(crossing, logical_not(_truth("settled")))
        searching = block.let("searching", searching)
        with block.when(searching):
            self._narrow(searching, noise)
        return crossing

    def _largest_at_end(self) -> tuple[Node, Node]:
        """Return the rounding error and slope of the margin that is largest at the end."""
        margins, stop = self.margins, self.margins.stop
        excess, noise, climb = NEVER, ZERO, ZERO
        for one, own, slope in zip(
            margins.trigger_margins(stop),
            margins.rounding_errors(self.block),
            margins.slopes(stop),
            strict=True,
        ):
            larger = compare(">", one, excess)
            noise, climb = where(larger, own, noise), where(larger, slope, climb)
            excess = maximum(excess, one)
        return noise, climb

    def _check_end(self, closing: Node, noise: Node) -> None:
        """Write ``settled``: whether no event happens clearly before the end of a step."""
        high = load("high", 0)
        before = self.block.let("before_end", maximum(high - load("nearest", 0), ZERO))
        hit = compare(">=", self.margins.excess(before), 2.0 * noise)
        hit = logical_and(hit, self.margins.triggers(self.margins.inside(before)))
        self.block.assign(
            first_elements(("settled", "high")),
            [
                logical_and(closing, logical_not(hit)),
                where(logical_and(closing, hit), before, high),
            ],
        )

    def _narrow(self, wanted: Node, noise: Node) -> None:
        """Narrow ``low < theta <= high`` down to the accuracy of the interpolant.

        No event would happen at `low`, one would happen at `high`. The search takes steps of
        Newton's method, and bisects where these leave the bracket or converge slowly.
        """
        block = self.block
        low, high, trial = load("low", 0), load("high", 0), load("trial", 0)
        fine = block.let("fine", maximum(load("nearest", 0), load("beyond", 0)))
        block.assign(
            first_elements(("trial", "pace", "aim", "narrowing")),
            [self._first_guess(noise), const(4.0), 0.25 * fine, wanted],
        )
        going = _truth("narrowing")
        with block.repeat(lambda: going, _PASSES):
            value, slope = self.margins.excess_and_slope(trial)
            value = block.let("value", value - noise)
            block.let("slope", slope)
            edge = self.margins.triggers(self.margins.inside(trial))
            hit = block.let("hit", logical_and(edge, compare(">=", value, 0.0)))
            up, down = logical_and(going, hit), logical_and(going, logical_not(hit))
            block.assign(
                first_elements(("low", "high")), [where(down, trial, low), where(up, trial, high)]
            )
            self._try_next(going)

    def _first_guess(self, noise: Node) -> Node:
        """Return an approximate zero of the margin, by monotone inverse cubic interpolation."""
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
        """Choose the next trial, or end the search if it is at most ``fine`` after the root.

        Trials are slightly later than the predicted root. This offset grows as long as the trials
        turn out to be earlier than the root.
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
            first_elements(("trial", "pace", "narrowing")),
            [
                where(going, where(usable, beyond, 0.5 * gap + low), trial),
                fabs(move),
                logical_and(going, more),
            ],
        )

    # events at the end of a step that has to end -------------------------------------------------

    def _trigger_at_end(self, wanted: Node, ending: Node) -> None:
        """Trigger the events whose margins are zero within rounding at a required end of a step."""
        block, events, stop = self.block, self.events, self.margins.stop
        margins, slopes = self.margins.trigger_margins(stop), self.margins.slopes(stop)
        noises, reached = self.margins.rounding_errors(block), []
        for number, i in enumerate(events.watched):
            if slopes[number] is ZERO:
                continue
            noise = block.let(f"noise_{number}", noises[number])
            met = logical_and(self._is_zero(margins[number], slopes[number], noise), wanted)
            met = logical_and(met, self.margins.triggers_on_sign_change(i))
            if not is_closed(events.truths[i]):
                # At the end of a run a strict inequality can no longer become true.
                met = logical_and(met, logical_not(ending))
            met = block.let(f"met_{number}", met)
            reached.append(met)
            block.assign([events.side_element(i)], [where(met, const(DUE), events.side_of(i))])
        if reached:
            met = block.let("met", any_of(reached))
            block.let("happens", logical_or(_truth("happens"), met))
            self._set_uncertainty(met, self.near)

    def _is_zero(self, short: Node, climb: Node, noise: Node) -> Node:
        """Return whether a margin is zero within rounding, and still grows."""
        fine = float(EPSILON[self.events.precision] ** 0.5)
        soon = compare(">=", climb * self.near + short, 0.0)
        moving = compare(">=", climb * (fine * self.h), noise)
        about = logical_and(compare(">=", short, -2.0 * noise), moving)
        return logical_and(compare(">", climb, 0.0), logical_or(soon, about))

    def _set_uncertainty(self, lanes: Node, span: Node) -> None:
        """Store how long before the end of the step the event may have happened."""
        self.block.assign(
            [("agenda", DOUBT), ("agenda", DOUBTED)],
            [
                where(lanes, span, agenda(DOUBT)),
                where(lanes, self.t_end, agenda(DOUBTED)),
            ],
        )


def _unsettled() -> Node:
    """Return whether an earlier step left values in the agenda that have to be cleared."""
    return compare("!=", agenda(UNSETTLED), 0.0)


def _truth(name: str) -> Node:
    return load(name, 0, kind="bool")
