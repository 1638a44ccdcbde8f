"""Explicit Runge-Kutta steps, as statements of a block."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen, validators

from cubie_flow.errors import one_of
from cubie_flow.expressions.block import UNROLL_LIMIT, BlockBuilder, Function
from cubie_flow.expressions.graph import Node, compare, const, fabs, load, maximum, where
from cubie_flow.integrators.controllers import SETTINGS
from cubie_flow.integrators.tableaus import Tableau, tableau
from cubie_flow.memory import CUDAFactory, buffer_registry


@frozen
class StepSettings:
    """Compile-time choices of a step: method, size, precision, and whether it interpolates."""

    algorithm: str = "tsit5"
    states: int = field(default=1, validator=validators.ge(1))
    precision: str = field(default="float64", validator=one_of("float32", "float64"))
    dense: bool = False


class ExplicitStep(CUDAFactory[StepSettings]):
    """One step of an explicit Runge-Kutta method.

    Buffers: ``stage_increments`` (one row of derivatives a stage, then that of the end point,
    then those that only dense output needs), ``stage_state`` (argument of a stage) and
    ``proposed_state``. ``state`` and ``derivative`` belong to the loop.
    """

    @property
    def tableau(self) -> Tableau:
        """The method."""
        return tableau(self.settings.algorithm)

    def register_buffers(self) -> None:
        s = self.settings
        n, method = s.states, self.tableau
        rows = len(method.b) + 1
        if s.dense and method.dense is not None:
            rows += len(method.dense.extra_a)
        scratch = "register" if n <= UNROLL_LIMIT else "local"
        # Increments outlive the attempt when a sample is interpolated from them.
        kept = "local" if s.dense else scratch
        registered = [
            ("stage_increments", rows * n, kept),
            ("stage_state", n, scratch),
            ("proposed_state", n, scratch),
        ]
        for name, size, location in registered:
            buffer_registry.register(name, self, size, location, s.precision)

    def build(self) -> Tableau:
        return self.tableau

    def increment(self, stage: int) -> Node:
        """Return the derivative of a stage at the element of a sweep."""
        if stage == 0:
            return load("derivative", 0, 1)
        return load("stage_increments", stage * self.settings.states, 1)

    def combine(self, weights: Sequence[float], start: str, h: Node, dense: bool = False) -> Node:
        """Return ``start + h * sum(weights * increments)`` at the element of a sweep."""
        return self._fold(weights, dense, load(start, 0, 1), h)

    def _fold(self, weights: Sequence[float], dense: bool, start: Node, h: Node) -> Node:
        total: Node | None = None
        for stage, weight in enumerate(weights):
            if weight == 0.0:
                continue
            row = stage * self.settings.states
            k = load("stage_increments", row, 1) if dense else self.increment(stage)
            total = const(weight) * k if total is None else const(weight) * k + total
        return start if total is None else h * total + start

    def attempt(self, block: BlockBuilder, rhs: Function, h: Node, t: Node) -> None:
        """Write ``proposed_state`` and the derivatives of all stages and of the end point."""
        s, method = self.settings, self.tableau
        n = s.states
        if s.dense:
            block.sweep(n, {"stage_increments": load("derivative", 0, 1)})
        for stage in range(1, len(method.b)):
            block.sweep(n, {"stage_state": self.combine(method.a[stage], "state", h)})
            self._derivative(block, rhs, "stage_state", stage, method.c[stage] * h + t)
        block.sweep(n, {"proposed_state": self.combine(method.b, "state", h)})
        self._derivative(block, rhs, "proposed_state", len(method.b), h + t)

    def _derivative(
        self, block: BlockBuilder, rhs: Function, at: str, row: int, time: Node
    ) -> None:
        target = ("stage_increments", row * self.settings.states)
        arrays = {"u": (at, 0), "p": ("parameters", 0), "du": target}
        block.evaluate(rhs, arrays, t=time)

    @property
    def end_derivative(self) -> Node:
        """Derivative at the proposed state, at the element of a sweep."""
        return self.increment(len(self.tableau.b))

    def error(self, block: BlockBuilder, h: Node) -> Node:
        """Return the squared error norm, 1 at tolerance.

        The root mean square over states of error / (atol + rtol * max(abs(y), abs(y_new)))
        (Hairer, Norsett and Wanner, Solving ODEs I, eq. II.4.11).
        """
        s, method = self.settings, self.tableau
        n = s.states
        assert method.error is not None
        size = maximum(fabs(load("state", 0, 1)), fabs(load("proposed_state", 0, 1)))
        scale = load("settings", SETTINGS, 1) * size + load("settings", SETTINGS + n, 1)
        zero = const(0.0)

        def norm(name: str, weights: Sequence[float], factor: Node) -> Node:
            block.assign([(name, 0)], [zero])
            ratio = self._fold(weights, False, zero, factor) / scale
            block.sweep(n, [(name, 0, 0, ratio * ratio + load(name, 0))])
            return load(name, 0)

        square = norm("error_square", method.error, h)
        if method.error3 is not None:
            third = norm("error3_square", method.error3, h)
            bottom = block.let("error_mix", square + 0.01 * third)
            # err5**2 / sqrt(err5**2 + 0.01*err3**2), squared (Hairer's DOP853).
            mixed = square * (square / bottom) / n
            return block.let("error", where(compare("==", bottom, 0.0), const(0.0), mixed))
        return block.let("error", square * (1.0 / n))

    def densify(self, block: BlockBuilder, rhs: Function, h: Node, t: Node) -> None:
        """Write the derivatives that only dense output needs, for the step just accepted."""
        method, n = self.tableau, self.settings.states
        assert method.dense is not None
        first = len(method.b) + 1
        for extra, (row, c) in enumerate(
            zip(method.dense.extra_a, method.dense.extra_c, strict=True)
        ):
            block.sweep(n, {"stage_state": self.combine(row, "previous_state", h, dense=True)})
            self._derivative(block, rhs, "stage_state", first + extra, c * h + t)

    def interpolate(self, block: BlockBuilder, theta: Node, h: Node) -> Node:
        """Return the state at ``theta`` of the last step, at the element of a sweep."""
        dense = self.tableau.dense
        assert dense is not None
        total: Node | None = None
        for row, coefficients in enumerate(dense.weights):
            if not any(coefficients):
                continue
            weight: Node = const(0.0)
            for coefficient in reversed(coefficients):
                weight = (weight + coefficient) * theta
            weight = block.let(f"weight_{row}", weight)
            k = load("stage_increments", row * self.settings.states, 1)
            total = weight * k if total is None else weight * k + total
        assert total is not None
        return h * total + load("previous_state", 0, 1)
