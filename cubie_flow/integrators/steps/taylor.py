"""Taylor series steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from cubie_flow.errors import FlowError
from cubie_flow.expressions.bit_operations import bits, from_bits, iand, integer, isub, to_int
from cubie_flow.expressions.block import BlockBuilder, Function
from cubie_flow.expressions.graph import (
    Node,
    compare,
    const,
    fabs,
    load,
    logical_not,
    logical_or,
    maximum,
    minimum,
    symbol,
    where,
)
from cubie_flow.expressions.taylor import coefficients, foreseeable
from cubie_flow.expressions.traversal import topological
from cubie_flow.integrators.controllers import (
    ControllerSettings,
    bits_of_one,
    level,
    pattern,
)
from cubie_flow.integrators.steps.base import Step
from cubie_flow.integrators.steps.course import Course, Polynomial
from cubie_flow.memory import buffer_registry

#: Largest number of operations of the coefficients; measured in docs/lab-book.md.
LARGEST = 20_000
#: Length of the first step, as a part of the run; later steps grow from it.
FIRST_PART = 1.0 / 16.0
#: Largest mismatch at the end of a step, in tolerances: the length of the step times the difference
#: between the derivatives of the equations and of the polynomial. Smooth steps have some tenths.
MISMATCH = 2.0
# Part of the first term that is the size of a state of value 0, and the smallest size.
_FIRST, _TINY = 1e-3, {"float32": 1e-30, "float64": 1e-200}
# Squared error above which the terms are unusable, and the factor of the step after that.
_HUGE = {"float32": 1e37, "float64": 1e300}
_RETREAT = {"float32": 2.0**-6, "float64": 2.0**-20}


@lru_cache(maxsize=16)
def series(rhs: Function, states: int, algorithm: str, order: int) -> Function:
    """Return the function ``c = terms(u, p, t, h)`` of a right-hand side.

    Parameters
    ----------
    rhs : Function
    states : int
        Number of states.
    algorithm : str
        Name of the method, for the message.
    order : int

    Raises
    ------
    FlowError
        If it is too large to compile, or the equations have no Taylor coefficients.
    """
    u, h = [load("u", i) for i in range(states)], symbol("h")
    rows = coefficients(rhs.nodes, u, symbol("t"), h, order)
    nodes = tuple(node for row in rows for node in row)
    operations = len(topological(nodes))
    if operations > LARGEST:
        raise FlowError(
            f"algorithm is '{algorithm}', whose coefficients take {operations} operations for this "
            f"system; at most {LARGEST} are allowed: use a lower order such as taylor_8, or vern7 "
            "or tsit5"
        )
    outputs = tuple(("c", i) for i in range(len(nodes)))
    # The terms of a right-hand side that is a separate function are a separate function too.
    return Function("terms", ("u", "p"), ("t", "h"), outputs, nodes, rhs.apart)


class TaylorStep(Step):
    """One step of a Taylor series method.

    With step control the terms are computed first, for a power of two near the last step. The step
    is the longest one that the terms allow, so that no step is rejected (Jorba and Zou, section
    3.2). The end of a step is checked as well if the equations have switches, or terms that can
    grow from zero.

    Buffers: ``coefficients`` (one row of terms per order, from 1), ``stage_increments`` (the
    derivative at the end, if something reads it), ``stage_state``, ``proposed_state`` and
    ``frequency`` (one over the length for which the terms were computed).
    """

    def register_buffers(self) -> None:
        s = self.settings
        n = s.states
        # Samples are interpolated from the terms after the attempt.
        terms = "local" if s.dense else self.scratch
        registered = [
            ("coefficients", self.method.order * n, terms),
            ("stage_increments", n, self.scratch),
            ("stage_state", n, self.scratch),
            ("proposed_state", n, self.scratch),
            ("frequency", 1, terms),
        ]
        for name, size, location in registered:
            buffer_registry.register(name, self, size, location, s.precision)

    def _term(self, k: int) -> Node:
        return load("coefficients", (k - 1) * self.settings.states, 1)

    def _expand(self, block: BlockBuilder, unit: Node, t: Node) -> None:
        """Write the terms of a step of length `unit`."""
        s = self.settings
        arrays = {"u": ("state", 0), "p": ("parameters", 0), "c": ("coefficients", 0)}
        function = series(s.rhs, s.states, self.method.name, self.method.order)
        block.evaluate(function, arrays, t=t, h=unit)

    def propose(
        self, block: BlockBuilder, dt: Node, t: Node, smallest: Node, control: ControllerSettings
    ) -> Node:
        order, precision = self.method.order, self.settings.precision
        one = bits_of_one(precision)
        # A power of two and its inverse are exact.
        digits = 23 if precision == "float32" else 52
        exponent = integer(-1 << digits)
        unit = block.let("unit", from_bits(iand(bits(dt), exponent)))
        block.assign([("frequency", 0)], [from_bits(isub(integer(2 * one), bits(unit)))])
        self._expand(block, unit, t)
        # The weights need only the state, so that they are computed before the last terms.
        size = maximum(fabs(load("state", 0, 1)), _FIRST * fabs(self._term(1)))
        weight = self.weight(maximum(size, const(_TINY[precision])))
        square = self._sum(block, "error_square", self._estimated() * weight) * self.mean
        square = block.let("squared_error", square)
        finite = block.let("finite", compare("<", square, _HUGE[precision]))
        present = block.let("present", pattern(maximum(square, const(1e-30))) - one)
        # For a shorter step the last but one term decreases more slowly than the last.
        steady = minimum(present * (-0.5 / order), present * (-0.5 / (order - 1)))
        wanted = minimum(
            steady + level(control.safety, precision),
            const(level(control.max_factor, precision)),
        )
        factor = where(finite, from_bits(to_int(wanted)), const(_RETREAT[precision]))
        length = block.let("length", unit * factor)
        short = where(compare("<", length, smallest), const(4.0), const(0.0))
        block.assign([("error", 0)], [where(finite, short, const(2e38))])
        return length

    def attempt(self, block: BlockBuilder, h: Node, t: Node, active: Node) -> None:
        s, order = self.settings, self.method.order
        theta = block.let("theta", h * load("frequency", 0)) if s.chooses else const(1.0)
        if s.chooses:
            block.sweep(s.states, {"proposed_state": self._polynomial(block, theta, "state")})
        else:
            self._expand(block, h, t)
            # The smallest terms first.
            total = self._term(order)
            for k in reversed(range(1, order)):
                total = total + self._term(k)
            block.sweep(s.states, {"proposed_state": total + load("state", 0, 1)})
        if s.ends or self._checks_end:
            self.derivative(block, "proposed_state", 0, h + t)
        if self._checks_end:
            self._compare(block, h, theta)

    @property
    def _checks_end(self) -> bool:
        """Whether the end of a step is checked, because the terms are not sufficient."""
        s = self.settings
        return s.chooses and (s.distrusted or not foreseeable(s.rhs.nodes))

    def _compare(self, block: BlockBuilder, h: Node, theta: Node) -> None:
        """Reject a step at whose end the derivatives of equations and polynomial differ."""
        order = self.method.order
        slope = float(order) * self._term(order)
        for k in reversed(range(1, order)):
            slope = slope * theta + float(k) * self._term(k)
        missing = h * self.end_derivative - slope * theta
        square = block.let("mismatch", self.norm(block, "mismatch_square", missing) * self.mean)
        strange = block.let("strange", logical_not(compare("<=", square, MISMATCH**2)))
        error = where(strange, maximum(load("error", 0), const(4.0)), load("error", 0))
        block.assign([("error", 0)], [error])

    def distrust(self, block: BlockBuilder, error: Node, missed: Node) -> None:
        strange = load("strange", 0, kind="bool")
        block.assign([("strange", 0)], [logical_or(strange, missed)])
        super().distrust(block, error, missed)

    def expected(self, length: Node, h: Node, control: ControllerSettings) -> Node:
        if not self._checks_end:
            return length
        # This becomes half the step after the largest growth by the controller.
        return where(load("strange", 0, kind="bool"), (0.5 / control.max_factor) * h, length)

    def _polynomial(self, block: BlockBuilder, theta: Node, start: str) -> Node:
        """Return the state at the part `theta` of the length for which the terms were computed.

        It is the value at the element of a sweep. A processor computes the two halves of the
        polynomial in parallel.
        """
        order = self.method.order
        half = order // 2
        power = squared = block.let("theta_2", theta * theta)
        high, low = self._term(order), self._term(half)
        for k in reversed(range(half + 1, order)):
            high = high * theta + self._term(k)
        for k in reversed(range(1, half)):
            low = low * theta + self._term(k)
        for number in range(2, half // 2 + 1):
            power = block.let(f"theta_{2 * number}", power * squared)
        return (high * power + low) * theta + load(start, 0, 1)

    def course(self, h: Node, states: Sequence[int]) -> Course:
        s = self.settings
        share = load("theta", 0) if s.chooses else const(1.0)
        return Polynomial(states, s.states, self.method.order, share)

    @property
    def end_element(self) -> tuple[str, int]:
        return "stage_increments", 0

    @property
    def needs_derivative(self) -> bool:
        return self.settings.ends

    @property
    def evaluations(self) -> tuple[int, int]:
        return 1 + self.settings.ends, 0

    def estimate(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        return self._estimated()

    def _estimated(self) -> Node:
        order = self.method.order
        guard: float = self.method.guard
        return guard * fabs(self._term(order - 1)) + fabs(self._term(order))

    def error(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        return load("error", 0) if self.settings.chooses else super().error(block, h, t)

    def interpolate(self, block: BlockBuilder, theta: Node, h: Node) -> Node:
        if self.settings.chooses:
            theta = block.let("share", theta * h * load("frequency", 0))
        return self._polynomial(block, theta, "previous_state")
