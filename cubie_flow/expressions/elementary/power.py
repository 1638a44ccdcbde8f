"""pow, cbrt and hypot."""

from __future__ import annotations

from fractions import Fraction

from cubie_flow.expressions.bit_operations import (
    bits,
    from_bits,
    iadd,
    icompare,
    integer,
    isub,
    shl,
)
from cubie_flow.expressions.elementary import exponential, logarithm
from cubie_flow.expressions.elementary.coefficients import INVERSE_CBRT, LOG_WIDE
from cubie_flow.expressions.elementary.precision import (
    INFINITY,
    LN2,
    NAN,
    Precision,
    beyond,
    fast_two_sum,
    horner,
    polynomial,
    two_product,
)
from cubie_flow.expressions.graph import (
    Node,
    compare,
    const,
    fabs,
    fma,
    logical_and,
    logical_not,
    logical_or,
    rarely,
    round_even,
    sqrt,
    where,
)


def _wide_logarithm(p: Precision, x: Node, shift: Node | None = None) -> tuple[Node, Node]:
    """Return ``log(x) - shift*ln(2)`` of a normal number, as a double word.

    The relative error is about ``2**(-digits - 11)``, so that it is still small when the
    logarithm is multiplied by a large exponent.
    """
    reduced = logarithm.reduce(p, x)
    m = reduced.m
    k = reduced.k if shift is None else reduced.k - shift
    # log(m) = 2*s + s**3*(2/3 + ...) with s = (m - 1)/(m + 1), in double words
    below = m + 1.0
    below_rest = m - (below - 1.0)
    inverse = 1.0 / below
    s = (m - 1.0) * inverse
    s_rest = fma(-s, below_rest, fma(-s, below, m - 1.0)) * inverse
    z, z_rest = two_product(s, s)
    z_rest = fma(2.0 * s, s_rest, z_rest)
    cube, cube_rest = two_product(z, s)
    cube_rest = fma(z, s_rest, fma(z_rest, s, cube_rest))
    factor, factor_rest = p.words(Fraction(2, 3), 2)
    factors, rest = fast_two_sum(const(factor), z * polynomial(LOG_WIDE[p.width], z, z * z))
    third, third_rest = two_product(factors, cube)
    third_rest = fma(rest + factor_rest, cube, fma(factors, cube_rest, third_rest))
    # The first word of ln(2) is short, so that its product with k is exact.
    unit = Fraction(1, 1 << (p.digits - p.bias.bit_length() - 1))
    ln2 = LN2 // unit * unit
    high, first = fast_two_sum(k * float(ln2), 2.0 * s)
    high, second = fast_two_sum(high, third)
    low = fma(k, p.round(LN2 - ln2), fma(2.0, s_rest, third_rest))
    return fast_two_sum(high, low + (first + second))


def power(p: Precision, x: Node, y: Node) -> Node:
    """Return `x` to the power `y`, with the special values of C99.

    Parameters
    ----------
    p : Precision
    x, y : Node
        Base and exponent.
    """
    high, low = _wide_logarithm(p, x)
    product, rest = two_product(y, high)
    reduced = exponential.reduce(p, product)
    mantissa = exponential.exp_of_double_word(p, reduced.r, fma(y, low, rest))
    usual = logical_and(p.is_normal(x), compare("<=", fabs(product), exponential.safe_bound(p)))
    return rarely(logical_not(usual), _unusual_power(p, x, y), p.scale(mantissa, reduced.shifted))


