"""Every operator of MathML has the value that Python's own functions give."""

import math
from collections.abc import Callable

import pytest
from markup_text import listed, mathml, parameter, rule, sbml

from cubie_flow.errors import FlowError
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.graph import Node
from cubie_flow.expressions.traversal import free_symbols, topological
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.sbml import SbmlModel, read_sbml

pytest.importorskip("libsbml")


def model(*parts: str, **more: str) -> SbmlModel:
    return read_sbml("m", Markup.check(sbml(*parts, **more).encode(), "m.xml"), "m.xml")  # type: ignore[arg-type]


def node(text: str) -> Node:
    names = ("x", "y", "z")
    given = [parameter(name, 1.0, constant=False) for name in (*names, "result")]
    found = model(
        listed("Parameters", *given),
        listed(
            "Rules",
            *(rule("rate", name, "1") for name in names),
            rule("assignment", "result", text),
        ),
    )
    return found.values["result"]


def value(text: str, x: float = 0.0, y: float = 0.0, z: float = 0.0, t: float = 0.0) -> float:
    return float(evaluate([node(text)], {"x": x, "y": y, "z": z, "t": t})[0])


FUNCTIONS: dict[str, tuple[Callable[[float], float], float]] = {
    "exp(x)": (math.exp, 1.3),
    "ln(x)": (math.log, 1.3),
    "log(x)": (math.log10, 1.3),
    "logbase(2, x)": (math.log2, 1.3),
    "logbase(7, x)": (lambda x: math.log(x, 7), 1.3),
    "root(2, x)": (math.sqrt, 1.3),
    "root(3, x)": (math.cbrt, -1.3),
    "root(5, x)": (lambda x: x**0.2, 1.3),
    "x**3": (lambda x: x**3, -1.3),
    "x**2.5": (lambda x: x**2.5, 1.3),
    "abs(x)": (abs, -1.3),
    "floor(x)": (math.floor, -1.3),
    "ceiling(x)": (math.ceil, -1.3),
    "factorial(x)": (math.factorial, 5),
    "-x": (lambda x: -x, 1.3),
    "sin(x)": (math.sin, 0.7),
    "cos(x)": (math.cos, 0.7),
    "tan(x)": (math.tan, 0.7),
    "sec(x)": (lambda x: 1 / math.cos(x), 0.7),
    "csc(x)": (lambda x: 1 / math.sin(x), 0.7),
    "cot(x)": (lambda x: 1 / math.tan(x), 0.7),
    "sinh(x)": (math.sinh, 0.7),
    "cosh(x)": (math.cosh, 0.7),
    "tanh(x)": (math.tanh, 0.7),
    "sech(x)": (lambda x: 1 / math.cosh(x), 0.7),
    "csch(x)": (lambda x: 1 / math.sinh(x), 0.7),
    "coth(x)": (lambda x: 1 / math.tanh(x), 0.7),
    "arcsin(x)": (math.asin, 0.7),
    "arccos(x)": (math.acos, 0.7),
    "arctan(x)": (math.atan, 0.7),
    "arcsec(x)": (lambda x: math.acos(1 / x), 1.7),
    "arccsc(x)": (lambda x: math.asin(1 / x), 1.7),
    "arccot(x)": (lambda x: math.atan(1 / x), 0.7),
    "arcsinh(x)": (math.asinh, 0.7),
    "arccosh(x)": (math.acosh, 1.7),
    "arctanh(x)": (math.atanh, 0.7),
    "arcsech(x)": (lambda x: math.acosh(1 / x), 0.7),
    "arccsch(x)": (lambda x: math.asinh(1 / x), 0.7),
    "arccoth(x)": (lambda x: math.atanh(1 / x), 1.7),
    "x*pi + exponentiale": (lambda x: x * math.pi + math.e, 0.7),
    "x/avogadro": (lambda x: x / 6.02214179e23, 0.7),
}


