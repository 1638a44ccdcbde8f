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

#: Operations of the coefficients that are compiled at most; measured in docs/performance.md.
LARGEST = 20_000
#: The first step that is tried, as a part of the run; longer ones follow only one after another.
FIRST_PART = 1.0 / 16.0
#: What a step may miss by its end, in tolerances: the step times what its derivative differs from
#: that of the polynomial. A smooth step misses some tenths.
MISMATCH = 2.0
# Part of the first term that counts as size of a state that is 0, and the least size.
_FIRST, _TINY = 1e-3, {"float32": 1e-30, "float64": 1e-200}
# Squared error above which the terms are of no use, and how far the step then retreats.
_HUGE = {"float32": 1e37, "float64": 1e300}
_RETREAT = {"float32": 2.0**-6, "float64": 2.0**-20}


@lru_cache(maxsize=16)
def series(rhs: Function, states: int, algorithm: str, order: int) -> Function:
    """Return the function ``c = terms(u, p, t, h)`` of a right-hand side.

    Raises
    ------
    FlowError
        If it would be too large to compile, or the equations have no Taylor coefficients.
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
    # Right-hand sides that are functions of their own have terms that are.
    return Function("terms", ("u", "p"), ("t", "h"), outputs, nodes, rhs.apart)


class TaylorStep(Step):
    """One step of a Taylor series method.

    With step control the terms are computed first, for a power of two near the last step, and the
    longest step that they allow is taken: none is tried in vain (Jorba and Zou, section 3.2). Where
    the equations have switches, or what can rise from nothing, its end is looked at as well.

    Buffers: ``coefficients`` (one row of terms an order, from 1), ``stage_increments`` (the
    derivative at the end, where something reads it), ``stage_state``, ``proposed_state`` and
    ``frequency`` (one over the time that the terms are for).
    """

    def register_buffers(self) -> None:
        s = self.settings
        n = s.states
        # The terms outlive the attempt when a sample is interpolated from them.
        kept = "local" if s.dense else self.scratch
        registered = [
            ("coefficients", self.method.order * n, kept),
            ("stage_increments", n, self.scratch),
            ("stage_state", n, self.scratch),
            ("proposed_state", n, self.scratch),
            ("frequency", 1, kept),
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
        # The weights need only the state, and are there before the last terms are.
        size = maximum(fabs(load("state", 0, 1)), _FIRST * fabs(self._term(1)))
        weight = self.weight(maximum(size, const(_TINY[precision])))
        square = self._sum(block, "error_square", self._estimated() * weight) * self.mean
        square = block.let("squared_error", square)
        finite = block.let("finite", compare("<", square, _HUGE[precision]))
        present = block.let("present", pattern(maximum(square, const(1e-30))) - one)
        # Where the step must be shorter the last but one term falls slower than the last.
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
        if s.ends or self._watches:
            self.derivative(block, "proposed_state", 0, h + t)
        if self._watches:
            self._compare(block, h, theta)

    @property
    def _watches(self) -> bool:
        """Whether the end of a step is looked at, since not all can be known from its start."""
        s = self.settings
        return s.chooses and (s.distrusted or not foreseeable(s.rhs.nodes))

    def _compare(self, block: BlockBuilder, h: Node, theta: Node) -> None:
        """Reject a step whose end has another derivative than the polynomial has there."""
        order = self.method.order
        slope = float(order) * self._term(order)
        for k in reversed(range(1, order)):
            slope = slope * theta + float(k) * self._term(k)
        missing = h * self.end_derivative - slope * theta
        square = block.let("mismatch", self.norm(block, "mismatch_square", missing) * self.mean)
        strange = block.let("strange", logical_not(compare("<=", square, MISMATCH**2)))
        met = where(strange, maximum(load("error", 0), const(4.0)), load("error", 0))
        block.assign([("error", 0)], [met])

    def distrust(self, block: BlockBuilder, error: Node, missed: Node) -> Node:
        strange = load("strange", 0, kind="bool")
        block.assign([("strange", 0)], [logical_or(strange, missed)])
        return super().distrust(block, error, missed)

    def expected(self, length: Node, h: Node, control: ControllerSettings) -> Node:
        if not self._watches:
            return length
        # Half the step, when it has grown as much as it may.
        return where(load("strange", 0, kind="bool"), (0.5 / control.max_factor) * h, length)

    def _polynomial(self, block: BlockBuilder, theta: Node, start: str) -> Node:
        """Return the state at `theta` of the terms' time, at the element of a sweep.

        In two halves, which a processor computes at the same time.
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
    def end_place(self) -> tuple[str, int]:
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
