"""Conditions that change and change back within one step.

At both ends of such a step the condition is the same, and its margin turns back in between. The
tangents at the ends show whether it may: where they meet, the margin would be positive. Then the
top of the margin is looked for on the interpolant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
from cubie_flow.integrators.margins import NEVER, Margins, Moment, is_on

# Error of the interpolant near the top of a margin, as a part of what the margin bends within the
# step; closer to the ends of the step than the second number the interpolant is exact enough.
_CLOSE, _EDGE = 0.01, 0.02
# The bracket of a top: its ends, the margins there, and how fast these grow.
_BRACKET = ("left_end", "right_end", "left_height", "right_height", "left_slope", "right_slope")
# Largest number of passes of the search for one top.
_PASSES = 40


class Tops:
    """The search for margins that become positive and negative again within one step.

    Parameters
    ----------
    margins : Margins
    block : BlockBuilder
    near : Node
        Times closer than this count as one.
    """

    def __init__(self, margins: Margins, block: BlockBuilder, near: Node) -> None:
        self.margins, self.block, self.near = margins, block, near
        self.events, self.h = margins.events, margins.h
        self.pieces = margins.course.pieces

    @property
    def _thetas(self) -> list[Node]:
        """Where the parts of the step begin and end."""
        return [const(k / self.pieces) for k in range(self.pieces + 1)]

    @property
    def _moments(self) -> list[Moment]:
        inner = map(self.margins.inside, self._thetas[1:-1])
        return [self.margins.start, *inner, self.margins.stop]

    def _in_time(self, rates: list[list[Node]]) -> list[list[Node]]:
        """Return rates at the ends of all parts by time; within the step they are by `theta`."""
        return [rates[0], *([one / self.h for one in row] for row in rates[1:-1]), rates[-1]]

    def possible(self) -> dict[tuple[int, int], Node]:
        """Return by event and part of the step whether a margin may turn positive within it.

        It grows at the beginning of the part and falls at its end, and the tangents meet where it
        is positive. Seen from the other side of the condition all four numbers change their signs;
        in the height of the meeting these cancel.
        """
        events, margins = self.events, self.margins.margins
        heights = [events.bind(margins, moment.t, moment.state) for moment in self._moments]
        rates = [[events.slope(one, *moment) for one in margins] for moment in self._moments]
        rates, width = self._in_time(rates), self.h * (1.0 / self.pieces)
        found = {}
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
                found[number, k] = turn
        return found

    def search(self, wanted: Node, possible: Mapping[tuple[int, int], Node]) -> None:
        """Search for the top of one margin after another that may turn positive.

        Writes ``turned``, whether an event happens at ``top``, and ``paused``, whether the step has
        to end there because the interpolant cannot tell.
        """
        block = self.block
        hopes = [
            block.let(f"hope_{count}", logical_and(logical_and(wanted, turn), self._known(number)))
            for count, ((number, _), turn) in enumerate(possible.items())
        ]
        block.assign([("candidate", 0), ("searching", 0)], [const(-1.0), wanted])
        searching = load("searching", 0, kind="bool")
        with block.repeat(lambda: searching, len(hopes)):
            self._take_next(hopes, list(possible), searching)
            self._climb(searching)
            done = logical_or(load("turned", 0, kind="bool"), load("paused", 0, kind="bool"))
            block.assign([("searching", 0)], [logical_and(searching, logical_not(done))])

    def _known(self, number: int) -> Node:
        """Return whether the side of a condition is known, and has been seen."""
        side = self.events.side_of(self.events.watched[number])
        return logical_or(compare("==", side, OFF), is_on(side))

    def _take_next(self, hopes: list[Node], places: list[tuple[int, int]], searching: Node) -> None:
        """Write the bracket of the next hope, and the number of its margin: ``chosen``."""
        thetas, moments = self._thetas, self._moments
        heights = [self.margins.changes(moment) for moment in moments]
        rates = self._in_time([self.margins.change_rates(moment) for moment in moments])
        before, none = load("candidate", 0), const(float(len(hopes)))
        candidate, chosen = none, const(-1.0)
        values: list[Node] = [ZERO] * len(_BRACKET)
        for count, (number, k) in reversed(list(enumerate(places))):
            following = logical_and(hopes[count], compare("<", before, float(count)))
            candidate = where(following, const(float(count)), candidate)
            chosen = where(following, const(float(number)), chosen)
            own = [thetas[k], thetas[k + 1]]
            own += [row[j][number] for row in (heights, rates) for j in (k, k + 1)]
            values = [where(following, *pair) for pair in zip(own, values, strict=True)]
        some = logical_and(searching, compare("<", candidate, none))
        self.block.assign(
            [("searching", 0), ("candidate", 0), ("chosen", 0), *_places(_BRACKET)],
            [some, where(searching, candidate, before), chosen, *values],
        )

    def _climb(self, wanted: Node) -> None:
        """Climb to the top of the chosen margin until it is positive or cannot become so.

        Each pass looks where a slope that falls evenly is zero, as at the top of a smooth margin,
        or where the tangents meet, as at the top of a kink, in turns.
        """
        block = self.block
        left, right, _, _, rise, fall = self._bracket
        block.let("bend", (rise - fall) * ((right - left) * self.h))
        block.assign(
            _places(("summit", "climbing", "kinked", "best", "best_height")),
            [self._level, wanted, TRUE, ZERO, NEVER],
        )
        climbing = load("climbing", 0, kind="bool")
        with block.repeat(lambda: climbing, _PASSES):
            self._look(climbing)
            self._shrink(climbing)
            self._judge(climbing)

    @property
    def _bracket(self) -> list[Node]:
        return [load(name, 0) for name in _BRACKET]

    @property
    def _level(self) -> Node:
        """Where a slope that falls evenly over the bracket is zero."""
        left, right, _, _, rise, fall = self._bracket
        return (right - left) * (rise / (rise - fall)) + left

    def _meeting(self) -> tuple[Node, Node]:
        """Return where the tangents at the ends of the bracket meet, and how high."""
        left, right, low, far_low, rise, fall = self._bracket
        drop = far_low - low - fall * ((right - left) * self.h)
        ahead = self.block.let("meeting", drop / (rise - fall))
        return ahead / self.h + left, rise * ahead + low

    def _look(self, climbing: Node) -> None:
        """Write the height and slope of the chosen margin at ``summit``; keep the best place."""
        block, margins = self.block, self.margins
        summit = load("summit", 0)
        moment = margins.inside(summit)
        height, slope = NEVER, ZERO
        numbers = zip(margins.changes(moment), margins.change_rates(moment), strict=True)
        for number, (one, rate) in enumerate(numbers):
            own = compare("==", load("chosen", 0), float(number))
            height, slope = where(own, one, height), where(own, rate, slope)
        block.let("edge_there", margins.edge(moment))
        height = block.let("height_there", height)
        block.let("slope_there", slope / self.h)
        best, best_height = load("best", 0), load("best_height", 0)
        better = logical_and(climbing, compare(">", height, best_height))
        block.assign(
            _places(("best", "best_height")),
            [where(better, summit, best), where(better, height, best_height)],
        )

    def _shrink(self, climbing: Node) -> None:
        """Make the bracket end at ``summit``, at the left if the margin grows there."""
        left, right, low, far_low, rise, fall = self._bracket
        summit, height, slope = (load(n, 0) for n in ("summit", "height_there", "slope_there"))
        grows = compare(">", slope, 0.0)
        up, down = logical_and(climbing, grows), logical_and(climbing, logical_not(grows))
        self.block.assign(
            _places(_BRACKET),
            [
                where(up, summit, left), where(down, summit, right), where(up, height, low),
                where(down, height, far_low), where(up, slope, rise), where(down, slope, fall),
            ],
        )  # fmt: skip

    def _judge(self, climbing: Node) -> None:
        """Decide whether the search ends, and where to look otherwise."""
        block = self.block
        left, right = self._bracket[:2]
        there, height = load("edge_there", 0, kind="bool"), load("height_there", 0)
        kinked = load("kinked", 0, kind="bool")
        cross, highest = self._meeting()
        grain = 0.01 * (right - left)
        ahead = where(kinked, cross, self._level)
        ahead = minimum(maximum(ahead, left + grain), right - grain)
        wide = compare(">", (right - left) * self.h, self.near)
        above = compare(">", height, 0.0)
        more = logical_and(logical_and(climbing, logical_not(logical_or(there, above))), wide)
        more = block.let("more", logical_and(more, compare(">", highest, 0.0)))
        found = logical_and(climbing, there)
        # A condition that is false for a while within a step.
        dips = logical_and(logical_and(climbing, above), logical_not(there))
        pauses = logical_or(
            dips, logical_and(logical_and(climbing, logical_not(more)), self._close)
        )
        pauses = logical_and(pauses, logical_not(found))
        pauses = logical_and(pauses, compare("==", agenda(CUTS), 0.0))
        ends = block.let("ends", logical_or(found, pauses))
        block.assign(
            _places(("turned", "paused", "top", "summit", "climbing", "kinked")),
            [
                logical_or(load("turned", 0, kind="bool"), found),
                logical_or(load("paused", 0, kind="bool"), pauses),
                where(ends, load("best", 0), load("top", 0)),
                where(more, ahead, load("summit", 0)),
                more,
                logical_not(kinked),
            ],
        )

    @property
    def _close(self) -> Node:
        """Whether the best height is so near to zero that the interpolant cannot tell its sign."""
        best = load("best", 0)
        close = compare(">", load("best_height", 0), (-_CLOSE) * load("bend", 0))
        amid = logical_and(compare(">", best, _EDGE), compare("<", best, 1.0 - _EDGE))
        return logical_and(close, amid)


def _places(names: Iterable[str]) -> list[tuple[str, int]]:
    return [(name, 0) for name in names]
