"""Models of others: a cardiac cell against scipy, every format as YAML, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markup_text import (
    cellml,
    compartment,
    component,
    event,
    function,
    initial,
    listed,
    math,
    parameter,
    reaction,
    rule,
    sbml,
    species,
    variable,
)  # fmt: skip
from scipy.integrate import solve_ivp

from cubie_flow import OdeSystem, maths, solve
from cubie_flow.api import OutputChoice, Study, TargetChoice
from cubie_flow.batches import make_design
from cubie_flow.cli.app import main
from cubie_flow.errors import FlowError
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.study.kernel import build_kernel

HEART = Path(__file__).parent / "noble_1962.cellml"


@pytest.fixture(scope="module")
def heart() -> OdeSystem:
    return OdeSystem.from_file(HEART)


def noble(t: float, y: Any) -> list[float]:
    """Return the derivatives of Noble's cell, written from the paper and not from the file."""
    v, m, h, n = y
    exp = np.exp
    i_na = (400 * m**3 * h + 0.14) * (v - 40)
    g_k1 = 1.2 * exp((-v - 90) / 50) + 0.015 * exp((v + 90) / 60)
    i_k = (g_k1 + 1.2 * n**4) * (v + 100)
    i_leak = 0.075 * (v + 60)
    a_m, b_m = 0.1 * (-v - 48) / (exp((-v - 48) / 15) - 1), 0.12 * (v + 8) / (exp((v + 8) / 5) - 1)
    a_h, b_h = 0.17 * exp((-v - 90) / 20), 1 / (exp((-v - 42) / 10) + 1)
    a_n = 0.0001 * (-v - 50) / (exp((-v - 50) / 10) - 1)
    b_n = 0.002 * exp((-v - 90) / 80)
    return [
        -(i_na + i_k + i_leak) / 12,
        a_m * (1 - m) - b_m * m,
        a_h * (1 - h) - b_h * h,
        a_n * (1 - n) - b_n * n,
    ]


def test_a_cardiac_cell_beats_as_in_scipy(heart: OdeSystem) -> None:
    data = solve(
        heart, algorithm="rodas5p", duration=1500.0, save_every=25.0, rtol=1e-10, atol=1e-10,
        target="cpu",
    )  # fmt: skip
    names = ["V", "m", "h", "n"]
    start = [float(data[name].values[0, 0]) for name in names]
    assert start == [-87.0, 0.01, 0.8, 0.01]
    reference = solve_ivp(
        noble, (0, 1500), start, "LSODA", data.time.values, rtol=1e-11, atol=1e-12
    )
    for name, values in zip(names, reference.y, strict=True):
        np.testing.assert_allclose(data[name].values[0], values, rtol=2e-5, atol=2e-5, err_msg=name)
    # It beats by itself: upstrokes through -40 mV.
    above = data.V.values[0] > -40
    assert np.count_nonzero(~above[:-1] & above[1:]) >= 2


def test_the_cell_on_the_simulator_and_for_cuda(heart: OdeSystem) -> None:
    options: dict[str, Any] = {"duration": 0.5, "rtol": 1e-3, "parameters": {"E_Na": [38.0, 42.0]}}
    cpu, simulated = (solve(heart, target=target, **options) for target in ("cpu", "simulator"))
    for name in cpu.data_vars:
        np.testing.assert_array_equal(cpu[name].values, simulated[name].values, err_msg=name)
    study = Study(
        heart, make_design("single", {}), algorithm="rodas5p", target=TargetChoice("cuda"),
        output=OutputChoice(save_every=1.0),
    )  # fmt: skip
    assert build_kernel(study).compile_cuda("sm_90").figures.registers > 0


def test_names_and_units_come_with_the_model(heart: OdeSystem) -> None:
    assert (heart.name, heart.source, heart.time_unit) == ("noble_1962", "CellML 2.0", "ms")
    units = {item.name: item.unit for item in (*heart.states, *heart.parameters)}
    assert units["V"] == "mV"
    assert units["g_Na_max"] == "mS_per_cm2"


# one model in every format ------------------------------------------------------------------------


def lists(law: str = "k*A", *more: str) -> tuple[str, ...]:
    return (
        listed("Compartments", compartment("c", 2.0)),
        listed(
            "Species",
            species("A", "c", 'initialConcentration="3"'),
            species("B", "c", 'initialConcentration="0"'),
        ),
        listed("Parameters", parameter("k", 0.5)),
        listed("Reactions", reaction("r", law, "A", "B")),
        *more,
    )  # fmt: skip


