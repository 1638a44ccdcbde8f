"""Logarithms and the inverse hyperbolic functions.

Arguments are reduced to ``x = 2**k * (1 + f)`` with ``sqrt(1/2) <= 1 + f < sqrt(2)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from attrs import frozen

from cubie_flow.expressions.bit_operations import bits, from_bits, iadd, iand, integer, isub
from cubie_flow.expressions.elementary.coefficients import LOG_POLYNOMIAL, LOG_QUOTIENT
from cubie_flow.expressions.elementary.precision import (
    INFINITY,
    LN2,
    LN10,
    NAN,
    Precision,
    fast_two_sum,
    polynomial,
    two_sum,
)
from cubie_flow.expressions.graph import (
    ONE,
    ZERO,
    Node,
    compare,
    fabs,
    fma,
    logical_and,
    logical_not,
    maximum,
    rarely,
    sqrt,
    where,
)


@frozen
class Reduced:
    """A positive normal number ``2**k * m``; `field` is k plus the bias, an integer."""

    k: Node
    m: Node
    field: Node


def reduce(p: Precision, x: Node) -> Reduced:
    """Split a positive normal number; the parts of any other number are meaningless."""
    middle = p.pattern(p.round(math.sqrt(0.5)))
    moved = iadd(bits(x), integer(p.pattern(1.0) - middle))
    field = p.exponent_field(moved)
    m = from_bits(iadd(iand(moved, integer((1 << p.digits) - 1)), integer(middle)))
    return Reduced(p.small_whole(field, -float(p.bias)), m, field)


def _rest(p: Precision, f: Node) -> Node:
    """Return ``log(1 + f) - f`` for ``sqrt(1/2) <= 1 + f <= sqrt(2)``."""
    square = f * f
    if p.width == 32:
        return square * fma(f, polynomial(LOG_POLYNOMIAL[32], f, square), -0.5)
    # A series in s = f/(2 + f), arranged as in FDLIBM's e_log.c; the division is hidden behind
    # the other operations and cheaper than the ten more terms of a series in f.
    s = f / (f + 2.0)
    z = s * s
    half = 0.5 * square
    return fma(s, fma(z, polynomial(LOG_QUOTIENT[64], z, z * z), half), -half)


def _combine(p: Precision, k: Node, f: Node, tail: Node = ZERO) -> Node:
    """Return ``k*ln(2) + log(1 + f + tail)``, with a tail that is tiny compared with f."""
    high, low = p.words(LN2, 2)
    return fma(k, high, f + (fma(k, low, _rest(p, f)) + tail))


def _log_of_normal(p: Precision, x: Node, doublings: int = 0) -> Node:
    """Return ``log(2**doublings * x)``."""
    reduced = reduce(p, x)
    return _combine(p, reduced.k + float(doublings), reduced.m - 1.0)


def _log_of_double_word(p: Precision, high: Node, low: Node) -> Node:
    """Return ``log(high + low)`` for a moderate positive number."""
    reduced = reduce(p, high)
    inverse = from_bits(isub(integer(2 * p.bias << p.digits), p.exponent(reduced.field)))
    return _combine(p, reduced.k, *fast_two_sum(reduced.m - 1.0, low * inverse))


def _log_of_one_plus(p: Precision, high: Node, low: Node) -> Node:
    """Return ``log(1 + high + low)`` for a moderate sum above -1."""
    total, error = two_sum(high, ONE)
    return _log_of_double_word(p, total, error + low)


def _special(p: Precision, x: Node, value: Node) -> Node:
    """Return the logarithm of `x` if it is zero, negative, infinite or NaN, else `value`."""
    value = where(compare(">", x, p.largest), INFINITY, value)
    return where(compare(">", x, 0.0), value, where(compare("==", x, 0.0), -INFINITY, NAN))


def _logarithm(p: Precision, x: Node, combine: Callable[[Node, Node], Node]) -> Node:
    """Return a logarithm, which `combine` makes from k and f."""
    fast = reduce(p, x)
    # Subnormal numbers are made normal.
    shift = p.digits + 2.0
    slow = reduce(p, x * 2.0**shift)
    return rarely(
        logical_not(p.is_normal(x)),
        _special(p, x, combine(slow.k - shift, slow.m - 1.0)),
        combine(fast.k, fast.m - 1.0),
    )


def log(p: Precision, x: Node) -> Node:
    """Return the natural logarithm."""
    return _logarithm(p, x, lambda k, f: _combine(p, k, f))


def log2(p: Precision, x: Node) -> Node:
    """Return the logarithm to base 2, exact for powers of two."""
    high, low = p.words(1 / LN2, 2)
    return _logarithm(p, x, lambda k, f: k + fma(f, high, fma(f, low, _rest(p, f) * high)))


def log10(p: Precision, x: Node) -> Node:
    """Return the logarithm to base 10."""
    high, low = p.words(1 / LN10, 2)
    two_high, two_low = p.words(LN2 / LN10, 2)

    def combine(k: Node, f: Node) -> Node:
        rest = fma(_rest(p, f), high, k * two_low)
        return fma(k, two_high, fma(f, high, fma(f, low, rest)))

    return _logarithm(p, x, combine)


def log1p(p: Precision, x: Node) -> Node:
    """Return the natural logarithm of ``1 + x``."""
    total, error = two_sum(x, ONE)
    usual = logical_and(compare(">=", total, p.tiny), compare("<=", total, 2.0 ** (p.bias - 2)))
    return rarely(
        logical_not(usual),
        _special(p, total, _log_of_normal(p, total)),
        # The sign is lost for negative zero only.
        p.with_sign(_log_of_double_word(p, total, error), x),
    )


def _square_bound(p: Precision) -> float:
    """Return a bound far from overflow, above whose square 1 is negligible."""
    return 2.0 ** (p.bias // 2 - 2)


def asinh(p: Precision, x: Node) -> Node:
    """Return the inverse hyperbolic sine."""
    size = fabs(x)
    # size + sqrt(size**2 + 1) - 1
    root = sqrt(fma(size, size, ONE))
    usual = _log_of_one_plus(p, *fast_two_sum(size, size * size / (root + 1.0)))
    large = where(compare("<=", size, p.largest), _log_of_normal(p, size, doublings=1), size)
    unusual = logical_not(compare("<=", size, _square_bound(p)))
    return p.with_sign(rarely(unusual, large, usual), x)


def acosh(p: Precision, x: Node) -> Node:
    """Return the non-negative inverse hyperbolic cosine, NaN below 1."""
    above = x - 1.0
    # above + sqrt(x**2 - 1)
    twice = 2.0 * above
    square = fma(above, above, twice)
    square_rest = fma(above, above, twice - square)
    root = sqrt(square)
    root_rest = (fma(-root, root, square) + square_rest) / maximum(2.0 * root, p.tiny)
    total, rest = fast_two_sum(root, above)
    usual = _log_of_one_plus(p, total, rest + root_rest)
    large = where(compare("<=", x, p.largest), _log_of_normal(p, x, doublings=1), x)
    inside = logical_and(compare(">=", x, 1.0), compare("<=", x, _square_bound(p)))
    return rarely(logical_not(inside), where(compare("<", x, 1.0), NAN, large), usual)


def atanh(p: Precision, x: Node) -> Node:
    """Return the inverse hyperbolic tangent, infinite at 1 and NaN beyond."""
    size = fabs(x)
    # log1p(2*size / (1 - size)) / 2, with the quotient as a double word
    below = 1.0 - size
    below_rest = (1.0 - below) - size
    inverse = 1.0 / below
    quotient = (2.0 * size) * inverse
    rest = fma(-quotient, below, 2.0 * size) - quotient * below_rest
    usual = 0.5 * _log_of_one_plus(p, quotient, rest * inverse)
    edge = where(compare("==", size, 1.0), INFINITY, NAN)
    return p.with_sign(rarely(logical_not(compare("<", size, 1.0)), edge, usual), x)
