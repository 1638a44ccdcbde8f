"""Taylor coefficients of a solution, from the graph of its equations.

The coefficients follow the recurrences of automatic differentiation (A. Jorba and M. Zou, "A
software package for the numerical integration of ODEs by means of high-order Taylor methods",
Experimental Mathematics 14, 99-117, 2005; A. Griewank and A. Walther, Evaluating Derivatives, 2nd
ed. 2008, chapter 13). The unit of time is the step, so coefficient ``k`` is the term of order
``k`` at the end of the step. That avoids overflow and underflow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from cubie_flow.errors import FlowError
from cubie_flow.expressions.derivatives import partials
from cubie_flow.expressions.graph import ONE, ZERO, Node, add, call, is_const, where
from cubie_flow.expressions.traversal import topological

#: Degree up to which derivatives at one point predict a step. A switch, an exponential that rises
#: from almost zero, or a high power may act within a step without a sign of it at the start.
STEEPEST = 8


def foreseeable(nodes: Sequence[Node]) -> bool:
    """Return whether derivatives at the start of a step predict it.

    That holds for polynomials, fractions, roots, sines and cosines of low degree.
    """
    return max(degrees(nodes).values(), default=0.0) <= STEEPEST


def degrees(nodes: Sequence[Node]) -> dict[Node, float]:
    """Return the degree of every node of a graph in its symbols and loads.

    It is infinite for anything but polynomials, fractions, roots, sines and cosines.
    """
    known: dict[Node, float] = {}
    for node in topological(nodes):
        degrees = [known[arg] for arg in node.args]
        match node.op:
            case "const" | "integer":
                degree = 0.0
            case "symbol" | "load":
                degree = 1.0
            case "add" | "sub" | "neg":
                degree = max(degrees)
            case "mul" | "div":
                degree = sum(degrees)
            case "sqrt":
                degree = degrees[0] / 2
            case "call" if node.value in ("sin", "cos"):
                degree = degrees[0]
            case "call" if node.value == "pow" and is_const(node.args[1]):
                degree = degrees[0] * abs(float(node.args[1].value))
            case _:
                degree = math.inf
        known[node] = degree
    return known


def coefficients(
    derivatives: Sequence[Node],
    states: Sequence[Node],
    time: Node,
    step: Node,
    order: int,
) -> list[list[Node]]:
    """Return the terms of the Taylor polynomial of a solution at the end of a step.

    Parameters
    ----------
    derivatives : sequence of Node, shape (states,)
        The right-hand side, in terms of `states` and `time`.
    states : sequence of Node, shape (states,)
        Nodes of the states at the start of the step.
    time, step : Node
        Time at the start, and length of the step.
    order : int

    Returns
    -------
    list of list of Node, shape (order, states)
        ``step**k / k!`` times derivative ``k`` of every state, for ``k`` from 1 to `order`.

    Raises
    ------
    FlowError
        If the right-hand side has an operation that has no derivative.
    """
    jets = _Jets(derivatives, time, step, states)
    rows: list[list[Node]] = []
    for k in range(1, order + 1):
        part = (1.0 / k) * step
        rows.append([part * jets.of(node, k - 1) for node in derivatives])
        jets.extend(dict(zip(states, rows[-1], strict=True)))
    return rows


class _Jets:
    """Coefficients of all nodes of a graph, extended by one order at a time."""

    def __init__(
        self, nodes: Sequence[Node], time: Node, step: Node, states: Sequence[Node]
    ) -> None:
        self.inner: dict[Node, list[tuple[Node, Node]]] = {}
        order = self._ordered(nodes)
        # Orders 1, 2, .. of the nodes that depend on time; order 0 is the node itself.
        self.rows: dict[Node, list[Node]] = {time: [step], **{state: [] for state in states}}
        self.moving: list[Node] = []
        reached = set(self.rows)
        for node in order:
            if any(arg in reached for arg in node.args):
                reached.add(node)
                if node.kind == "float":
                    self.rows[node] = []
                    self.moving.append(node)
        self.order = 0

    def _ordered(self, nodes: Sequence[Node]) -> list[Node]:
        """Return all nodes, operands first, with the derivatives of the functions they call."""
        outputs = list(nodes)
        while True:
            order = topological(outputs)
            new = [node for node in order if node.op == "call" and node not in self.inner]
            if not new:
                return order
            for node in new:
                self.inner[node] = list(_chain(node))
                outputs += [part for pair in self.inner[node] for part in pair]

    def of(self, node: Node, k: int) -> Node:
        """Return coefficient `k`, which must be known."""
        if k == 0:
            return node
        row = self.rows.get(node, ())
        return row[k - 1] if k <= len(row) else ZERO

    def extend(self, states: Mapping[Node, Node]) -> None:
        """Compute the next order of all nodes from the next coefficient of every state."""
        self.order += 1
        for state, value in states.items():
            self.rows[state].append(value)
        for node in self.moving:
            self.rows[node].append(self._next(node, self.order))

    def _next(self, node: Node, k: int) -> Node:
        """Return coefficient `k` of an operation."""
        x = node.args
        match node.op:
            case "add":
                return self.of(x[0], k) + self.of(x[1], k)
            case "sub":
                return self.of(x[0], k) - self.of(x[1], k)
            case "neg":
                return -self.of(x[0], k)
            case "mul":
                return self._product(x[0], x[1], k)
            case "fma":
                return self._product(x[0], x[1], k) + self.of(x[2], k)
            case "div":
                rest = [self.of(x[1], j) * self.of(node, k - j) for j in range(1, k + 1)]
                return (self.of(x[0], k) - _total(rest)) * (ONE / x[1])
            case "sqrt":
                # From the square of the root, which has the unknown coefficient twice.
                rest = [self.of(node, j) * self.of(node, k - j) for j in range(1, k)]
                return (self.of(x[0], k) - _total(rest)) * (0.5 * (ONE / node))
            case "fabs":
                return where(x[0] < 0.0, -self.of(x[0], k), self.of(x[0], k))
            case "min":
                return where(x[0] < x[1], self.of(x[0], k), self.of(x[1], k))
            case "max":
                return where(x[0] > x[1], self.of(x[0], k), self.of(x[1], k))
            case "select" | "rarely":
                return where(x[0], self.of(x[1], k), self.of(x[2], k))
            case "floor" | "round":
                return ZERO
            case "call" if node.value == "pow" and is_const(x[1]):
                # x*y' = c*y*x' for y = x**c.
                c = float(x[1].value)
                terms = [
                    ((c * j - (k - j)) / k) * (self.of(x[0], j) * self.of(node, k - j))
                    for j in range(1, k + 1)
                ]
                return _total(terms) * (ONE / x[0])
            case "call":
                # y' = sum of factor*argument', term by term.
                terms = []
                for factor, argument in self.inner[node]:
                    terms += [
                        (j / k) * self.of(argument, j) * self.of(factor, k - j)
                        for j in range(1, k + 1)
                    ]
                return _total(terms)
        raise FlowError(f"'{node.op}' has no Taylor coefficients")

    def _product(self, a: Node, b: Node, k: int) -> Node:
        if a is b:
            twice = [self.of(a, j) * self.of(a, k - j) for j in range((k + 1) // 2)]
            middle = [self.of(a, k // 2) * self.of(a, k // 2)] if k % 2 == 0 else []
            return _total([*middle, 2.0 * _total(twice)])
        # The newest coefficients come last, so that the sum can begin before they are known.
        pairs = sorted(range(k + 1), key=lambda j: (max(j, k - j), j))
        return _total([self.of(a, j) * self.of(b, k - j) for j in pairs])


def _chain(node: Node) -> Iterator[tuple[Node, Node]]:
    """Yield (factor, argument): the derivative of a call is the sum of ``factor*argument'``."""
    if node.value != "pow":
        yield from zip(partials(node), node.args, strict=True)
    elif not is_const(node.args[1]):
        base, exponent = node.args
        yield node * exponent / base, base
        yield where(base > 0.0, node * call("log", base), ZERO), exponent


def _total(terms: Sequence[Node]) -> Node:
    total = ZERO
    for term in terms:
        total = add(total, term)
    return total
