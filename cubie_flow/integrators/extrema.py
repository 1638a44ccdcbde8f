"""Conditions that change and change back within one step.

At both ends of such a step the condition is the same, and its margin has a maximum in between. The
tangents at the ends show whether the maximum may be positive: it may where the tangents meet above
zero. The maximum is then searched for on the interpolant.
"""

from __future__ import annotations

from collections.abc import Mapping

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import (
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
from cubie_flow.integrators.event_schedule import CUTS, OFF, agenda
from cubie_flow.integrators.margins import NEVER, Margins, Moment, first_elements, is_on

# Error of the interpolant near the maximum of a margin, as a part of the curvature of the margin
# over the step. Closer to the ends of the step than `_EDGE` the interpolant is exact enough.
_CLOSE, _EDGE = 0.01, 0.02
# The bracket of a maximum: its ends, the margins at them, and their slopes.
_BRACKET = ("left_end", "right_end", "left_height", "right_height", "left_slope", "right_slope")
# Largest number of iterations of the search for one maximum.
_PASSES = 40


class MaximumSearch:
    """The search for margins that become positive and negative again within one step.

    Parameters
    ----------
    margins : Margins
    block : BlockBuilder
    near : Node
        Times closer than this are equal.
    """

    def __init__(self, margins: Margins, block: BlockBuilder, near: Node) -> None:
        self.margins, self.block, self.near = margins, block, near
        self.events, self.h = margins.events, margins.h
        self.pieces = margins.course.pieces

    @property
    def _thetas(self) -> list[Node]:
        """Ends of the parts of the step."""
        return [const(k / self.pieces) for k in range(self.pieces + 1)]

    @property
    def _moments(self) -> list[Moment]:
        inner = map(self.margins.inside, self._thetas[1:-1])
        return [self.margins.start, *inner, self.margins.stop]

    def _in_time(self, rates: list[list[Node]]) -> list[list[Node]]:
        """Return slopes at the ends of all parts per unit of time; inside they are per `theta`."""
        return [rates[0], *([one / self.h for one in row] for row in rates[1:-1]), rates[-1]]

    def candidates(self) -> dict[tuple[int, int], Node]:
        """Write whether a margin may have a positive maximum, for every event and part of a step.

        The margin grows at the start of the part and falls at its end, and the tangents meet above
        zero. On the other side of the condition all four numbers have the opposite sign. These
        signs cancel in the height at which the tangents meet.

        Returns
        -------
        dict
            Truths by (number of the margin, number of the part).
        """
        events, margins = self.events, self.margins.margins
        heights = [events.bind(margins, moment.t, moment.state) for moment in self._moments]
        rates = [[events.slope(one, *moment) for one in margins] for moment in self._moments]
        rates, width = self._in_time(rates), self.h * (1.0 / self.pieces)
        candidates = {}
        for number, i in enumerate(events.watched):
            on = is_on(events.side_of(i))
            for k in range(self.pieces):
                rise, fall = rates[k][number], rates[k + 1][number]
                if rise is ZERO and fall is ZERO:
                    continue
                low, far_low = heights[k][number], heights[k + 1][number]
                high = compare(">", rise * far_low - fall * low - rise * fall * width, 0.0)
                rise, fall = where(on, -rise, rise), where(on, -fall, fall)
                turn = logical_and(compare(">", rise, 0.0), compare("<", fall, 0.0))
                turn = self.block.let(f"turn_{number}_{k}", logical_and(turn, high))
                candidates[number, k] = turn
        return candidates

    def search(self, wanted: Node, candidates: Mapping[tuple[int, int], Node]) -> None:
        """Search for the maximum of each margin that may become positive.

        Writes ``turned``, whether an event happens at ``top``, and ``paused``, whether the step has
        to end at ``top`` because the interpolant is not accurate enough to decide.

        Parameters
        ----------
        wanted : Node
            Lanes that search.
        candidates : mapping
            See `candidates`.
        """
        block = self.block
        active = [
            block.let(f"hope_{count}", logical_and(logical_and(wanted, turn), self._known(number)))
            for count, ((number, _), turn) in enumerate(candidates.items())
        ]
        block.assign([("candidate", 0), ("searching", 0)], [const(-1.0), wanted])
        searching = load("searching", 0, kind="bool")
        with block.repeat(lambda: searching, len(active)):
            self._take_next(active, list(candidates), searching)
            self._climb(searching)
            done = logical_or(load("turned", 0, kind="bool"), load("paused", 0, kind="bool"))
            block.assign([("searching", 0)], [logical_and(searching, logical_not(done))])

    def _known(self, number: int) -> Node:
        """Return whether the side of a condition is known and has been observed."""
        side = self.events.side_of(self.events.watched[number])
        return logical_or(compare("==", side, OFF), is_on(side))

    def _take_next(self, active: list[Node], parts: list[tuple[int, int]], searching: Node) -> None:
        """Write the bracket of the next candidate, and the number of its margin: ``chosen``."""
        thetas, moments = self._thetas, self._moments
        heights = [self.margins.changes(moment) for moment in moments]
        rates = self._in_time([self.margins.change_rates(moment) for moment in moments])
        before, none = load("candidate", 0), const(float(len(active)))
        candidate, chosen = none, const(-1.0)
        values: list[Node] = [ZERO] * len(_BRACKET)
        for count, (number, k) in reversed(list(enumerate(parts))):
            following = logical_and(active[count], compare("<", before, float(count)))
            candidate = where(following, const(float(count)), candidate)
            chosen = where(following, const(float(number)), chosen)
            own = [thetas[k], thetas[k + 1]]
            own += [row[j][number] for row in (heights, rates) for j in (k, k + 1)]
            values = [where(following, *pair) for pair in zip(own, values, strict=True)]
        some = logical_and(searching, compare("<", candidate, none))
        self.block.assign(
            [("searching", 0), ("candidate", 0), ("chosen", 0), *first_elements(_BRACKET)],
            [some, where(searching, candidate, before), chosen, *values],
        )

    def _climb(self, wanted: Node) -> None:
        """Shrink the bracket until the chosen margin is positive or cannot become positive.

        The iterations alternate between two trial points: the zero of a slope that falls linearly,
        the maximum of a smooth margin, and the point where the tangents meet, that of a kink.
        """
        block = self.block
        left, right, _, _, rise, fall = self._bracket
        block.let("bend", (rise - fall) * ((right - left) * self.h))
        block.assign(
            first_elements(("summit", "climbing", "kinked", "best", "best_height")),
            [self._smooth_maximum, wanted, TRUE, ZERO, NEVER],
        )
        climbing = load("climbing", 0, kind="bool")
        with block.repeat(lambda: climbing, _PASSES):
            self._evaluate(climbing)
            self._shrink(climbing)
            self._decide(climbing)

    @property
    def _bracket(self) -> list[Node]:
        return [load(name, 0) for name in _BRACKET]

    @property
    def _smooth_maximum(self) -> Node:
        """The zero of a slope that falls linearly over the bracket."""
        left, right, _, _, rise, fall = self._bracket
        return (right - left) * (rise / (rise - fall)) + left

    def _meeting(self) -> tuple[Node, Node]:
        """Return where the tangents at the ends of the bracket meet, and their height there."""
        left, right, low, far_low, rise, fall = self._bracket
        drop = far_low - low - fall * ((right - left) * self.h)
        ahead = self.block.let("meeting", drop / (rise - fall))
        return ahead / self.h + left, rise * ahead + low

    def _evaluate(self, climbing: Node) -> None:
        """Write the chosen margin and its slope at ``summit``; remember the largest margin."""
        block, margins = self.block, self.margins
        summit = load("summit", 0)
        moment = margins.inside(summit)
        height, slope = NEVER, ZERO
        numbers = zip(margins.changes(moment), margins.change_rates(moment), strict=True)
        for number, (one, rate) in enumerate(numbers):
            own = compare("==", load("chosen", 0), float(number))
            height, slope = where(own, one, height), where(own, rate, slope)
        block.let("edge_there", margins.triggers(moment))
        height = block.let("height_there", height)
        block.let("slope_there", slope / self.h)
        best, best_height = load("best", 0), load("best_height", 0)
        better = logical_and(climbing, compare(">", height, best_height))
        block.assign(
            first_elements(("best", "best_height")),
            [where(better, summit, best), where(better, height, best_height)],
        )

    def _shrink(self, climbing: Node) -> None:
        """Move the left end of the bracket to ``summit`` where the margin grows, else the right."""
        left, right, low, far_low, rise, fall = self._bracket
        summit, height, slope = (load(n, 0) for n in ("summit", "height_there", "slope_there"))
        grows = compare(">", slope, 0.0)
        up, down = logical_and(climbing, grows), logical_and(climbing, logical_not(grows))
        self.block.assign(
            first_elements(_BRACKET),
            [
                where(up, summit, left), where(down, summit, right), where(up, height, low),
                where(down, height, far_low), where(up, slope, rise), where(down, slope, fall),
            ],
        )  # fmt: skip

    def _decide(self, climbing: Node) -> None:
        """Decide whether the search ends, and choose the next trial point otherwise."""
        block = self.block
        left, right = self._bracket[:2]
        there, height = load("edge_there", 0, kind="bool"), load("height_there", 0)
        kinked = load("kinked", 0, kind="bool")
        cross, highest = self._meeting()
        grain = 0.01 * (right - left)
        ahead = where(kinked, cross, self._smooth_maximum)
        ahead = minimum(maximum(ahead, left + grain), right - grain)
        wide = compare(">", (right - left) * self.h, self.near)
        above = compare(">", height, 0.0)
        more = logical_and(logical_and(climbing, logical_not(logical_or(there, above))), wide)
        more = block.let("more", logical_and(more, compare(">", highest, 0.0)))
        located = logical_and(climbing, there)
        # The condition changes without an event: it only becomes possible again.
        resets = logical_and(logical_and(climbing, above), logical_not(there))
        pauses = logical_or(
            resets, logical_and(logical_and(climbing, logical_not(more)), self._undecided)
        )
        pauses = logical_and(pauses, logical_not(located))
        pauses = logical_and(pauses, compare("==", agenda(CUTS), 0.0))
        ends = block.let("ends", logical_or(located, pauses))
        block.assign(
            first_elements(("turned", "paused", "top", "summit", "climbing", "kinked")),
            [
                logical_or(load("turned", 0, kind="bool"), located),
                logical_or(load("paused", 0, kind="bool"), pauses),
                where(ends, load("best", 0), load("top", 0)),
                where(more, ahead, load("summit", 0)),
                more,
                logical_not(kinked),
            ],
        )

    @property
    def _undecided(self) -> Node:
        """Whether the largest margin is too close to zero for the accuracy of the interpolant."""
        best = load("best", 0)
        close = compare(">", load("best_height", 0), (-_CLOSE) * load("bend", 0))
        amid = logical_and(compare(">", best, _EDGE), compare("<", best, 1.0 - _EDGE))
        return logical_and(close, amid)
