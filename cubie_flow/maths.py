"""Elementary functions for models written as Python functions.

They accept the expressions of `OdeSystem.from_function`, and also numbers and arrays. One function
is therefore both a model and an ordinary Python function. For absolute values, use ``abs``.

>>> from cubie_flow.maths import exp, where
>>> float(exp(0.0))
1.0

Compare two expressions with `equal` and `not_equal`: ``==`` tests whether they are one object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, as_node, symbol

pi = 3.141592653589793


def _apply(build: Callable[..., Node], *args: Any) -> Any:
    """Return the graph of an operation, or its value if no operand is an expression."""
    if any(isinstance(arg, Node) for arg in args):
        return build(*args)
    from cubie_flow.expressions.evaluate import evaluate

    names = [f"x{i}" for i in range(len(args))]
    node = build(*map(symbol, names))
    return evaluate([node], dict(zip(names, args, strict=True)))[0]


def _function(name: str) -> Callable[..., Any]:
    def function(*args: Any) -> Any:
        return _apply(lambda *nodes: graph.call(name, *nodes), *args)

    count = graph.FUNCTIONS[name]
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Return ``{name}`` of {count} number{'s' if count > 1 else ''}."
    return function


acos = _function("acos")
acosh = _function("acosh")
asin = _function("asin")
asinh = _function("asinh")
atan = _function("atan")
atan2 = _function("atan2")
atanh = _function("atanh")
cbrt = _function("cbrt")
ceil = _function("ceil")
cos = _function("cos")
cosh = _function("cosh")
erf = _function("erf")
exp = _function("exp")
exp2 = _function("exp2")
expm1 = _function("expm1")
floor = _function("floor")
hypot = _function("hypot")
log = _function("log")
log10 = _function("log10")
log1p = _function("log1p")
log2 = _function("log2")
maximum = _function("max")
minimum = _function("min")
mod = _function("mod")
power = _function("pow")
sign = _function("sign")
sin = _function("sin")
sinh = _function("sinh")
sqrt = _function("sqrt")
tan = _function("tan")
tanh = _function("tanh")


def _truth(value: Any) -> Node:
    """Return a truth as it is, and a number as the truth that it is not zero."""
    node = value if isinstance(value, Node) else as_node(bool(value))
    return graph.compare("!=", node, 0.0) if node.kind == "float" else node


def where(condition: Any, a: Any, b: Any) -> Any:
    """Return `a` where the condition holds, otherwise `b`.

    Parameters
    ----------
    condition : expression, bool or array
        A number counts as true if it is not zero.
    a, b : expression, number or array
    """
    return _apply(lambda c, x, y: graph.where(_truth(c), x, y), condition, a, b)


def delay(value: Any, lag: Any) -> Any:
    """Return `value` as it was a time `lag` ago; numbers and arrays are returned as they are.

    Parameters
    ----------
    value : expression, number or array
    lag : expression or number
        A positive time.
    """
    return graph.delay(value, lag) if isinstance(value, Node) else value


def equal(a: Any, b: Any) -> Any:
    """Return the truth of ``a == b``."""
    return _apply(lambda x, y: graph.compare("==", x, y), a, b)


def not_equal(a: Any, b: Any) -> Any:
    """Return the truth of ``a != b``."""
    return _apply(lambda x, y: graph.compare("!=", x, y), a, b)


def logical_and(a: Any, b: Any) -> Any:
    """Return the truth of ``a and b``."""
    return _apply(lambda x, y: graph.logical_and(_truth(x), _truth(y)), a, b)


def logical_or(a: Any, b: Any) -> Any:
    """Return the truth of ``a or b``."""
    return _apply(lambda x, y: graph.logical_or(_truth(x), _truth(y)), a, b)


def logical_not(a: Any) -> Any:
    """Return the truth of ``not a``."""
    return _apply(lambda x: graph.logical_not(_truth(x)), a)
