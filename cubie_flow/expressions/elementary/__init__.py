"""Elementary functions in graph primitives: the same bits on every target and in NumPy.

The error is at most 2 units in the last place over the whole range, with subnormal numbers,
infinities, NaN and signed zeros. The usual case has no branches; the steps for extreme arguments
run only if some lane needs them (`graph.rarely`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cubie_flow.expressions.elementary import (
    error_function,
    exponential,
    inverse,
    logarithm,
    power,
    trigonometric,
)
from cubie_flow.expressions.elementary.precision import PRECISIONS
from cubie_flow.expressions.graph import Node, const
from cubie_flow.expressions.traversal import transform

_EXPANSIONS: dict[str, Callable[..., Node]] = {
    "acos": inverse.acos, "acosh": logarithm.acosh, "asin": inverse.asin,
    "asinh": logarithm.asinh, "atan": inverse.atan, "atan2": inverse.atan2,
    "atanh": logarithm.atanh, "cbrt": power.cbrt, "cos": trigonometric.cos,
    "cosh": exponential.cosh, "erf": error_function.erf, "exp": exponential.exp,
    "exp2": exponential.exp2, "expm1": exponential.expm1, "hypot": power.hypot,
    "log": logarithm.log, "log10": logarithm.log10, "log1p": logarithm.log1p,
    "log2": logarithm.log2, "pow": power.power, "sin": trigonometric.sin,
    "sinh": exponential.sinh, "tan": trigonometric.tan, "tanh": exponential.tanh,
}  # fmt: skip


def lower(nodes: Sequence[Node], width: int) -> list[Node]:
    """Return `nodes` with every elementary function replaced by primitives.

    Parameters
    ----------
    nodes : sequence of Node
    width : {32, 64}
        Bits of the floats that the primitives work on.
    """
    precision = PRECISIONS[width]

    def rule(node: Node) -> Node:
        if node.op != "call":
            return node
        # Round literals as the emitted code does, so that folding them changes no value.
        args = [const(precision.round(a.value)) if a.op == "const" else a for a in node.args]
        return _EXPANSIONS[node.value](precision, *args)

    return transform(nodes, rule)
