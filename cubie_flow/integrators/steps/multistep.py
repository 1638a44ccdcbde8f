"""Multistep steps of variable order; every lane has its own order and history."""

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
from cubie_flow.integrators.steps.newton import Newton, register_count, reset_count
from cubie_flow.integrators.tableaus import Dense
from cubie_flow.memory import buffer_registry

_ITERATIONS = 6
# A step that is shortened below this part of the usual length does not add a point to the history.
_SLIVER = 0.25
# Largest growth of a step after a shortened one that added a point to the history.
_REGROWTH = 2.0
# Steps whose relative difference is at most this are equal.
_ALIKE = 0.01
# Elements of the buffer `history_control`.
ORDER, STEP, EQUAL, COVERED, CONTROL = range(5)


class MultistepStep(ImplicitStep):
    """One step of the numerical differentiation formulas, quasi-constant in step size.

    When the step changes, the differences are interpolated to the new step (Shampine and Reichelt,
    The MATLAB ODE suite, 1997, section 2.1).

    A step may be much shorter than the previous ones because it ends at a given time or at an
    event. It solves the same formula with the differences interpolated to it, but keeps the spacing
    of the history: the differences are shifted along the polynomial that they represent. If such a
    step added a point to the history, the rounding error of the state would enter the differences,
    and the return to a long step would multiply it by a power of the ratio of the steps. Several
    short steps add one point as soon as they have covered enough time together.

    Buffers: ``history`` (the state, then the backward differences up to two above the highest
    order), ``history_control`` (order, step of the differences, number of equal steps, time since
    the last point), ``offset`` (deviation of the state from the polynomial since then),
    ``increment`` (d), ``predicted``, ``weighted`` (sum of gamma_j*D_j), ``stage_increments``
    (the derivative at the end), ``stage_state``, ``stage_derivative``, ``residual``,
    ``correction`` and ``proposed_state``.
    """

    def register_buffers(self) -> None:
        s = self.settings
        n = s.states

        def keep(name: str, size: int) -> None:
            buffer_registry.register(name, self, size, "local", s.precision, persistent=True)

        register_count(self, s.precision)
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
    def end_element(self) -> tuple[str, int]:
        return "stage_increments", 0

    def _row(self, j: int) -> Node:
        return load("history", j * self.settings.states, 1)

    @property
    def _order(self) -> Node:
        return load("history_control", ORDER)

    def _of_order(self, values: Sequence[float], ahead: int = 0) -> Node:
        """Return the value for the order of the lane plus `ahead`; `values` begin at order 1."""
        value: Node = const(values[-1])
        for k in reversed(range(1, len(values))):
            value = where(compare("<=", self._order, float(k - ahead)), const(values[k - 1]), value)
        return value

    def _used(self, j: int) -> Node:
        """Return whether the order of the lane uses the difference `j`."""
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

    def _rescaling(self, factor: Node) -> dict[tuple[int, int], Node]:
        """Return the weights of difference i in j at `factor` times the step, by (i, j).

        The differences at the new step are powers of ``1 - (1 - D)**factor``. The series of this
        has only positive terms for a shorter step, so that no digits cancel.
        """
        top = self.method.order
        series = [factor]
        for i in range(2, top + 1):
            series.append(series[-1] * ((float(i - 1) - factor) * (1.0 / i)))
        weights = {(i, 1): series[i - 1] for i in range(1, top + 1)}
        for j in range(2, top + 1):
            for i in range(j, top + 1):
                total: Node = const(0.0)
                for m in range(1, i - j + 2):
                    total = series[m - 1] * weights[i - m, j - 1] + total
                weights[i, j] = total
        return weights

    def _rescale(self, block: BlockBuilder, step: Node, active: Node) -> None:
        """Write the differences interpolated to another step."""
        n, top = self.settings.states, self.method.order
        before = load("history_control", STEP)
        changed = block.let("rescaled", logical_and(active, compare("!=", step, before)))
        with block.when(changed):
            factor = block.let("rescale", where(changed, step / before, const(1.0)))
            weights = self._rescaling(factor)
            block.assign([(f"turn_{i}_{j}", 0) for i, j in weights], list(weights.values()))
            targets = []
            for j in range(1, top + 1):
                total: Node = const(0.0)
                for i in range(j, top + 1):
                    weight = where(self._used(i), load(f"turn_{i}_{j}", 0), const(0.0))
                    total = weight * self._row(i) + total
                replaced = logical_and(changed, self._used(j))
                targets.append(("history", j * n, 1, where(replaced, total, self._row(j))))
            block.sweep(n, targets)
            equal = load("history_control", EQUAL)
            other = logical_and(changed, compare(">", fabs(factor - 1.0), _ALIKE))
            block.assign(
                [("history_control", EQUAL), ("history_control", STEP)],
                [where(other, const(0.0), equal), where(changed, step, before)],
            )

    def _write_weights(self, block: BlockBuilder, share: Node) -> None:
        """Write the weights of the differences in a step; `share` is its part of their spacing."""
        method = self.method
        orders = range(1, method.order + 1)
        block.assign(
            [(f"ahead_{j}", 0) for j in orders] + [(f"slope_{j}", 0) for j in orders],
            [const(1.0)] * method.order + [const(method.gamma[j]) for j in orders],
        )
        part = block.let("partial", logical_not(compare("==", share, 1.0)))
        with block.when(part):
            weights = self._rescaling(share)
            power: Node = const(1.0)
            for j in orders:
                power = power * ((share + float(j - 1)) * (1.0 / j))
                slope: Node = const(0.0)
                for m in range(1, j + 1):
                    slope = const(method.gamma[m]) * weights[j, m] + slope
                block.assign(
                    [(f"ahead_{j}", 0), (f"slope_{j}", 0)],
                    [
                        where(part, power, load(f"ahead_{j}", 0)),
                        where(part, slope, load(f"slope_{j}", 0)),
                    ],
                )

    def attempt(self, block: BlockBuilder, h: Node, t: Node, active: Node) -> None:
        covered = h + load("history_control", COVERED)
        usual = minimum(load("step_control", 0), load("history_control", STEP))
        sliver = block.let("sliver", compare("<", covered, _SLIVER * usual))
        spacing = where(sliver, load("history_control", STEP), covered)
        spacing = block.let("spacing", spacing)
        self._rescale(block, spacing, active)
        self._write_weights(block, block.let("share", h / spacing))
        shift = block.let("shift", self._of_order(self.method.alpha) / h)
        per_step = block.let("per_step", 1.0 / h)
        self._predict(block)
        self.look_up_base(block, "predicted", h + t)
        self.linear_solver.prepare(block, "predicted", h + t, shift, None)
        newton = Newton(block, active, _ITERATIONS, self.settings.precision)
        with newton.iterate():
            self._iteration(block, newton, h + t, shift, per_step)
        end = per_step * load("weighted", 0, 1) + shift * load("increment", 0, 1)
        proposed = {"proposed_state": load("stage_state", 0, 1), "stage_increments": end}
        block.sweep(self.settings.states, proposed)

    def _predict(self, block: BlockBuilder) -> None:
        """Write the predicted state and the known part of its derivative, for every state."""
        n, top = self.settings.states, self.method.order
        used = [block.let(f"used_{j}", where(self._used(j), const(1.0), const(0.0)))
                for j in range(1, top + 1)]  # fmt: skip
        predicted, weighted = self._row(0), const(0.0)
        for j, factor in enumerate(used, start=1):
            part = factor * self._row(j)
            predicted = load(f"ahead_{j}", 0) * part + predicted
            weighted = load(f"slope_{j}", 0) * part + weighted
        block.sweep(n, {"predicted": predicted, "weighted": weighted})
        block.sweep(n, {"stage_state": load("predicted", 0, 1), "increment": const(0.0)})

    def _iteration(
        self, block: BlockBuilder, newton: Newton, time: Node, shift: Node, per_step: Node
    ) -> None:
        """Write one Newton iteration of the increment ``d``; `time` is the end of the step."""
        d = load("increment", 0, 1)
        self.evaluate(block, "stage_state", ("stage_derivative", 0), time)
        slope = load("stage_derivative", 0, 1)
        defect = slope - (per_step * load("weighted", 0, 1) + shift * d)
        self.sweep_mass(block, "residual", slope, defect)
        self.linear_solver.solve(
            block, ("residual", 0), ("correction", 0), "predicted", time, shift
        )
        change = load("correction", 0, 1)
        ratio = change * self.weight(fabs(load("predicted", 0, 1)))
        block.assign([("newton_square", 0)], [const(0.0)])
        moved = where(newton.going, d + change, d)
        block.sweep(
            self.settings.states,
            [
                ("newton_square", 0, 0, ratio * ratio + load("newton_square", 0)),
                ("increment", 0, 1, moved),
                ("stage_state", 0, 1, load("predicted", 0, 1) + moved),
            ],
        )
        newton.check(load("newton_square", 0) * self.mean)

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
        """Add the step to the history, and choose the order and length of the next step."""
        method, zero, order = self.method, const(0.0), self._order
        sliver = load("sliver", 0, kind="bool")
        taken = block.let("taken", logical_and(accept, logical_not(sliver)))
        covered = self._write_history(block, accept, taken, h)
        equal = load("history_control", EQUAL) + 1.0
        equal = block.let("equal_steps", where(taken, equal, load("history_control", EQUAL)))
        same, best, new_order = self._choose_order(block, error)
        settled = logical_and(taken, compare(">", equal, order))
        settled = block.let("settled", settled)
        scale = const(method.safety) * best
        scale = minimum(maximum(scale, const(method.min_factor)), const(method.max_factor))
        # A small growth is not worth a change of the step, which resets the count of equal steps.
        small = logical_and(compare(">", scale, 1.0), compare("<", scale, 1.2))
        scale = block.let("factor", where(small, const(1.0), scale))
        cut = maximum(minimum(const(method.safety) * same, const(0.9)), const(method.min_factor))
        # A step that was shortened to end at a given time does not show the possible length. The
        # next steps grow towards the previous length no faster than the history can follow.
        previous = load("step_control", 0)
        next_step = where(sliver, previous, minimum(previous, _REGROWTH * load("spacing", 0)))
        next_step = where(last, maximum(h, next_step), h)
        next_step = where(settled, h * scale, next_step)
        next_step = where(logical_and(settled, last), maximum(next_step, previous), next_step)
        next_step = where(accept, next_step, where(ok, previous, h * cut))
        changed = logical_and(settled, logical_not(compare("==", scale, 1.0)))
        block.assign(
            [
                ("step_control", 0), ("history_control", ORDER), ("history_control", EQUAL),
                ("history_control", COVERED),
            ],
            [
                minimum(next_step, bounds),
                where(settled, new_order, order),
                where(logical_and(settled, changed), zero, equal),
                covered,
            ],
        )  # fmt: skip

    def _write_history(self, block: BlockBuilder, accept: Node, taken: Node, h: Node) -> Node:
        """Write the history after the step; return the time since its last point.

        Parameters
        ----------
        block : BlockBuilder
        accept, taken : Node
            Whether the step is accepted, and whether it also adds a point to the history.
        h : Node
            Length of the step.
        """
        d, zero, rows = load("increment", 0, 1), const(0.0), self.method.order + 3
        n, offset = self.settings.states, load("offset", 0, 1)
        left = block.let("left_over", where(taken, zero, where(accept, const(1.0), zero)))
        new = self._shifted_rows(d, load("sliver", 0, kind="bool"))
        history = [("history", j * n, 1, where(accept, new[j], self._row(j))) for j in range(rows)]
        block.sweep(n, [*history, ("offset", 0, 1, where(accept, left * (offset + d), offset))])
        covered = load("history_control", COVERED)
        return where(accept, left * (h + covered), covered)

    def _choose_order(self, block: BlockBuilder, error: Node) -> tuple[Node, Node, Node]:
        """Return the factors of the step at the same and at the best order, and the best order.

        Parameters
        ----------
        block : BlockBuilder
        error : Node
            Squared error norm of the step, 1 at tolerance.
        """
        zero, order, top = const(0.0), self._order, self.method.order
        # Of order k - 1 the error is its constant times D_k, of order k + 1 times D_(k+2).
        lower = self._error_at_order(block, "lower", 0)
        higher = self._error_at_order(block, "higher", 2)
        same = block.let("factor_same", self._step_factor(error, 0))
        down = where(compare(">", order, 1.0), self._step_factor(lower, -1), zero)
        up = where(compare("<", order, float(top)), self._step_factor(higher, 1), zero)
        down, up = block.let("factor_down", down), block.let("factor_up", up)
        best = block.let("factor_best", maximum(same, maximum(down, up)))
        raised = logical_and(compare(">", up, same), compare(">=", up, down))
        lowered = logical_and(compare(">", down, same), compare(">", down, up))
        return same, best, where(raised, order + 1.0, where(lowered, order - 1.0, order))

    def _error_at_order(self, block: BlockBuilder, name: str, ahead: int) -> Node:
        """Return the squared error norm of the order whose error has difference k + `ahead`."""
        row: Node = const(0.0)
        for k in range(1, self.method.order + 1):
            row = where(compare("==", self._order, float(k)), self._row(k + ahead), row)
        value = self._of_order(self.method.errors, ahead - 1) * row
        return block.let(f"error_{name}", self.norm(block, f"{name}_square", value) * self.mean)

    def _step_factor(self, square: Node, ahead: int) -> Node:
        """Return the factor of the step at the order of the lane plus `ahead`, for its error."""
        size = maximum(minimum(square, const(1e20)), const(1e-20))
        factor: Node = const(0.0)
        for k in range(1, self.method.order + 1):
            power = approximate_power(size, -0.5 / (k + 1 + ahead), self.settings.precision)
            factor = where(compare("==", self._order, float(k)), power, factor)
        return factor

    def _shifted_rows(self, d: Node, sliver: Node) -> list[Node]:
        """Return the rows of the history after an accepted step, at the element of a sweep."""
        top = self.method.order
        rows = [self._row(j) for j in range(top + 3)]
        parts = [load(f"used_{j}", 0) * rows[j] for j in range(1, top + 1)]
        away = load("offset", 0, 1) + d
        gain = where(sliver, const(0.0), away)
        shifted = []
        for j in range(top + 3):
            # The differences move to the end of the step, and add the deviation of the new point.
            total = gain if j else d
            for m in reversed(range(1, top - j + 1)):
                total = load(f"ahead_{m}", 0) * parts[j + m - 1] + total
            total = rows[j] + total
            if j > 1:
                first = compare("==", self._order, float(j - 1))
                second = compare("==", self._order, float(j - 2))
                # The differences up to the order, then those one and two above it.
                total = where(self._used(j), total, rows[j]) if j <= top else rows[j]
                fresh = where(sliver, rows[j], away)
                total = where(first, fresh, total)
                if j > 2:
                    total = where(second, where(sliver, rows[j], away - rows[j - 1]), total)
            shifted.append(total)
        return shifted

    def terms(self, block: BlockBuilder, h: Node) -> list[Node]:
        # The polynomial of `interpolate` in powers of theta; the history has the step already.
        ratio = block.let("back", h / load("history_control", STEP))
        terms = [self._row(0)] + [const(0.0)] * self.method.order
        basis: list[Node] = [const(1.0)]
        for j in range(1, self.method.order + 1):
            # The next factor is ((theta - 1)*ratio + j - 1)/j.
            low, high = (float(j - 1) - ratio) * (1.0 / j), ratio * (1.0 / j)
            grown = [low * term for term in basis] + [const(0.0)]
            for k, term in enumerate(basis):
                grown[k + 1] = grown[k + 1] + high * term
            basis = [block.let(f"basis_{j}_{k}", term) for k, term in enumerate(grown)]
            used = block.let(f"basis_used_{j}", where(self._used(j), const(1.0), const(0.0)))
            for k, term in enumerate(basis):
                terms[k] = (used * term) * self._row(j) + terms[k]
        return terms

    def interpolate(self, block: BlockBuilder, theta: Node, h: Node) -> Node:
        # Newton's interpolation formula through the last values, backwards from the end.
        s = block.let("back", (theta - 1.0) * (h / load("history_control", STEP)))
        total: Node = self._row(0)
        weight: Node = const(1.0)
        for j in range(1, self.method.order + 1):
            weight = block.let(f"newton_{j}", weight * ((s + float(j - 1)) * (1.0 / j)))
            used = where(self._used(j), weight, const(0.0))
            used = block.let(f"newton_used_{j}", used)
            total = used * self._row(j) + total
        return total
