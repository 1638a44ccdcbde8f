"""asin, acos, atan and atan2."""

from __future__ import annotations

from cubie_flow.expressions.bit_operations import bits, icompare, integer
from cubie_flow.expressions.elementary.coefficients import ASIN, ATAN
from cubie_flow.expressions.elementary.precision import PI, Precision, polynomial
from cubie_flow.expressions.graph import (
    Node,
    compare,
    fabs,
    fma,
    logical_and,
    logical_not,
    logical_or,
    sqrt,
    where,
)


def _arcsine_parts(p: Precision, x: Node) -> tuple[Node, Node, Node]:
    """Return whether ``|x| > 1/2``, a number s and ``asin(s)/s - 1``.

    There ``s = sqrt((1 - |x|)/2)``, so that ``asin(|x|) = pi/2 - 2*asin(s)``, which is NaN
    beyond 1; elsewhere `s` is ``|x|``.
    """
    size = fabs(x)
    large = compare(">", size, 0.5)
    half = fma(-0.5, size, 0.5)
    z = where(large, half, size * size)
    s = where(large, sqrt(half), size)
    return large, s, z * polynomial(ASIN[p.width], z, z * z)


def asin(p: Precision, x: Node) -> Node:
    """Return the inverse sine, NaN beyond 1."""
    large, s, excess = _arcsine_parts(p, x)
    high, low = p.words(PI / 2, 2)
    twice = 2.0 * s
    start = high - twice
    start_rest = (high - start) - twice
    near_one = start + (fma(-twice, excess, low) + start_rest)
    return p.with_sign(where(large, near_one, fma(s, excess, s)), x)


def acos(p: Precision, x: Node) -> Node:
    """Return the inverse cosine, NaN beyond 1."""
    large, s, excess = _arcsine_parts(p, x)
    high, low = p.words(PI / 2, 2)
    negative = compare("<", x, 0.0)
    # With a = asin(s): 2*a near 1, pi - 2*a near -1, pi/2 - a or pi/2 + a between
    near_one = logical_and(large, logical_not(negative))
    add = logical_or(near_one, logical_and(negative, logical_not(large)))
    signed = where(add, s, -s)
    start, start_low = where(near_one, 0.0, high), where(near_one, 0.0, low)
    value = (start + signed) + fma(signed, excess, start_low)
    return where(large, 2.0 * value, value)


def _arctangent_excess(p: Precision, t: Node) -> Node:
    """Return ``atan(t)/t - 1`` for ``|t| <= 1``."""
    z = t * t
    return z * polynomial(ATAN[p.width], z, z * z)


def atan(p: Precision, x: Node) -> Node:
    """Return the inverse tangent."""
    size = fabs(x)
    high, low = p.words(PI / 2, 2)
    large = compare(">", size, 1.0)
    t = where(large, 1.0 / size, size)
    excess = _arctangent_excess(p, t)
    steep = (high - t) + fma(-t, excess, low)
    return p.with_sign(where(large, steep, fma(t, excess, t)), x)


def atan2(p: Precision, y: Node, x: Node) -> Node:
    """Return the angle of the point (x, y), with the special values of C99.

    Parameters
    ----------
    p : Precision
    y, x : Node
        Coordinates, in the order of C.
    """
    width, height = fabs(x), fabs(y)
    steep = compare(">", height, width)
    above, below = where(steep, width, height), where(steep, height, width)
    # Equal ones include infinities; zero over zero is zero.
    t = where(compare("==", above, below), 1.0, above / below)
    t = where(compare("==", above, 0.0), 0.0, t)
    excess = _arctangent_excess(p, t)
    left = icompare("<", bits(x), integer(0))
    # t, pi/2 - t, pi - t or pi/2 + t
    high, low = p.words(PI / 2, 2)
    start, start_low = (where(steep, word, where(left, 2.0 * word, 0.0)) for word in (high, low))
    subtract = logical_and(logical_or(steep, left), logical_not(logical_and(steep, left)))
    signed = where(subtract, -t, t)
    return p.with_sign((start + signed) + fma(signed, excess, start_low), y)
