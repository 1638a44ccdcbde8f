"""XML is bounded and without entities before a library sees it."""

from pathlib import Path

import pytest

from cubie_flow import OdeSystem
from cubie_flow.errors import FlowError
from cubie_flow.systems.importers import import_model, markup
from cubie_flow.systems.importers.markup import Markup

BOMB = """<?xml version="1.0"?>
<!DOCTYPE sbml [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<sbml>&b;</sbml>"""
EXTERNAL = """<!DOCTYPE sbml SYSTEM "file:///etc/passwd">
<sbml/>"""


@pytest.mark.parametrize("text", [BOMB, EXTERNAL])
def test_a_document_type_is_refused(text: str) -> None:
    with pytest.raises(FlowError, match=r"'m\.xml', line [12]: a document type \(DOCTYPE\)"):
        Markup.check(text.encode(), "m.xml")


def test_entities_are_refused_in_every_encoding() -> None:
    with pytest.raises(FlowError, match="DOCTYPE"):
        Markup.check(BOMB.replace("?>", ' encoding="UTF-16"?>', 1).encode("utf-16"), "m.xml")


def test_an_entity_that_nobody_defined_is_no_xml() -> None:
    with pytest.raises(FlowError, match="line 2: it is not XML: undefined entity"):
        Markup.check(b"<sbml>\n&amp;&b;</sbml>", "m.xml")


def test_depth_is_bounded() -> None:
    deep = "<a>" * (markup.MAX_DEPTH + 1) + "</a>" * (markup.MAX_DEPTH + 1)
    with pytest.raises(FlowError, match=f"nested more than {markup.MAX_DEPTH} deep"):
        Markup.check(deep.encode(), "m.xml")


def test_operands_of_a_formula_are_bounded_and_elements_of_a_list_are_not() -> None:
    many = "<b/>" * (markup.MAX_CHILDREN + 1)
    assert Markup.check(f"<a>{many}</a>".encode(), "m.xml").root == "a"
    with pytest.raises(FlowError, match=f"more than {markup.MAX_CHILDREN} others"):
        Markup.check(f'<a xmlns="{markup.MATHML}">{many}</a>'.encode(), "m.xml")


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markup, "MAX_BYTES", 100)
    (tmp_path / "m.xml").write_text("<sbml>" + "x" * 100 + "</sbml>")
    with pytest.raises(FlowError, match="more than 100 bytes"):
        import_model(tmp_path / "m.xml")


def test_a_mistake_names_its_line() -> None:
    with pytest.raises(FlowError, match=r"'m\.xml', line 3: it is not XML: mismatched tag"):
        Markup.check(b"<a>\n<b>\n</a>", "m.xml")


def test_places_are_those_of_the_file() -> None:
    text = '<?xml version="1.0"?>\n<m xmlns="space">\n<p id="k"/>\n<r variable="k"/>\n<q/></m>'
    found = Markup.check(text.encode("utf-8-sig"), "m.xml")
    assert (found.root, found.namespace) == ("m", "space")
    assert found.place("p", "k") == "line 3, p 'k'"
    assert found.place("r", "k") == "line 4, r 'k'"
    assert found.place("p", "other") == "p 'other'"
    assert found.first["q"] == 5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_encodings_are_those_the_file_declares(encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n<m name="Größe"/>'
    found = Markup.check(text.encode(encoding), "m.xml")
    assert 'name="Größe"' in found.text
    assert 'encoding="UTF-8"' in found.text


def test_what_begins_otherwise_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_text("<html/>")
    with pytest.raises(FlowError, match="begins with <html>; it must begin with <sbml> or <model>"):
        import_model(tmp_path / "m.xml")
    (tmp_path / "m.cellml").write_text("<sbml/>")
    with pytest.raises(FlowError, match="begins with <sbml>; it must begin with <model>"):
        import_model(tmp_path / "m.cellml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="cannot be read: No such file"):
        import_model(tmp_path / "m.xml")


EQUATION = (
    '<model xmlns="http://www.cellml.org/cellml/{version}#" name="m" '
    'xmlns:cellml="http://www.cellml.org/cellml/{version}#" '
    'xmlns:mathml="http://www.w3.org/1998/Math/MathML">\n<component name="c">'
    '<variable name="x" units="dimensionless" initial_value="1"/>'
    '<variable name="t" units="second"/>\n{math}</component></model>'
)


@pytest.mark.parametrize("version", ["1.0", "1.1", "2.0"])
@pytest.mark.parametrize(
    ("math", "message"),
    [
        ("<mathml:math><mathml:pi/></mathml:math>", "line 3: <mathml:math> is MathML with the pre"),
        (
            '<math xmlns="{0}"><apply><ci>f</ci><ci>x</ci></apply></math>',
            "line 3: an <apply> begins with <ci>, which is not an operation of CellML",
        ),
        # libcellml takes this for the number alone.
        (
            '<math xmlns="{0}"><apply><cn cellml:units="mole">2</cn><ci>x</ci></apply></math>',
            "an <apply> begins with <cn>",
        ),
        (
            '<math xmlns="{0}"><apply><apply><plus/><ci>x</ci></apply><ci>x</ci></apply></math>',
            "an <apply> begins with <apply>",
        ),
    ],
)
def test_formulas_that_libcellml_misreads_are_refused(
    version: str, math: str, message: str
) -> None:
    text = EQUATION.format(version=version, math=math.format(markup.MATHML))
    with pytest.raises(FlowError, match=message):
        Markup.check(text.encode(), "m.cellml")


def test_names_keep_their_places_whatever_their_prefix() -> None:
    text = (
        '<c:model xmlns:c="http://www.cellml.org/cellml/1.1#" xmlns:l="http://www.w3.org/1999/xlink">'
        '\n<c:import l:href="a.cellml"/>\n<c:component c:name="b" name="a"/></c:model>'
    )
    found = Markup.check(text.encode(), "m.cellml")
    assert (found.root, found.namespace) == ("model", "http://www.cellml.org/cellml/1.1#")
    assert found.place("import", "a.cellml") == "line 2, import 'a.cellml'"
    assert found.place("component", "a") == "line 3, component 'a'"


def test_a_model_without_equations(tmp_path: Path) -> None:
    pytest.importorskip("libcellml")
    path = tmp_path / "m.cellml"
    path.write_text('<model xmlns="http://www.cellml.org/cellml/2.0#" name="m"/>')
    with pytest.raises(FlowError, match="it has no equations"):
        OdeSystem.from_file(path)
