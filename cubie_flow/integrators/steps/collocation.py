"""Fully implicit Runge-Kutta steps, decoupled by the eigenvectors of the method."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import (
    Node,
    compare,
    const,
    fabs,
    load,
    logical_and,
    where,
)
from cubie_flow.integrators.steps.base import combined
from cubie_flow.integrators.steps.implicit import ImplicitStep
from cubie_flow.integrators.steps.linear import LinearSolver
from cubie_flow.integrators.steps.newton import Newton, register_count, reset_count
from cubie_flow.memory import buffer_registry

_ITERATIONS = 10
# Starting values of the iteration: zero, extrapolated from the previous step, or interpolated from
# the rejected attempt.
_ZERO, _AHEAD, _INSIDE = 0.0, 1.0, 2.0
# Ratio of step lengths from which on nothing is extrapolated.
_FARTHEST = 6.0


class CollocationStep(ImplicitStep):
    """One step of a Radau or Gauss method.

    The stages ``z_i = Y_i - y`` are iterated as ``w = T^-1 z``, with one real system for every real
    eigenvalue of ``A^-1`` and one of twice the size for every complex pair (Hairer and Wanner,
    Solving ODEs II, section IV.8).

    The iteration starts from the collocation polynomial: that of the previous step, extrapolated,
    or that of the rejected attempt, interpolated.

    Buffers: ``stage_increments`` (the z_i, then the derivative at the end), ``start_values``
    (the kind of starting values, and the step of the z_i), ``transformed`` (w),
    ``stage_derivatives``, ``residual``, ``correction``, ``stage_state``, ``proposed_state``.
    """

    def arrange_children(self) -> None:
        for number in range(len(self.method.inverse_real)):
            self.adopt_solver(_name("linear_solver", number), False, _prefix("", number))
        for number in range(len(self.method.inverse_pairs)):
            self.adopt_solver(_name("pair_solver", number), True, _prefix("pair_", number))

    def register_buffers(self) -> None:
        s = self.settings
        n, stages = s.states, len(self.method.b)
        register_count(self, s.precision)
        for name, size in (("stage_increments", (stages + 1) * n), ("start_values", 2)):
            buffer_registry.register(name, self, size, "local", s.precision, persistent=True)
        for name in ("transformed", "stage_derivatives", "residual", "correction"):
            buffer_registry.register(name, self, stages * n, self.scratch, s.precision)
        for name in ("stage_state", "proposed_state"):
            buffer_registry.register(name, self, n, self.scratch, s.precision)

    def shift(self) -> float:
        return float((*self.method.inverse_real, *self.method.inverse_pairs[0])[0])

    def _at(self, buffer: str) -> _Rows:
        return _Rows(buffer, self.settings.states)

    def _systems(self) -> list[tuple[LinearSolver, int, float, float | None]]:
        """Return the solver, first row and shifts, for a step of length 1, of every system."""
        method = self.method
        systems: list[tuple[Any, int, float, float | None]] = []
        row = 0
        for number, real in enumerate(method.inverse_real):
            solver = self.children[_name("linear_solver", number)]
            systems.append((solver, row, float(real), None))
            row += 1
        for number, (alpha, beta) in enumerate(method.inverse_pairs):
            solver = self.children[_name("pair_solver", number)]
            systems.append((solver, row, float(alpha), float(beta)))
            row += 2
        return systems

    def attempt(self, block: BlockBuilder, h: Node, t: Node, active: Node) -> None:
        s, method = self.settings, self.method
        n, stages = s.states, len(method.b)
        per_step = block.let("per_step", 1.0 / h)
        shifts: list[tuple[Node, Node | None]] = []
        self.look_up_base(block, "state", t)
        for number, (solver, _, c, d) in enumerate(self._systems()):
            first = block.let(f"shift_{number}", c * per_step)
            second = None if d is None else block.let(f"shift_imaginary_{number}", d * per_step)
            shifts.append((first, second))
            solver.prepare(block, "state", t, first, second)
        self._write_start(block, h)
        newton = Newton(block, active, _ITERATIONS, self.settings.precision)
        with newton.iterate():
            self._iteration(block, newton, h, t, shifts)
        if method.a[-1] == method.b:
            end: Node | None = self._row(stages - 1)
        else:
            end = combined(_end_weights(method.a, method.b), self._row)
        assert end is not None
        block.sweep(n, {"proposed_state": end + load("state", 0, 1)})
        self.evaluate(block, "proposed_state", self.end_element, h + t)

    def reset(self, block: BlockBuilder, dt: Node) -> None:
        reset_count(block)
        block.assign([("start_values", 0)], [const(_ZERO)])

    def advance(
        self, block: BlockBuilder, error: Node, ok: Node, accept: Node, h: Node, last: Node,
        bounds: Node,
    ) -> None:  # fmt: skip
        failed = load("newton_failed", 0, kind="bool")
        rejected = where(failed, const(_ZERO), const(_INSIDE))
        block.assign(
            [("start_values", 0), ("start_values", 1)],
            [where(accept, const(_AHEAD), rejected), h],
        )

    def _write_start(self, block: BlockBuilder, h: Node) -> None:
        """Write the starting values of the iteration."""
        method, n = self.method, self.settings.states
        stages = len(method.b)
        kind = load("start_values", 0)
        ahead = block.let("ahead", compare("==", kind, _AHEAD))
        # Far outside the previous step its polynomial is not accurate.
        ratio = block.let("step_ratio", h / load("start_values", 1))
        usable = logical_and(compare("!=", kind, _ZERO), compare("<", ratio, _FARTHEST))
        usable = block.let("usable", usable)
        self._write_start_weights(block, ratio, ahead, usable)
        targets = []
        for i in range(stages):
            value: Node = const(0.0)
            for j in range(stages):
                # For starting values of zero the rows may hold NaN.
                row = where(usable, self._row(j), const(0.0))
                value = load(f"start_{i}_{j}", 0) * row + value
            targets.append(("stage_increments", i * n, 1, value))
        block.sweep(n, targets)
        self._transform(block, "transformed", method.transform_inverse, self._row)

    def _write_start_weights(
        self, block: BlockBuilder, ratio: Node, ahead: Node, usable: Node
    ) -> None:
        """Write the weights of the old stages in the starting values of the new ones."""
        method = self.method
        ends = [sum(weights) for weights in method.dense.weights]
        for i in range(len(method.b)):
            theta = method.c[i] * ratio
            theta = block.let("start_theta", where(ahead, theta + 1.0, theta))
            for j, weights in enumerate(method.dense.weights):
                total: Node = const(0.0)
                for weight in reversed(weights):
                    total = (total + weight) * theta
                moved = total - where(ahead, const(ends[j]), const(0.0))
                block.assign([(f"start_{i}_{j}", 0)], [where(usable, moved, const(0.0))])

    def _transform(
        self, block: BlockBuilder, target: str, matrix: Sequence[Sequence[float]], rows: Any
    ) -> None:
        """Write the products of a matrix with the rows of all stages."""
        products = []
        for i, weights in enumerate(matrix):
            total = combined(weights, rows)
            assert total is not None
            products.append((target, i * self.settings.states, 1, total))
        block.sweep(self.settings.states, products)

    def _iteration(
        self, block: BlockBuilder, newton: Newton, h: Node, t: Node,
        shifts: list[tuple[Node, Node | None]],
    ) -> None:  # fmt: skip
        """Write one Newton iteration of all stages."""
        method, n = self.method, self.settings.states
        stages = len(method.b)
        w, correction = self._at("transformed"), self._at("correction")
        self._solve_systems(block, h, t, shifts)
        block.assign([("newton_square", 0)], [const(0.0)])
        going = newton.going
        scale = self.weight(fabs(load("state", 0, 1)))
        square = load("newton_square", 0)
        for stage in range(stages):
            ratio = correction(stage) * scale
            square = ratio * ratio + square
        moves = [
            ("transformed", stage * n, 1, where(going, w(stage) + correction(stage), w(stage)))
            for stage in range(stages)
        ]
        block.sweep(n, [("newton_square", 0, 0, square), *moves])
        self._transform(block, "stage_increments", method.transform, w)
        newton.check(load("newton_square", 0) * (self.mean / stages))

    def _solve_systems(
        self, block: BlockBuilder, h: Node, t: Node, shifts: list[tuple[Node, Node | None]]
    ) -> None:
        """Write the corrections of the transformed stages."""
        method, n = self.method, self.settings.states
        w, slopes = self._at("transformed"), self._at("stage_derivatives")
        for stage in range(len(method.b)):
            block.sweep(n, {"stage_state": self._row(stage) + load("state", 0, 1)})
            target = ("stage_derivatives", stage * n)
            self.evaluate(block, "stage_state", target, method.c[stage] * h + t)
        for (solver, row, _, _), (c, d) in zip(self._systems(), shifts, strict=True):
            rows = [row] if d is None else [row, row + 1]
            products = [c * w(row)]
            if d is not None:
                products = [c * w(row) - d * w(row + 1), d * w(row) + c * w(row + 1)]
            for one, product in zip(rows, products, strict=True):
                total = combined(method.transform_inverse[one], slopes)
                assert total is not None
                self.sweep_mass(block, "residual", total, total - product, one * n)
            first = row * n
            solver.solve(block, ("residual", first), ("correction", first), "state", t, c, d)

    @property
    def end_element(self) -> tuple[str, int]:
        return "stage_increments", len(self.method.b) * self.settings.states

    def unconverged(self) -> list[Node]:
        return [*super().unconverged(), load("newton_failed", 0, kind="bool")]

    @property
    def evaluations(self) -> tuple[int, int]:
        return 1, len(self.method.b)

    def estimate(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        # (gamma0/h*M - J)^-1 (f + M*sum(e_i*z_i)/h): Hairer and Wanner, eq. IV.8.19. A method
        # without a real eigenvalue is filtered by its pair's matrix instead.
        n, slope = self.settings.states, load("derivative", 0, 1)
        total = combined(self.method.error, self._row)
        assert total is not None
        self.sweep_mass(block, "residual", slope, load("per_step", 0) * total + slope)
        solver, _, _, second = self._systems()[0]
        c = load("shift_0", 0)
        if second is None:
            solver.solve(block, ("residual", 0), ("correction", 0), "state", t, c)
        else:
            block.sweep(n, [("residual", n, 1, const(0.0))])
            d = load("shift_imaginary_0", 0)
            solver.solve(block, ("residual", 0), ("correction", 0), "state", t, c, d)
        return load("correction", 0, 1)

    def interpolate(self, block: BlockBuilder, theta: Node, h: Node) -> Node:
        total = self.polynomial(block, theta, self._row)
        assert total is not None
        return total + load("previous_state", 0, 1)


class _Rows:
    """Rows of a buffer, at the element of a sweep."""

    def __init__(self, buffer: str, n: int) -> None:
        self.buffer, self.n = buffer, n

    def __call__(self, row: int) -> Node:
        return load(self.buffer, row * self.n, 1)


def _name(kind: str, number: int) -> str:
    return kind if number == 0 else f"{kind}_{number}"


def _prefix(kind: str, number: int) -> str:
    return kind if number == 0 else f"{kind}{number}_"


def _end_weights(a: Sequence[Sequence[float]], b: Sequence[float]) -> list[float]:
    """Return ``b A^-1``, rounded once."""
    n = len(b)
    matrix = [[Fraction(a[i][j]) for i in range(n)] + [Fraction(b[j])] for j in range(n)]
    for k in range(n):
        pivot = next(i for i in range(k, n) if matrix[i][k])
        matrix[k], matrix[pivot] = matrix[pivot], matrix[k]
        for i in range(n):
            if i != k:
                factor = matrix[i][k] / matrix[k][k]
                matrix[i] = [x - factor * y for x, y in zip(matrix[i], matrix[k], strict=True)]
    return [float(matrix[k][n] / matrix[k][k]) for k in range(n)]
