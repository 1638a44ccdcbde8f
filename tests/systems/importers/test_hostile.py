"""What no importer can use ends in one sentence with the file, the place and what is wrong."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from markup_text import (
    CELLML,
    MATHML,
    SBML,
    cellml,
    compartment,
    component,
    listed,
    math,
    parameter,
    reaction,
    rule,
    sbml,
    species,
    variable,
)  # fmt: skip

from cubie_flow import OdeSystem
from cubie_flow.errors import FlowError
from cubie_flow.systems.importers import antimony, markup


def decay(law: str = "") -> str:
    """Return a model whose reaction has a law written in MathML."""
    text = sbml(
        listed("Compartments", compartment("c")),
        listed("Species", species("A", "c", 'initialAmount="1"')),
        listed("Reactions", reaction("r", "A", "A")),
    )
    return text.replace(math("A"), f'<math xmlns="{MATHML}">{law}</math>')


def apply(operator: str, *operands: str) -> str:
    return f"<apply><{operator}/>{''.join(operands)}</apply>"


A = "<ci>A</ci>"
X = component("c", variable("t") + variable("x", more='initial_value="1"'), "d(x)/d(t) = -x")


def built(*units: str) -> str:
    """Return a model with units; each is its name and those that it is built on."""
    found = ""
    for one in units:
        name, *parts = one.split()
        inner = "".join(f'<unit units="{part}"/>' for part in parts)
        found += f'<units name="{name}">{inner}</units>'
    return cellml("2.0", X, units=found)


LEVEL_1 = '<sbml xmlns="http://www.sbml.org/sbml/level1" level="1" version="2"><model/></sbml>'
PACKAGE = 'xmlns:z="http://www.sbml.org/sbml/level3/version1/z/version1" z:required="true"'
USED = 'z:a="1"'
INCLUDED = '<i:include xmlns:i="http://www.w3.org/2001/XInclude" href="/etc/passwd"/>'
#: Text of a file by its name, and what is said of it.
REFUSED = {
    "empty.xml": ("", "line 1: it is not XML: no element found"),
    "seven.xml": ('<?xml version="1.0" encoding="UTF-7"?>\n<a/>', "its encoding 'utf-7' is not"),
    "word.xml": ('<?xml version="1.0" encoding="word"?>\n<a/>', "'word' is not supported; save it"),
    "include.xml": (decay(A + INCLUDED), r"line 6: .*\(XInclude\) is refused"),
    "level.xml": (LEVEL_1, "line 2: .*model must contain at least one <compartment>"),
    "package.xml": (sbml(extra=PACKAGE, attributes=USED), "the SBML package 'z' is not supported"),
    "nothing.xml": (f'<sbml xmlns="{SBML}" level="3" version="2"/>', "it holds no model"),
    "formula.xml": (decay(""), "line 6, reaction 'r': an element of its formula is empty"),
    "operand.xml": (decay(apply("divide", A)), "line 6: .*has an inappropriate number of arg"),
    "integral.xml": (decay(apply("int", A)), "line 6: it is not valid SBML: <int> is not valid in"),
    "number.xml": (decay("<cn>abc</cn>"), "line 6: it is not valid SBML: Failed to read a valid"),
    "symbol.xml": (decay(apply("times", A, "<ci>q</ci>")), "line 6: .*uses 'q' that is not the id"),
    "circle.xml": (
        sbml(
            listed("Parameters", parameter("x", 1, False), parameter("y", 1, False)),
            listed("Rules", rule("assignment", "x", "y"), rule("assignment", "y", "x")),
        ),
        "line 5: .*'x' creates a cycle with",
    ),
    "large.xml": (
        decay(apply("plus", *[apply("times", *[A] * 4000)] * 13)),
        "line 6: a formula has more than 50000 elements",
    ),
    "space.cellml": (
        f'<model xmlns="{CELLML.format("3.0")}"/>', "cellml/3.0#' is not one of CellML"
    ),
    "units.cellml": (
        built(*(f"u{i} u{i + 1}" for i in range(2000)), "u2000 second"),
        "line 3, units 'u1801': more than 200 other units define it",
    ),
    "doubled.cellml": (
        built(*(f"u{i} u{i + 1} u{i + 1}" for i in range(60)), "u60 second"),
        "more than 200 other units define it",
    ),
    "circle.cellml": (built("a b", "b a"), "units define each other in a circle: [ab] -> "),
    "mismatch.cellml": (
        cellml(
            "2.0",
            X.replace('"dimensionless" initial', '"metre" interface="public" initial'),
            component("b", variable("x", "second", 'interface="public"')),
            connections='<connection component_1="c" component_2="b">'
            '<map_variables variable_1="x" variable_2="x"/></connection>',
        ),
        "line 4, component 'c': .*non-matching units of 'second'",
    ),
    "letters.ant": ("größe = 1; größe' = -größe\n", "are of basic Latin letters"),
    "function.ant": ("x = 1\nx' = -foo(x)\n", "line 2: .* uses 'foo' which is not a function"),
    "program.py": ("print(1)", "is a program and is not executed"),
    "data.xml": ("x: 1", "line 1: it is not XML"),
    "model.sbml": (cellml("2.0", X), "begins with <model>; it must begin with <sbml>"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_ends_in_one_sentence(name: str, tmp_path: Path) -> None:
    text, said = REFUSED[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(FlowError, match=said) as error:
        OdeSystem.from_file(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("m.xml", "m.ant", "m.yaml"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(FlowError, match=f"{name}' cannot be read: it is not a regular file"):
            OdeSystem.from_file(tmp_path / name)


def test_equations_of_a_component_are_formulas_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(markup, "MAX_FORMULA", 20)
    equation = apply("eq", *["<ci>x</ci>"] * 15)
    text = f'<a><math xmlns="{MATHML}">{equation * 5}</math></a>'
    assert markup.Markup.check(text.encode(), "m.xml").root == "a"
    longer = text.replace("</apply></math>", "<ci/><ci/><ci/><ci/><ci/></apply></math>")
    with pytest.raises(FlowError, match="a formula has more than 20 elements"):
        markup.Markup.check(longer.encode(), "m.xml")


@pytest.mark.parametrize(
    "text",
    [
        'import "other.ant"\n',
        'x = 1; x\' = -x; import "{folder}/other.ant"\n',
        'model m\n x = 1; x\' = -x\nend; import /* a */ "{folder}/other.ant"\n',
        'x = 1; x\' = -x; x is "//"; import \\\n "{folder}/other.ant"\n',
        'import "/etc/passwd"\n',
    ],
)
def test_antimony_opens_no_other_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.ant").write_text("model other\n y = 1; y' = -y\nend\n")
    (tmp_path / "m.ant").write_text(text.replace("{folder}", str(tmp_path)))
    with pytest.raises(FlowError, match=r"m.ant', line \d+: imports of other files are not supp"):
        OdeSystem.from_file(tmp_path / "m.ant")


def test_the_word_import_is_no_import(tmp_path: Path) -> None:
    (tmp_path / "m.ant").write_text(
        'A = 1; J: A -> B; 0.5*A; B = 0; J is "import" # nuclear import "fast"\n'
    )
    assert [state.name for state in OdeSystem.from_file(tmp_path / "m.ant").states] == ["A", "B"]


def test_antimony_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(antimony, "MAX_SECONDS", 0.001)
    (tmp_path / "m.ant").write_text("x = 1; x' = -x\n")
    with pytest.raises(FlowError, match=r"m.ant': antimony did not read it within 0.001 s"):
        OdeSystem.from_file(tmp_path / "m.ant")


@pytest.mark.parametrize(
    ("module", "name", "text"),
    [("libsbml", "m.xml", decay(A)), ("libcellml", "m.cellml", cellml("2.0", X))],
)
def test_a_missing_package_is_named_with_its_extra(
    module: str, name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_text(text)
    with pytest.raises(FlowError, match=r'pip install "cubie-flow\[(sbml|cellml)\]"'):
        OdeSystem.from_file(tmp_path / name)
