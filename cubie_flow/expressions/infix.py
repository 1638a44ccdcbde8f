"""Expression graphs written as infix text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cubie_flow.expressions.graph import Node

#: Operations that stay one factor when a minus sign stands before their text.
_WHOLE = {"symbol", "load", "add", "sqrt", "fabs", "floor", "min", "max", "select", "call", "delay"}
_INFIX = {"add": (" + ", 1), "sub": (" - ", 1), "mul": ("*", 2), "div": ("/", 2)}


def to_text(node: Node, limit: int | None = None) -> str:
    """Return `node` as infix text that the equation parser reads back.

    Parameters
    ----------
    node : Node
    limit : int, optional
        Nodes to write, shared ones counted at each use; the rest becomes ``"..."``.
    """
    budget = [limit if limit is not None else 1 << 62]

    def write(node: Node, level: int) -> str:
        budget[0] -= 1
        if budget[0] < 0:
            return "..."
        text, own = _write(node, write)
        return f"({text})" if own < level else text

    return write(node, 0)


def _write(node: Node, write: Callable[[Node, int], str]) -> tuple[str, int]:
    """Return the text of a node and the level of its outermost operator."""
    a = node.args
    match node.op:
        case "const":
            return (repr(node.value), 9) if node.value >= 0 else (repr(node.value), 1)
        case "symbol":
            return node.value, 9
        case "truth":
            return ("1 == 1" if node.value else "1 == 0"), 0
        case "add" | "sub" | "mul" | "div":
            sign, level = _INFIX[node.op]
            return write(a[0], level) + sign + write(a[1], level + 1), level
        case "neg":
            # The parser takes the sign with the first factor, which must stay the same node.
            first = a[0]
            while first.op in ("mul", "div"):
                first = first.args[0]
            return "-" + write(a[0], 2 if first.op in _WHOLE else 3), 1
        case "compare":
            return f"{write(a[0], 1)} {node.value} {write(a[1], 1)}", 0
        case "and" | "or":
            return f"({write(a[0], 1)}) {node.op} ({write(a[1], 1)})", 0
        case "not":
            return f"not ({write(a[0], 0)})", 0
        case "load":
            buffer, base, stride = node.value
            return f"{buffer}[{base}{f'+{stride}*j' if stride else ''}]", 9
    name = {"select": "where", "fabs": "abs", "call": node.value}.get(node.op, node.op)
    return f"{name}({', '.join(write(arg, 0) for arg in a)})", 9
