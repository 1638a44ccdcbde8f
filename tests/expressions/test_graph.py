"""The expression graph: identity, simplification, derivatives, hashes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubie_flow.errors import FlowError
from cubie_flow.expressions import graph as g
from cubie_flow.expressions.derivatives import differentiate
from cubie_flow.expressions.evaluate import evaluate, fused_multiply_add
from cubie_flow.expressions.traversal import (
    content_hash,
    free_symbols,
    fuse,
    substitute,
    topological,
)

X, Y = g.symbol("x"), g.symbol("y")
VALUES = {"x": 0.7, "y": -1.3}


def expressions(depth: int = 4) -> st.SearchStrategy[g.Node]:
    """Random smooth expressions of x and y, finite near the test point."""
    leaves = st.sampled_from([X, Y]) | st.floats(-3, 3).map(lambda v: g.const(round(v, 3)))

    def grow(inner: st.SearchStrategy[g.Node]) -> st.SearchStrategy[g.Node]:
        pair = st.tuples(inner, inner)
        return st.one_of(
            pair.map(lambda p: p[0] + p[1]),
            pair.map(lambda p: p[0] - p[1]),
            pair.map(lambda p: p[0] * p[1]),
            pair.map(lambda p: p[0] / (1.5 + p[1] * p[1])),
            inner.map(lambda a: -a),
            inner.map(lambda a: g.call("sin", a)),
            inner.map(lambda a: g.call("tanh", a)),
            inner.map(lambda a: g.call("exp", g.call("cos", a))),
            inner.map(lambda a: g.sqrt(a * a + 1.0)),
            inner.map(lambda a: a**3),
        )

    return st.recursive(leaves, grow, max_leaves=12)


def test_equal_expressions_are_one_object() -> None:
    assert (X + Y) * 2.0 is g.mul(g.add(X, Y), 2)
    assert X - Y is not Y - X
    assert g.const(0.0) is not g.const(-0.0)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (X + 0, X),
        (1 * X, X),
        (X * 0, g.ZERO),
        (X - X, g.ZERO),
        (X**1, X),
        (X**2, X * X),
        (X**0.5, g.sqrt(X)),
        (X**-1, 1 / X),
        (g.neg(g.neg(X)), X),
        (X / 2, 0.5 * X),
        (g.where(g.compare("<", 1, 2), X, Y), X),
        (g.call("exp", 0.0), g.ONE),
    ],
)
def test_simplification(made: g.Node, expected: g.Node) -> None:
    assert made is expected


@settings(max_examples=150, derandomize=True, deadline=None)
@given(expressions())
def test_derivative_agrees_with_complex_free_difference(node: g.Node) -> None:
    exact = evaluate([differentiate(node, X)], VALUES)[0]
    h = 1e-5
    ends = [evaluate([node], {**VALUES, "x": VALUES["x"] + s * h})[0] for s in (-2, -1, 1, 2)]
    slope = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)
    size = max(1.0, abs(float(exact)), *(abs(float(v)) for v in ends))
    assert float(exact) == pytest.approx(float(slope), abs=2e-6 * size, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "at"), [(n, 0.4) for n, arity in g.FUNCTIONS.items() if arity == 1 and n != "acosh"]
)
def test_derivative_of_every_function(name: str, at: float) -> None:
    node = g.call(name, X)
    exact = float(evaluate([differentiate(node, X)], {"x": at})[0])
    h = 1e-6
    high, low = (float(evaluate([node], {"x": at + s})[0]) for s in (h, -h))
    assert exact == pytest.approx((high - low) / (2 * h), abs=1e-8, rel=1e-7)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(expressions())
def test_fusing_changes_only_the_rounding(node: g.Node) -> None:
    plain, fused = (evaluate(nodes, VALUES)[0] for nodes in ([node], fuse([node])))
    assert float(fused) == pytest.approx(float(plain), rel=1e-9, abs=1e-9)


def test_fuse_finds_every_multiply_add() -> None:
    for node in (X * Y + 1.0, 1.0 + X * Y, X * Y - 1.0, 1.0 - X * Y):
        (fused,) = fuse([node])
        assert fused.op == "fma"


@settings(max_examples=60, derandomize=True, deadline=None)
@given(expressions())
def test_hash_is_of_the_content(node: g.Node) -> None:
    renamed, again = substitute([node], {X: g.symbol("z")})[0], substitute([node], {})[0]
    assert content_hash([node]) == content_hash([again])
    if "x" in free_symbols([node]):
        assert content_hash([node]) != content_hash([renamed])


@settings(max_examples=60, derandomize=True, deadline=None)
@given(expressions(), st.floats(-2, 2))
def test_substitution_is_evaluation(node: g.Node, value: float) -> None:
    (closed,) = substitute([node], {X: g.const(value), Y: g.const(0.5)})
    expected = evaluate([node], {"x": value, "y": 0.5})[0]
    assert float(evaluate([closed], {})[0]) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)


def test_unknown_function_names_the_nearest() -> None:
    with pytest.raises(FlowError, match="did you mean 'sinh'"):
        g.call("sinhh", X)
    with pytest.raises(FlowError, match="takes 2 argument"):
        g.call("atan2", X)


def test_python_branches_are_refused() -> None:
    with pytest.raises(FlowError, match="use where"):
        bool(X > 0)
    with pytest.raises(FlowError, match=r"cubie_flow\.maths"):
        math.sin(X)  # type: ignore[arg-type]


def test_deep_graphs_need_no_recursion() -> None:
    node = X
    for i in range(20_000):
        node = node * 0.5 + float(i % 7)
    assert len(topological([node])) > 20_000
    assert np.isfinite(evaluate([node], {"x": 1.0})[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fused_multiply_add_rounds_once(dtype: type) -> None:
    from fractions import Fraction

    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 3000)).astype(dtype)
    c = (-a * b * (1 + rng.choice([0, 1e-8, 1e-16, 1], 3000))).astype(dtype)
    got = fused_multiply_add(a, b, c)
    for x, y, z, r in zip(a, b, c, got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        error = abs(Fraction(float(r)) - exact)
        for neighbour in (np.nextafter(r, dtype(np.inf)), np.nextafter(r, dtype(-np.inf))):
            assert error <= abs(Fraction(float(neighbour)) - exact)


def test_derivatives_of_quotients_whose_divisor_overflows() -> None:
    """A steep sigmoid is flat far from its middle, in value and derivative."""
    x = g.symbol("x")
    sigmoid = 1.0 / (1.0 + g.call("exp", -(x + 40.0) / 0.024))
    current = (x + 40.0) / (1.0 - g.call("exp", -(x + 40.0) / 0.024))
    for node, slope in ((sigmoid, 0.0), (current, 0.0)):
        derivative = differentiate(node, x)
        with np.errstate(over="ignore"):
            value, found = (float(v) for v in evaluate([node, derivative], {"x": -90.0}))
        assert value == pytest.approx(0.0, abs=1e-30)
        assert found == slope
    # Nearer to the middle nothing changes.
    values = evaluate([differentiate(sigmoid, x)], {"x": -40.0})
    assert float(values[0]) == pytest.approx(0.25 / 0.024)
