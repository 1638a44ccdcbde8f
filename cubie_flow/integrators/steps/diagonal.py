"""Diagonally implicit Runge-Kutta steps: one Newton iteration per stage."""

from __future__ import annotations

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import Node, const, fabs, load, where
from cubie_flow.integrators.steps.base import combined
from cubie_flow.integrators.steps.implicit import ImplicitStep
from cubie_flow.integrators.steps.newton import Newton, register_count, reset_count
from cubie_flow.memory import buffer_registry

_ITERATIONS = 8


class DiagonalStep(ImplicitStep):
    """One step of an SDIRK or ESDIRK method.

    A stage solves ``c*M*(u - base) = f(u)`` with ``c = 1/(h*gamma)``; its derivative is taken as
    ``c*(u - base)``, which errors of the iteration spoil less than f does (L. F. Shampine,
    Implementation of implicit formulas, SIAM J. Sci. Stat. Comput. 1, 103-118, 1980).

    Buffers: ``stage_increments`` (derivatives of the stages, then that of the end), ``stage_base``,
    ``stage_state``, ``stage_derivative``, ``residual``, ``correction``, ``proposed_state``.
    """

    def register_buffers(self) -> None:
        s = self.settings
        n = s.states
        register_count(self, s.precision)
        location = "local" if s.dense else self.scratch
        buffer_registry.register(
            "stage_increments", self, (len(self.method.b) + 1) * n, location, s.precision
        )
        for name in (
            "stage_base", "stage_state", "stage_derivative", "residual", "correction",
            "proposed_state",
        ):  # fmt: skip
            buffer_registry.register(name, self, n, self.scratch, s.precision)

    slopes = True

    def shift(self) -> float:
        return 1.0 / float(self.method.gamma)

    def attempt(self, block: BlockBuilder, h: Node, t: Node, active: Node) -> None:
        s, method = self.settings, self.method
        n = s.states
        c = block.let("shift", self.shift() / h)
        self.look_up_base(block, "state", t)
        self.linear_solver.prepare(block, "state", t, c, None)
        newton = Newton(block, active, _ITERATIONS, self.settings.precision)
        for stage in range(len(method.b)):
            row = stage * n
            if stage == 0:
                block.sweep(n, [("stage_increments", row, 1, load("derivative", 0, 1))])
                if method.explicit_first:
                    continue
            change = combined(method.a[stage][:stage], self._row)
            base = load("state", 0, 1) if change is None else h * change + load("state", 0, 1)
            block.sweep(n, {"stage_base": base})
            # The iteration starts from the slope of the previous stage.
            slope = self._row(max(0, stage - 1))
            reach = block.let("reach", h * float(method.gamma))
            block.sweep(n, {"stage_state": reach * slope + load("stage_base", 0, 1)})
            self._solve_stage(block, newton, method.c[stage] * h + t, t, c)
            moved = c * (load("stage_state", 0, 1) - load("stage_base", 0, 1))
            block.sweep(n, [("stage_increments", row, 1, moved)])
        if method.stiffly_accurate:
            block.sweep(n, {"proposed_state": load("stage_state", 0, 1)})
        else:
            change = combined(method.b, self._row)
            assert change is not None
            block.sweep(n, {"proposed_state": h * change + load("state", 0, 1)})
            if self._evaluates_end:
                self.evaluate(block, "proposed_state", self.end_element, h + t)

    @property
    def _evaluates_end(self) -> bool:
        """Whether the derivative at the end is evaluated, instead of taken from the last stage."""
        method = self.method
        return not method.stiffly_accurate and (method.explicit_first or self.settings.ends)

    def _solve_stage(
        self, block: BlockBuilder, newton: Newton, time: Node, t: Node, c: Node
    ) -> None:
        n = self.settings.states
        u = load("stage_state", 0, 1)
        with newton.iterate():
            self.evaluate(block, "stage_state", ("stage_derivative", 0), time)
            slope = load("stage_derivative", 0, 1)
            defect = c * (load("stage_base", 0, 1) - u) + slope
            self.sweep_mass(block, "residual", slope, defect)
            self.linear_solver.solve(block, ("residual", 0), ("correction", 0), "state", t, c)
            change = load("correction", 0, 1)
            ratio = change * self.weight(fabs(load("state", 0, 1)))
            block.assign([("newton_square", 0)], [const(0.0)])
            going = newton.going
            block.sweep(
                n,
                [
                    ("newton_square", 0, 0, ratio * ratio + load("newton_square", 0)),
                    ("stage_state", 0, 1, where(going, u + change, u)),
                ],
            )
            newton.check(load("newton_square", 0) * self.mean)

    @property
    def end_element(self) -> tuple[str, int]:
        last = len(self.method.b) - (0 if self._evaluates_end else 1)
        return "stage_increments", last * self.settings.states

    def reset(self, block: BlockBuilder, dt: Node) -> None:
        reset_count(block)

    def unconverged(self) -> list[Node]:
        return [*super().unconverged(), load("newton_failed", 0, kind="bool")]

    @property
    def evaluations(self) -> tuple[int, int]:
        return int(self._evaluates_end), 1

    def estimate(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        total = combined(self.method.error, self._row)
        assert total is not None
        if not self.method.filtered:
            return h * total
        # Filtered by the iteration matrix, so that stiff components do not blow it up
        # (M. E. Hosea and L. F. Shampine, Appl. Numer. Math. 20, 21-37, 1996).
        scaled = block.let("error_scale", h * load("shift", 0))
        self.sweep_mass(block, "residual", const(0.0), scaled * total)
        self.linear_solver.solve(
            block, ("residual", 0), ("correction", 0), "state", t, load("shift", 0)
        )
        return load("correction", 0, 1)

    def interpolate(self, block: BlockBuilder, theta: Node, h: Node) -> Node:
        total = self.polynomial(block, theta, self._row)
        assert total is not None
        return h * total + load("previous_state", 0, 1)
