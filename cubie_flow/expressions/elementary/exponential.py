"""exp, exp2, expm1 and the hyperbolic functions.

Arguments are reduced to ``x = k*ln(2) + r + tail`` with ``|r| <= ln(2)/2``.
"""

from __future__ import annotations

from attrs import frozen

from cubie_flow.expressions.elementary.coefficients import COSH, EXP, EXP2, SINH
from cubie_flow.expressions.elementary.precision import (
    INFINITY,
    LN2,
    Precision,
    beyond,
    fast_two_sum,
    horner,
    polynomial,
    quotient,
)
from cubie_flow.expressions.graph import (
    ONE,
    Node,
    compare,
    fabs,
    fma,
    maximum,
    minimum,
    rarely,
    where,
)


@frozen
class Reduced:
    """An argument of exp; `shifted` has k in its lowest bits."""

    shifted: Node
    r: Node
    tail: Node


def reduce(p: Precision, x: Node) -> Reduced:
    """Take the nearest multiple of ln(2) from `x`, which is at most a few times ``bias``."""
    k, shifted = p.nearest(x, p.round(1 / LN2))
    high, low = p.words(LN2, 2)
    # Exact: k*high and x are multiples of the same power of two, and nearly cancel.
    first = fma(k, -high, x)
    r = fma(k, -low, first)
    return Reduced(shifted, r, fma(k, -low, first - r))


def exp_of_remainder(p: Precision, r: Node) -> Node:
    """Return ``exp(r)`` for ``|r| <= ln(2)/2``."""
    square = r * r
    return fma(square, polynomial(EXP[p.width], r, square), r) + 1.0


def exp_of_double_word(p: Precision, r: Node, tail: Node) -> Node:
    """Return ``exp(r + tail)`` for ``|r| <= ln(2)/2``, nearly correctly rounded.

    Parameters
    ----------
    p : Precision
    r, tail : Node
        The two words.
    """
    r, tail = fast_two_sum(r, tail)
    square = r * r
    rest = fma(square, polynomial(EXP[p.width], r, square), fma(r, tail, tail))
    high, low = fast_two_sum(ONE, r)
    return high + (low + rest)


def safe_bound(p: Precision) -> float:
    """Bound of ``|x|`` up to which exp(x) is far from overflow and underflow."""
    return p.round((p.bias - 2) * LN2)


def scaled(p: Precision, x: Node, mantissa: Node, shifted: Node, unit: float) -> Node:
    """Return ``mantissa * 2**k`` for any `x` near ``k*unit``, also if it is infinite or NaN.

    Parameters
    ----------
    p : Precision
    x, mantissa : Node
    shifted : Node
        The bits from `Precision.nearest`.
    unit : float
    """
    result = p.scale_twice(mantissa, shifted)
    result = where(compare("<", x, -(p.bias + p.digits + 3) * unit), 0.0, result)
    return where(compare(">", x, (p.bias + 2) * unit), INFINITY, result)


def exp(p: Precision, x: Node) -> Node:
    """Return e to the power `x`."""
    reduced = reduce(p, x)
    mantissa = exp_of_remainder(p, reduced.r)
    slow = scaled(p, x, mantissa, reduced.shifted, float(LN2))
    return rarely(beyond(x, safe_bound(p)), slow, p.scale(mantissa, reduced.shifted))


def exp2(p: Precision, x: Node) -> Node:
    """Return 2 to the power `x`."""
    k, shifted = p.nearest(x, 1.0)
    r = x - k
    mantissa = fma(r, polynomial(EXP2[p.width], r, r * r), 1.0)
    slow = scaled(p, x, mantissa, shifted, 1.0)
    return rarely(beyond(x, p.bias - 2.0), slow, p.scale(mantissa, shifted))


def expm1(p: Precision, x: Node) -> Node:
    """Return e to the power `x`, less 1."""
    bounded = maximum(-(p.digits + 3.0), x)
    reduced = reduce(p, bounded)
    r, square = reduced.r, reduced.r * reduced.r
    tail = fma(r, reduced.tail, reduced.tail)
    correction = fma(square, polynomial(EXP[p.width], r, square), tail)
    power = p.power_of_two(reduced.shifted)
    fast = fma(power, correction, fma(power, r, power - 1.0))
    slow = scaled(p, x, exp_of_remainder(p, r), reduced.shifted, float(LN2))
    # The sign is lost for negative zero only.
    return rarely(beyond(bounded, safe_bound(p)), slow, p.with_sign(fast, x))


@frozen
class _Hyperbolic:
    """Sinh and cosh of a non-negative number as unevaluated sums ``large + small``."""

    sinh: tuple[Node, Node]
    cosh: tuple[Node, Node]


def _hyperbolic(p: Precision, x: Node) -> _Hyperbolic:
    """Expand sinh and cosh of ``k*ln(2) + r`` in those of r, for moderate non-negative `x`."""
    reduced = reduce(p, x)
    r, square = reduced.r, reduced.r * reduced.r
    # sinh(r) = r + sinh_rest, cosh(r) = 1 + cosh_rest
    sinh_rest = fma(r * square, horner(SINH[p.width], square), reduced.tail)
    cosh_rest = square * horner(COSH[p.width], square)
    grow = p.power_of_two(reduced.shifted, -1)
    decay = p.reciprocal_power_of_two(reduced.shifted, -1)
    total, total_rest = fast_two_sum(grow, decay)
    difference, difference_rest = fast_two_sum(grow, -decay)
    sinh = fma(cosh_rest, difference, fma(sinh_rest, total, difference_rest))
    cosh = fma(cosh_rest, total, fma(sinh_rest, difference, total_rest))
    sinh, cosh = fma(r, total, sinh), fma(r, difference, cosh)
    return _Hyperbolic((difference, sinh), (total, cosh))


def _beyond_hyperbolic(p: Precision, size: Node) -> Node:
    """Return ``exp(size)/2`` for a large `size`, infinite and NaN ones included."""
    reduced = reduce(p, size)
    mantissa = exp_of_remainder(p, reduced.r)
    # Halved before it is scaled, because exp(size) overflows first.
    return scaled(p, size, 0.5 * mantissa, reduced.shifted, float(LN2))


def sinh(p: Precision, x: Node) -> Node:
    """Return the hyperbolic sine."""
    size = fabs(x)
    large, small = _hyperbolic(p, size).sinh
    value = rarely(beyond(size, safe_bound(p)), _beyond_hyperbolic(p, size), large + small)
    return p.with_sign(value, x)


def cosh(p: Precision, x: Node) -> Node:
    """Return the hyperbolic cosine."""
    size = fabs(x)
    large, small = _hyperbolic(p, size).cosh
    return rarely(beyond(size, safe_bound(p)), _beyond_hyperbolic(p, size), large + small)


def tanh(p: Precision, x: Node) -> Node:
    """Return the hyperbolic tangent."""
    # Beyond this bound the result is 1; NaN passes.
    size = minimum(0.5 * p.digits, fabs(x))
    parts = _hyperbolic(p, size)
    return p.with_sign(quotient(fast_two_sum(*parts.sinh), fast_two_sum(*parts.cosh)), x)
