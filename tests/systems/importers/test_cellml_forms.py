"""Forms of older CellML that other programs read and libcellml does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from markup_text import cellml, component, variable

from cubie_flow import OdeSystem
from cubie_flow.errors import FlowError
from cubie_flow.systems.importers.cellml_files import normalised

pytest.importorskip("libcellml")

CMETA = 'xmlns:cmeta="http://www.cellml.org/metadata/1.0#"'
PUBLIC = 'public_interface="{}"'


def model(version: str, number: str, start: str = "1", time: str = "") -> str:
    """Return ``x' = NUMBER*x`` from `start`, with a time of its own component."""
    decay = component(
        "c",
        variable("t", more=PUBLIC.format("in"))
        + variable("x", more=f'initial_value="{start}"')
        + variable("y"),
        "d(x)/d(t) = 2*x",
        "y = x",
    )
    decay = decay.replace('<cn cellml:units="dimensionless">2</cn>', number)
    clock = component("clock", variable("t", more=f"{PUBLIC.format('out')} {time}"))
    connection = (
        '<connection><map_components component_1="c" component_2="clock"/>'
        '<map_variables variable_1="t" variable_2="t"/></connection>'
    )
    return cellml(version, clock, decay, connections=connection)


def read(folder: Path, text: str) -> OdeSystem:
    (folder / "m.cellml").write_text(text)
    return OdeSystem.from_file(folder / "m.cellml")


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ('<cn cellml:units="dimensionless">-1.5e-3</cn>', -1.5e-3),
        ('<cn cellml:units="dimensionless" type="real"> +2.5E+02 </cn>', 250.0),
        ('<cn cellml:units="dimensionless" type="integer">-3</cn>', -3.0),
        ("<cn cellml:units='dimensionless'>+4.</cn>", 4.0),
        ('<cn type="e-notation" cellml:units="dimensionless">5<sep/>-1</cn>', 0.5),
        ('<cn cellml:units="dimensionless" cmeta:id="n">6</cn>', 6.0),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_numbers(version: str, number: str, value: float, tmp_path: Path) -> None:
    text = model(version, number, start=" +1.5e+1 ").replace("<model ", f"<model {CMETA} ")
    system = read(tmp_path, text)
    assert system.to_mapping()["equations"]["x"] in (f"{value!r}*x", f"({value!r})*x")
    assert system.states[0].value == 15.0


def test_identifiers_on_formulas(tmp_path: Path) -> None:
    text = model("1.0", "<cn cellml:units='dimensionless'>2</cn>").replace(
        "<model ", f"<model {CMETA} "
    )
    plain = read(tmp_path, text)
    marked = text.replace("<math ", '<math cmeta:id="a"\n id="b" ')
    marked = marked.replace("<eq/>", '<eq cmeta:id="c"/>').replace("<ci>", '<ci cmeta:id = "d">')
    assert read(tmp_path, marked).content_hash == plain.content_hash
    # Places in errors keep their lines.
    assert normalised(marked).count("\n") == marked.count("\n")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_start_of_the_time(version: str, tmp_path: Path) -> None:
    number = '<cn cellml:units="dimensionless">2</cn>'
    plain = read(tmp_path, model(version, number))
    started = read(tmp_path, model(version, number, time='initial_value="0.0"'))
    assert started.content_hash == plain.content_hash
    assert started.description == ""
    later = read(tmp_path, model(version, number, time='initial_value="5"'))
    assert later.description == "the model starts 't' at 5; give t_start=5"


def test_what_is_invalid_stays_refused(tmp_path: Path) -> None:
    for number in ("1e5e", "two", "0x10"):
        with pytest.raises(FlowError, match=r"its equations cannot be used|not valid CellML"):
            read(tmp_path, model("1.0", f'<cn cellml:units="dimensionless">{number}</cn>'))
