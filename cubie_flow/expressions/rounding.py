"""Bounds for the rounding errors of expressions, as expressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cubie_flow.errors import FlowError
from cubie_flow.expressions.derivatives import operation_derivative
from cubie_flow.expressions.graph import ONE, ZERO, Node, fabs, where
from cubie_flow.expressions.traversal import topological

#: Operations that are exact, or whose result jumps instead of moving a little.
_EXACT = {"neg", "fabs", "min", "max", "select", "rarely"}


def rounding(nodes: Sequence[Node], errors: Mapping[Node, Node]) -> list[Node]:
    """Return by how much the values of `nodes` are uncertain, to first order.

    Every operation adds one rounding of its result to what its arguments bring along; constants
    and everything that does not depend on a key of `errors` are exact.

    Parameters
    ----------
    nodes : sequence of Node
    errors : mapping
        Uncertainty of symbols or loads, in roundings: that of a number that is correctly rounded
        is its magnitude.

    Returns
    -------
    list of Node
        In roundings as well: times the distance from 1 to the next number they are absolute.
    """
    found = dict(errors)
    for node in topological(nodes):
        if node in found or node.kind != "float":
            continue
        inner = [found.get(arg, ZERO) for arg in node.args]
        if any(error is not ZERO for error in inner):
            found[node] = _propagated(node, inner)
    return [found.get(node, ZERO) for node in nodes]


def _propagated(node: Node, inner: Sequence[Node]) -> Node:
    """Return the uncertainty of an operation whose arguments have the uncertainties `inner`."""
    total = ZERO
    for place, error in enumerate(inner):
        if error is ZERO:
            continue
        direction = [ONE if i == place else ZERO for i in range(len(inner))]
        try:
            slope = operation_derivative(node, tuple(direction))
        except FlowError:
            return ZERO
        # An argument that is certain brings none, however steep the operation is there.
        total = total + where(error > 0.0, fabs(slope) * error, ZERO)
    return total if node.op in _EXACT or total is ZERO else total + fabs(node)
