"""Building a graph changes no value but where it says so: against the expression as written."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubie_flow import OdeSystem, solve
from cubie_flow.expressions import graph
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.expressions.infix import to_text
from cubie_flow.systems.parser import parse_expression

NAN, INF = math.nan, math.inf
VALUES = (0.0, -0.0, 1.0, -1.0, 2.0, -0.5, 0.1, 3.0, 1e300, 1e-300, 5e-324, INF, -INF, NAN)
SYMBOLS = {"x": symbol("x"), "y": symbol("y")}
Tree = Any

leaves = st.one_of(
    st.sampled_from(("x", "y")).map(lambda name: ("symbol", name)),
    st.sampled_from(VALUES).map(lambda value: ("const", value)),
)


def _grown(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    one = st.sampled_from(("neg", "abs", "sqrt", "floor", "ceil", "sign", "round"))
    two = st.sampled_from(("add", "sub", "mul", "div", "min", "max", "mod"))
    comparison = st.sampled_from(("<", "<=", ">", ">=", "==", "!="))
    exponent = st.sampled_from((0.0, 1.0, 2.0, 3.0, -1.0, -2.0, 0.5, -0.5, 1.5))
    return st.one_of(
        st.tuples(one, inner),
        st.tuples(two, inner, inner),
        # The same twice, which independent draws would seldom make.
        st.tuples(two, inner).map(lambda pair: (*pair, pair[1])),
        st.tuples(st.just("pow"), inner, exponent),
        st.tuples(comparison, inner, inner, inner, inner).map(lambda drawn: ("where", *drawn)),
    )


trees = st.recursive(leaves, _grown, max_leaves=8)


def expanded(tree: Tree) -> Tree:
    """Return a tree in which what is made of other operations is written out."""
    head, *rest = tree
    if head in ("symbol", "const"):
        return tree
    if head == "where":
        return (head, rest[0], *map(expanded, rest[1:]))
    if head == "pow":
        return (head, expanded(rest[0]), rest[1])
    args = list(map(expanded, rest))
    if head == "ceil":
        return ("neg", ("floor", ("neg", args[0])))
    if head == "sign":
        inner = ("where", "<", args[0], ("const", 0.0), ("const", -1.0), args[0])
        return ("where", ">", args[0], ("const", 0.0), ("const", 1.0), inner)
    if head == "mod":
        a, b = args
        return ("sub", a, ("mul", b, ("floor", ("div", a, b))))
    return (head, *args)


def built(tree: Tree) -> Node:
    """Return the graph of a tree, as the parser builds it."""
    head, *rest = tree
    if head == "symbol":
        return SYMBOLS[rest[0]]
    if head == "const":
        return const(rest[0])
    if head == "where":
        a, b, c, d = map(built, rest[1:])
        return graph.where(graph.compare(rest[0], a, b), c, d)
    if head == "pow":
        return graph.power(built(rest[0]), rest[1])
    function = {
        "add": graph.add, "sub": graph.sub, "mul": graph.mul, "div": graph.div, "neg": graph.neg,
        "round": graph.round_even,
    }.get(head, lambda *args: graph.call(head, *args))  # fmt: skip
    return function(*map(built, rest))


def value(tree: Tree, given: dict[str, float], trace: list[float]) -> np.float64:
    """Return what an expanded tree is, operation by operation; `trace` gets what is on the way."""
    head, *rest = tree
    if head == "symbol":
        found = np.float64(given[rest[0]])
    elif head == "const":
        found = np.float64(rest[0])
    elif head == "where":
        a, b, c, d = (value(arg, given, trace) for arg in rest[1:])
        found = c if _COMPARE[rest[0]](a, b) else d
    elif head == "pow":
        found = _power(value(rest[0], given, trace), rest[1])
    else:
        found = np.float64(_OPERATE[head](*(value(arg, given, trace) for arg in rest)))
    trace.append(float(found))
    return found


_COMPARE = {
    "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
    "==": np.equal, "!=": np.not_equal,
}  # fmt: skip
_OPERATE = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "floor": np.floor, "round": np.rint,
    "min": lambda a, b: a if a < b else b, "max": lambda a, b: a if a > b else b,
}  # fmt: skip


def _power(base: np.float64, exponent: float) -> np.float64:
    """Return a power, rounded as products and roots are where it is one of them."""
    if exponent != int(exponent):
        if base == 0.0 or base == -INF:
            return np.power(base, exponent)
        root = np.sqrt(base)
        return {0.5: root, -0.5: np.float64(1.0) / root, 1.5: base * root}[exponent]
    product = {0: np.float64(1.0), 1: base, 2: base * base, 3: base * (base * base)}[
        abs(int(exponent))
    ]
    return product if exponent >= 0 else np.float64(1.0) / product


def deliberate(tree: Tree) -> bool:
    """Return whether building an expanded tree uses a rule that may change a value."""
    head, *rest = tree
    if head in ("symbol", "const"):
        return False
    args = [arg for arg in rest if isinstance(arg, tuple)]
    if any(map(deliberate, args)):
        return True
    a, *more = map(built, args)
    b = more[0] if more else a

    def zero(node: Node) -> bool:
        return graph.is_const(node, 0.0)

    match head:
        case "add":
            against = (a.op == "neg" and a.args[0] is b) or (b.op == "neg" and b.args[0] is a)
            return zero(a) or zero(b) or against
        case "sub":
            return zero(a) or zero(b) or a is b
        case "mul":
            turned = any(graph.is_const(one, -1.0) for one in (a, b)) and "sub" in (a.op, b.op)
            return zero(a) or zero(b) or turned
        case "div":
            return zero(a) or (graph.is_const(b, -1.0) and a.op == "sub")
        case "neg":
            return a.op == "sub"
        case "pow":
            return rest[1] != int(rest[1]) or zero(a)
    return False


@settings(max_examples=600, deadline=None)
@given(trees, st.sampled_from(VALUES), st.sampled_from(VALUES))
def test_a_graph_is_what_was_written(tree: Tree, x: float, y: float) -> None:
    given_values, trace = {"x": x, "y": y}, []
    written = expanded(tree)
    with np.errstate(all="ignore"):
        wanted = float(value(written, given_values, trace))
    (found,) = evaluate([built(tree)], given_values)
    if not deliberate(written):
        assert np.float64(wanted).tobytes() == np.float64(found).tobytes() or (
            math.isnan(wanted) and math.isnan(found)
        )
    elif all(map(math.isfinite, trace)):
        assert wanted == found


def test_what_is_made_of_other_operations_is_just_that() -> None:
    x, y = SYMBOLS.values()
    for name, args in (("mod", (x, y)), ("ceil", (x,)), ("sign", (x,))):
        tree = (name, *(("symbol", arg.value) for arg in args))
        assert graph.call(name, *args) is built(expanded(tree))


#: For every deliberate rule: the expression, x, its value as written and as built.
CASES: dict[str, list[tuple[Any, float, float, float]]] = {
    "0*x, 0/x, x - x, fma(0, x, c)": [
        (lambda x: 0.0 * x, INF, NAN, 0.0),
        (lambda x: 0.0 * x, NAN, NAN, 0.0),
        (lambda x: 0.0 * (1.0 / x), 0.0, NAN, 0.0),
        (lambda x: 0.0 / x, 0.0, NAN, 0.0),
        (lambda x: 0.0 / x, NAN, NAN, 0.0),
        (lambda x: x - x, INF, NAN, 0.0),
        (lambda x: x + -x, -INF, NAN, 0.0),
        (lambda x: graph.fma(0.0, x, 2.0), INF, NAN, 2.0),
    ],
    "x + 0, 0 - x, -(a - b), 0*x, fma(a, b, 0)": [
        (lambda x: x + 0.0, -0.0, 0.0, -0.0),
        (lambda x: 0.0 - x, 0.0, 0.0, -0.0),
        (lambda x: -(x - 1.0), 1.0, -0.0, 0.0),
        (lambda x: 0.0 * x, -1.0, -0.0, 0.0),
        (lambda x: graph.fma(x, 1.0, 0.0), -0.0, 0.0, -0.0),
    ],
    "x**0.5, x**-0.5, x**1.5": [
        (lambda x: x**0.5, -INF, INF, NAN),
        (lambda x: x**0.5, -0.0, 0.0, -0.0),
        (lambda x: x**-0.5, -0.0, INF, -INF),
        (lambda x: x**1.5, -INF, INF, NAN),
        (lambda x: x**-0.5, 2.0, math.pow(2.0, -0.5), 1.0 / math.sqrt(2.0)),
    ],
    "x**n, n whole and at most 64": [(lambda x: x**3, 1.3, math.pow(1.3, 3), 1.3 * (1.3 * 1.3))],
    "numbers": [(lambda x: x + (const(1.0) + 1e-9 - 1.0), 0.0, 0.0, 1.0 + 1e-9 - 1.0)],
}


@pytest.mark.parametrize("rule", graph.DELIBERATE)
def test_deliberate_rules_change_what_they_say(rule: str) -> None:
    for expression, x, written, folded in CASES[rule]:
        node = expression(SYMBOLS["x"])
        dtype = "float32" if rule == "numbers" else "float64"
        (found,) = evaluate([node], {"x": x}, dtype)
        np.testing.assert_array_equal(float(found), np.dtype(dtype).type(folded))
        assert np.signbit(found) == np.signbit(folded) or math.isnan(folded)
        assert written != folded or np.signbit(written) != np.signbit(folded)


@pytest.mark.parametrize("text", ["x % 0", "x % (x - x)", "mod(x, 0*y)", "x % (0/y)", "x % -0.0"])
def test_a_remainder_by_zero_is_no_number(text: str) -> None:
    node = parse_expression(text, SYMBOLS, "test")
    for x in (0.0, 1.0, -2.5, INF):
        assert math.isnan(evaluate([node], {"x": x, "y": 1.0})[0])
    # Written as text and read again it is the same.
    assert parse_expression(to_text(node), SYMBOLS, "test") is node


def test_a_remainder_by_zero_is_none_wherever_the_zero_comes_from() -> None:
    """Of a parameter that is the same in all runs, it comes when the kernel is built."""
    system = OdeSystem.from_mapping(
        {
            "states": {"x": 1.0}, "parameters": {"p": 0.0, "k": 1.0}, "equations": {"x": "-k*x"},
            "observables": {"rest": "x % p", "other": "x % (p + 0.75)"},
        }
    )  # fmt: skip
    how: dict[str, Any] = {"duration": 1.0, "times": [0.0, 1.0], "variables": ["rest", "other"]}
    fixed = solve(system, parameters={"k": [1.0, 2.0]}, **how)
    varied = solve(system, parameters={"k": [1.0, 2.0], "p": [0.0, 0.0]}, **how)
    for solved in (fixed, varied):
        assert np.isnan(solved["rest"]).all()
        np.testing.assert_allclose(solved["other"][:, 0], 0.25)


def test_numbers_fold_to_what_they_are() -> None:
    assert graph.floor(const(-0.0)).value.hex() == (-0.0).hex()
    assert graph.round_even(const(-0.3)).value.hex() == (-0.0).hex()
    assert graph.minimum(const(-0.0), const(0.0)).value.hex() == (0.0).hex()
    assert math.isnan(evaluate([graph.minimum(1.0, const(NAN))], {})[0])
    assert evaluate([graph.maximum(const(NAN), 1.0)], {})[0] == 1.0
