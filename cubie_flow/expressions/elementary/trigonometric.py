"""sin, cos and tan.

Arguments are reduced to ``x = k*pi/2 + r + tail`` with ``|r| <= pi/4``. For moderate `x` that takes
three words of pi/2 (Cody and Waite, "Software Manual for the Elementary Functions", 1980), for
large `x` as many digits of 2/pi as necessary (Payne and Hanek, "Radian reduction for trigonometric
functions", SIGNUM Newsletter 18, 1983).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache

from attrs import frozen

from cubie_flow.expressions.bit_operations import (
    bits,
    from_bits,
    iadd,
    iand,
    icompare,
    integer,
    isub,
    ixor,
    lshr,
    shl,
    table,
)
from cubie_flow.expressions.elementary.coefficients import COS, SIN
from cubie_flow.expressions.elementary.precision import (
    NAN,
    PI,
    Precision,
    beyond,
    fast_two_sum,
    polynomial,
    quotient,
    two_product,
    two_sum,
)
from cubie_flow.expressions.graph import (
    ONE,
    Node,
    compare,
    const,
    fabs,
    fma,
    maximum,
    minimum,
    rarely,
    round_even,
    where,
)


@frozen
class Reduced:
    """An angle ``k*pi/2 + r + tail``; `quadrant` has k in its lowest bits."""

    quadrant: Node
    r: Node
    tail: Node


def _moderate(p: Precision) -> float:
    """Bound of ``|x|`` up to which three words of pi/2 are enough."""
    return 2.0**28 if p.width == 64 else 2.0**14


def _reduce_moderate(p: Precision, x: Node) -> Reduced:
    k, quadrant = p.nearest(x, p.round(2 / PI))
    first, second, third = p.words(PI / 2, 3)
    # Exact: k*first and x are multiples of the same power of two, and nearly cancel.
    start = fma(k, -first, x)
    middle = fma(k, -second, start)
    r = fma(k, -third, middle)
    high, low = two_product(k, const(second))
    total, error = two_sum(start, -high)
    tail = (total - r) + ((error - low) - k * third)
    return Reduced(quadrant, r, tail)


# The table has digits of 2/pi for blocks of 2**5 exponents of x, with 32 bits of 2**3.
_BLOCK_BITS = {64: 5, 32: 3}


@cache
def _two_over_pi(digits: int) -> int:
    """Return about ``floor(2/pi * 2**digits)``, with pi from Machin's formula."""
    digits += 64

    def arctan_of_inverse(n: int) -> int:
        power, total, odd = (1 << digits) // n, 0, 1
        while power:
            total += power // odd if odd % 4 == 1 else -(power // odd)
            power //= n * n
            odd += 2
        return total

    pi = 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)
    return (1 << 2 * digits + 1) // pi >> 64


