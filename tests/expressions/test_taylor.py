"""Taylor coefficients against repeated total derivatives of the same equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubie_flow import maths
from cubie_flow.errors import FlowError
from cubie_flow.expressions.derivatives import directional
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.graph import Node, call, load, symbol, where
from cubie_flow.expressions.taylor import coefficients

X, Y, T, H = symbol("x"), symbol("y"), symbol("t"), symbol("h")
VALUES = {"x": 0.7, "y": -0.4, "t": 0.3, "h": 1.0}


def of(equations: list[Node], order: int, **values: float) -> list[list[float]]:
    rows = coefficients(equations, [X, Y][: len(equations)], T, H, order)
    flat = [node for row in rows for node in row]
    found = [float(v) for v in evaluate(flat, {**VALUES, **values})]
    width = len(equations)
    return [found[i : i + width] for i in range(0, len(found), width)]


def by_derivatives(equations: list[Node], order: int) -> list[list[float]]:
    """Differentiate by time along the solution, again and again."""
    states = [X, Y][: len(equations)]
    present, rows = list(equations), []
    for k in range(1, order + 1):
        numbers = evaluate(present, VALUES)
        rows.append([float(v) / math.factorial(k) for v in numbers])
        present = directional(present, [*states, T], [*equations, symbol("one")])
        VALUES["one"] = 1.0
    return rows


UNARY = [
    maths.exp, maths.expm1, maths.sin, maths.cos, maths.tan, maths.tanh, maths.sinh, maths.cosh,
    maths.atan, maths.asinh, maths.erf, maths.exp2,
    lambda a: maths.sqrt(a * a + 1.0), lambda a: maths.log(a * a + 2.0),
    lambda a: maths.log1p(a * a), lambda a: maths.log10(a * a + 0.5),
    lambda a: maths.cbrt(a * a + 1.0), lambda a: maths.asin(0.5 * maths.sin(a)),
    lambda a: maths.acosh(a * a + 2.0), lambda a: maths.atanh(0.3 * maths.cos(a)),
    lambda a: (a * a + 1.0) ** 1.7, lambda a: (a * a + 0.5) ** -0.3, lambda a: a**5,
    abs, lambda a: -a, lambda a: 1.0 / (a * a + 1.0),
]  # fmt: skip
BINARY = [
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b,
    lambda a, b: a / (b * b + 1.0), lambda a, b: (a * a + 1.0) ** b,
    lambda a, b: where(a < b, a * b, a + b), maths.minimum, maths.maximum,
    lambda a, b: maths.hypot(a, b + 2.0), lambda a, b: maths.atan2(a, b * b + 1.0),
]  # fmt: skip


@st.composite
def expressions(draw: st.DrawFn) -> Node:
    pool: list[Node] = [X, Y, T, 0.5 * X, 1.5 - Y]
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            made = draw(st.sampled_from(UNARY))(draw(st.sampled_from(pool)))
        else:
            first, second = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
            made = draw(st.sampled_from(BINARY))(first, second)
        # Kept small, so that no function overflows.
        pool.append(0.5 * made)
    return pool[-1]


@settings(max_examples=60, deadline=None)
@given(expressions(), expressions())
def test_coefficients_are_those_of_the_total_derivatives(f: Node, g: Node) -> None:
    found, right = np.asarray(of([f, g], 5)), np.asarray(by_derivatives([f, g], 5))
    np.testing.assert_allclose(found, right, rtol=1e-8, atol=1e-10 * (1.0 + np.abs(right).max()))


@pytest.mark.parametrize("function", UNARY)
def test_every_function(function) -> None:  # type: ignore[no-untyped-def]
    f = function(X + 0.1 * T)
    np.testing.assert_allclose(of([f], 6), by_derivatives([f], 6), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("function", BINARY)
def test_every_operation(function) -> None:  # type: ignore[no-untyped-def]
    f, g = function(X, Y), function(Y, T)
    np.testing.assert_allclose(of([f, g], 6), by_derivatives([f, g], 6), rtol=1e-9, atol=1e-12)


def test_closed_forms_to_high_order() -> None:
    order = 20
    growth = [row[0] for row in of([X], order)]
    np.testing.assert_allclose(growth, [0.7 / math.factorial(k) for k in range(1, order + 1)])
    # x' = x**2 has the solution x0/(1 - x0*h): a geometric series.
    pole = [row[0] for row in of([X * X], order)]
    np.testing.assert_allclose(pole, [0.7 ** (k + 1) for k in range(1, order + 1)], rtol=1e-13)
    # x' = 1 + x**2 from 0 is the tangent.
    tangent = [row[0] for row in of([1.0 + X * X], 7, x=0.0)]
    np.testing.assert_allclose(tangent, [1, 0, 1 / 3, 0, 2 / 15, 0, 17 / 315], atol=1e-15)
    # x' = cos(t) is the sine, whatever x.
    sine = [row[0] for row in of([maths.cos(T)], order, t=0.0)]
    signs = [[0, 1, 0, -1][k % 4] / math.factorial(k) for k in range(1, order + 1)]
    np.testing.assert_allclose(sine, signs, atol=1e-17)


def test_terms_are_measured_at_the_end_of_the_step() -> None:
    whole, half = of([X * Y, X - T], 6), of([X * Y, X - T], 6, h=0.5)
    scaled = [[value * 0.5**k for value in row] for k, row in enumerate(whole, start=1)]
    np.testing.assert_allclose(half, scaled, rtol=1e-13)


def test_what_does_not_move_has_no_terms() -> None:
    rows = coefficients([load("p", 0) * call("exp", load("p", 1))], [X], T, H, 4)
    assert [row[0].value for row in rows[1:]] == [0.0] * 3


def test_an_operation_without_derivative_is_refused() -> None:
    from cubie_flow.expressions.bit_operations import bits, from_bits

    with pytest.raises(FlowError, match="'from_bits' has no Taylor coefficients"):
        coefficients([from_bits(bits(X))], [X], T, H, 3)
