"""Expression graphs of the operators of MathML.

A number may stand for a truth, and the reverse, where a format allows it: only zero is false.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise

from cubie_flow.errors import FlowError
from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, as_node, call, compare, const, symbol, where

Builder = Callable[..., Node]

#: Largest whole number whose factorial is a float64.
MAX_FACTORIAL = 170


def number(node: Node) -> Node:
    """Return `node` as a number; a truth is one or zero."""
    return where(node, 1.0, 0.0) if node.kind == "bool" else node


def truth(node: Node) -> Node:
    """Return `node` as a truth; a number is false only where it is zero."""
    if node.op == "select" and [arg.value for arg in node.args[1:]] == [1.0, 0.0]:
        return node.args[0]  # a truth that was made a number
    return node if node.kind == "bool" else compare("!=", node, 0.0)


def undefined() -> Node:
    """Return NaN, the value of a formula without a value, as an expression of time."""
    return call("log", graph.neg(_large()))


def infinity() -> Node:
    """Return infinity, as an expression of time."""
    return call("exp", _large())


def _large() -> Node:
    # Literals of a graph are finite, so other values must depend on something: on the time.
    time = symbol("t")
    return graph.add(graph.mul(time, time), 1000.0)


def literal(value: float) -> Node:
    """Return a number, or an expression for NaN or an infinity."""
    if math.isnan(value):
        return undefined()
    if math.isinf(value):
        return infinity() if value > 0 else graph.neg(infinity())
    return const(value)


def piecewise(pieces: Sequence[tuple[Node, Node]], otherwise: Node | None) -> Node:
    """Return the value of the first piece (value, condition) whose condition holds.

    If no condition holds and there is no other value, the result is NaN.
    """
    values = [value for value, _ in pieces] + ([] if otherwise is None else [otherwise])
    if values and all(value.kind == "bool" for value in values):
        result = graph.FALSE if otherwise is None else otherwise
        for value, condition in reversed(pieces):
            held = truth(condition)
            result = graph.logical_or(
                graph.logical_and(held, value),
                graph.logical_and(graph.logical_not(held), result),
            )
        return result
    result = undefined() if otherwise is None else number(otherwise)
    for value, condition in reversed(pieces):
        result = where(truth(condition), number(value), result)
    return result


def root(degree: Node, a: Node) -> Node:
    """Return the root of `a`; the cube root of a negative number is negative."""
    if graph.is_const(degree, 2.0):
        return graph.sqrt(a)
    if graph.is_const(degree, 3.0):
        return call("cbrt", a)
    return graph.power(a, graph.div(1.0, degree))


def logarithm(base: Node, a: Node) -> Node:
    """Return the logarithm of `a` to a base."""
    if graph.is_const(base) and base.value in (2.0, 10.0):
        return call("log2" if base.value == 2.0 else "log10", a)
    return graph.div(call("log", a), call("log", base))


def factorial(a: Node) -> Node:
    """Return the factorial of a whole number up to `MAX_FACTORIAL`, NaN of any other number."""
    if graph.is_const(a):
        if a.value == int(a.value) and 0 <= a.value <= MAX_FACTORIAL:
            return const(math.factorial(int(a.value)))
        raise FlowError(
            f"the factorial of {a.value:g} is not supported, only those of whole numbers from 0 to "
            f"{MAX_FACTORIAL}"
        )
    result = undefined()
    for whole in range(MAX_FACTORIAL, -1, -1):
        result = where(compare("==", a, float(whole)), float(math.factorial(whole)), result)
    return result


def _quotient(a: Node, b: Node) -> Node:
    ratio = graph.div(a, b)
    return where(compare("<", ratio, 0.0), call("ceil", ratio), graph.floor(ratio))


def _remainder(a: Node, b: Node) -> Node:
    return graph.sub(a, graph.mul(b, _quotient(a, b)))


def _exclusive_or(a: Node, b: Node) -> Node:
    return graph.logical_or(
        graph.logical_and(a, graph.logical_not(b)), graph.logical_and(graph.logical_not(a), b)
    )


def _minus(*args: Node) -> Node:
    return graph.neg(args[0]) if len(args) == 1 else graph.sub(*args)


def _chain(op: str) -> Builder:
    def build(*args: Node) -> Node:
        result = graph.TRUE
        for a, b in pairwise(args):
            result = graph.logical_and(result, _compared(op, a, b))
        return result

    return build


def _compared(op: str, a: Node, b: Node) -> Node:
    if "bool" in (a.kind, b.kind) and op in ("==", "!="):
        differ = _exclusive_or(truth(a), truth(b))
        return differ if op == "!=" else graph.logical_not(differ)
    return compare(op, number(a), number(b))


def _reciprocal(name: str, inverse: bool = False) -> Builder:
    """Return the function ``1/f(x)``, or its inverse: ``f(1/x)`` with `f` an inverse function."""
    if inverse:
        return lambda a: call(name, graph.div(1.0, a))
    return lambda a: graph.div(1.0, call(name, a))


def _function(name: str) -> Builder:
    return lambda a: call(name, a)


def _arccot(a: Node) -> Node:
    # arctan(1/x), with its limit from the right at zero.
    return where(compare("==", a, 0.0), math.pi / 2, call("atan", graph.div(1.0, a)))


def _fold(build: Callable[[Node, Node], Node], start: float | None) -> Builder:
    def all_of(*args: Node) -> Node:
        if not args and start is not None:
            return const(start)
        return reduce(build, args)

    return all_of


#: Functions of numbers by the names of MathML: builder, least and largest number of arguments.
NUMERIC: dict[str, tuple[Builder, int, int | None]] = {
    "plus": (_fold(graph.add, 0.0), 0, None),
    "times": (_fold(graph.mul, 1.0), 0, None),
    "minus": (_minus, 1, 2),
    "divide": (graph.div, 2, 2),
    "power": (graph.power, 2, 2),
    "root": (root, 2, 2),
    "log": (logarithm, 2, 2),
    "ln": (_function("log"), 1, 1),
    "exp": (_function("exp"), 1, 1),
    "abs": (graph.fabs, 1, 1),
    "floor": (graph.floor, 1, 1),
    "ceiling": (_function("ceil"), 1, 1),
    "factorial": (factorial, 1, 1),
    "max": (_fold(graph.maximum, None), 1, None),
    "min": (_fold(graph.minimum, None), 1, None),
    "quotient": (_quotient, 2, 2),
    "rem": (_remainder, 2, 2),
    "sin": (_function("sin"), 1, 1),
    "cos": (_function("cos"), 1, 1),
    "tan": (_function("tan"), 1, 1),
    "sec": (_reciprocal("cos"), 1, 1),
    "csc": (_reciprocal("sin"), 1, 1),
    "cot": (_reciprocal("tan"), 1, 1),
    "sinh": (_function("sinh"), 1, 1),
    "cosh": (_function("cosh"), 1, 1),
    "tanh": (_function("tanh"), 1, 1),
    "delay": (graph.delay, 2, 2),
    "sech": (_reciprocal("cosh"), 1, 1),
    "csch": (_reciprocal("sinh"), 1, 1),
    "coth": (_reciprocal("tanh"), 1, 1),
    "arcsin": (_function("asin"), 1, 1),
    "arccos": (_function("acos"), 1, 1),
    "arctan": (_function("atan"), 1, 1),
    "arcsec": (_reciprocal("acos", True), 1, 1),
    "arccsc": (_reciprocal("asin", True), 1, 1),
    "arccot": (_arccot, 1, 1),
    "arcsinh": (_function("asinh"), 1, 1),
    "arccosh": (_function("acosh"), 1, 1),
    "arctanh": (_function("atanh"), 1, 1),
    "arcsech": (_reciprocal("acosh", True), 1, 1),
    "arccsch": (_reciprocal("asinh", True), 1, 1),
    "arccoth": (_reciprocal("atanh", True), 1, 1),
}  # fmt: skip

#: Comparisons, with chains of more than two operands.
RELATIONS: dict[str, Builder] = {
    "eq": _chain("=="), "neq": _chain("!="), "lt": _chain("<"), "leq": _chain("<="),
    "gt": _chain(">"), "geq": _chain(">="),
}  # fmt: skip


def _all(*args: Node) -> Node:
    return reduce(graph.logical_and, args, graph.TRUE)


def _any(*args: Node) -> Node:
    return reduce(graph.logical_or, args, graph.FALSE)


def _odd(*args: Node) -> Node:
    return reduce(_exclusive_or, args, graph.FALSE)


#: Functions of truths.
LOGICAL: dict[str, tuple[Builder, int, int | None]] = {
    "and": (_all, 0, None),
    "or": (_any, 0, None),
    "xor": (_odd, 0, None),
    "not": (graph.logical_not, 1, 1),
    "implies": (lambda a, b: graph.logical_or(graph.logical_not(a), b), 2, 2),
}

CONSTANTS: dict[str, Node] = {
    "pi": const(math.pi),
    "exponentiale": const(math.e),
    "true": as_node(True),
    "false": as_node(False),
}


def apply(name: str, args: Sequence[Node]) -> Node:
    """Return the function `name` of MathML applied to `args`.

    Raises
    ------
    FlowError
        If the function is not supported, or takes another number of arguments.
    """
    if name in RELATIONS:
        return RELATIONS[name](*args)
    group, convert = (LOGICAL, truth) if name in LOGICAL else (NUMERIC, number)
    if name not in group:
        raise FlowError(f"the function '{name}' is not supported")
    build, least, most = group[name]
    if len(args) < least or (most is not None and len(args) > most):
        raise FlowError(f"the function '{name}' does not take {len(args)} arguments")
    return build(*(convert(arg) for arg in args))
