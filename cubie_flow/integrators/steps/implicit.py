"""The common base of implicit steps: the linear solver and the mass matrix."""

from __future__ import annotations

from abc import abstractmethod

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import (
    FALSE,
    TRUE,
    Node,
    compare,
    const,
    load,
    logical_and,
    logical_not,
    logical_or,
    where,
)
from cubie_flow.expressions.traversal import substitute, topological
from cubie_flow.integrators.steps.base import Step
from cubie_flow.integrators.steps.linear import LinearSettings, LinearSolver, reads_past

# Consistent initialisation: the shift that freezes differential states, the largest number of
# iterations, and the squared change, 1 at tolerance, at which they end.
_IMMENSE = {"float64": 1e40, "float32": 1e15}
_START_ITERATIONS = 20
_START_ENOUGH = 1e-8


class ImplicitStep(Step):
    """A step that solves linear systems with the Jacobian of the model."""

    def arrange_children(self) -> None:
        self.adopt_solver("linear_solver", pair=False, prefix="")

    def adopt_solver(self, name: str, pair: bool, prefix: str) -> None:
        """Adopt a linear solver, unless the present one has the same settings.

        Parameters
        ----------
        name : str
            Name of the child.
        pair : bool
            Whether it solves for a pair of complex shifts.
        prefix : str
            Prefix of the names of its buffers.
        """
        s = self.settings
        settings = LinearSettings(
            rhs=s.rhs,
            mass=s.mass,
            pair=pair,
            prefix=prefix,
            kind=s.linear_solver,
            precision=s.precision,
        )
        present = self.children.get(name)
        if present is None or present.settings != settings:
            self.adopt(name, LinearSolver(settings))

    @property
    def linear_solver(self) -> LinearSolver:
        """The solver for real shifts."""
        return self.children["linear_solver"]  # type: ignore[return-value]

    @property
    def solvers(self) -> list[LinearSolver]:
        """Every linear solver of the step."""
        return [child for child in self.children.values() if isinstance(child, LinearSolver)]

    def look_up_base(self, block: BlockBuilder, at: str, t: Node) -> None:
        """Write the delayed values that the Jacobian reads at a state, if it reads any."""
        s = self.settings
        if s.past is not None and reads_past(s.rhs):
            s.past.look_up(block, s.past.rhs, at, t, "delayed_base", slopes=True)

    @abstractmethod
    def shift(self) -> float:
        """Return the shift of the linear system times the length of the step."""

    def unconverged(self) -> list[Node]:
        return [truth for solver in self.solvers for truth in solver.unconverged()]

    def initialise(self, block: BlockBuilder, t: Node) -> Node | None:
        s = self.settings
        if not s.mass:
            return None
        # With an immense shift the matrix of the step leaves differential states unchanged and
        # gives the Newton correction of the algebraic states.
        n, shift = s.states, const(_IMMENSE[s.precision])
        solver = self.solvers[0]
        d = const(0.0) if solver.settings.pair else None
        going = load("start_going", 0, kind="bool")
        block.assign([("start_going", 0), ("start_failed", 0)], [TRUE, FALSE])
        with block.repeat(lambda: going, _START_ITERATIONS):
            self.look_up_base(block, "state", t)
            solver.prepare(block, "state", t, shift, d)
            self.evaluate(block, "state", self.end_element, t)
            self.sweep_mass(block, "residual", self.end_derivative, const(0.0))
            if d is not None:
                block.sweep(n, [("residual", n, 1, const(0.0))])
            solver.solve(block, ("residual", 0), ("correction", 0), "state", t, shift, d)
            change = load("correction", 0, 1)
            square = self.norm_at_start(block, "start_square", change) * self.mean
            moved = where(going, load("state", 0, 1) + change, load("state", 0, 1))
            block.sweep(n, {"state": moved})
            finite = compare("<", square, 1e30)
            more = logical_and(compare(">", square, _START_ENOUGH), finite)
            block.assign(
                [("start_failed", 0), ("start_going", 0)],
                [
                    where(going, logical_not(finite), load("start_failed", 0, kind="bool")),
                    logical_and(going, more),
                ],
            )
        lost = logical_or(going, load("start_failed", 0, kind="bool"))
        return block.let("inconsistent", lost)

    def sweep_mass(
        self, block: BlockBuilder, target: str, algebraic: Node, differential: Node, base: int = 0
    ) -> None:
        """Write one of two values for every state, by the kind of its equation.

        Parameters
        ----------
        block : BlockBuilder
        target : str
            Buffer of the result.
        algebraic, differential : Node
            Values at the element of a sweep, by the kind of equation.
        base : int
            First element of the result.
        """
        s = self.settings
        if not s.mass:
            block.sweep(s.states, [(target, base, 1, differential)])
            return
        # Equations of both kinds are written out element by element.
        chosen = [algebraic if s.is_algebraic(j) else differential for j in range(s.states)]
        nodes = [element(node, j) for j, node in enumerate(chosen)]
        block.assign([(target, base + j) for j in range(s.states)], nodes)


def element(node: Node, j: int) -> Node:
    """Return the expression of a sweep at its element `j`."""
    moves = {
        one: load(one.value[0], one.value[1] + j * one.value[2], kind=one.kind)
        for one in topological([node])
        if one.op == "load" and one.value[2]
    }
    return substitute([node], moves)[0]