DECAY = component(
    "c",
    variable("t")
    + variable("A", more='initial_value="3"')
    + variable("B", more='initial_value="0"')
    + variable("k", more='initial_value="0.25"'),
    "d(A)/d(t) = -k*A",
    "d(B)/d(t) = k*A",
)
#: A decays to B with rate 0.25 in each of them; the compartment has size 2.
FORMATS = {
    "m.xml": sbml(*lists()),
    "m.sbml": sbml(*lists(), level=2, version=4).replace('1" constant="true"', '1"'),
    "m.cellml": cellml("2.0", DECAY),
    "old.cellml": cellml("1.1", DECAY),
    "m.ant": "model m\n compartment c = 2; species A in c, B in c\n A -> B; k*A\n"
    " k = 0.5; A = 3; B = 0\nend\n",
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_becomes_yaml_and_runs_the_same(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(FORMATS[name])
    written = tmp_path / "written.yaml"
    assert main([f"system.file={tmp_path / name}", "task=import", f"to={written}"]) == 0
    assert "2 states" in capsys.readouterr().out
    original, again = OdeSystem.from_file(tmp_path / name), OdeSystem.from_file(written)
    assert again.content_hash == original.content_hash
    values = {item.name: item.value for item in (*again.states, *again.parameters)}
    names = [state.name for state in again.states]
    rates = dict(zip(names, evaluate(again.derivatives, values), strict=True))
    assert values["A"] == 3.0
    assert (rates["A"], rates["B"]) == (-0.75, 0.75)
    assert main([f"system.file={tmp_path / name}", "task=import", f"to={written}"]) == 1
    assert "exists and is not replaced" in capsys.readouterr().err


#: Every format with what is more than equations: functions, rules, events, conditions, units.
RICH = {
    "rich.xml": sbml(
        listed("FunctionDefinitions", function("f", "x y", "x*y/(1 + y)")),
        listed("Compartments", compartment("c", 2.0, False)),
        listed(
            "Species",
            species("A", "c", 'initialAmount="3"'),
            species("B", "c", 'initialAmount="0"'),
        ),
        listed(
            "Parameters",
            parameter("k", 0.5),
            parameter("w", None, False),
            parameter("n", 0, False),
        ),
        listed("InitialAssignments", initial("c", "2*k + 1")),
        listed("Rules", rule("assignment", "w", "piecewise(k, time < 1, f(k, A))", ("f",))),
        listed("Reactions", reaction("r", "w*A*c", "A", "2*B")),
        listed("Events", event("more", "B > 0.5", n="n + 1", A="A + 0.3")),
    ),
    "rich.ant": (
        "function f(x, y)\n x*y/(1 + y)\nend\n"
        "model m\n compartment c = 2; species A in c, B in c\n A -> 2 B; f(k, A)*c\n"
        " k = 0.5; A = 3; B = 0; n = 0; total := A + B\n"
        " at B > 1: n = n + 1, A = A + 0.3\nend\n"
    ),
    "rich.cellml": HEART.read_text(),
}  # fmt: skip


@pytest.mark.parametrize("name", RICH)
def test_runs_of_the_yaml_are_those_of_the_original(name: str, tmp_path: Path) -> None:
    path, written = tmp_path / name, tmp_path / "written.yaml"
    path.write_text(RICH[name])
    original = OdeSystem.from_file(path)
    original.to_file(written)
    again = OdeSystem.from_file(written)
    assert again.to_mapping() == original.to_mapping()
    assert (again.content_hash, len(again.events)) == (original.content_hash, len(original.events))
    one, other = (
        solve(system, duration=4.0, save_every=0.5, algorithm="rodas5p", target="cpu")
        for system in (original, again)
    )
    assert (one.status.values == 0).all()
    assert [str(item) for item in one.data_vars] == [str(item) for item in other.data_vars]
    for item in one.data_vars:
        np.testing.assert_array_equal(one[item].values, other[item].values, err_msg=str(item))
    counts = [one[f"{event.name}_count"].item() for event in original.events]
    assert counts == [1] * len(counts)


def test_exponents_of_older_cellml_are_read(tmp_path: Path) -> None:
    text = DECAY.replace("<ci>k</ci>", '<cn cellml:units="dimensionless">25</cn>')
    for number in ("2.5e1", ".25E+2", " +250.0e-1\n"):
        for kind in ("", ' type="real"'):
            path = tmp_path / "old.cellml"
            written = cellml("1.0", text).replace(">25<", f"{kind}>{number}<")
            assert number in written
            path.write_text(written)
            assert evaluate(OdeSystem.from_file(path).derivatives, {"A": 3.0}) == [-75, 75]
    # CellML 2.0 has no such numbers, and with another base they are other ones.
    for text_of, reason in (
        (cellml("2.0", text).replace(">25<", ">2.5e1<"), "basic"),
        (cellml("1.0", text).replace(">25<", ' base="16">2e1<'), "base"),
    ):
        path.write_text(text_of)
        with pytest.raises(FlowError, match=reason):
            OdeSystem.from_file(path)


def test_a_function_becomes_yaml(tmp_path: Path) -> None:
    def spring(t: Any, y: Any, p: Any) -> list[Any]:
        return [y.v, -p.k * maths.sin(y.x) + maths.where(t > 1, 1.0, 0.5)]

    system = OdeSystem.from_function(spring, {"x": 1.0, "v": 0.0}, {"k": 2.0}, units={"x": "m"})
    system.to_file(tmp_path / "spring.yaml")
    again = OdeSystem.from_file(tmp_path / "spring.yaml")
    assert again.to_mapping() == system.to_mapping()
    assert again.content_hash == system.content_hash
    with pytest.raises(FlowError, match=r"spring.yaml' exists and is not replaced"):
        system.to_file(tmp_path / "spring.yaml")
    with pytest.raises(FlowError, match=r"'spring.xml' must end in one of .yaml, .yml"):
        system.to_file("spring.xml")
    with pytest.raises(FlowError, match=r"'spring.py' is a program and is not executed; write"):
        OdeSystem.from_file("spring.py")


# what is refused ----------------------------------------------------------------------------------

XY = variable("t") + variable("x", more='initial_value="1"') + variable("y")
RESET = (
    '<reset variable="x" test_variable="x" order="1"><test_value>{0}</test_value>'
    "<reset_value>{0}</reset_value></reset>"
).format(
    '<math xmlns="http://www.w3.org/1998/Math/MathML"><cn '
    'xmlns:cellml="http://www.cellml.org/cellml/2.0#" cellml:units="dimensionless">1</cn></math>'
)
DECAYS = "d(x)/d(t) = -x"
REFUSED = {
    "factorial.cellml": (
        cellml("2.0", component("c", XY, "d(x)/d(t) = factorial(x)", "y = x")),
        "line 6: .*'factorial' element that is not a supported",
    ),
    "implicit.cellml": (
        cellml("2.0", component("c", XY, DECAYS, "x = y*y")),
        "line 4, component 'c': equations to be solved for y are not supported",
    ),
    "unknown.cellml": (
        cellml("2.0", component("c", XY, "d(x)/d(t) = -z", "y = x")),
        "line 4, component 'c': .*'z' which does not correspond with any variable",
    ),
    "reaction.cellml": (
        cellml("1.1", component("c", XY, DECAYS, "y = x") + "<reaction/>"),
        "line 6: reaction elements are not supported",
    ),
    "reset.cellml": (
        cellml("2.0", component("c", XY + RESET, DECAYS, "y = x")),
        "line 4, component 'c': resets are not supported",
    ),
    "constraint.xml": (
        sbml(*lists("k*A", listed("Constraints", f"<constraint>{math('A > 0')}</constraint>"))),
        "constraint 1: constraints are not supported",
    ),
    "algebraic.xml": (
        sbml(
            listed("Parameters", parameter("x", 1)),
            listed("Rules", f"<algebraicRule>{math('x - 1')}</algebraicRule>"),
        ),
        "line 5, algebraicRule 1: it determines nothing",
    ),
    "fast.xml": (
        sbml(
            *lists()[:3],
            listed("Reactions", reaction("r", "exp(A) - k", "A", more='fast="true"')),
            version=1,
        ),
        "line 7, reaction 'r': the equilibrium of this fast reaction gives no formula of 'A'",
    ),
    "syntax.ant": ("model m\n A -> B; k*foo(\nend\n", "line 2: it is not valid Antimony: synt"),
    "import.ant": ('# first\nimport "other.ant"\nmodel m\nend\n', "line 2: imports of other files"),
    "entity.xml": (
        '<!DOCTYPE sbml [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n<sbml>&a;</sbml>',
        r"line 1: a document type \(DOCTYPE\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_with_its_place(name: str, tmp_path: Path) -> None:
    text, said = REFUSED[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(FlowError, match=said) as error:
        OdeSystem.from_file(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
