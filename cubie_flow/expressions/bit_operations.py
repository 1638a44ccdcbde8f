"""Operations on bit patterns, integers and tables, for elementary functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cubie_flow.expressions.graph import Node, make_node


def integer(value: int) -> Node:
    """Return an integer literal, as wide as the working precision."""
    return make_node("integer", value=int(value), kind="int")


def bits(a: Node) -> Node:
    """Return the bit pattern of a float as an integer of the same width."""
    return make_node("bits", (a,), kind="int")


def from_bits(a: Node) -> Node:
    """Return the float whose bit pattern is the integer `a`."""
    return make_node("from_bits", (a,))


def to_int(a: Node) -> Node:
    """Return `a` truncated to an integer."""
    return make_node("to_int", (a,), kind="int")


def to_float(a: Node) -> Node:
    """Return the integer `a` as a float, rounded to nearest."""
    return make_node("to_float", (a,))


def _integer_operation(op: str) -> Callable[[Node, Node], Node]:
    def build(a: Node, b: Node) -> Node:
        return make_node(op, (a, b), kind="int")

    build.__name__ = op
    build.__doc__ = f"Return the integer operation ``{op}`` of two integers."
    return build


iadd = _integer_operation("iadd")
isub = _integer_operation("isub")
imul = _integer_operation("imul")
iand = _integer_operation("iand")
ior = _integer_operation("ior")
ixor = _integer_operation("ixor")
shl = _integer_operation("shl")
lshr = _integer_operation("lshr")
ashr = _integer_operation("ashr")


def icompare(op: str, a: Node, b: Node) -> Node:
    """Return the truth of ``a op b`` for signed integers.

    Parameters
    ----------
    op : str
        One of ``<``, ``<=``, ``>``, ``>=``, ``==`` and ``!=``.
    a, b : Node
        Integers.
    """
    return make_node("icompare", (a, b), op, "bool")


def table(values: Sequence[float], index: Node) -> Node:
    """Return ``values[index]`` of a constant table; the index must be in range."""
    return make_node("table", (index,), tuple(float(v) for v in values))


def fetch(buffer: str, index: Node) -> Node:
    """Return an element of an external array at an index that is computed at run time."""
    return make_node("fetch", (index,), buffer)
