"""Multistep steps of variable order, every lane with an order and a history of its own."""

from __future__ import annotations

from collections.abc import Sequence

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import (
    Node,
    compare,
    const,
    fabs,
    load,
    logical_and,
    logical_not,
    maximum,
    minimum,
    where,
)
from cubie_flow.integrators.controllers import approximate_power
from cubie_flow.integrators.steps.implicit import ImplicitStep
from cubie_flow.integrators.steps.newton import Newton, keep_count, reset_count
from cubie_flow.integrators.tableaus import Dense
from cubie_flow.memory import buffer_registry

_ITERATIONS = 6
# Elements of the buffer `history_control`.
ORDER, STEP, EQUAL, CONTROL = range(4)


class MultistepStep(ImplicitStep):
    """One step of the numerical differentiation formulas, quasi-constant in step size.

    When the step changes, the differences are interpolated to the new one (Shampine and
    Reichelt, The MATLAB ODE suite, 1997, section 2.1).

    Buffers: ``history`` (the backward differences, two rows more than the highest order and the
    state), ``history_control`` (order, step of the differences, steps since it changed),
    ``increment`` (d), ``predicted``, ``weighted`` (sum of gamma_j*D_j), ``stage_increments``
    (the derivative at the end), ``stage_state``, ``stage_derivative``, ``residual``,
    ``correction`` and ``proposed_state``.
    """

    def register_buffers(self) -> None:
        s = self.settings
        n = s.states

        def keep(name: str, size: int) -> None:
            buffer_registry.register(name, self, size, "local", s.precision, persistent=True)

        keep_count(self, s.precision)
        keep("history", (self.method.order + 3) * n)
        keep("history_control", CONTROL)
        for name in (
            "increment", "predicted", "weighted", "stage_increments", "stage_state",
            "stage_derivative", "residual", "correction", "proposed_state",
        ):  # fmt: skip
            buffer_registry.register(name, self, n, self.scratch, s.precision)

    def shift(self) -> float:
        return 1.0

    @property
    def start_order(self) -> int:
        return 1

    @property
    def dense_output(self) -> Dense | None:
        return None

    @property
    def end_place(self) -> tuple[str, int]:
        return "stage_increments", 0

    def _row(self, j: int) -> Node:
        return load("history", j * self.settings.states, 1)

    @property
    def _order(self) -> Node:
        return load("history_control", ORDER)

    def _of_order(self, values: Sequence[float], ahead: int = 0) -> Node:
        """Return what belongs to the lane's order plus `ahead`; `values` begin at order 1."""
        found: Node = const(values[-1])
        for k in reversed(range(1, len(values))):
            found = where(compare("<=", self._order, float(k - ahead)), const(values[k - 1]), found)
        return found

    def _used(self, j: int) -> Node:
        """Return whether difference `j` belongs to the lane's order."""
        return compare(">=", self._order, float(j))

    def reset(self, block: BlockBuilder, dt: Node) -> None:
        reset_count(block)
        n, rows = self.settings.states, self.method.order + 3
        zero = const(0.0)
        start = [load("state", 0, 1), dt * load("derivative", 0, 1)] + [zero] * (rows - 2)
        block.sweep(n, [("history", j * n, 1, v) for j, v in enumerate(start)])
        values = {ORDER: const(1.0), STEP: dt, EQUAL: zero}
        block.assign([("history_control", i) for i in values], list(values.values()))

    def _rescale(self, block: BlockBuilder, h: Node, active: Node) -> None:
        """Interpolate the differences to step `h`."""
        n, top = self.settings.states, self.method.order
        before = load("history_control", STEP)
        changed = block.let("rescaled", logical_and(active, compare("!=", h, before)))
        with block.when(changed):
            # R and U of Shampine and Reichelt; both begin with a row of ones and, below it, a
            # column of zeros, so the leading part does not depend on the order.
            factor = block.let("rescale", where(changed, h / before, const(1.0)))
            entries: list[list[Node]] = [[const(1.0)] * (top + 1)]
            fixed: list[list[float]] = [[1.0] * (top + 1)]
            for i in range(1, top + 1):
                entries.append([
                    entries[-1][j] * ((float(i - 1) - factor * float(j)) * (1.0 / i))
                    for j in range(top + 1)
                ])  # fmt: skip
                fixed.append([fixed[-1][j] * (i - 1 - j) / i for j in range(top + 1)])
            product = {}
            for i in range(1, top + 1):
                for j in range(1, top + 1):
                    total: Node = const(0.0)
                    for k in range(1, j + 1):
                        total = entries[i][k] * fixed[k][j] + total
                    product[i, j] = total
            names = list(product)
            block.assign([(f"turn_{i}_{j}", 0) for i, j in names], [product[x] for x in names])
            targets = []
            for j in range(1, top + 1):
                total = const(0.0)
                for i in range(1, top + 1):
                    weight = where(self._used(i), load(f"turn_{i}_{j}", 0), const(0.0))
                    total = weight * self._row(i) + total
                touched = logical_and(changed, self._used(j))
                targets.append(("history", j * n, 1, where(touched, total, self._row(j))))
            block.sweep(n, targets)
            equal = load("history_control", EQUAL)
            block.assign(
                [("history_control", EQUAL), ("history_control", STEP)],
                [where(changed, const(0.0), equal), where(changed, h, before)],
            )

    def attempt(self, block: BlockBuilder, h: Node, t: Node, active: Node) -> None:
        n, method = self.settings.states, self.method
        top = method.order
        self._rescale(block, h, active)
        shift = block.let("shift", self._of_order(method.alpha) / h)
        per_step = block.let("per_step", 1.0 / h)
        used = [block.let(f"used_{j}", where(self._used(j), const(1.0), const(0.0)))
                for j in range(1, top + 1)]  # fmt: skip
        predicted, weighted = self._row(0), const(0.0)
        for j, factor in enumerate(used, start=1):
            part = factor * self._row(j)
            predicted = part + predicted
            weighted = const(method.gamma[j]) * part + weighted
        block.sweep(n, {"predicted": predicted, "weighted": weighted})
        block.sweep(n, {"stage_state": load("predicted", 0, 1), "increment": const(0.0)})
        self.linear_solver.prepare(block, "predicted", h + t, shift, None)
        newton = Newton(block, active, _ITERATIONS, self.settings.precision)
        d = load("increment", 0, 1)
        with newton.iterate():
            self.evaluate(block, "stage_state", ("stage_derivative", 0), h + t)
            slope = load("stage_derivative", 0, 1)
            defect = slope - (per_step * load("weighted", 0, 1) + shift * d)
            self.sweep_mass(block, "residual", slope, defect)
            self.linear_solver.solve(
                block, ("residual", 0), ("correction", 0), "predicted", h + t, shift
            )
            change = load("correction", 0, 1)
            going = newton.going
            ratio = change * self.weight(fabs(load("predicted", 0, 1)))
            block.assign([("newton_square", 0)], [const(0.0)])
            moved = where(going, d + change, d)
            block.sweep(
                n,
                [
                    ("newton_square", 0, 0, ratio * ratio + load("newton_square", 0)),
                    ("increment", 0, 1, moved),
                    ("stage_state", 0, 1, load("predicted", 0, 1) + moved),
                ],
            )
            newton.judge(load("newton_square", 0) * self.mean)
        end = per_step * load("weighted", 0, 1) + shift * d
        block.sweep(n, {"proposed_state": load("stage_state", 0, 1), "stage_increments": end})

    def trouble(self) -> list[Node]:
        return [*super().trouble(), load("newton_failed", 0, kind="bool")]

    @property
    def evaluations(self) -> tuple[int, int]:
        return 0, 1

    def estimate(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        weight = block.let("error_weight", self._of_order(self.method.errors))
        return weight * load("increment", 0, 1)

    def advance(
        self, block: BlockBuilder, error: Node, ok: Node, accept: Node, h: Node, last: Node,
        bounds: Node,
    ) -> None:  # fmt: skip
        """Take the step into the history and choose order and step of the next."""
        n, method = self.settings.states, self.method
        top = method.order
        d, zero = load("increment", 0, 1), const(0.0)
        rows = [self._row(j) for j in range(top + 3)]
        orders = range(1, top + 1)
        at = {k: compare("==", self._order, float(k)) for k in orders}
        new = list(rows)
        for k in orders:
            # D_(k+2) = d - D_(k+1), D_(k+1) = d, then each gains the next one.
            fresh = {k + 2: d - rows[k + 1], k + 1: d}
            total = d
            for j in reversed(range(k + 1)):
                total = rows[j] + total
                fresh[j] = total
            for j, node in fresh.items():
                new[j] = where(at[k], node, new[j])
        block.sweep(
            n, [("history", j * n, 1, where(accept, new[j], rows[j])) for j in range(top + 3)]
        )
        equal = load("history_control", EQUAL) + 1.0
        equal = block.let("equal_steps", where(accept, equal, load("history_control", EQUAL)))

        def chosen(ahead: int) -> Node:
            row: Node = zero
            for k in orders:
                row = where(at[k], self._row(k + ahead), row)
            weight = self._of_order(method.errors, ahead - 1)
            return weight * row

        # Of order k - 1 the error is its constant times D_k, of order k + 1 times D_(k+2).
        lower = block.let("error_lower", self.norm(block, "lower_square", chosen(0)) * self.mean)
        higher = block.let("error_higher", self.norm(block, "higher_square", chosen(2)) * self.mean)
        real = self.settings.precision

        def factor(square: Node, ahead: int) -> Node:
            size = maximum(minimum(square, const(1e20)), const(1e-20))
            found: Node = zero
            for k in orders:
                power = approximate_power(size, -0.5 / (k + 1 + ahead), real)
                found = where(at[k], power, found)
            return found

        same = block.let("factor_same", factor(error, 0))
        order = self._order
        down = where(compare(">", order, 1.0), factor(lower, -1), zero)
        up = where(compare("<", order, float(top)), factor(higher, 1), zero)
        down, up = block.let("factor_down", down), block.let("factor_up", up)
        best = block.let("factor_best", maximum(same, maximum(down, up)))
        settled = logical_and(accept, compare(">", equal, order))
        settled = block.let("settled", settled)
        raised = logical_and(compare(">", up, same), compare(">=", up, down))
        lowered = logical_and(compare(">", down, same), compare(">", down, up))
        new_order = where(raised, order + 1.0, where(lowered, order - 1.0, order))
        scale = const(method.safety) * best
        scale = minimum(maximum(scale, const(method.min_factor)), const(method.max_factor))
        # A step that could hardly grow is kept, with what is known of its differences.
        small = logical_and(compare(">", scale, 1.0), compare("<", scale, 1.2))
        scale = block.let("factor", where(small, const(1.0), scale))
        cut = maximum(minimum(const(method.safety) * same, const(0.9)), const(method.min_factor))
        # A step cut short to end on a time says nothing about the step that is possible.
        kept = where(last, maximum(h, load("step_control", 0)), h)
        after = where(settled, h * scale, kept)
        after = where(logical_and(settled, last), maximum(after, load("step_control", 0)), after)
        after = where(accept, after, where(ok, load("step_control", 0), h * cut))
        moved = logical_and(settled, logical_not(compare("==", scale, 1.0)))
        block.assign(
            [("step_control", 0), ("history_control", ORDER), ("history_control", EQUAL)],
            [
                minimum(after, bounds),
                where(settled, new_order, order),
                where(logical_and(settled, moved), zero, equal),
            ],
        )

    def interpolate(self, block: BlockBuilder, theta: Node, h: Node) -> Node:
        # Newton's form through the last values, from the end of the step backwards.
        s = block.let("back", theta - 1.0)
        total: Node = self._row(0)
        weight: Node = const(1.0)
        for j in range(1, self.method.order + 1):
            weight = block.let(f"newton_{j}", weight * ((s + float(j - 1)) * (1.0 / j)))
            used = where(self._used(j), weight, const(0.0))
            used = block.let(f"newton_used_{j}", used)
            total = used * self._row(j) + total
        return total