@pytest.mark.parametrize("text", FUNCTIONS)
def test_functions_of_one_number(text: str) -> None:
    function, x = FUNCTIONS[text]
    assert value(text, x) == pytest.approx(function(x), rel=1e-14)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max(x, y, z)", 3.0),
        ("min(x, y, z)", -2.5),
        ("quotient(y, x)", 0.0),
        ("quotient(z, y)", -1.0),
        ("rem(z, y)", 0.5),
        ("rem(y, z)", -2.5),
        ("plus()", 0.0),
        ("times()", 1.0),
        ("plus(x, y, z, 1)", 4.5),
        ("times(x, y, z)", -22.5),
    ],
)
def test_functions_of_several_numbers(text: str, expected: float) -> None:
    assert value(text, 3.0, -2.5, 3.0) == expected


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("x < y", True),
        ("x >= y", False),
        ("x == x", True),
        ("x != x", False),
        ("lt(x, y, z)", True),
        ("lt(x, z, y)", False),
        ("x < y and y < z", True),
        ("x > y or z > y", True),
        ("not x < y", False),
        ("xor(x < y, y < z)", False),
        ("xor(x < y, y > z)", True),
        ("implies(x < y, z < y)", False),
        ("implies(x > y, z < y)", True),
        ("and_()", True),
        ("or_()", False),
        ("x", True),
        ("x - 1", False),
        ("(x < y) == (y < z)", True),
        ("(x < y) != true", False),
        ("piecewise(x < y, z > 0, false)", True),
    ],
)
def test_conditions(condition: str, holds: bool) -> None:
    assert value(f"piecewise(5, {condition}, 7)", 1.0, 2.0, 3.0) == (5.0 if holds else 7.0)


def test_a_truth_stands_for_one_or_zero() -> None:
    assert value("(x < y) + 3*(x > y) + 10*true", 1.0, 2.0) == 11.0


@pytest.mark.parametrize(("x", "expected"), [(0.5, 1.0), (1.5, 2.0), (2.5, 3.0)])
def test_several_pieces(x: float, expected: float) -> None:
    assert value("piecewise(1, x < 1, 2, x < 2, 3)", x) == expected
    assert value("piecewise(1, x < 1, 2, x < 2, 3, true)", x) == expected


def test_where_no_piece_applies_there_is_no_number() -> None:
    assert value("piecewise(1, x < 1)", 0.5) == 1.0
    assert math.isnan(value("piecewise(1, x < 1)", 1.5))
    assert math.isnan(value("factorial(x)", 1.5))
    assert math.isnan(value("notanumber"))
    assert value("-infinity", t=3.0) == -math.inf


def test_time_is_t() -> None:
    assert free_symbols([node("time + x")]) == ("t", "x")


def test_a_long_sum_is_no_deep_formula() -> None:
    text = mathml("plus(" + ", ".join(["x"] * 2000) + ")")
    assert text.count("<ci>x</ci>") == 2000
    assert value("plus(" + ", ".join(["x"] * 2000) + ")", 0.5) == 1000.0


def function(name: str, arguments: str, body: str, others: tuple[str, ...] = ()) -> str:
    inner = "".join(f"<bvar><ci>{a}</ci></bvar>" for a in arguments.split())
    space = 'xmlns="http://www.w3.org/1998/Math/MathML"'
    written = mathml(body, functions=others)
    return (
        f'<functionDefinition id="{name}"><math {space}><lambda>{inner}{written}</lambda></math>'
        "</functionDefinition>"
    )


def with_functions(text: str, *functions: str, names: tuple[str, ...]) -> SbmlModel:
    return model(
        listed("FunctionDefinitions", *functions),
        listed("Parameters", parameter("x", 2.0, constant=False)),
        listed("Rules", rule("rate", "x", text, names)),
    )


def test_functions_are_inlined_with_their_own_arguments() -> None:
    found = with_functions(
        "f(x, 3) - f(1, x)",
        function("f", "y x", "g(y) + 10*x", ("g",)),
        function("g", "z", "z*z"),
        names=("f", "g"),
    )
    rate = float(evaluate([found.system.derivatives[0]], {"x": 2.0})[0])
    assert rate == (4 + 30) - (1 + 20)


def test_functions_that_double_themselves_do_not_grow() -> None:
    names = tuple(f"f{i}" for i in range(60))
    found = with_functions(
        "f59(x)",
        function("f0", "a", "a*a"),
        *(function(f"f{i}", "a", f"f{i - 1}(a) + f{i - 1}(a)/2", names) for i in range(1, 60)),
        names=names,
    )
    assert len(topological(found.system.derivatives)) < 300


def test_a_function_that_calls_itself_is_refused() -> None:
    with pytest.raises(FlowError, match=r"line \d+"):
        with_functions("f(x)", function("f", "a", "f(a) + 1", ("f",)), names=("f",))


def test_a_function_takes_its_number_of_arguments() -> None:
    with pytest.raises(FlowError, match="f"):
        with_functions("f(x, x)", function("f", "a", "a + 1"), names=("f",))
