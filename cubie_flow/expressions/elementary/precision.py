"""Floating-point formats, and the steps that elementary functions share.

Names follow the literature: a *double word* is an unevaluated sum ``high + low`` of two floats
with ``|low| <= ulp(high)/2``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction

from attrs import frozen

from cubie_flow.expressions.bit_operations import (
    ashr,
    bits,
    from_bits,
    iadd,
    iand,
    integer,
    ior,
    isub,
    lshr,
    shl,
)
from cubie_flow.expressions.graph import (
    Node,
    as_node,
    compare,
    const,
    fabs,
    fma,
    logical_and,
    logical_not,
    sub,
)

#: To 60 digits, enough for three words of 53 bits.
LN2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680")
PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494")
LN10 = Fraction("2.30258509299404568401799145468436420760110148862877297603333")

NAN, INFINITY = const(float("nan")), const(float("inf"))


@frozen
class Precision:
    """A binary floating point format of IEEE 754.

    Parameters
    ----------
    width : {32, 64}
        Bits of a number.
    digits : int
        Bits of the stored fraction.
    bias : int
        Exponent field of 1.
    """

    width: int
    digits: int
    bias: int

    # numbers

    def round(self, value: Fraction | float) -> float:
        """Return `value` rounded to the format."""
        if self.width == 64:
            return float(value)
        try:
            return float(struct.unpack("f", struct.pack("f", float(value)))[0])
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")

    def words(self, value: Fraction, count: int) -> list[float]:
        """Return numbers of the format whose sum is a positive `value`, largest first.

        They are truncated, hence positive: then their products with zero keep its sign.
        """
        parts = []
        for _ in range(count):
            unit = Fraction(2) ** (math.frexp(value)[1] - self.digits - 1)
            parts.append(float(value // unit * unit))
            value -= Fraction(parts[-1])
        return parts

    @property
    def tiny(self) -> float:
        """Smallest normal number."""
        return 2.0 ** (1 - self.bias)

    @property
    def largest(self) -> float:
        """Largest finite number."""
        return (2.0 - 2.0**-self.digits) * 2.0**self.bias

    @property
    def magic(self) -> float:
        """Constant whose addition rounds to a whole number, found in the lowest bits."""
        return 1.5 * 2.0**self.digits

    def pattern(self, value: float) -> int:
        """Return the bits of a number, as a signed integer."""
        code = "dq" if self.width == 64 else "fi"
        return int(struct.unpack(code[1], struct.pack(code[0], value))[0])

    # graphs

    def bits_of(self, value: float) -> Node:
        """Return the bits of a number as an integer literal."""
        return integer(self.pattern(value))

    def nearest(self, x: Node, factor: float) -> tuple[Node, Node]:
        """Return ``x*factor`` rounded to a whole number, as a float and as low bits.

        Only the lowest bits of the integer are meaningful. `x` is bounded by ``2**(digits - 2)``
        for a meaningful result.
        """
        shifted = fma(x, factor, self.magic)
        return sub(shifted, self.magic), bits(shifted)

    def exponent(self, whole: Node) -> Node:
        """Return an integer moved to the exponent field."""
        return shl(whole, integer(self.digits))

    def power_of_two(self, whole: Node, offset: int = 0) -> Node:
        """Return ``2**(whole + offset)``, a normal number; only the low bits of `whole` matter."""
        return from_bits(iadd(self.exponent(whole), self.bits_of(2.0**offset)))

    def reciprocal_power_of_two(self, whole: Node, offset: int = 0) -> Node:
        """Return ``2**(offset - whole)``, or zero one exponent below the normal numbers."""
        return from_bits(isub(self.bits_of(2.0**offset), self.exponent(whole)))

    def scale(self, x: Node, whole: Node) -> Node:
        """Return ``x * 2**whole`` where `x` and the result are normal numbers."""
        return from_bits(iadd(bits(x), self.exponent(whole)))

    def scale_twice(self, x: Node, shifted: Node) -> Node:
        """Return ``x * 2**k`` rounded once, also if it overflows or is subnormal.

        `shifted` are the bits found by `nearest`; ``|k|`` is at most ``2*bias - 4``.
        """
        whole = isub(shifted, self.bits_of(self.magic))
        half = ashr(whole, integer(1))
        return x * self.power_of_two(half) * self.power_of_two(isub(whole, half))

    def small_whole(self, whole: Node, offset: float) -> Node:
        """Return a non-negative integer below ``2**digits`` as a float, plus `offset`."""
        power = 2.0**self.digits
        return from_bits(ior(whole, self.bits_of(power))) - (power - offset)

    def exponent_field(self, pattern: Node) -> Node:
        """Return the exponent field of a non-negative bit pattern."""
        return lshr(pattern, integer(self.digits))

    def sign_bit(self, x: Node) -> Node:
        """Return the bits of a float with all but the sign cleared."""
        return iand(bits(x), self.bits_of(-0.0))

    def with_sign(self, magnitude: Node, x: Node) -> Node:
        """Return `magnitude`, which has no sign or that of `x`, with the sign of `x`."""
        return from_bits(ior(bits(magnitude), self.sign_bit(x)))

    def is_normal(self, x: Node) -> Node:
        """Return whether `x` is positive, normal and finite."""
        return logical_and(compare(">=", x, self.tiny), compare("<=", x, self.largest))


PRECISIONS = {64: Precision(64, 52, 1023), 32: Precision(32, 23, 127)}


def beyond(x: Node, bound: float) -> Node:
    """Return whether ``|x|`` is above a bound, or NaN."""
    return logical_not(compare("<=", fabs(x), bound))


def polynomial(coefficients: Sequence[float], x: Node, square: Node) -> Node:
    """Return a polynomial, lowest coefficient first, by Horner's rule over pairs of terms.

    It has as many operations as Horner's rule over single terms, in a chain half as long.

    Parameters
    ----------
    coefficients : sequence of float
    x, square : Node
        The argument, and ``x*x``.
    """
    if len(coefficients) < 4:
        return horner(coefficients, x)
    starts = range(0, len(coefficients), 2)
    return horner([horner(coefficients[i : i + 2], x) for i in starts], square)


def horner(coefficients: Sequence[Node | float], x: Node) -> Node:
    """Return a polynomial, lowest coefficient first, by Horner's rule."""
    total = as_node(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = fma(total, x, coefficient)
    return total


def fast_two_sum(a: Node, b: Node) -> tuple[Node, Node]:
    """Return ``a + b`` as a double word, where ``a`` is zero or ``|a| >= |b|``."""
    total = a + b
    return total, b - (total - a)


def two_sum(a: Node, b: Node) -> tuple[Node, Node]:
    """Return ``a + b`` as a double word."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: Node | float, b: Node) -> tuple[Node, Node]:
    """Return ``a * b`` as a double word."""
    product = a * b
    return product, fma(a, b, -product)


def quotient(a: tuple[Node, Node], b: tuple[Node, Node]) -> Node:
    """Return the quotient of two double words, nearly correctly rounded."""
    reciprocal = 1.0 / b[0]
    first = a[0] * reciprocal
    rest = fma(-first, b[0], a[0]) + fma(-first, b[1], a[1])
    return fma(rest, reciprocal, first)
