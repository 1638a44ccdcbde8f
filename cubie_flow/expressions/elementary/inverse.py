"""asin, acos, atan and atan2."""

from __future__ import annotations

from cubie_flow.expressions.elementary.coefficients import ASIN, ATAN
from cubie_flow.expressions.elementary.precision import PI, Precision, polynomial
from cubie_flow.expressions.graph import (
    ONE,
    Node,
    bits,
    compare,
    fabs,
    fma,
    icompare,
    integer,
    neg,
    sqrt,
    where,
)


def _arcsine_parts(p: Precision, x: Node) -> tuple[Node, Node, Node]:
    """Return whether ``|x| > 1/2``, s and ``asin(s) - s``.

    There, ``s = sqrt((1 - |x|)/2)``, so that ``asin(|x|) = pi/2 - 2*asin(s)``; elsewhere ``s`` is
    ``|x|``.
    """
    size = fabs(x)
    large = compare(">", size, 0.5)
    half = fma(-0.5, size, 0.5)
    z = where(large, half, size * size)
    s = where(large, sqrt(half), size)
    return large, s, (s * z) * polynomial(ASIN[p.width], z, z * z)


def asin(p: Precision, x: Node) -> Node:
    """Return the inverse sine, NaN beyond 1."""
    large, s, rest = _arcsine_parts(p, x)
    high, low = p.words(PI / 2, 2)
    # NaN comes from the square root of a negative number.
    value = where(large, fma(-2.0, s, high) + fma(-2.0, rest, low), s + rest)
    return p.with_sign(value, x)


def acos(p: Precision, x: Node) -> Node:
    """Return the inverse cosine, NaN beyond 1."""
    large, s, rest = _arcsine_parts(p, x)
    high, low = p.words(PI / 2, 2)
    negative = compare("<", x, 0.0)
    signed, signed_rest = where(negative, -s, s), where(negative, -rest, rest)
    near = 2.0 * (signed + signed_rest)
    ...
