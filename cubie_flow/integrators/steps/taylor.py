"""Taylor series steps."""

from __future__ import annotations

from functools import lru_cache

from cubie_flow.errors import FlowError
from cubie_flow.expressions.block import BlockBuilder, Function
from cubie_flow.expressions.graph import Node, fabs, load, symbol, topological
from cubie_flow.expressions.taylor import coefficients
from cubie_flow.integrators.steps.base import Step
from cubie_flow.memory import buffer_registry

#: Operations of the coefficients that are compiled at most; measured in docs/performance.md.
LARGEST = 20_000


@lru_cache(maxsize=16)
def series(rhs: Function, states: int, algorithm: str, order: int) -> Function:
    """Return the function ``c = terms(u, p, t, h)`` of a right-hand side.

    Raises
    ------
    FlowError
        If it would be too large to compile, or the equations have no Taylor coefficients.
    """
    u, h = [load("u", i) for i in range(states)], symbol("h")
    rows = coefficients(rhs.nodes, u, symbol("t"), h, order)
    nodes = tuple(node for row in rows for node in row)
    operations = len(topological(nodes))
    if operations > LARGEST:
        raise FlowError(
            f"algorithm is '{algorithm}', whose coefficients take {operations} operations for this "
            f"system; at most {LARGEST} are allowed: use a lower order such as taylor_8, or vern7 "
            "or tsit5"
        )
    outputs = tuple(("c", i) for i in range(len(nodes)))
    # Right-hand sides that are functions of their own have terms that are.
    return Function("terms", ("u", "p"), ("t", "h"), outputs, nodes, rhs.apart)


class TaylorStep(Step):
    """One step of a Taylor series method.

    Buffers: ``coefficients`` (one row of terms an order, from 1), ``stage_increments`` (the
    derivative at the end, where something reads it), ``stage_state`` and ``proposed_state``.
    """

    def register_buffers(self) -> None:
        s = self.settings
        n = s.states
        # The terms outlive the attempt when a sample is interpolated from them.
        kept = "local" if s.dense else self.scratch
        registered = [
            ("coefficients", self.method.order * n, kept),
            ("stage_increments", n, self.scratch),
            ("stage_state", n, self.scratch),
            ("proposed_state", n, self.scratch),
        ]
        for name, size, location in registered:
            buffer_registry.register(name, self, size, location, s.precision)

    def _term(self, k: int) -> Node:
        return load("coefficients", (k - 1) * self.settings.states, 1)

    def attempt(self, block: BlockBuilder, h: Node, t: Node, active: Node) -> None:
        s, order = self.settings, self.method.order
        arrays = {"u": ("state", 0), "p": ("parameters", 0), "c": ("coefficients", 0)}
        block.evaluate(series(s.rhs, s.states, self.method.name, order), arrays, t=t, h=h)
        # The smallest terms first.
        total = self._term(order)
        for k in reversed(range(1, order)):
            total = total + self._term(k)
        block.sweep(s.states, {"proposed_state": total + load("state", 0, 1)})
        if s.ends:
            self.derivative(block, "proposed_state", 0, h + t)

    @property
    def end_place(self) -> tuple[str, int]:
        return "stage_increments", 0

    @property
    def next_derivative(self) -> Node:
        return self.end_derivative if self.settings.ends else load("derivative", 0, 1)

    @property
    def evaluations(self) -> tuple[int, int]:
        return 1 + self.settings.ends, 0

    def estimate(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        order = self.method.order
        guard: float = self.method.guard
        return guard * fabs(self._term(order - 1)) + fabs(self._term(order))

    def interpolate(self, block: BlockBuilder, theta: Node, h: Node) -> Node:
        total = self._term(self.method.order)
        for k in reversed(range(1, self.method.order)):
            total = total * theta + self._term(k)
        return total * theta + load("previous_state", 0, 1)
