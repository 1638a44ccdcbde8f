"""Start values of imported models are expressions of parameters: each against its own formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from markup_text import (
    cellml,
    compartment,
    component,
    event,
    initial,
    listed,
    parameter,
    reaction,
    rule,
    sbml,
    species,
    variable,
)  # fmt: skip

from cubie_flow import OdeSystem, solve
from cubie_flow.errors import FlowError
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.graph import Node
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.sbml import SbmlModel, read_sbml

Formula = Callable[..., float]


def read(*parts: str) -> SbmlModel:
    pytest.importorskip("libsbml")
    return read_sbml("m", Markup.check(sbml(*parts).encode(), "m.xml"), "m.xml")


def at_start(
    system: OdeSystem, nodes: Mapping[str, Node], changed: Mapping[str, float]
) -> dict[str, float]:
    """Return the values of graphs at the start of a run with other values of parameters."""
    system = system.with_values(changed)
    values = {item.name: item.value for item in (*system.states, *system.parameters)} | {"t": 0.0}
    return dict(zip(nodes, map(float, evaluate(list(nodes.values()), values)), strict=True))


# whole runs ---------------------------------------------------------------------------------------

ANTIMONY = (
    "model ia\n BW = 70; f = 0.05\n compartment Vp = 1; Vp = BW*f\n species C in Vp; C = dose/Vp\n"
    " dose = 100; k = 0.1\n J: C => ; Vp*k*C\nend\n"
)


def test_a_batch_varies_what_start_values_use(tmp_path: Path) -> None:
    pytest.importorskip("antimony")
    path = tmp_path / "ia.ant"
    path.write_text(ANTIMONY)
    system = OdeSystem.from_file(path)
    weight, dose = np.array([70.0, 80.0, 70.0]), np.array([100.0, 100.0, 50.0])
    data = solve(
        system, parameters={"BW": weight, "dose": dose}, sensitivities=["BW"], duration=2.0,
        save_every=1.0, rtol=1e-9, atol=1e-9, target="cpu",
    )  # fmt: skip
    decay = np.exp(-0.1 * data.time.values)
    start = dose / (0.05 * weight)
    np.testing.assert_allclose(data.C, start[:, None] * decay, rtol=1e-7)
    slope = -dose / (0.05 * weight**2)
    np.testing.assert_allclose(data.dC_dBW, slope[:, None] * decay, rtol=1e-7)


def test_a_batch_gives_a_computed_parameter_itself(tmp_path: Path) -> None:
    pytest.importorskip("antimony")
    path = tmp_path / "ia.ant"
    path.write_text(ANTIMONY)
    system = OdeSystem.from_file(path)
    assert {item.name for item in system.parameters} == {"BW", "f", "Vp", "dose", "k"}
    nodes = {"C": system.states[0].start}
    assert at_start(system, nodes, {"Vp": 10.0, "BW": 80.0}) == {"C": 10.0}
    again = OdeSystem.from_mapping(system.to_mapping())
    assert again.content_hash == system.content_hash
    assert at_start(again, nodes, {"BW": 80.0}) == {"C": 25.0}


# every kind of start value of SBML ----------------------------------------------------------------

#: Size of every compartment at the start: a number, an initial assignment, a rule, a rate rule.
SIZES: dict[str, Formula] = {
    "fixed": lambda p, fixed: fixed,
    "scaled": lambda p, fixed: 3 * p,
    "ruled": lambda p, fixed: 2 * p * fixed,
    "growing": lambda p, fixed: 5 * p,
}
#: Whether a species is an amount in formulas, what gives its start, and where it is.
SPECIES = list(product(("true", "false"), ("Amount", "Concentration", "initial"), SIZES))
CHANGES: list[dict[str, float]] = [{}, {"p": 2.5}, {"fixed": 7.0}, {"p": 0.5, "fixed": 3.0}]


def name(only: str, given: str, place: str) -> str:
    return f"{given}_{place}_{only}"


def one_species(only: str, given: str, place: str) -> str:
    value = "" if given == "initial" else f'initial{given}="3"'
    return species(name(only, given, place), place, value, f'hasOnlySubstanceUnits="{only}"')


def expected(only: str, given: str, place: str, p: float, fixed: float) -> tuple[float, float]:
    """Return the amount and the concentration of a species at the start."""
    size = SIZES[place](p, fixed)
    value = 7 * p + 1 if given == "initial" else 3.0
    is_amount = given == "Amount" or (given == "initial" and only == "true")
    amount = value if is_amount else value * size
    return amount, amount / size


@pytest.fixture(scope="module")
def many() -> SbmlModel:
    places = [compartment(place, 4.0, place in ("fixed", "scaled")) for place in SIZES]
    return read(
        listed("Compartments", *places),
        listed("Species", *(one_species(*one) for one in SPECIES)),
        listed("Parameters", parameter("p", 2.0)),
        listed(
            "InitialAssignments",
            initial("scaled", "3*p"),
            initial("growing", "5*p"),
            *(initial(name(*one), "7*p + 1") for one in SPECIES if one[1] == "initial"),
        ),
        listed("Rules", rule("assignment", "ruled", "2*p*fixed"), rule("rate", "growing", "1")),
    )


@pytest.mark.parametrize("changed", CHANGES)
def test_species_start_as_they_are_given(changed: dict[str, float], many: SbmlModel) -> None:
    p, fixed = changed.get("p", 2.0), changed.get("fixed", 4.0)
    amounts = at_start(many.system, many.amounts, changed)
    concentrations = at_start(many.system, many.concentrations, changed)
    for one in SPECIES:
        found = amounts[name(*one)], concentrations[name(*one)]
        assert found == pytest.approx(expected(*one, p, fixed), rel=1e-14), one


#: Initial assignments of x, and what x is at the start of parameters p and q.
FORMULAS: dict[str, Formula] = {
    "p*q": lambda p, q: p * q,
    "y + 1": lambda p, q: p * p + 1,  # another initial assignment
    "ruled": lambda p, q: p + q + 1 + p * p,  # an assignment rule that uses a state
    "r": lambda p, q: q * 3.0,  # the rate of a reaction
    "A": lambda p, q: 3.0,  # a species
    "times": lambda p, q: 2 * p,  # a stoichiometry
    "time + p": lambda p, q: p,
    "piecewise(p, p < 2.1, 2*p)": lambda p, q: p if p < 2.1 else 2 * p,
    "rateOf(y)": lambda p, q: -q * p * p,
    "rateOf(A)": lambda p, q: -2 * p * q * 3.0 / 0.5,  # by a reaction, in a place of size 0.5
}


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("changes", [False, True])
def test_an_initial_assignment_uses_all_there_is(text: str, changes: bool) -> None:
    consumed = reaction("r", "q*A", "1*A").replace(
        'species="A" stoichiometry="1"', 'id="times" species="A"'
    )
    found = read(
        listed("Compartments", compartment("c", 0.5)),
        listed("Species", species("A", "c", 'initialConcentration="3"')),
        listed(
            "Parameters",
            *(parameter(one, value) for one, value in (("p", 2.0), ("q", 3.0))),
            *(parameter(one, None, False) for one in ("x", "y", "ruled")),
        ),
        listed(
            "InitialAssignments",
            initial("x", text),
            initial("y", "p**2"),
            initial("times", "2*p"),
        ),
        listed(
            "Rules",
            rule("rate", "y", "-q*y"),
            rule("assignment", "ruled", "p + q + time + 1 + y"),
            *([rule("rate", "x", "1")] if changes else []),
        ),
        listed("Reactions", consumed),
    )
    for changed in ({}, {"p": 2.5}, {"q": 1.5}):
        p, q = changed.get("p", 2.0), changed.get("q", 3.0)
        value = at_start(found.system, {"x": found.values["x"]}, changed)["x"]
        assert value == pytest.approx(FORMULAS[text](p, q), rel=1e-14), changed
    assert ("x" in {item.name for item in found.system.parameters}) != changes


def test_a_constant_that_is_not_finite_is_no_parameter() -> None:
    found = read(
        listed("Parameters", *(parameter(one, 0.0) for one in ("p", "x", "y"))),
        listed("InitialAssignments", initial("x", "1/p"), initial("y", "piecewise(2, x > 5, 3)")),
    )
    assert [item.name for item in found.system.parameters] == ["p", "y"]
    nodes = {"x": found.values["x"], "y": found.values["y"]}
    assert at_start(found.system, nodes, {}) == {"x": np.inf, "y": 2.0}
    assert at_start(found.system, nodes, {"p": 0.5}) == {"x": 2.0, "y": 3.0}


def test_a_state_has_a_start() -> None:
    with pytest.raises(FlowError) as error:
        read(
            listed("Parameters", parameter("p", 0.0), parameter("x", 1.0, False)),
            listed("InitialAssignments", initial("x", "1/p")),
            listed("Rules", rule("rate", "x", "1")),
        )
    place = "'m.xml', line 5, initialAssignment 'x'"
    assert str(error.value) == f"{place}: its value at the start is inf, not finite"


def test_a_start_that_uses_itself_by_a_rate_is_refused() -> None:
    with pytest.raises(FlowError, match=r"'m\.xml', line 5: .*creates a cycle"):
        read(
            listed("Compartments", compartment("c")),
            listed("Species", species("A", "c", 'initialAmount="3"')),
            listed("Parameters", parameter("x", None)),
            listed("InitialAssignments", initial("x", "rateOf(A) + 1")),
            listed("Reactions", reaction("r", "x*A", "A")),
        )


def test_unused_parameters_are_those_that_reach_nothing() -> None:
    names = ("rate", "begins", "triggers", "sets", "chain", "source", "nothing")
    system = read(
        listed(
            "Parameters",
            parameter("x", None, False),
            *(parameter(one, 2.0) for one in names),
        ),
        listed("InitialAssignments", initial("x", "begins"), initial("chain", "source")),
        listed("Rules", rule("rate", "x", "-rate")),
        listed("Events", event("e", "x > triggers", x="sets")),
    ).system
    unused = ["chain", "source", "nothing"]
    assert system.to_mapping()["unused"] == unused
    assert system.reaching == {"x", *names} - set(unused)
    assert OdeSystem.from_mapping(system.to_mapping()).to_mapping() == system.to_mapping()


# CellML -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_initial_values_of_cellml_that_name_others(version: str, tmp_path: Path) -> None:
    pytest.importorskip("libcellml")
    (tmp_path / "m.cellml").write_text(
        cellml(
            version,
            component(
                "c",
                variable("t")
                + variable("p", more='initial_value="2"')
                + variable("half", more='initial_value="p"')
                + "".join(variable(one) for one in ("a", "b"))
                + variable("x", more='initial_value="b"')
                + variable("y", more='initial_value="half"'),
                "a = 3*p",
                "b = a*a + half",
                "d(x)/d(t) = -x*half",
                "d(y)/d(t) = x",
            ),
        )
    )
    system = OdeSystem.from_file(tmp_path / "m.cellml")
    nodes = {item.name: item.start for item in system.states if item.start is not None}
    assert at_start(system, nodes, {}) == {"x": 38.0, "y": 2.0}
    assert at_start(system, nodes, {"p": 1.0}) == {"x": 10.0, "y": 1.0}
    assert at_start(system, nodes, {"half": 5.0}) == {"x": 41.0, "y": 5.0}
    assert {item.name for item in system.parameters} == {"p", "half"}


def connected(version: str, one: str, two: str, first: str, second: str) -> str:
    maps = f'<map_variables variable_1="{first}" variable_2="{second}"/>'
    ends = f'component_1="{one}" component_2="{two}"'
    if version == "2.0":
        return f"<connection {ends}>{maps}</connection>"
    return f"<connection><map_components {ends}/>{maps}</connection>"


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_initial_values_of_cellml_in_other_units(version: str, tmp_path: Path) -> None:
    """U and V are in mV; p, that U starts as, and W, that V is elsewhere, are in V."""
    pytest.importorskip("libcellml")
    out = 'interface="public"' if version == "2.0" else 'public_interface="out"'
    inside = out.replace("out", "in")
    (tmp_path / "m.cellml").write_text(
        cellml(
            version,
            component("env", variable("p", "volt", f'initial_value="2" {out}')),
            component(
                "c",
                variable("t", "second")
                + variable("p", "mV", inside)
                + variable("U", "mV", 'initial_value="p"')
                + variable("V", "mV", out)
                + variable("k", "mV_per_s", 'initial_value="1"'),
                "d(U)/d(t) = k",
                "d(V)/d(t) = k",
            ),
            component("d", variable("W", "volt", f'initial_value="5" {inside}')),
            connections=connected(version, "env", "c", "p", "p")
            + connected(version, "c", "d", "V", "W"),
            units='<units name="mV"><unit prefix="milli" units="volt"/></units>'
            '<units name="mV_per_s"><unit prefix="milli" units="volt"/>'
            '<unit units="second" exponent="-1"/></units>',
        )
    )
    system = OdeSystem.from_file(tmp_path / "m.cellml")
    assert {item.name: item.value for item in system.states} == {"U": 2000.0, "V": 5000.0}
    system = system.with_values({"p": 3.0})
    assert {item.name: item.value for item in system.states} == {"U": 3000.0, "V": 5000.0}
