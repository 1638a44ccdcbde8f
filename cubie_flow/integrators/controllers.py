"""Step controllers: the next step size as a function of the error estimates."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from attrs import field, frozen

from cubie_flow.errors import between, one_of
from cubie_flow.expressions.bit_operations import bits, from_bits, integer, isub, to_float, to_int
from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import Node, const, load, logical_and, maximum, minimum, where
from cubie_flow.memory import CUDAFactory, buffer_registry

#: First element of the tolerances in the run-time settings. Before them are the first, smallest and
#: largest step and the step limit; the tolerances are rtol and then atol of every state.
SETTINGS = 4
DT, DT_MIN, DT_MAX, MAX_STEPS = range(SETTINGS)

#: Distance from 1 to the next number, by precision.
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}

#: Number of stored values per kind of controller.
MEMORY = {"fixed": 0, "i": 1, "pi": 2, "pid": 3, "gustafsson": 3}


def bits_of_one(precision: str) -> int:
    """Return the bit pattern of 1.0."""
    if precision == "float32":
        return int(struct.unpack("<i", struct.pack("<f", 1.0))[0])
    return int(struct.unpack("<q", struct.pack("<d", 1.0))[0])


def _octave(precision: str) -> float:
    """Return the increase of the bit pattern of a float when the float doubles."""
    return 2.0**23 if precision == "float32" else 2.0**52


def level(factor: float, precision: str) -> float:
    """Return the bit pattern of a factor, with the logarithm taken exactly, see `pattern`."""
    return bits_of_one(precision) + _octave(precision) * math.log2(factor)


def pattern(x: Node) -> Node:
    """Return the bit pattern of `x` as a float: nearly linear in the logarithm of `x`.

    J. F. Blinn, "Floating-point tricks", IEEE CG&A 17, 1997.
    """
    return to_float(bits(x))


def approximate_power(x: Node, exponent: float, precision: str) -> Node:
    """Return ``x**exponent`` within 1 % for small exponents and positive, normal `x`."""
    return from_bits(to_int(exponent * pattern(x) + (1.0 - exponent) * bits_of_one(precision)))


def approximate_reciprocal(x: Node, precision: str) -> Node:
    """Return ``1/x`` within 0.03 % for positive, normal `x`; not finite for 0 and NaN.

    The bit pattern of ``1/x`` is nearly a constant minus that of ``x``. Two steps of Newton's
    method square the error of 12 % twice. This is much faster than a correctly rounded division.
    H. S. Warren, Hacker's Delight, 2nd edition, section 17-4.
    """
    guess = 0x7EF311C7 if precision == "float32" else 0x7FDE623822FC16E6
    reciprocal = from_bits(isub(integer(guess), bits(x)))
    for _ in range(2):
        reciprocal = (1.0 - x * reciprocal) * reciprocal + reciprocal
    return reciprocal


@frozen
class ControllerSettings:
    """Compile-time choices of a step controller.

    ``gains`` are the exponents beta of the digital filter ``factor = safety *
    err_n**(-beta1/k) * err_(n-1)**(-beta2/k) * err_(n-2)**(-beta3/k)`` (G. Soderlind, "Digital
    filters in adaptive time-stepping", ACM TOMS 29, 2003), with ``k = embedded order + 1``.
    ``gustafsson`` is the predictive controller of K. Gustafsson, ACM TOMS 20, 496-517 (1994), in
    the form of Hairer and Wanner, Solving ODEs II, eq. IV.8.25: the smaller of the elementary
    step and of ``safety*h_n*(h_n/h_(n-1))*(err_(n-1)/err_n**2)**(1/k)``; it has no gains.
    """

    precision: str = field(default="float64", validator=one_of("float32", "float64"))
    kind: str = field(default="pi", validator=one_of(*MEMORY), metadata={"key": "controller.kind"})
    order: int = 5
    gains: tuple[float, float, float] = (0.7, -0.4, 0.0)
    safety: float = field(
        default=0.9,
        validator=between(0.0, 1.0, "above 0 and at most 1"),
        metadata={"key": "controller.safety"},
    )
    min_factor: float = field(
        default=0.2,
        validator=between(0.0, 0.999, "above 0 and at most 0.999"),
        metadata={"key": "controller.min_factor"},
    )
    max_factor: float = field(
        default=5.0,
        validator=between(1.0, 1e6, "above 1 and at most 1e6"),
        metadata={"key": "controller.max_factor"},
    )


class StepController(CUDAFactory[ControllerSettings]):
    """Owns the step size and the past errors.

    The buffer ``step_control`` holds the proposed step and the logarithms of the squared errors of
    the last two accepted steps, as bit patterns minus that of 1. For ``gustafsson`` it holds one
    error, and the length of the last accepted step.
    """

    def register_buffers(self) -> None:
        size = max(1, MEMORY[self.settings.kind])
        precision = self.settings.precision
        buffer_registry.register("step_control", self, size, "local", precision, persistent=True)

    def build(self) -> str:
        return self.settings.kind

    @property
    def adaptive(self) -> bool:
        """Whether steps can be rejected."""
        return self.settings.kind != "fixed"

    def proposal(self) -> Node:
        """Return the step size to try."""
        return maximum(load("step_control", 0), load("settings", DT_MIN))

    def reset(self, block: BlockBuilder, dt: Node) -> None:
        """Write the step `dt` and clear the past errors."""
        size = max(1, MEMORY[self.settings.kind])
        values = [dt] + [const(0.0)] * (size - 1)
        if self.settings.kind == "gustafsson":
            values[2] = dt
        block.assign([("step_control", i) for i in range(size)], values)

    def follow(self, block: BlockBuilder, length: Node) -> None:
        """Write the length of the next step."""
        block.assign([("step_control", 0)], [length])

    def backup(self, block: BlockBuilder) -> list[Node]:
        """Return a copy of the buffer, for `restore` after `advance`."""
        size = max(1, MEMORY[self.settings.kind])
        return [block.let(f"held_{i}", load("step_control", i)) for i in range(size)]

    def restore(self, block: BlockBuilder, lanes: Node, copy: Sequence[Node]) -> None:
        """Undo `advance` in some lanes.

        Parameters
        ----------
        block : BlockBuilder
        lanes : Node
            Lanes in which the buffer is restored.
        copy : sequence of Node
            Result of `backup`.
        """
        block.assign(
            [("step_control", i) for i in range(len(copy))],
            [where(lanes, old, load("step_control", i)) for i, old in enumerate(copy)],
        )

    def advance(
        self, block: BlockBuilder, error: Node, accept: Node, h: Node, last: Node, bounds: Node
    ) -> None:
        """Write the length of the next step.

        Parameters
        ----------
        block : BlockBuilder
        error : Node
            Squared error norm of the step, 1 at tolerance.
        accept, last : Node
            Whether the step is accepted, and whether it was shortened to end at a given time.
        h : Node
            Length of the step.
        bounds : Node
            Largest length allowed.
        """
        s = self.settings
        # The factor is computed in the logarithmic domain of bit patterns. Powers become products
        # there, the safety factor becomes a summand, and both outcomes share one conversion.
        floor = const(1e-12 if s.precision == "float64" else 1e-8)
        usable = where(error < 1e20, maximum(error, floor), const(1e20))
        present = block.let("error_pattern", pattern(usable) - bits_of_one(s.precision))
        accepted = self._accepted_factor(block, present, h)
        # After a rejection only the present error is used, and the step never grows.
        rejected = (-1.0 / self._divisor) * present + level(s.safety, s.precision)
        rejected = minimum(rejected, const(level(0.9, s.precision)))
        factor = where(accept, accepted, rejected)
        factor = maximum(factor, const(level(s.min_factor, s.precision)))
        scaled = block.let("scaled_step", h * from_bits(to_int(factor)))
        # A step that was shortened to end at a given time does not show the possible length.
        shortened = logical_and(last, accept)
        scaled = where(shortened, maximum(scaled, load("step_control", 0)), scaled)
        elements = [("step_control", i) for i in range(max(1, MEMORY[s.kind]))]
        past = [present, h if s.kind == "gustafsson" else load("step_control", 1)]
        stored = [
            where(accept, value, load(*element))
            for value, element in zip(past, elements[1:], strict=False)
        ]
        block.assign(elements, [minimum(scaled, bounds), *stored])

    @property
    def _divisor(self) -> float:
        """Divisor of the exponents: twice the order, because errors are squared."""
        return 2.0 * self.settings.order

    def _accepted_factor(self, block: BlockBuilder, present: Node, h: Node) -> Node:
        """Return the bit pattern of the factor of an accepted step.

        Parameters
        ----------
        block : BlockBuilder
        present : Node
            Bit pattern of the squared error of the step, minus that of 1.
        h : Node
            Length of the step.
        """
        s, k = self.settings, self._divisor
        safety = level(s.safety, s.precision)
        if s.kind == "gustafsson":
            elementary = block.let("elementary", (-1.0 / k) * present + safety)
            trend = (1.0 / k) * (load("step_control", 1) - present)
            predicted = trend + (pattern(h) - pattern(load("step_control", 2))) + elementary
            factor = minimum(elementary, predicted)
        else:
            gains = s.gains[: MEMORY[s.kind]]
            factor = (-gains[0] / k) * present + safety
            for past, gain in enumerate(gains[1:], start=1):
                factor = (-gain / k) * load("step_control", past) + factor
        return minimum(factor, const(level(s.max_factor, s.precision)))
