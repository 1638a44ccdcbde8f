"""Rosenbrock steps: linearly implicit, with the exact Jacobian of every step."""

from __future__ import annotations

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import Node, const, load
from cubie_flow.integrators.steps.base import combined
from cubie_flow.integrators.steps.implicit import ImplicitStep
from cubie_flow.integrators.steps.linear import derivative_arrays, time_derivative
from cubie_flow.memory import buffer_registry


class RosenbrockStep(ImplicitStep):
    """One step of a Rosenbrock or Rosenbrock-W method.

    It has the form without matrix products of Hairer and Wanner, Solving ODEs II, section IV.7:
    ``(M/(h*gamma) - J) u_i = f(t + c_i*h, y + sum a_ij*u_j) + M sum (C_ij/h)*u_j + h*g_i*df/dt``.

    Buffers: ``stage_increments`` (the u_i, then the derivative at the end), ``stage_state``,
    ``stage_derivative``, ``residual``, ``time_slope`` and ``proposed_state``.
    """

    def register_buffers(self) -> None:
        s = self.settings
        n = s.states
        scratch = self.scratch
        registered = [
            ("stage_increments", (len(self.method.b) + 1) * n, "local" if s.dense else scratch),
            ("stage_state", n, scratch),
            ("stage_derivative", n, scratch),
            ("residual", n, scratch),
            ("proposed_state", n, scratch),
        ]
        if s.mass:
            registered.append(("correction", n, scratch))
        if time_derivative(s.rhs) is not None:
            registered.append(("time_slope", n, scratch))
        for name, size, location in registered:
            buffer_registry.register(name, self, size, location, s.precision)

    def shift(self) -> float:
        return 1.0 / float(self.method.gamma)

    def attempt(self, block: BlockBuilder, h: Node, t: Node, active: Node) -> None:
        s, method = self.settings, self.method
        n = s.states
        per_step = block.let("per_step", 1.0 / h)
        shift = block.let("shift", self.shift() * per_step)
        self.look_up_base(block, "state", t)
        self.linear_solver.prepare(block, "state", t, shift, None)
        slope = time_derivative(s.rhs)
        if slope is not None:
            arrays = {**derivative_arrays(s.rhs, "state"), "dt": ("time_slope", 0)}
            block.evaluate(slope, arrays, t=t)
        for stage in range(len(method.b)):
            start = load("derivative", 0, 1)
            if stage:
                change = combined(method.a[stage], self._row)
                here = load("state", 0, 1) if change is None else change + load("state", 0, 1)
                block.sweep(n, {"stage_state": here})
                time = method.c[stage] * h + t
                self.evaluate(block, "stage_state", ("stage_derivative", 0), time)
                start = load("stage_derivative", 0, 1)
            if slope is not None and method.time_weights[stage] != 0.0:
                weight = block.let("time_weight", method.time_weights[stage] * h)
                start = weight * load("time_slope", 0, 1) + start
            coupled = combined(method.coupling[stage], self._row)
            self.sweep_mass(
                block,
                "residual",
                start,
                start if coupled is None else per_step * coupled + start,
            )
            result = ("stage_increments", stage * n)
            self.linear_solver.solve(block, ("residual", 0), result, "state", t, shift)
        change = combined(method.b, self._row)
        assert change is not None
        block.sweep(n, {"proposed_state": change + load("state", 0, 1)})
        self.evaluate(block, "proposed_state", self.end_element, h + t)

    @property
    def end_element(self) -> tuple[str, int]:
        return "stage_increments", len(self.method.b) * self.settings.states

    @property
    def evaluations(self) -> tuple[int, int]:
        return len(self.method.b), 0

    def estimate(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        total = combined(self.method.error, self._row)
        total = const(0.0) if total is None else total
        return total + self._trapezoidal(block, h, t) if self.method.trapezoidal else total

    def _trapezoidal(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        """Return the filtered difference from the trapezoidal rule at the element of a sweep."""
        shift = load("shift", 0)
        slopes = 0.5 * (load("derivative", 0, 1) + self.end_derivative)
        change = load("proposed_state", 0, 1) - load("state", 0, 1)
        block.sweep(self.settings.states, {"residual": shift * (change - h * slopes)})
        target = ("stage_derivative", 0)
        self.linear_solver.solve(block, ("residual", 0), target, "state", t, shift)
        return load("stage_derivative", 0, 1)

    def interpolate(self, block: BlockBuilder, theta: Node, h: Node) -> Node:
        total = self.polynomial(block, theta, self._row)
        assert total is not None
        return total + load("previous_state", 0, 1)
