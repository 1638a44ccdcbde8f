"""The error function."""

from __future__ import annotations

from cubie_flow.expressions.elementary.coefficients import ERF_LARGE, ERF_SMALL
from cubie_flow.expressions.elementary.exponential import exp_of_remainder, reduce
from cubie_flow.expressions.elementary.precision import Precision, polynomial
from cubie_flow.expressions.graph import Node, compare, fabs, fma, minimum, where

#: From here on, erf is 1.
_END = {64: 5.95, 32: 3.95}


def erf(p: Precision, x: Node) -> Node:
    """Return the error function: a polynomial up to 1, ``1 - exp(polynomial)`` above."""
    size = fabs(x)
    z = size * size
    small = fma(size, polynomial(ERF_SMALL[p.width], z, z * z), size)
    t = minimum(p.round(_END[p.width]), size)
    exponent = reduce(p, polynomial(ERF_LARGE[p.width], t, t * t))
    # A product, so that NaN passes.
    large = 1.0 - exp_of_remainder(p, exponent.r) * p.power_of_two(exponent.shifted)
    return p.with_sign(where(compare("<", size, 1.0), small, large), x)
