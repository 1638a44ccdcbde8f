"""Explicit Runge-Kutta steps."""

from __future__ import annotations

from collections.abc import Sequence

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import Node, compare, const, load, where
from cubie_flow.integrators.steps.base import Step, shared_factor
from cubie_flow.memory import buffer_registry

#: Number of fixed steps per batch, and largest number of stages of a method that takes batches;
#: measured in docs/lab-book.md.
BATCHED_STEPS, BATCHED_STAGES = 8, 8


class ExplicitStep(Step):
    """One step of an explicit Runge-Kutta method.

    Buffers: ``stage_increments`` (one row of derivatives per stage, then that of the end point,
    then those that only dense output needs), ``stage_state`` (argument of a stage) and
    ``proposed_state``.
    """

    def register_buffers(self) -> None:
        s = self.settings
        n = s.states
        rows = len(self.method.b) + 1
        if self.dense_output is not None:
            rows += len(self.dense_output.extra_a)
        scratch = self.scratch
        # Samples are interpolated from the increments after the attempt.
        increments = "local" if s.dense else scratch
        registered = [
            ("stage_increments", rows * n, increments),
            ("stage_state", n, scratch),
            ("proposed_state", n, scratch),
        ]
        for name, size, location in registered:
            buffer_registry.register(name, self, size, location, s.precision)

    def _increment(self, stage: int) -> Node:
        if stage == 0:
            return load("derivative", 0, 1)
        return self._row(stage)

    def _combine(self, weights: Sequence[float], start: str, h: Node, dense: bool = False) -> Node:
        """Return ``start + h * sum(weights * increments)`` at the element of a sweep."""
        first, total = shared_factor(weights, self._row if dense else self._increment)
        return load(start, 0, 1) if total is None else (first * h) * total + load(start, 0, 1)

    def attempt(self, block: BlockBuilder, h: Node, t: Node, active: Node) -> None:
        s, method = self.settings, self.method
        n = s.states
        if s.dense:
            block.sweep(n, {"stage_increments": load("derivative", 0, 1)})
        for stage in range(1, len(method.b)):
            block.sweep(n, {"stage_state": self._combine(method.a[stage], "state", h)})
            self.derivative(block, "stage_state", stage, method.c[stage] * h + t)
        block.sweep(n, {"proposed_state": self._combine(method.b, "state", h)})
        self.derivative(block, "proposed_state", len(method.b), h + t)

    @property
    def batched_steps(self) -> int:
        return BATCHED_STEPS if self.light and len(self.method.b) <= BATCHED_STAGES else 0

    @property
    def end_element(self) -> tuple[str, int]:
        return "stage_increments", len(self.method.b) * self.settings.states

    @property
    def evaluations(self) -> tuple[int, int]:
        return len(self.method.b), 0

    def estimate(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        return self._estimated(self.method.error, h)

    def _estimated(self, weights: Sequence[float], h: Node) -> Node:
        first, total = shared_factor(weights, self._increment)
        return const(0.0) if total is None else (first * h) * total

    def error(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        method = self.method
        if method.error3 is None:
            return super().error(block, h, t)
        square = self.norm(block, "error_square", self.estimate(block, h, t))
        third = self.norm(block, "error3_square", self._estimated(method.error3, h))
        bottom = block.let("error_mix", square + 0.01 * third)
        # err5**2 / sqrt(err5**2 + 0.01*err3**2), squared (Hairer's DOP853).
        mixed = square * (square / bottom) / self.settings.states
        return block.let("error", where(compare("==", bottom, 0.0), const(0.0), mixed))

    slopes = True

    def densify(self, block: BlockBuilder, h: Node, t: Node, start: str = "previous_state") -> None:
        dense, n = self.dense_output, self.settings.states
        assert dense is not None
        first = len(self.method.b) + 1
        for extra, (row, c) in enumerate(zip(dense.extra_a, dense.extra_c, strict=True)):
            block.sweep(n, {"stage_state": self._combine(row, start, h, dense=True)})
            self.derivative(block, "stage_state", first + extra, c * h + t)

    def interpolate(self, block: BlockBuilder, theta: Node, h: Node) -> Node:
        total = self.polynomial(block, theta, self._row)
        assert total is not None
        return h * total + load("previous_state", 0, 1)