@cache
def _tables(p: Precision) -> tuple[int, tuple[tuple[float, ...], ...]]:
    """Return the first block of exponents in the table, and four words of every block.

    The words of block j sum to ``2/pi * 2**(j*block - digits) mod 4``. Each is a non-negative
    multiple of ``2**(1 - digits - word*(digits + 1))``.
    """
    block = 1 << _BLOCK_BITS[p.width]
    first = (int(_moderate(p)).bit_length() - 1) // block
    scale = p.bias + 8 * p.digits
    rows = []
    for j in range(first, p.bias // block + 1):
        rest = Fraction(_two_over_pi(scale), 1 << scale) * Fraction(2) ** (j * block - p.digits) % 4
        row = []
        for word in range(4):
            unit = Fraction(2) ** (1 - p.digits - word * (p.digits + 1))
            part = rest // unit * unit
            row.append(float(part))
            rest -= part
        rows.append(row)
    return first, tuple(zip(*rows, strict=True))


def _modulo_four(x: Node) -> Node:
    return fma(round_even(0.25 * x), -4.0, x)


def _reduce_large(p: Precision, x: Node) -> Reduced:
    first, tables = _tables(p)
    shift = _BLOCK_BITS[p.width]
    # Lanes that do not need this reduction, NaN and infinity use an index in range.
    size = maximum(minimum(fabs(x), p.largest), _moderate(p))
    block = lshr(isub(bits(size), p.bits_of(1.0)), integer(p.digits + shift))
    # A whole number below 2**(digits + 1 + block), with the sign of x.
    scaled = isub(bits(size), shl(block, integer(p.digits + shift)))
    f = p.with_sign(from_bits(iadd(scaled, integer(p.digits << p.digits))), x)
    index = isub(block, integer(first))
    products = [two_product(f, table(words, index)) for words in tables]
    # Multiples of 4 are full turns. The first sum is exact.
    turns = _modulo_four(products[0][0]) + _modulo_four(products[0][1])
    turns, rest = two_sum(turns, _modulo_four(products[1][0]))
    k = round_even(turns)
    low = products[2][1] + products[3][0]
    turns = turns - k
    for term in (rest, products[1][1], products[2][0]):
        turns, error = two_sum(turns, term)
        low = error + low
    turns, low = fast_two_sum(turns, low)
    half_pi, half_pi_low = p.words(PI / 2, 2)
    high, error = two_product(half_pi, turns)
    r, tail = fast_two_sum(high, fma(turns, half_pi_low, fma(low, half_pi, error)))
    return Reduced(bits(k + p.magic), r, tail)


def _is_odd(whole: Node) -> Node:
    return icompare("!=", iand(whole, integer(1)), integer(0))


def _by_reduction(p: Precision, x: Node, function: Callable[[Reduced], Node]) -> Node:
    """Return a function of the reduced argument."""
    slow = where(compare("<=", fabs(x), p.largest), function(_reduce_large(p, x)), NAN)
    return rarely(beyond(x, _moderate(p)), slow, function(_reduce_moderate(p, x)))


def _sine(p: Precision, reduced: Reduced, quarter_turns: int) -> Node:
    """Return the sine of a reduced angle plus some quarter turns."""
    r, quadrant = reduced.r, reduced.quadrant
    if quarter_turns:
        quadrant = iadd(quadrant, integer(quarter_turns))
    z = r * r
    w = z * z
    sine = p.with_sign(fma(r * z, polynomial(SIN[p.width], z, w), r), r)
    cosine = fma(z, fma(z, polynomial(COS[p.width], z, w), -0.5), ONE)
    value = where(_is_odd(quadrant), cosine, sine)
    half_turn = p.sign_bit(from_bits(shl(quadrant, integer(p.width - 2))))
    return from_bits(ixor(bits(value), half_turn))


def sin(p: Precision, x: Node) -> Node:
    """Return the sine."""
    return _by_reduction(p, x, lambda reduced: _sine(p, reduced, 0))


def cos(p: Precision, x: Node) -> Node:
    """Return the cosine."""
    return _by_reduction(p, x, lambda reduced: _sine(p, reduced, 1))


def _tangent(p: Precision, reduced: Reduced) -> Node:
    """Return the tangent of a reduced angle, as a quotient of double words."""
    r, tail = reduced.r, reduced.tail
    z = r * r
    w = z * z
    cos_rest = z * fma(z, polynomial(COS[p.width], z, w), -0.5)
    sin_rest = fma(r * z, polynomial(SIN[p.width], z, w), fma(tail, cos_rest, tail))
    sine = fast_two_sum(r, sin_rest)
    cosine = fast_two_sum(ONE, fma(-r, tail, cos_rest))
    odd = _is_odd(reduced.quadrant)
    above = [where(odd, -b, a) for a, b in zip(sine, cosine, strict=True)]
    below = [where(odd, a, b) for a, b in zip(sine, cosine, strict=True)]
    return quotient((above[0], above[1]), (below[0], below[1]))


def tan(p: Precision, x: Node) -> Node:
    """Return the tangent."""
    value = _by_reduction(p, x, lambda reduced: _tangent(p, reduced))
    return where(compare("==", x, 0.0), x, value)
