"""Bounds of expressions over an interval, as expressions.

Interval arithmetic (R. E. Moore, R. B. Kearfott and M. J. Cloud, Introduction to Interval
Analysis, SIAM 2009): the bounds of an operation hold for all values of its operands within their
bounds. Rounding errors are ignored; callers that compare a bound with a number allow for them. An
unknown bound is infinite or NaN, so that no comparison with it is true.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from attrs import frozen

from cubie_flow.errors import FlowError
from cubie_flow.expressions.graph import (
    ONE,
    ZERO,
    Node,
    call,
    compare,
    const,
    fabs,
    floor,
    is_const,
    logical_and,
    maximum,
    minimum,
    power,
    sqrt,
    where,
)
from cubie_flow.expressions.traversal import topological

_INFINITE = const(math.inf)
#: Functions that are finite everywhere; exponentials overflow.
_FINITE = frozenset(("asinh", "atan", "atan2", "cbrt", "cos", "erf", "sin", "tanh"))
#: Functions of one argument that increase everywhere.
_INCREASING = frozenset(("asinh", "atan", "cbrt", "erf", "exp", "exp2", "expm1", "sinh", "tanh"))


@frozen
class Interval:
    """Lower and upper bound of an expression."""

    low: Node
    high: Node

    @property
    def magnitude(self) -> Node:
        """Largest absolute value."""
        return maximum(fabs(self.low), fabs(self.high))


def bounds(nodes: Sequence[Node], variable: Node, low: Node, high: Node) -> list[Interval]:
    """Return bounds of expressions for one variable between `low` and `high`.

    Parameters
    ----------
    nodes : sequence of Node
    variable : Node
        A symbol or load; all other symbols and loads have fixed values.
    low, high : Node
        Bounds of the variable.

    Returns
    -------
    list of Interval

    Raises
    ------
    FlowError
        If an expression has an operation without bounds.
    """
    known: dict[Node, Interval] = {variable: Interval(low, high)}
    for node in topological(nodes):
        if node in known or node.kind != "float":
            continue
        if all(arg not in known for arg in node.args):
            if node.op == "select" and _reads(node.args[0], variable):
                known[node] = _hull(_fixed(node.args[1]), _fixed(node.args[2]))
            continue
        known[node] = _bounds(node, [known.get(arg, _fixed(arg)) for arg in node.args], variable)
    return [known.get(node, _fixed(node)) for node in nodes]


def _fixed(node: Node) -> Interval:
    return Interval(node, node)


def _reads(node: Node, variable: Node) -> bool:
    return variable in topological([node])


def _hull(a: Interval, b: Interval) -> Interval:
    return Interval(minimum(a.low, b.low), maximum(a.high, b.high))


def _bounds(node: Node, x: Sequence[Interval], variable: Node) -> Interval:
    """Return the bounds of an operation from those of its operands."""
    match node.op:
        case "add":
            return _known(x[0].low + x[1].low, x[0].high + x[1].high)
        case "sub":
            return _known(x[0].low - x[1].high, x[0].high - x[1].low)
        case "neg":
            return Interval(-x[0].high, -x[0].low)
        case "mul":
            if node.args[0] is node.args[1]:
                return _even(x[0], lambda size: size * size)
            return _product(x[0], x[1])
        case "div":
            return _quotient(x[0], x[1])
        case "sqrt":
            return _within(x[0], Interval(sqrt(x[0].low), sqrt(x[0].high)), 0.0, math.inf)
        case "fabs":
            return _even(x[0], lambda size: size)
        case "floor":
            return Interval(floor(x[0].low), floor(x[0].high))
        case "min":
            return Interval(minimum(x[0].low, x[1].low), minimum(x[0].high, x[1].high))
        case "max":
            return Interval(maximum(x[0].low, x[1].low), maximum(x[0].high, x[1].high))
        case "select":
            if _reads(node.args[0], variable):
                return _hull(x[1], x[2])
            condition = node.args[0]
            return Interval(
                where(condition, x[1].low, x[2].low), where(condition, x[1].high, x[2].high)
            )
        case "call":
            return _call(node.value, x)
    raise FlowError(f"'{node.op}' has no bounds")


def _even(x: Interval, function: Callable[[Node], Node]) -> Interval:
    """Return the bounds of an even function that increases with the magnitude of its argument."""
    across = logical_and(compare("<=", x.low, 0.0), compare(">=", x.high, 0.0))
    least = where(across, ZERO, minimum(fabs(x.low), fabs(x.high)))
    return Interval(function(least), function(x.magnitude))


def _corners(values: Sequence[Node]) -> Interval:
    low = high = values[0]
    for value in values[1:]:
        low, high = minimum(low, value), maximum(high, value)
    return Interval(low, high)


def _product(a: Interval, b: Interval) -> Interval:
    for one, other in ((a, b), (b, a)):
        if one.low is one.high:
            return _corners([_corner(one.low, other.low), _corner(one.low, other.high)])
    return _corners([_corner(x, y) for x in (a.low, a.high) for y in (b.low, b.high)])


def _corner(x: Node, y: Node) -> Node:
    """Return ``x*y``, zero if one is zero: an infinite bound means an unknown finite value."""
    if is_const(x, 0.0) or is_const(y, 0.0):
        return ZERO
    return _or_zero(x * y, may_be_infinite(x) or may_be_infinite(y))


def _ratio(x: Node, y: Node) -> Node:
    """Return ``x/y``, zero where both are infinite: the other corners give the bound then."""
    return _or_zero(x / y, may_be_infinite(x) and may_be_infinite(y))


def _or_zero(value: Node, doubtful: bool) -> Node:
    """Return a value, with zero in place of NaN if it may be NaN."""
    return where(compare("==", value, value), value, ZERO) if doubtful else value


def _known(low: Node, high: Node) -> Interval:
    """Return an interval, unbounded where infinite bounds of both signs were added."""
    if may_be_infinite(low):
        low = where(compare("==", low, low), low, -_INFINITE)
    if may_be_infinite(high):
        high = where(compare("==", high, high), high, _INFINITE)
    return Interval(low, high)


_may: WeakKeyDictionary[Node, bool] = WeakKeyDictionary()


def may_be_infinite(node: Node) -> bool:
    """Return whether a bound may be infinite although its symbols and loads are finite."""
    stack = [node]
    while stack:
        top = stack[-1]
        waiting = [arg for arg in top.args if arg not in _may]
        if waiting and top not in _may:
            stack += waiting
            continue
        stack.pop()
        if top.op == "const":
            _may[top] = not math.isfinite(top.value)
        elif top.op == "div" or (top.op == "call" and top.value not in _FINITE):
            _may[top] = True
        else:
            _may[top] = any(_may[arg] for arg in top.args)
    return _may[node]


def _quotient(a: Interval, b: Interval) -> Interval:
    if is_const(b.low, 0.0) and is_const(b.high, 0.0):
        return Interval(-_INFINITE, _INFINITE)
    if b.low is b.high:
        return _corners([_ratio(a.low, b.low), _ratio(a.high, b.low)])
    corners = _corners([_ratio(x, y) for x in (a.low, a.high) for y in (b.low, b.high)])
    pole = logical_and(compare("<=", b.low, 0.0), compare(">=", b.high, 0.0))
    return Interval(where(pole, -_INFINITE, corners.low), where(pole, _INFINITE, corners.high))


def _wave(x: Interval, ends: Sequence[Node], peak: float) -> Interval:
    """Return the bounds of a sinusoid of period 2 pi between -1 and 1 with a maximum at `peak`."""
    period = 2.0 * math.pi

    def passes(point: float) -> Node:
        last = floor((x.high - point) * (1.0 / period)) * period + point
        return compare(">=", last, x.low)

    low, high = minimum(*ends), maximum(*ends)
    low = where(passes(peak - math.pi), const(-1.0), low)
    return Interval(low, where(passes(peak), ONE, high))


def _within(x: Interval, values: Interval, least: float, most: float) -> Interval:
    """Return the bounds `values` of a function, infinite where `x` leaves its domain."""
    low, high = values.low, values.high
    if least > -math.inf:
        outside = compare("<", x.low, least)
        low, high = where(outside, -_INFINITE, low), where(outside, _INFINITE, high)
    if most < math.inf:
        outside = compare(">", x.high, most)
        low, high = where(outside, -_INFINITE, low), where(outside, _INFINITE, high)
    return Interval(low, high)


#: Domains of the functions that are not defined everywhere.
_DOMAINS = {
    "acos": (-1.0, 1.0), "acosh": (1.0, math.inf), "asin": (-1.0, 1.0), "atanh": (-1.0, 1.0),
    "log": (0.0, math.inf), "log10": (0.0, math.inf), "log1p": (-1.0, math.inf),
    "log2": (0.0, math.inf),
}  # fmt: skip


def _call(name: str, x: Sequence[Interval]) -> Interval:
    """Return the bounds of an elementary function."""
    first = x[0]
    ends = [call(name, first.low), call(name, first.high)] if len(x) == 1 else []
    if name == "acos":
        ends.reverse()
    if name in _DOMAINS:
        return _within(first, Interval(*ends), *_DOMAINS[name])
    if name in _INCREASING:
        return Interval(*ends)
    match name:
        case "cosh":
            return _even(first, lambda size: call("cosh", size))
        case "sin":
            return _wave(first, ends, 0.5 * math.pi)
        case "cos":
            return _wave(first, ends, 0.0)
        case "tan":
            last = floor((first.high - 0.5 * math.pi) * (1.0 / math.pi)) * math.pi + 0.5 * math.pi
            pole = compare(">=", last, first.low)
            return Interval(where(pole, -_INFINITE, ends[0]), where(pole, _INFINITE, ends[1]))
        case "hypot":
            squares = [_even(one, lambda size: size * size) for one in x]
            return Interval(
                sqrt(squares[0].low + squares[1].low), sqrt(squares[0].high + squares[1].high)
            )
        case "atan2":
            return Interval(const(-math.pi), const(math.pi))
        case "pow":
            return _power(x[0], x[1])
    raise FlowError(f"'{name}' has no bounds")


def _power(base: Interval, exponent: Interval) -> Interval:
    """Return the bounds of a power; with a positive base they are at the corners."""
    pairs = dict.fromkeys(
        (one, other) for one in (base.low, base.high) for other in (exponent.low, exponent.high)
    )
    values = _corners([power(*pair) for pair in pairs])
    unknown = compare("<", base.low, 0.0)
    return Interval(where(unknown, -_INFINITE, values.low), where(unknown, _INFINITE, values.high))
