"""Step controllers: how the next step size follows from the error estimate."""

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

#: Where the tolerances start in the run-time settings: before them come the first step, the
#: smallest and largest step and the step limit; then rtol and atol of every state.
SETTINGS = 4
DT, DT_MIN, DT_MAX, MAX_STEPS = range(SETTINGS)

#: Distance from 1 to the next number.
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}

#: Controller kinds, by how many values they remember.
MEMORY = {"fixed": 0, "i": 1, "pi": 2, "pid": 3, "gustafsson": 3}


def bits_of_one(precision: str) -> int:
    """Return the bit pattern of 1.0."""
    if precision == "float32":
        return int(struct.unpack("<i", struct.pack("<f", 1.0))[0])
    return int(struct.unpack("<q", struct.pack("<d", 1.0))[0])


def _octave(precision: str) -> float:
    """Return by how much the bit pattern of a float grows when it doubles."""
    return 2.0**23 if precision == "float32" else 2.0**52


def level(factor: float, precision: str) -> float:
    """Return the bit pattern of a factor as if that were the logarithm, see `pattern`."""
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
    """Return ``1/x`` within 0.03 % for positive, normal `x`; for 0 and NaN what is not finite.

    The bit pattern of ``1/x`` is nearly a constant less that of ``x``; two steps of Newton's
    method square the error of 12 % twice. Much faster than a division that rounds correctly.
    H. S. Warren, Hacker's Delight, 2nd edition, section 17-4.
    """
    guess = 0x7EF311C7 if precision == "float32" else 0x7FDE623822FC16E6
    found = from_bits(isub(integer(guess), bits(x)))
    for _ in range(2):
        found = (1.0 - x * found) * found + found
    return found


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
    """Owns the step size and the errors it remembers.

    Buffer ``step_control`` holds the proposed step and the logarithms (bit patterns above that
    of 1) of the squared errors of the last two accepted steps; for ``gustafsson`` of one of
    them, and the step before.
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
        """Start with step `dt` and no remembered error."""
        size = max(1, MEMORY[self.settings.kind])
        values = [dt] + [const(0.0)] * (size - 1)
        if self.settings.kind == "gustafsson":
            values[2] = dt
        block.assign([("step_control", i) for i in range(size)], values)

    def follow(self, block: BlockBuilder, length: Node) -> None:
        """Expect the step `length` next."""
        block.assign([("step_control", 0)], [length])

    def hold(self, block: BlockBuilder) -> list[Node]:
        """Return all that is remembered, to be restored after `advance`."""
        size = max(1, MEMORY[self.settings.kind])
        return [block.let(f"held_{i}", load("step_control", i)) for i in range(size)]

    def restore(self, block: BlockBuilder, lanes: Node, held: Sequence[Node]) -> None:
        """Take `advance` back in some lanes."""
        block.assign(
            [("step_control", i) for i in range(len(held))],
            [where(lanes, old, load("step_control", i)) for i, old in enumerate(held)],
        )

    def advance(
        self, block: BlockBuilder, error: Node, accept: Node, h: Node, last: Node, bounds: Node
    ) -> None:
        """Choose the next step.

        Parameters
        ----------
        error : Node
            Squared error norm, 1 at tolerance.
        accept, last : Node
            Whether the step is accepted and whether it was cut to end at a given time.
        h : Node
            Step just tried.
        bounds : Node
            Largest step allowed.
        """
        s = self.settings
        depth = MEMORY[s.kind]
        k = 2.0 * s.order  # errors are squared, hence the 2
        gains = s.gains[:depth]
        one, safety = bits_of_one(s.precision), level(s.safety, s.precision)

        # The factor is computed in the logarithmic domain of bit patterns: powers become
        # products, the safety factor a constant, and one conversion serves both outcomes.
        floor = const(1e-12 if s.precision == "float64" else 1e-8)
        usable = where(error < 1e20, maximum(error, floor), const(1e20))
        present = block.let("error_pattern", pattern(usable) - one)
        # After a rejection only the present error counts, and the step never grows.
        plain = minimum((-1.0 / k) * present + safety, const(level(0.9, s.precision)))
        if s.kind == "gustafsson":
            elementary = block.let("elementary", (-1.0 / k) * present + safety)
            trend = (1.0 / k) * (load("step_control", 1) - present)
            predicted = trend + (pattern(h) - pattern(load("step_control", 2))) + elementary
            filtered = minimum(elementary, predicted)
        else:
            filtered = (-gains[0] / k) * present + safety
            for past, gain in enumerate(gains[1:], start=1):
                filtered = (-gain / k) * load("step_control", past) + filtered
        filtered = minimum(filtered, const(level(s.max_factor, s.precision)))
        chosen = maximum(where(accept, filtered, plain), const(level(s.min_factor, s.precision)))
        scaled = block.let("scaled_step", h * from_bits(to_int(chosen)))
        # A step cut short to land on a time says little about the step that is possible.
        kept = logical_and(last, accept)
        scaled = where(kept, maximum(scaled, load("step_control", 0)), scaled)
        targets = [("step_control", 0)]
        values = [minimum(scaled, bounds)]
        if depth > 1:
            targets.append(("step_control", 1))
            values.append(where(accept, present, load("step_control", 1)))
        if s.kind == "gustafsson":
            targets.append(("step_control", 2))
            values.append(where(accept, h, load("step_control", 2)))
        elif depth > 2:
            targets.append(("step_control", 2))
            values.append(where(accept, load("step_control", 1), load("step_control", 2)))
        block.assign(targets, values)
