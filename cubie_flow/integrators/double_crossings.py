"""Switches on states that a solution crosses twice within one step.

Both ends of such a step are on the same side of the switch, and the error estimate may miss what
happens in between. If the tangents of the switching function at both ends meet on the other side,
or its extremum on the interpolant is there, by more than the tolerances allow, the step is repeated
with a shorter length, until it ends on the other side or neither is so.

A condition such as ``x > low and x < high`` or ``abs(x - a) < width`` may hold inside a narrow
window only. A step that passes both ends of a window is repeated as well, if the equations inside
the window change a state by more than the tolerances allow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

from cubie_flow.expressions.bit_operations import bits, iand, icompare, integer, ior, ixor
from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.derivatives import differentiate, directional
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
    symbol,
    where,
)
from cubie_flow.expressions.traversal import substitute, topological
from cubie_flow.integrators.controllers import SETTINGS
from cubie_flow.integrators.landing import Crossing, Landing
from cubie_flow.integrators.steps.base import Step, any_of
from cubie_flow.integrators.steps.course import Course
from cubie_flow.integrators.switching_functions import constant_width, states_read

_T = symbol("t")
# Halvings of the interval that contains the extremum of a switching function.
_HALVINGS = 12
# A product of this size counts as zero. Added to one that is zero, it makes its sign positive.
_TINY = {"float32": 1e-37, "float64": 1e-300}


class DoubleCrossings:
    """Examines the step just tried, as statements of the attempt's block.

    A few operations per function decide whether a step is examined at all. The examination is in a
    branch, which a group of lanes takes if one of them needs it.

    Parameters
    ----------
    functions : sequence of Node
        See `cubie_flow.integrators.switching_functions`.
    windows, event_windows : sequence of (int, int)
        Windows of the equations and of the conditions of events, see `find_windows`. A step must
        not pass an event window, however narrow that is.
    block : BlockBuilder
    step : Step
    states : int
    h, t : Node
        Length of the step, and the time at its start.
    """

    def __init__(
        self, functions: Sequence[Node], windows: Sequence[tuple[int, int]],
        event_windows: Sequence[tuple[int, int]], block: BlockBuilder, step: Step, states: int,
        h: Node, t: Node,
    ) -> None:  # fmt: skip
        self.functions, self.windows, self.event_windows = functions, windows, event_windows
        self.block, self.step, self.states, self.h, self.t = block, step, states, h, t
        #: Values at both ends of the step and the slope at its start, per function.
        self._values = [self._write_values(i) for i in range(len(functions))]

    def suspect(self, active: Node) -> Node:
        """Write and return whether the step has to be examined.

        The signs of numbers are combined as bits, which is cheaper than comparisons.

        Parameters
        ----------
        active : Node
            Lanes that integrate.
        """
        tiny = _TINY[self.step.settings.precision]
        crossed = [bits(first * last + tiny) for first, last, _ in self._values]
        self._crossed = crossed
        self._turning = [self._turns_back(i, sign) for i, sign in enumerate(crossed)]
        passing = [
            self._passes(i, j, iand(crossed[i], crossed[j]))
            for i, j in sorted({*self.windows, *self.event_windows})
        ]
        doubt = _any_negative([*self._turning, *passing])
        return self.block.let("suspect", logical_and(active, doubt))

    def examine(self, suspect: Node) -> Node:
        """Write and return whether the step has to be repeated, in lanes that are suspect."""
        block, numbers = self.block, range(len(self.functions))
        turning = block.let("turning", logical_and(suspect, _any_negative(self._turning)))
        self._tolerances = [self._tolerance(i) for i in numbers]
        truths = [self._is_passed(*pair) for pair in self.event_windows]
        missed = block.let("missed", logical_and(suspect, any_of(truths)) if truths else FALSE)
        with block.when(turning, rare=True):
            turns = [self._turns(i) for i in numbers]
            self._search(turning, turns)
            dips = [load(f"dip_{i}", 0, kind="bool") for i in numbers]
            doubles = any_of([logical_and(*pair) for pair in zip(turns, dips, strict=True)])
            block.let("missed", logical_or(missed, logical_and(turning, doubles)))
        if self.windows:
            self._judge_windows(suspect)
        return missed

    def landing(self, landing: Landing, numbers: Sequence[int], active: Node, error: Node) -> Node:
        """Write and return whether the step is cut where it crosses a switch.

        Parameters
        ----------
        landing : Landing
        numbers : sequence of int
            Functions on which runs land.
        active : Node
            Lanes that integrate.
        error : Node
            Squared error norm of the step, 1 at tolerance.
        """
        block = self.block
        cut = block.let("landing_cut", FALSE)
        crossing = _any_negative([self._crossed[i] for i in numbers])
        crossing = block.let("landing_wanted", logical_and(active, crossing))
        with block.when(crossing, rare=True):
            ends = [Crossing(*self._values[i], self._arriving(i)) for i in numbers]
            landing.cut(crossing, ends, error)
        return cut

    def _arriving(self, i: int) -> Node:
        """Write the slope of a function at the end of the step."""
        nodes, end = [_slope(self.functions[i])], self.t + self.h
        (slope,) = _at(nodes, "proposed_state", end, self.step.end_element)
        return self.block.let(f"dip_arriving_{i}", slope)

    def _write_values(self, i: int) -> tuple[Node, Node, Node]:
        function, end = self.functions[i], self.t + self.h
        (first,) = _at([function], "state", self.t)
        (last,) = _at([function], "proposed_state", end)
        (leaving,) = _at([_slope(function)], "state", self.t, ("derivative", 0))
        names = {"first": first, "last": last, "leaving": leaving}
        first, last, leaving = (
            self.block.let(f"dip_{name}_{i}", value) for name, value in names.items()
        )
        return first, last, leaving

    def _turns_back(self, i: int, crossed: Node) -> Node:
        """Return bits that are negative where a double crossing is possible.

        The tangent at the start leads to the other side, but the step does not. Every double
        crossing that `_is_double` finds begins like this.
        """
        first, last, leaving = self._values[i]
        leads = ixor(bits(leaving * self.h + first), bits(last))
        return iand(leads, ixor(crossed, integer(-1)))

    def _passes(self, i: int, j: int, crossed: Node) -> Node:
        """Return bits that are negative where a window may be passed.

        A window of one state between two constants is compared with the tolerance here, so that
        guards as narrow as ``abs(V + 40) < 1e-6`` are rarely examined.
        """
        width = constant_width(self.functions[i], self.functions[j])
        if width is None:
            return crossed
        (state,) = states_read(self.functions[i])
        tolerance = load("settings", SETTINGS + state) * fabs(load("proposed_state", state))
        tolerance = tolerance + load("settings", SETTINGS + self.states + state)
        return iand(crossed, bits(tolerance - width))

    def _turns(self, i: int) -> Node:
        """Write whether a function turns back; write the verdict of its tangents to ``dip_i``."""
        block, arriving = self.block, self._arriving(i)
        first, last, leaving = self._values[i]
        # A step that starts on the switch is on the side of its end.
        on = compare("==", first, 0.0)
        side = block.let(f"dip_side_{i}", where(on, last, first))
        returns = logical_and(compare("<", side * leaving, 0.0), compare(">", side * arriving, 0.0))
        same = logical_or(compare(">", first * last, 0.0), on)
        # From first + leaving*s = last - arriving*(h - s), times the change of the slope.
        depth = leaving * last - arriving * first - self.h * (leaving * arriving)
        block.let(f"dip_{i}", compare(">", depth, self._tolerances[i] * fabs(arriving - leaving)))
        return block.let(f"turn_{i}", logical_and(same, returns))

    def _search(self, suspect: Node, turns: Sequence[Node]) -> None:
        """Look for an extremum on the other side where the tangents do not meet there.

        That happens where a function has an inflection. The interpolant is bisected at the sign of
        the slope. An extremum beyond the tolerances sets ``dip_i``.
        """
        block, numbers = self.block, range(len(self.functions))
        dips = [load(f"dip_{i}", 0, kind="bool") for i in numbers]
        hopes = [logical_and(turn, logical_not(dip)) for turn, dip in zip(turns, dips, strict=True)]
        hope = block.let("hope", logical_and(suspect, any_of(hopes)))
        with block.when(hope, rare=True):
            states = sorted({j for function in self.functions for j in states_read(function)})
            course = self.step.course(self.h, states)
            course.prepare(block)
            for i in numbers:
                block.assign([(f"low_{i}", 0), (f"high_{i}", 0)], [ZERO, ONE])
            with block.repeat(lambda: hope, _HALVINGS):
                for i in numbers:
                    self._halve(i, course)

    def _halve(self, i: int, course: Course) -> None:
        """Halve the bracket of the extremum of a function; note if it is on the other side."""
        block, function = self.block, self.functions[i]
        low, high, side = (load(f"{name}_{i}", 0) for name in ("low", "high", "dip_side"))
        middle = block.let("dip_middle", 0.5 * (low + high))
        values, rates = course.values(middle), course.rates(middle)
        nodes = [function, _slope(function, self.h)]
        mapping = {load("u", j): value for j, value in values.items()}
        mapping |= {load("way", j): rate for j, rate in rates.items()}
        value, slope = _at(nodes, "state", middle * self.h + self.t, known=mapping)
        value = block.let("dip_value", value)
        beyond = logical_and(
            compare("<", value * side, 0.0), compare(">", fabs(value), self._tolerances[i])
        )
        ahead = block.let("dip_ahead", compare("<", slope * side, 0.0))
        block.assign(
            [(f"dip_{i}", 0), (f"low_{i}", 0), (f"high_{i}", 0)],
            [
                logical_or(load(f"dip_{i}", 0, kind="bool"), beyond),
                where(ahead, middle, low),
                where(ahead, high, middle),
            ],
        )

    def _is_passed(self, i: int, j: int) -> Node:
        """Return whether a step crosses two switches that are apart by more than the tolerance."""
        (a, c, _), (b, d, _) = self._values[i], self._values[j]
        both = logical_and(compare("<", a * c, 0.0), compare("<", b * d, 0.0))
        # The value of one function where a straight line of the other is zero, times its change.
        room = maximum(self._tolerances[j] * fabs(a - c), self._tolerances[i] * fabs(b - d))
        return logical_and(both, compare(">", fabs(a * d - b * c), room))

    def _judge_windows(self, suspect: Node) -> None:
        """Set ``missed`` where a passed window changes a state by more than its tolerance.

        The right-hand side in the middle of a window decides. Inside a guard, such as
        ``abs(V + 40) < 1e-6``, it is nearly the same as outside.
        """
        block = self.block
        truths = [
            block.let(f"passed_{k}", self._is_passed(*pair)) for k, pair in enumerate(self.windows)
        ]
        judging = block.let("judging", logical_and(suspect, any_of(truths)))
        with block.when(judging, rare=True):
            ranges = [self._window(*pair) for pair in self.windows]
            block.let("window_number", const(-1.0))
            with block.repeat(lambda: judging, len(truths)):
                self._judge_next(truths, ranges)

    def _judge_next(self, truths: Sequence[Node], ranges: Sequence[tuple[Node, Node]]) -> None:
        """Judge the next window that the step has passed; ``judging`` is false after the last."""
        block, judging = self.block, load("judging", 0, kind="bool")
        number, none = load("window_number", 0), const(float(len(truths)))
        chosen, width, middle = none, ZERO, ZERO
        for k, truth in reversed(list(enumerate(truths))):
            following = logical_and(truth, compare("<", number, float(k)))
            own = (const(float(k)), *ranges[k])
            chosen, width, middle = (
                where(following, *pair) for pair in zip(own, (chosen, width, middle), strict=True)
            )
        block.assign(
            [("window_number", 0), ("window_width", 0), ("window_middle", 0)],
            [chosen, width, middle],
        )
        matters = block.let("matters", logical_and(judging, self._window_matters()))
        more = compare("<", load("window_number", 0), none)
        block.assign(
            [("missed", 0), ("judging", 0)],
            [
                logical_or(load("missed", 0, kind="bool"), matters),
                logical_and(logical_and(judging, more), logical_not(matters)),
            ],
        )

    def _window(self, i: int, j: int) -> tuple[Node, Node]:
        """Write the width and the middle of a window as parts of the step."""
        (a, c, _), (b, d, _) = self._values[i], self._values[j]
        one, other = a / (a - c), b / (b - d)
        width = self.block.let(f"window_width_{i}_{j}", fabs(one - other))
        return width, self.block.let(f"window_middle_{i}_{j}", 0.5 * (one + other))

    def _window_matters(self) -> Node:
        """Return whether the window in ``window_width`` and ``window_middle`` adds too much."""
        block, step, states = self.block, self.step, self.states
        width, middle = load("window_width", 0), load("window_middle", 0)
        block.let("window_effect", ZERO)
        old, new = load("state", 0, 1), load("proposed_state", 0, 1)
        block.sweep(states, {"window_state": middle * (new - old) + old})
        step.evaluate(block, "window_state", ("window_rate", 0), middle * self.h + self.t)
        rate = load("derivative", 0, 1)
        line = middle * (step.end_derivative - rate) + rate
        size = maximum(fabs(old), fabs(new))
        tolerance = load("settings", SETTINGS, 1) * size + load("settings", SETTINGS + states, 1)
        effect = fabs((width * self.h) * (load("window_rate", 0, 1) - line)) / tolerance
        largest = maximum(load("window_effect", 0), effect)
        block.sweep(states, [("window_effect", 0, 0, largest)])
        return compare(">", load("window_effect", 0), 1.0)

    def _tolerance(self, i: int) -> Node:
        """Write how much a function may change within the tolerances of its states."""
        function, total = self.functions[i], ZERO
        for j in sorted(states_read(function)):
            size = maximum(fabs(load("state", j)), fabs(load("proposed_state", j)))
            tolerance = load("settings", SETTINGS + j) * size
            tolerance = tolerance + load("settings", SETTINGS + self.states + j)
            sensitivity = fabs(differentiate(function, load("u", j)))
            (sensitivity,) = _at([sensitivity], "state", self.t)
            total = total + sensitivity * tolerance
        return self.block.let(f"dip_tolerance_{i}", total)


def _any_negative(numbers: Sequence[Node]) -> Node:
    return icompare("<", reduce(ior, numbers), integer(0))


def _slope(function: Node, unit: Node = ONE) -> Node:
    """Return the slope of a function, with the derivatives of the states per `unit` in ``way``."""
    used = sorted(states_read(function))
    places, rates = [load("u", j) for j in used], [load("way", j) for j in used]
    return directional([function], [_T, *places], [unit, *rates])[0]


def _at(
    nodes: Sequence[Node], state: str, time: Node, rate: tuple[str, int] = ("derivative", 0),
    known: Mapping[Node, Node] | None = None,
) -> list[Node]:  # fmt: skip
    """Return expressions at a time within the step.

    Parameters
    ----------
    nodes : sequence of Node
        Expressions of ``u``, ``p``, ``t`` and ``way``.
    state : str
        Buffer of the states.
    time : Node
    rate : tuple of (str, int)
        Buffer and first element of their derivatives.
    known : mapping, optional
        Values of single elements of ``u`` and ``way``.
    """
    mapping: dict[Node, Node] = {_T: time, **(known or {})}
    for node in topological(nodes):
        if node.op != "load" or node in mapping:
            continue
        buffer, element, _ = node.value
        if buffer == "u":
            mapping[node] = load(state, element)
        elif buffer == "p":
            mapping[node] = load("parameters", element)
        elif buffer == "way":
            mapping[node] = load(rate[0], rate[1] + element)
    return substitute(nodes, mapping)
