"""The equation parser: what it reads, and that it reads nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cubie_flow.errors import FlowError
from cubie_flow.expressions import graph as g
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.infix import to_text
from cubie_flow.expressions.traversal import topological
from cubie_flow.systems import parse_expression
from cubie_flow.systems.parser import is_infinite

X, Y = g.symbol("x"), g.symbol("y")
NAMES = {"x": X, "y": Y, "sigma": g.symbol("sigma")}
WHERE = "system lorenz, equation of x"


def parse(text: str) -> g.Node:
    return parse_expression(text, NAMES, WHERE)


def both(p: g.Node, q: g.Node, r: g.Node) -> g.Node:
    return g.where(g.logical_and(p < q, g.logical_not(g.compare("==", q, r))), p, r)


def either(p: g.Node, q: g.Node, r: g.Node) -> g.Node:
    return g.where(g.logical_or(p >= q, g.logical_and(q > r, p <= r)), q, p * r)


def operation(name: str, arity: int) -> Callable[..., g.Node]:
    return lambda *args: g.call(name, *args[:arity])


#: Every operation that text can hold, each of up to three operands.
OPERATIONS: list[Callable[..., g.Node]] = [
    lambda a, b, c: a + b,
    lambda a, b, c: a - b,
    lambda a, b, c: a * b,
    lambda a, b, c: a / b,
    lambda a, b, c: a**b,
    lambda a, b, c: -a,
    lambda a, b, c: g.where(g.compare("!=", a, b), b, c),
    both,
    either,
    *(operation(name, arity) for name, arity in g.FUNCTIONS.items()),
]


@st.composite
def expressions(draw: st.DrawFn) -> g.Node:
    """Random expressions of x and y, with shared parts."""
    finite = st.floats(allow_nan=False, allow_infinity=False)
    number = draw(st.lists(finite | st.integers(-3, 3), max_size=3))
    nodes = [X, Y, *map(g.const, number)]
    index = st.integers(0, 1000)
    for step in draw(st.lists(st.tuples(index, index, index, index), min_size=1, max_size=12)):
        a, b, c = (nodes[-1 - i % len(nodes)] for i in step[1:])
        nodes.append(OPERATIONS[step[0] % len(OPERATIONS)](a, b, c))
    return nodes[-1]


@given(expressions())
@settings(max_examples=400, derandomize=True, deadline=None)
def test_text_is_read_back_as_the_same_graph(node: g.Node) -> None:
    text = to_text(node)
    assume(len(text) < 5000 and not any(map(is_infinite, topological([node]))))
    again = parse(text)
    assert again is node
    values = {"x": np.array([0.3, -1.7, 2.0]), "y": np.array([1.1, 0.4, -0.2])}
    np.testing.assert_array_equal(evaluate([again], values), evaluate([node], values))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 + 3*4 - 1", 13.0),
        ("-2**2", -4.0),
        ("2**3**2", 512.0),
        ("2**-1", 0.5),
        ("7 % 3", 1.0),
        ("-7 % 3", 2.0),
        ("8/3", 8 / 3),
        ("1_000 + .5e1 + 1e-3", 1005.001),
        ("0x10", 16.0),
        ("pi + e", np.pi + np.e),
        ("exp(0) + log(e)", 2.0),
        ("min(3, 1, 2) + max(3, 1, 2)", 4.0),
        ("where(1 < 2 < 3, 10, 20)", 10.0),
        ("where(1 < 2 and not 3 < 2 or 1 == 2, 10, 20)", 10.0),
        ("10 if 1 > 2 else 20 if 2 != 2 else 30", 30.0),
        ("x - y - 1", -1.6),
        ("x\n  + y", 1.0),
        ("+x", 0.2),
        ("atan2(1, 1)*4", np.pi),
        ("erf(0.5) + hypot(3, 4)", 5.520499877813047),
        ("where(x < y, x, y)", 0.2),
        ("+".join(["x"] * 400), 80.0),
    ],
)
def test_values(text: str, expected: float) -> None:
    assert evaluate([parse(text)], {"x": 0.2, "y": 0.8})[0] == pytest.approx(expected, rel=1e-12)


def test_a_model_may_name_a_quantity_e() -> None:
    assert parse_expression("e", {"e": X}, WHERE) is X


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sigm*x", "'sigm' is not defined; did you mean 'sigma'?"),
        ("x^2", "'^' in 'x^2' is not allowed; use ** for powers"),
        ("x & y", "use 'and'"),
        ("sqr(x)", "'sqr(x)' calls an unknown function; did you mean 'sqrt'?"),
        ("x(y)", "'x(y)' calls an unknown function"),
        ("exp", "'exp' is a function; write exp(...)"),
        ("exp(x, y)", "'exp(x, y)' has 2 arguments; it takes 1"),
        ("where(x > 0, 1)", "it is where(condition, a, b)"),
        ("where(x, 1, 2)", "'x' is a number, not a condition; write a comparison such as x > 0"),
        ("where(x > 0, y > 0, 1)", "chooses between a number and a condition"),
        ("1 + (x > 0)", "'x > 0' is true or false, not a number; use where(condition, a, b)"),
        ("x > 0", "'x > 0' is true or false, not a number; use where(condition, a, b)"),
        ("True", "'True' is not a number"),
        ("1j*x", "'1j' is not allowed"),
        ("x +", "'x +' cannot be read as an expression: invalid syntax"),
        ("2 x", "cannot be read as an expression: invalid syntax at character 3"),
        ("(x", "'(' was never closed at character 1"),
        ("", "the expression is empty"),
        ("x + 1/0", "'1/0' is not a finite number"),
        ("sqrt(-1)", "'sqrt(-1)' is not a finite number"),
        ("x // y", "'x // y' uses an operator that is not allowed; use + - * / ** %"),
        ("x << y", "uses an operator that is not allowed"),
        ("x in y", "compare with < <= > >= == !="),
        ("x[0]", "'x[0]' takes an index, but 'x' is not an indexed family"),
        ("sum(x, y)", "sums over 'y', which is not an index"),
        ("\u03c3*x", "names have ASCII letters"),
    ],
)
def test_mistakes_are_told_in_a_sentence_with_the_place(text: str, said: str) -> None:
    with pytest.raises(FlowError) as caught:
        parse(text)
    assert str(caught.value).startswith(WHERE + ": ")
    assert said in str(caught.value)


HOSTILE = [
    "__import__('os').system('true')",
    "().__class__.__bases__",
    "x.__class__",
    "exp.__globals__",
    "eval(x)",
    "lambda: x",
    "(lambda: x)()",
    "[x for x in y]",
    "(y := x)",
    "await x",
    "exp(x=1)",
    "exp(*x)",
    "{x}",
    "f'{x}'",
    "x; y",
    "x\x00y",
    "...",
    "None",
    "9**9**9**9",
    "99999999**99999999",
    "1e400",
    "9" * 4_000,
    "9" * 30_000,
    "0x" + "f" * 30_000,
    "(" * 10_000 + "x" + ")" * 10_000,
    "-" * 30_000 + "x",
    "not " * 8_000 + "x",
    "x**" * 8_000 + "x",
    "x" + "+x" * 16_000,
    "x" + "<x" * 16_000,
    "x if x > 0 else " * 2_000 + "x",
    "exp(" * 150 + "x" + ")" * 150,
    "x" * 1_000_000,
    "x+" * 10_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:20])
def test_hostile_text_is_refused_at_once(text: str) -> None:
    started = time.thread_time()
    with pytest.raises(FlowError) as caught:
        parse(text)
    # Of this thread, so that nobody else's work counts.
    assert time.thread_time() - started < 2.0
    assert len(str(caught.value)) < 400


def test_hostile_text_does_not_crash_a_thread_with_a_small_stack() -> None:
    refused = []

    def work() -> None:
        for text in HOSTILE:
            try:
                parse(text)
            except FlowError:
                refused.append(text)

    before = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert refused == HOSTILE
