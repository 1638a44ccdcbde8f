"""Bounds of expressions hold for every value within the interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubie_flow.expressions.derivatives import differentiate
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.graph import (
    FUNCTIONS,
    Node,
    call,
    const,
    fabs,
    maximum,
    minimum,
    power,
    symbol,
    where,
)
from cubie_flow.expressions.intervals import bounds

X = symbol("x")
NUMBERS = st.floats(-3, 3).map(lambda value: round(value, 2))


def leaves() -> st.SearchStrategy[Node]:
    return st.one_of(st.just(X), NUMBERS.map(const))


def grown(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    pair = st.tuples(inner, inner)
    unary = sorted(name for name, count in FUNCTIONS.items() if count == 1 and name != "sign")
    return st.one_of(
        pair.map(lambda p: p[0] + p[1]),
        pair.map(lambda p: p[0] - p[1]),
        pair.map(lambda p: p[0] * p[1]),
        pair.map(lambda p: p[0] / p[1]),
        pair.map(lambda p: minimum(*p)),
        pair.map(lambda p: maximum(*p)),
        pair.map(lambda p: where(p[0] > 0.1, p[1], -p[0])),
        pair.map(lambda p: power(fabs(p[0]), p[1])),
        pair.map(lambda p: call("hypot", *p)),
        pair.map(lambda p: call("atan2", *p)),
        inner.map(lambda a: a * a),
        st.tuples(st.sampled_from(unary), inner).map(lambda p: call(*p)),
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(leaves(), grown, max_leaves=6), NUMBERS, st.floats(0, 4))
def test_no_value_is_outside(node: Node, low: float, width: float) -> None:
    high = low + width
    for one in (node, differentiate(node, X)):
        points = np.linspace(low, high, 41)
        values = np.asarray(evaluate([one], {"x": points})[0], float) + 0 * points
        values = values[np.isfinite(values)]
        room = 1e-9 * (1 + np.abs(values))
        # In numbers, and as a kernel has them, which knows the ends of the interval only later.
        for ends in ((const(low), const(high)), (symbol("low"), symbol("high"))):
            (found,) = bounds([one], X, *ends)
            given_ends = {"low": low, "high": high}
            least, most = (float(v) for v in evaluate([found.low, found.high], given_ends))
            # An unknown bound is infinite or NaN and claims nothing.
            if not math.isnan(least):
                assert not (values < least - room).any(), (one, least, values.min())
            if not math.isnan(most):
                assert not (values > most + room).any(), (one, most, values.max())


@pytest.mark.parametrize(
    ("node", "low", "high", "expected"),
    [
        (X * X, -1.0, 2.0, (0.0, 4.0)),
        (call("sin", X), 0.0, 2.0, (0.0, 1.0)),
        (call("sin", X), 2.0, 6.0, (-1.0, math.sin(2.0))),
        (call("cos", X), -0.1, 0.2, (math.cos(0.2), 1.0)),
        (call("exp", -(X * X)), -30.0, 30.0, (math.exp(-900), 1.0)),
        (1.0 / X, -1.0, 1.0, (-math.inf, math.inf)),
        (1.0 / X, 1.0, 2.0, (0.5, 1.0)),
    ],
)
def test_bounds_are_tight(
    node: Node, low: float, high: float, expected: tuple[float, float]
) -> None:
    (found,) = bounds([node], X, const(low), const(high))
    values = [float(v) for v in evaluate([found.low, found.high], {})]
    np.testing.assert_allclose(values, expected, atol=1e-15)
