"""Bounds for the rounding errors of expressions, as expressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cubie_flow.errors import FlowError
from cubie_flow.expressions.derivatives import operation_derivative
from cubie_flow.expressions.graph import ONE, ZERO, Node, fabs, where
from cubie_flow.expressions.traversal import topological

#: Operations that are exact, or whose result jumps instead of changing by a rounding error.
_EXACT = {"neg", "fabs", "min", "max", "select", "rarely"}


def rounding(nodes: Sequence[Node], errors: Mapping[Node, Node]) -> list[Node]:
    """Return the uncertainty of the values of `nodes`, to first order.

    Every operation adds one rounding error of its result to the errors of its arguments.
    Constants, and everything that does not depend on a key of `errors`, are exact.

    Parameters
    ----------
    nodes : sequence of Node
    errors : mapping
        Uncertainty of symbols or loads, in units of the machine epsilon: the uncertainty of a
        correctly rounded number is its magnitude.

    Returns
    -------
    list of Node
        Uncertainties, in units of the machine epsilon.
    """
    known = dict(errors)
    for node in topological(nodes):
        if node in known or node.kind != "float":
            continue
        inner = [known.get(arg, ZERO) for arg in node.args]
        if any(error is not ZERO for error in inner):
            known[node] = _propagate(node, inner)
    return [known.get(node, ZERO) for node in nodes]


def _propagate(node: Node, inner: Sequence[Node]) -> Node:
    """Return the uncertainty of an operation from those of its arguments."""
    total = ZERO
    for position, error in enumerate(inner):
        if error is ZERO:
            continue
        direction = [ONE if i == position else ZERO for i in range(len(inner))]
        try:
            slope = operation_derivative(node, tuple(direction))
        except FlowError:
            return ZERO
        # An exact argument adds no error, even where the slope is infinite.
        total = total + where(error > 0.0, fabs(slope) * error, ZERO)
    return total if node.op in _EXACT or total is ZERO else total + fabs(node)
