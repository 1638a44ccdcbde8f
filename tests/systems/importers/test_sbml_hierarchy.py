"""Hierarchical SBML models: submodels, and external models from files inside the model's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from markup_text import listed, parameter, rule, sbml

from cubie_flow import OdeSystem
from cubie_flow.errors import FlowError
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.systems.importers import sbml_hierarchy

pytest.importorskip("libsbml")

COMP = 'xmlns:comp="http://www.sbml.org/sbml/level3/version1/comp/version1" comp:required="true"'


def decay(name: str, rate: str, value: float, *more: str) -> str:
    """Return the parts of a model in which `name` decays from 1 with a rate."""
    parts = parameter(name, 1, False), parameter(rate, value), *more
    return listed("Parameters", *parts) + listed("Rules", rule("rate", name, f"-{rate}*{name}"))


def submodel(name: str, model: str, inner: str = "", more: str = "") -> str:
    return f'<comp:submodel comp:id="{name}" comp:modelRef="{model}" {more}>{inner}</comp:submodel>'


def submodels(*items: str) -> str:
    return f"<comp:listOfSubmodels>{''.join(items)}</comp:listOfSubmodels>"


def external(name: str, source: str, model: str = "") -> str:
    ref = f'comp:modelRef="{model}"' if model else ""
    return f'<comp:externalModelDefinition comp:id="{name}" comp:source="{source}" {ref}/>'


def hierarchy(*parts: str, definitions: str = "", externals: str = "") -> str:
    """Return a document with definitions behind its model."""
    lists = ""
    if definitions:
        lists += f"<comp:listOfModelDefinitions>{definitions}</comp:listOfModelDefinitions>"
    if externals:
        kind = "listOfExternalModelDefinitions"
        lists += f"\n<comp:{kind}>\n{externals}</comp:{kind}>"
    return sbml(*parts, extra=COMP).replace("</model></sbml>", f"</model>{lists}</sbml>")


def definition(name: str, parts: str) -> str:
    return f'<comp:modelDefinition id="{name}">{parts}</comp:modelDefinition>'


def read(folder: Path, **files: str) -> OdeSystem:
    for name, text in files.items():
        (folder / f"{name}.xml").write_text(text)
    return OdeSystem.from_file(folder / "main.xml")


REPLACING = (
    '<parameter id="k" value="0.5" constant="true"><comp:listOfReplacedElements>'
    '<comp:replacedElement comp:idRef="k" comp:submodelRef="a"/>'
    "</comp:listOfReplacedElements></parameter>"
)
DELETED = '<comp:listOfDeletions><comp:deletion comp:idRef="spare"/></comp:listOfDeletions>'


def test_submodels_are_one_model(tmp_path: Path) -> None:
    """A replaced parameter, a factor of time, a deletion, and a file inside the folder."""
    (tmp_path / "parts").mkdir()
    other = hierarchy(definitions=definition("cell", decay("y", "q", 3, parameter("spare", 7))))
    (tmp_path / "parts" / "cells.xml").write_text(other)
    system = read(
        tmp_path,
        main=hierarchy(
            listed("Parameters", REPLACING, parameter("slower", 2)),
            submodels(
                submodel("a", "inner", more='comp:timeConversionFactor="slower"'),
                submodel("b", "far", DELETED),
            ),
            definitions=definition("inner", decay("x", "k", 1)),
            # What no submodel uses is not read.
            externals=external("far", "parts/cells.xml", "cell") + external("no", "missing.xml"),
        ),
    )
    assert [state.name for state in system.states] == ["a__x", "b__y"]
    assert {item.name: item.value for item in system.parameters} == {
        "k": 0.5, "slower": 2.0, "b__q": 3.0,
    }  # fmt: skip
    values = {item.name: item.value for item in (*system.states, *system.parameters)}
    assert evaluate(system.derivatives, values) == pytest.approx([-0.25, -3.0])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("../other.xml", "line 7, externalModelDefinition 'far': imports are read from files"),
        ("/etc/passwd", "imports are read from files inside"),
        ("http://localhost/m.xml", "is not the name of a file"),
        ("missing.xml", r"missing.xml' does not exist"),
        ("link.xml", "a link leads out of the folder"),
        ("broken.xml", r"broken.xml', line 1: it is not XML"),
        ("circle.xml", "the model contains itself"),
    ],
)
def test_external_models_that_are_refused(source: str, reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside.xml").write_text(sbml(decay("x", "k", 1)))
    (folder / "link.xml").symlink_to(tmp_path / "outside.xml")
    model = submodels(submodel("a", "far"))
    with pytest.raises(FlowError, match=reason) as error:
        read(
            folder,
            broken="<sbml>",
            circle=hierarchy(model, externals=external("far", "main.xml")),
            main=hierarchy(model, externals=external("far", source)),
        )
    assert "\n" not in str(error.value)


def test_a_few_definitions_cannot_stand_for_any_number(tmp_path: Path) -> None:
    models = definition("m0", decay("x", "k", 1))
    for i in range(1, 40):
        inner = submodels(*(submodel(side, f"m{i - 1}") for side in "ab"))
        models += definition(f"m{i}", inner)
    text = hierarchy(submodels(submodel("a", "m39")), definitions=models)
    with pytest.raises(FlowError, match="submodel 'b': with its submodels the model has more than"):
        read(tmp_path, main=text)


def test_files_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbml_hierarchy, "MAX_FILES", 2)
    chain = {
        f"n{i}": hierarchy(
            submodels(submodel("a", "far")), externals=external("far", f"n{i + 1}.xml")
        )
        for i in range(3)
    }
    with pytest.raises(FlowError, match=r"n1.xml', line 7, .*the model uses more than 2 files"):
        read(tmp_path, main=chain["n0"], **chain)


def test_what_libsbml_cannot_flatten_is_one_sentence(tmp_path: Path) -> None:
    text = hierarchy(submodels(submodel("a", "nothing")))
    with pytest.raises(FlowError, match=r"'nothing'.*no model has this identifier") as error:
        read(tmp_path, main=text)
    assert "\n" not in str(error.value)
    wrong = REPLACING.replace('idRef="k"', 'idRef="w"')
    parts = definition("inner", decay("x", "k", 1))
    text = hierarchy(
        listed("Parameters", wrong), submodels(submodel("a", "inner")), definitions=parts
    )
    with pytest.raises(FlowError, match=r"cannot be flattened: .*'w'") as error:
        read(tmp_path, main=text)
    assert "\n" not in str(error.value)


def test_a_package_counts_only_where_it_is_used(tmp_path: Path) -> None:
    for name in ("arrays", "qual"):
        space = f"http://www.sbml.org/sbml/level3/version1/{name}/version1"
        declared = f'xmlns:{name}="{space}" {name}:required="true"'
        text = sbml(decay("x", "k", 1), extra=declared)
        assert len(read(tmp_path, main=text).states) == 1
        used = text.replace("</model>", f"<{name}:listOfThings/></model>")
        with pytest.raises(FlowError, match=name):
            read(tmp_path, main=used)
