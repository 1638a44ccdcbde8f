"""Landing on kinks of states: a step that crosses one is cut there.

A step across a kink (``abs``, ``min`` and ``max`` of states) has a low order, and error estimates
see little of it. Such a step is repeated. It then ends before the crossing of the interpolant, and
a short step leads across, since the stages of a long one may be on the wrong side. A step across is
repeated so that it ends shortly after the crossing. It is accepted as soon as the change of the
derivatives in the rest after the crossing is within the tolerances.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import (
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
from cubie_flow.integrators.controllers import SETTINGS, approximate_reciprocal
from cubie_flow.integrators.lane import T_LOW, clock
from cubie_flow.integrators.steps.base import Step

#: Elements of the buffer ``landing``: the largest length of the next attempt, the time at which it
#: begins, and the number of cuts at that time; length and begin of the step after it.
LENGTH, BEGIN, CUTS, NEXT_LENGTH, NEXT_BEGIN, SIZE = range(6)
# Largest number of cuts of one step, and the part of the rest that remains after a cut: of a rest
# above `_FAR` of the step, and of a smaller one, for which the interpolant is exact.
_LIMIT, _FAR, _COARSE, _FINE = 4.0, 0.05, 1e-2, 1e-3
# Part of the way to the crossing that is left for the short step.
_APPROACH = 0.1
# A step that begins closer to the crossing than this part of it is not cut, nor one that comes this
# close, in lengths at which a run fails: states that move along a kink cross it in every step.
_EARLIEST, _LEAST = 1e-4, 4.0
# Change of the derivatives within the rest, in tolerances, and squared error above which a step is
# too long to say where it crosses.
_ALLOWED, _CRUDE = 0.1, 1e8
_NEVER = const(float("inf"))


def _repeats(t: Node) -> Node:
    """Return whether the step that begins at `t` was cut."""
    return compare("==", load("landing", BEGIN), t)


def _follows(t: Node) -> Node:
    """Return whether the step that begins at `t` leads across after an early end."""
    return compare("==", load("landing", NEXT_BEGIN), t)


def is_limited(t: Node) -> Node:
    """Return whether the step that begins at `t` has a largest length."""
    return logical_or(_repeats(t), _follows(t))


def limit(t: Node) -> Node:
    """Return the largest length of a step that begins at `t`."""
    length = where(_follows(t), load("landing", NEXT_LENGTH), _NEVER)
    return where(_repeats(t), load("landing", LENGTH), length)


def reset(block: BlockBuilder) -> None:
    """Forget the cuts of a run before."""
    block.assign([("landing", BEGIN), ("landing", NEXT_BEGIN)], [_NEVER, _NEVER])


@frozen
class Crossing:
    """A switching function at both ends of a step, with its slopes per unit of time."""

    first: Node
    last: Node
    leaving: Node
    arriving: Node


class Landing:
    """The cut of the step just tried, as statements of the attempt's block.

    Buffer ``landing``.

    Parameters
    ----------
    block : BlockBuilder
    step : Step
    states : int
    h, t, smallest : Node
        Length and start of the step, and the length below which a run fails.
    """

    def __init__(
        self, block: BlockBuilder, step: Step, states: int, h: Node, t: Node, smallest: Node
    ) -> None:
        self.block, self.step, self.states = block, step, states
        self.h, self.t, self.smallest = h, t, smallest

    def cut(self, crossing: Node, crossings: Sequence[Crossing], error: Node) -> Node:
        """Write and return whether the step is cut, and the length of the next attempt.

        Parameters
        ----------
        crossing : Node
            Lanes in which a function changes its sign within the step.
        crossings : sequence of Crossing
        error : Node
            Squared error norm of the step, 1 at tolerance.
        """
        block = self.block
        self._choose(crossings)
        rest = self._rest_after_crossing()
        part = block.let("landing_part", 1.0 - rest)
        self._write_effect(rest)
        cuts = where(_repeats(self.t), load("landing", CUTS), ZERO)
        cuts = block.let("landing_cuts", cuts)
        least = compare(">", minimum(part, rest) * self.h, _LEAST * self.smallest)
        wanted = logical_and(crossing, logical_and(least, compare(">", part, _EARLIEST)))
        wanted = logical_and(wanted, compare("<", cuts, _LIMIT))
        # The controller shortens a step whose error is not due to the crossing.
        far = block.let("landing_far", compare(">", rest, _FAR))
        crude = where(far, const(_CRUDE), ONE)
        wanted = logical_and(wanted, compare("<=", error, crude))
        change = logical_or(compare(">", error, 1.0), compare(">", load("landing_effect", 0), 0.0))
        cut = block.let("landing_cut", logical_and(wanted, change))
        self._write_length(cut, part, rest, cuts)
        return cut

    def _write_length(self, cut: Node, part: Node, rest: Node, cuts: Node) -> None:
        """Write the length of the next attempt, and of the step after it."""
        share = where(load("landing_far", 0, kind="bool"), const(_COARSE), const(_FINE))
        length = (share * rest + part) * self.h
        # A step of the usual length ends before the crossing, and a short one leads across.
        first = logical_and(compare("==", cuts, 0.0), logical_not(_follows(self.t)))
        following = self.block.let("landing_following", _APPROACH * (part * self.h))
        first = logical_and(first, compare(">", following, _LEAST * self.smallest))
        first = self.block.let("landing_first", first)
        early = part * self.h - following
        length = self.block.let("landing_length", where(first, early, length))
        after = where(first, self.t + (length + clock(T_LOW)), _NEVER)
        following = (1.0 + _COARSE) * following
        new = (length, self.t, cuts + 1.0, following, after)
        places = [("landing", i) for i in range(SIZE)]
        self.block.assign(
            places,
            [where(cut, value, load(*place)) for place, value in zip(places, new, strict=True)],
        )

    def _choose(self, crossings: Sequence[Crossing]) -> None:
        """Write the values of the function that a straight line crosses first.

        They are the parts of the line on both sides of the crossing, the change of the function
        over the step, and its slopes in the direction of the change.
        """
        names = ("land_part", "land_rest", "land_rise", "land_leaving", "land_arriving")
        values: list[Node] = [const(2.0), ZERO, ONE, ONE, ONE]
        for one in crossings:
            rise = self.block.let("land_own_rise", fabs(one.first) + fabs(one.last))
            inverse = self.block.let("land_inverse", self._inverse(rise))
            rises = compare(">", one.last, 0.0)
            own = self.block.let("land_own", fabs(one.first) * inverse)
            crosses = compare("<", one.first * one.last, 0.0)
            earlier = logical_and(crosses, compare("<", own, values[0]))
            earlier = self.block.let("land_earlier", earlier)
            slopes = [where(rises, slope, -slope) for slope in (one.leaving, one.arriving)]
            new = [own, fabs(one.last) * inverse, rise, *slopes]
            values = [
                self.block.let(name, where(earlier, *pair))
                for name, pair in zip(names, zip(new, values, strict=True), strict=True)
            ]

    def _inverse(self, x: Node) -> Node:
        return approximate_reciprocal(x, self.step.settings.precision)

    def _rest_after_crossing(self) -> Node:
        """Write and return the part of the step after the crossing, accurate where it is small.

        Monotone inverse cubic interpolation (Fritsch and Carlson, SIAM J. Numer. Anal. 17, 1980).
        """
        part, rest, rise = (load(f"land_{name}", 0) for name in ("part", "rest", "rise"))

        def inverse(slope: Node) -> Node:
            run = self.h * slope
            steep = compare(">", 3.0 * run, rise)
            return where(steep, rise * self._inverse(where(steep, run, ONE)), const(3.0))

        first = self.block.let("land_first", inverse(load("land_leaving", 0)))
        last = self.block.let("land_last", inverse(load("land_arriving", 0)))
        bent = part * last - rest * first
        left = rest * (rest * (3.0 - 2.0 * rest) + part * bent)
        return self.block.let("landing_rest", minimum(maximum(left, ZERO), ONE))

    def _write_effect(self, rest: Node) -> None:
        """Write whether the change of the derivatives changes a state by more than allowed."""
        block, states = self.block, self.states
        block.let("landing_effect", ZERO)
        size = maximum(fabs(load("state", 0, 1)), fabs(load("proposed_state", 0, 1)))
        tolerance = load("settings", SETTINGS, 1) * size + load("settings", SETTINGS + states, 1)
        change = fabs(self.step.end_derivative - load("derivative", 0, 1)) * (rest * self.h)
        excess = change - _ALLOWED * tolerance
        block.sweep(states, [("landing_effect", 0, 0, maximum(load("landing_effect", 0), excess))])