def _unusual_power(p: Precision, x: Node, y: Node) -> Node:
    """Return the power for any arguments."""
    size = fabs(x)
    subnormal = compare("<", size, p.tiny)
    shift = p.digits + 2.0
    high, low = _wide_logarithm(
        p, where(subnormal, size * 2.0**shift, size), where(subnormal, shift, 0.0)
    )
    # Infinity and NaN are their own logarithms.
    high = where(compare("<=", size, p.largest), high, size)
    high = where(compare("==", size, 0.0), -INFINITY, high)
    product, rest = two_product(y, high)
    low = where(beyond(product, 4.0 * p.bias), 0.0, fma(y, low, rest))
    reduced = exponential.reduce(p, product)
    mantissa = exponential.exp_of_double_word(p, reduced.r, low)
    value = exponential.scaled(p, product, mantissa, reduced.shifted, float(LN2))
    # The sign, and NaN for other powers of negative numbers
    whole = compare("==", round_even(y), y)
    odd = logical_and(whole, compare("!=", round_even(0.5 * y), 0.5 * y))
    value = where(logical_and(odd, icompare("<", bits(x), integer(0))), -value, value)
    negative = logical_and(compare("<", x, 0.0), compare(">=", x, -p.largest))
    value = where(logical_and(negative, logical_not(whole)), NAN, value)
    one = logical_or(compare("==", y, 0.0), compare("==", x, 1.0))
    endless = logical_and(compare("==", size, 1.0), compare(">", fabs(y), p.largest))
    return where(logical_or(one, endless), 1.0, value)


def cbrt(p: Precision, x: Node) -> Node:
    """Return the cube root."""
    size = fabs(x)
    # Subnormal numbers are made normal by a power of 8.
    shift = p.digits // 3 + 2
    slow = _cbrt_of_normal(p, size * 8.0**shift) * 2.0**-shift
    own = logical_or(compare("==", x, 0.0), logical_not(compare("<=", size, p.largest)))
    value = rarely(
        logical_not(p.is_normal(size)),
        where(own, size, slow),
        _cbrt_of_normal(p, size),
    )
    return p.with_sign(value, x)


def _cbrt_of_normal(p: Precision, x: Node) -> Node:
    """Return the cube root of a positive normal number, from ``m**(-1/3)`` of its mantissa."""
    # x = 8**q * m with 1 <= m < 8
    field = p.exponent_field(bits(x))
    offset = -p.bias % 3
    _, shifted = p.nearest(p.small_whole(field, offset - 1.0), p.round(Fraction(1, 3)))
    third = isub(shifted, p.bits_of(p.magic))
    triple = iadd(third, shl(third, integer(1)))
    unbiased = isub(bits(x), p.exponent(isub(triple, integer(offset))))
    m = from_bits(iadd(unbiased, p.bits_of(1.0)))
    root = horner(INVERSE_CBRT[p.width], m)
    # root*(1 - h)**(-1/3) by a series, then one step of Newton for the cube root itself
    h = fma(-m * root, root * root, 1.0)
    series = [1 / 3, 2 / 9, 14 / 81] if p.width == 64 else [1 / 3, 2 / 9]
    root = fma(root * h, horner([p.round(c) for c in series], h), root)
    y = m * root * root
    square, square_rest = two_product(y, y)
    excess = fma(square, y, fma(square_rest, y, -m))
    y = fma(excess * (root * root), p.round(Fraction(-1, 3)), y)
    return p.scale(y, isub(third, integer((p.bias + offset) // 3)))


def hypot(p: Precision, x: Node, y: Node) -> Node:
    """Return ``sqrt(x**2 + y**2)``, infinite if either is.

    Parameters
    ----------
    p : Precision
    x, y : Node
    """
    a, b = fabs(x), fabs(y)
    swap = compare("<", a, b)
    large, small = where(swap, b, a), where(swap, a, b)
    # Squares outside these bounds overflow or lose digits.
    top, bottom = 2.0 ** (p.bias // 2 - 2), 2.0 ** -((p.bias - p.digits) // 2 - 4)
    usual = logical_and(compare("<=", large, top), compare(">=", large, bottom))
    factor = 2.0 ** int(0.7 * p.bias)
    huge = compare(">", large, 1.0)
    down, up = where(huge, 1.0 / factor, factor), where(huge, factor, 1.0 / factor)
    scaled = up * _root_of_squares(large * down, small * down)
    infinite = logical_or(compare("==", a, INFINITY), compare("==", b, INFINITY))
    slow = where(infinite, INFINITY, scaled)
    return rarely(logical_not(usual), slow, _root_of_squares(large, small))


def _root_of_squares(a: Node, b: Node) -> Node:
    return sqrt(fma(a, a, b * b))
