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
# A step that is cut to a smaller part of the step than this is no new point of the history.
_SLIVER = 0.25
# By how much a step may grow behind one that was cut and is a point of the history.
_REGROWTH = 2.0
# Steps that differ by no more than this part count as equal.
_ALIKE = 0.01
# Elements of the buffer `history_control`.
ORDER, STEP, EQUAL, COVERED, CONTROL = range(5)


class MultistepStep(ImplicitStep):
    """One step of the numerical differentiation formulas, quasi-constant in step size.

    When the step changes, the differences are interpolated to the new one (Shampine and
    Reichelt, The MATLAB ODE suite, 1997, section 2.1).

    A step that is much shorter than the last ones, because it ends at a given time or at an event,
    solves the same formula with the differences interpolated to it, but leaves the history its
    spacing: the differences move along the polynomial that they are. As points of the history such
    steps would bring in the rounding of the state, which the way back to a long step multiplies by
    a power of the ratio of both. When they have covered enough time together, they become a point.

    Buffers: ``history`` (the backward differences, two rows more than the highest order and the
    state), ``history_control`` (order, step of the differences, steps since it changed, time since
    the last point), ``offset`` (by how much the state has left the polynomial since then),
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
        keep("offset", n)
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
        block.sweep(n, {"offset": zero})
        values = {ORDER: const(1.0), STEP: dt, EQUAL: zero, COVERED: zero}
        block.assign([("history_control", i) for i in values], list(values.values()))

    def _spread(self, factor: Node) -> dict[tuple[int, int], Node]:
        """Return what difference `i` contributes to difference `j` at `factor` times the step.

        The differences at the new step are powers of ``1 - (1 - D)**factor``, whose series has
        only positive terms where the step becomes shorter: no digits are lost, however short.
        """
        top = self.method.order
        series = [factor]
        for i in range(2, top + 1):
            series.append(series[-1] * ((float(i - 1) - factor) * (1.0 / i)))
        found = {(i, 1): series[i - 1] for i in range(1, top + 1)}
        for j in range(2, top + 1):
            for i in range(j, top + 1):
                total: Node = const(0.0)
                for m in range(1, i - j + 2):
                    total = series[m - 1] * found[i - m, j - 1] + total
                found[i, j] = total
        return found

    def _rescale(self, block: BlockBuilder, step: Node, active: Node) -> None:
        """Interpolate the differences to another step."""
        n, top = self.settings.states, self.method.order
        before = load("history_control", STEP)
        changed = block.let("rescaled", logical_and(active, compare("!=", step, before)))
        with block.when(changed):
            factor = block.let("rescale", where(changed, step / before, const(1.0)))
            spread = self._spread(factor)
            block.assign([(f"turn_{i}_{j}", 0) for i, j in spread], list(spread.values()))
            targets = []
            for j in range(1, top + 1):
                total: Node = const(0.0)
                for i in range(j, top + 1):
                    weight = where(self._used(i), load(f"turn_{i}_{j}", 0), const(0.0))
                    total = weight * self._row(i) + total
                touched = logical_and(changed, self._used(j))
                targets.append(("history", j * n, 1, where(touched, total, self._row(j))))
            block.sweep(n, targets)
            equal = load("history_control", EQUAL)
            other = logical_and(changed, compare(">", fabs(factor - 1.0), _ALIKE))
            block.assign(
                [("history_control", EQUAL), ("history_control", STEP)],
                [where(other, const(0.0), equal), where(changed, step, before)],
            )

    def _weigh(self, block: BlockBuilder, share: Node) -> None:
        """Write the weights of the differences in a step that is a part of their spacing."""
        method = self.method
        orders = range(1, method.order + 1)
        block.assign(
            [(f"ahead_{j}", 0) for j in orders] + [(f"slope_{j}", 0) for j in orders],
            [const(1.0)] * method.order + [const(method.gamma[j]) for j in orders],
        )
        part = block.let("partial", logical_not(compare("==", share, 1.0)))
        with block.when(part):
            spread = self._spread(share)
            power: Node = const(1.0)
            for j in orders:
                power = power * ((share + float(j - 1)) * (1.0 / j))
                slope: Node = const(0.0)
                for m in range(1, j + 1):
                    slope = const(method.gamma[m]) * spread[j, m] + slope
                block.assign(
                    [(f"ahead_{j}", 0), (f"slope_{j}", 0)],
                    [
                        where(part, power, load(f"ahead_{j}", 0)),
                        where(part, slope, load(f"slope_{j}", 0)),
                    ],
                )

    def attempt(self, block: BlockBuilder, h: Node, t: Node, active: Node) -> None:
        n, method = self.settings.states, self.method
        top = method.order
        covered = h + load("history_control", COVERED)
        usual = minimum(load("step_control", 0), load("history_control", STEP))
        sliver = block.let("sliver", compare("<", covered, _SLIVER * usual))
        spacing = where(sliver, load("history_control", STEP), covered)
        spacing = block.let("spacing", spacing)
        self._rescale(block, spacing, active)
        self._weigh(block, block.let("share", h / spacing))
        shift = block.let("shift", self._of_order(method.alpha) / h)
        per_step = block.let("per_step", 1.0 / h)
        used = [block.let(f"used_{j}", where(self._used(j), const(1.0), const(0.0)))
                for j in range(1, top + 1)]  # fmt: skip
        predicted, weighted = self._row(0), const(0.0)
        for j, factor in enumerate(used, start=1):
            part = factor * self._row(j)
            predicted = load(f"ahead_{j}", 0) * part + predicted
            weighted = load(f"slope_{j}", 0) * part + weighted
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

    def unconverged(self) -> list[Node]:
        return [*super().unconverged(), load("newton_failed", 0, kind="bool")]

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
        orders = range(1, top + 1)
        at = {k: compare("==", self._order, float(k)) for k in orders}
        sliver = load("sliver", 0, kind="bool")
        taken = block.let("taken", logical_and(accept, logical_not(sliver)))
        left = block.let("left_over", where(taken, zero, where(accept, const(1.0), zero)))
        new = self._followed(d, sliver)
        block.sweep(
            n,
            [("history", j * n, 1, where(accept, new[j], self._row(j))) for j in range(top + 3)]
            + [
                (
                    "offset",
                    0,
                    1,
                    where(accept, left * (load("offset", 0, 1) + d), load("offset", 0, 1)),
                )
            ],
        )
        covered = load("history_control", COVERED)
        covered = where(accept, left * (h + covered), covered)
        equal = load("history_control", EQUAL) + 1.0
        equal = block.let("equal_steps", where(taken, equal, load("history_control", EQUAL)))

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
        settled = logical_and(taken, compare(">", equal, order))
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
        # Towards the step before it goes in steps that the history can follow.
        kept = load("step_control", 0)
        kept = where(sliver, kept, minimum(kept, _REGROWTH * load("spacing", 0)))
        kept = where(last, maximum(h, kept), h)
        after = where(settled, h * scale, kept)
        after = where(logical_and(settled, last), maximum(after, load("step_control", 0)), after)
        after = where(accept, after, where(ok, load("step_control", 0), h * cut))
        moved = logical_and(settled, logical_not(compare("==", scale, 1.0)))
        block.assign(
            [
                ("step_control", 0), ("history_control", ORDER), ("history_control", EQUAL),
                ("history_control", COVERED),
            ],
            [
                minimum(after, bounds),
                where(settled, new_order, order),
                where(logical_and(settled, moved), zero, equal),
                covered,
            ],
        )  # fmt: skip

    def _followed(self, d: Node, sliver: Node) -> list[Node]:
        """Return the rows of the history behind an accepted step, at the element of a sweep."""
        top = self.method.order
        rows = [self._row(j) for j in range(top + 3)]
        parts = [load(f"used_{j}", 0) * rows[j] for j in range(1, top + 1)]
        away = load("offset", 0, 1) + d
        gain = where(sliver, const(0.0), away)
        found = []
        for j in range(top + 3):
            # The differences move to the end of the step, and gain what the new point differs.
            total = gain if j else d
            for m in reversed(range(1, top - j + 1)):
                total = load(f"ahead_{m}", 0) * parts[j + m - 1] + total
            total = rows[j] + total
            if j > 1:
                first = compare("==", self._order, float(j - 1))
                second = compare("==", self._order, float(j - 2))
                # Of the order and one and two above it.
                total = where(self._used(j), total, rows[j]) if j <= top else rows[j]
                fresh = where(sliver, rows[j], away)
                total = where(first, fresh, total)
                if j > 2:
                    total = where(second, where(sliver, rows[j], away - rows[j - 1]), total)
            found.append(total)
        return found

    def interpolate(self, block: BlockBuilder, theta: Node, h: Node) -> Node:
        # Newton's form through the last values, from the end of the step backwards.
        s = block.let("back", (theta - 1.0) * (h / load("history_control", STEP)))
        total: Node = self._row(0)
        weight: Node = const(1.0)
        for j in range(1, self.method.order + 1):
            weight = block.let(f"newton_{j}", weight * ((s + float(j - 1)) * (1.0 / j)))
            used = where(self._used(j), weight, const(0.0))
            used = block.let(f"newton_used_{j}", used)
            total = used * self._row(j) + total
        return total
