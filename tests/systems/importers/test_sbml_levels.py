"""What older levels of SBML leave out, and what counts as a note and not as a mistake."""

from __future__ import annotations

import numpy as np
import pytest
from markup_text import (
    compartment,
    initial,
    listed,
    parameter,
    rule,
    sbml,
    species,
)  # fmt: skip

from cubie_flow.errors import FlowError
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.sbml import SbmlModel, read_sbml

pytest.importorskip("libsbml")

#: A rule of a concentration, a volume that is left out, a stoichiometry of 3/2, the natural
#: logarithm, and an algebraic rule for a parameter that level 1 cannot call variable.
LEVEL_1 = """<?xml version="1.0" encoding="UTF-8"?>
<sbml xmlns="http://www.sbml.org/sbml/level1" level="1" version="2"><model name="old">
<listOfCompartments><compartment name="c"/><compartment name="d" volume="2"/></listOfCompartments>
<listOfSpecies>
<species name="A" compartment="d" initialAmount="4"/>
<species name="B" compartment="d" initialAmount="0" boundaryCondition="true"/>
<species name="E" compartment="c" initialAmount="3"/>
</listOfSpecies>
<listOfParameters><parameter name="k" value="0.5"/><parameter name="p"/><parameter name="q"/>
</listOfParameters>
<listOfRules>
<parameterRule name="p" formula="log(k) + pow(A, 2)"/>
<speciesConcentrationRule species="B" formula="7" type="rate"/>
<algebraicRule formula="q - 2*p"/>
</listOfRules>
<listOfReactions><reaction name="r">
<listOfReactants><speciesReference species="A" stoichiometry="3" denominator="2"/></listOfReactants>
<listOfProducts><speciesReference species="E"/></listOfProducts>
<kineticLaw formula="k*A*f"><listOfParameters><parameter name="f" value="3"/></listOfParameters>
</kineticLaw></reaction></listOfReactions>
</model></sbml>
"""


def read(text: str) -> SbmlModel:
    return read_sbml("m", Markup.check(text.encode(), "m.xml"), "m.xml")


def values_at_start(model: SbmlModel, *names: str) -> list[float]:
    system = model.system
    values = {item.name: item.value for item in (*system.states, *system.parameters)}
    with np.errstate(all="ignore"):
        found = evaluate([model.values[name] for name in names], values | {"t": 0.0})
    return [float(x) for x in found]


def test_level_1() -> None:
    model = read(LEVEL_1)
    system = model.system
    assert system.source == "SBML level 1 version 2"
    assert [state.name for state in system.states] == ["A", "B", "E"]
    p = np.log(0.5) + 4.0
    assert values_at_start(model, "A", "c", "p", "q") == pytest.approx([2.0, 1.0, p, 2 * p])
    values = {item.name: item.value for item in (*system.states, *system.parameters)}
    rate = 0.5 * 2.0 * 3.0
    assert evaluate(system.derivatives, values) == pytest.approx([-1.5 * rate / 2.0, 7.0, rate])


def test_what_is_left_out_counts_as_one_with_a_note() -> None:
    model = read(
        sbml(
            listed("Compartments", compartment("c", None)),
            listed("Species", species("S", "c", 'initialAmount="3"')),
        )
    )
    assert model.system.description == "compartment 'c' has no size, which counts as 1"
    assert {item.name: item.value for item in model.system.parameters} == {"c": 1.0, "S": 3.0}


def test_units_that_are_not_defined_are_a_note() -> None:
    text = sbml(listed("Parameters", parameter("k", 2).replace("value", 'units="nope" value')))
    for given in (text, text.replace("version2/core", "version1/core").replace('n="2"', 'n="1"')):
        system = read(given).system
        assert "units that the file does not define are ignored" in system.description
        assert system.parameters[0].value == 2.0


@pytest.mark.parametrize(("level", "version"), [(2, 4), (2, 5), (3, 1), (3, 2)])
def test_a_condition_may_name_a_rule(level: int, version: int) -> None:
    rules = (
        rule("assignment", "late", "time >= 0"),
        rule("assignment", "x", "piecewise(5, late, 6)"),
        rule("assignment", "y", "piecewise(5, and_(late, x > 5), 6)"),
    )
    names = (parameter(name, None, False) for name in ("late", "x", "y"))
    text = sbml(listed("Parameters", *names), listed("Rules", *rules), level=level, version=version)
    model = read(text)
    assert values_at_start(model, "late", "x", "y") == [1.0, 5.0, 6.0]
    # The condition itself decides, so that runs land on the time when it changes.
    assert "!=" not in repr(model.values["x"])


def test_numbers_without_a_value_are_a_matter_of_the_run() -> None:
    names = "".join(parameter(name, None, False) for name in ("x", "y", "z"))
    model = read(
        sbml(
            listed("Parameters", parameter("a", 0), names),
            listed("InitialAssignments", initial("z", "1/a")),
            listed("Rules", rule("assignment", "x", "a/a"), rule("assignment", "y", "-1/0 + 0/0")),
        )
    )
    x, y, z = values_at_start(model, "x", "y", "z")
    assert np.isnan(x)
    assert np.isnan(y)
    assert np.isinf(z)


def test_the_unknown_of_level_1_is_the_likely_one() -> None:
    """Every parameter of level 1 may change; species come first, and quotients by zero last."""
    text = LEVEL_1.replace('<parameter name="q"/>', '<parameter name="q" value="0"/>')
    rule_of_q = '<algebraicRule formula="q - 2*p"/>'
    model = read(text.replace(rule_of_q, '<algebraicRule formula="(k + 1)*q - p"/>'))
    assert model.system.to_mapping()["observables"]["q"].endswith("/(k + 1.0)")
    model = read(
        text.replace(rule_of_q, '<algebraicRule formula="k*F - A"/>').replace(
            '<species name="E"',
            '<species name="F" compartment="d" initialAmount="1"/><species name="E"',
        )
    )
    assert model.system.to_mapping()["observables"]["F"] == "A/k"


def _chain(levels: int) -> str:
    """A model whose functions call each other over some levels."""
    math = '<math xmlns="http://www.w3.org/1998/Math/MathML">'
    bodies = ["<ci>x</ci>"] + [f"<apply><ci>f{i}</ci><ci>x</ci></apply>" for i in range(levels - 1)]
    functions = "".join(
        f'<functionDefinition id="f{i}">{math}<lambda><bvar><ci>x</ci></bvar>{body}</lambda></math>'
        "</functionDefinition>"
        for i, body in enumerate(bodies)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<sbml xmlns="http://www.sbml.org/sbml/level3/version2/core" level="3" version="2">'
        f'<model id="m"><listOfFunctionDefinitions>{functions}'
        "</listOfFunctionDefinitions><listOfParameters>"
        '<parameter id="p" value="1" constant="false"/></listOfParameters>'
        f'<listOfRules><rateRule variable="p">{math}<apply><ci>f{levels - 1}</ci>'
        "<ci>p</ci></apply></math></rateRule></listOfRules></model></sbml>"
    )


def test_long_chains_of_functions_are_refused_at_once() -> None:
    """libsbml's own check of 200 levels takes longer than anybody waits."""
    read(_chain(64))
    with pytest.raises(FlowError, match="over more than 64 levels, or itself"):
        read(_chain(200))
