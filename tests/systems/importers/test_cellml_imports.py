"""Components and units of CellML that are imported from other files, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from markup_text import cellml, component, variable

from cubie_flow import OdeSystem, open_results
from cubie_flow.cli.app import main
from cubie_flow.errors import FlowError
from cubie_flow.systems.importers import cellml_files

HEART = Path(__file__).parent / "noble_1962.cellml"


def imported(file: str, *items: str) -> str:
    """Return an import; items are ``"component m gate"``: what it is, its name here and there."""
    inside = ""
    for item in items:
        kind, name, there = item.split()
        inside += f'<{kind} name="{name}" {kind}_ref="{there}"/>'
    space = "http://www.w3.org/1999/xlink"
    return f'<import xmlns:xlink="{space}" xlink:href="{file}">{inside}</import>'


def faces(version: str, private: bool = False) -> str:
    """Return the attributes of a variable that others connect with."""
    if version == "2.0":
        return 'interface="public_and_private"' if private else 'interface="public"'
    return 'public_interface="out"' + (' private_interface="out"' if private else "")


def connected(version: str, one: str, two: str, *variables: str) -> str:
    maps = "".join(
        f'<map_variables variable_1="{a}" variable_2="{b}"/>'
        for a, b in (pair.split() for pair in variables)
    )
    if version == "2.0":
        return f'<connection component_1="{one}" component_2="{two}">{maps}</connection>'
    head = f'<map_components component_1="{one}" component_2="{two}"/>'
    return f"<connection>{head}{maps}</connection>"


def encapsulated(version: str, outer: str, inner: str) -> str:
    tree = f'<component_ref component="{inner}"/>'
    tree = f'<component_ref component="{outer}">{tree}</component_ref>'
    if version == "2.0":
        return f"<encapsulation>{tree}</encapsulation>"
    return f'<group><relationship_ref relationship="encapsulation"/>{tree}</group>'


UNITS = (
    '<units name="ms"><unit prefix="milli" units="second"/></units>'
    '<units name="per_ms"><unit units="ms" exponent="-1"/></units>'
)


def decays(versions: tuple[str, str, str]) -> dict[str, str]:
    """Return a model of three files: two decays of one kind, whose rate is a component in it."""
    own, gate, units = versions
    incoming = faces(own).replace("out", "in")
    return {
        "main.cellml": cellml(
            own,
            imported("parts/gate.cellml", "component m gate", "component h gate"),
            component(
                "env",
                variable("s", "second", faces(own))
                + variable("a", more=incoming)
                + variable("b", more=incoming)
                + variable("y")
                + variable("z", "second"),
                "y = a*b",
                "z = s",
            ),
            connections=connected(own, "env", "m", "s t", "a x")
            + connected(own, "env", "h", "s t", "b x"),
        ),
        "parts/gate.cellml": cellml(
            gate,
            # What only the component `alone` needs is not there.
            imported("nowhere.cellml", "component alone alone"),
            imported("lib/units.cellml", "units ms ms", "units rate per_ms"),
            component(
                "gate",
                variable("t", "ms", faces(gate, True).replace('public_interface="out"', IN))
                + variable("x", more='initial_value="1" ' + faces(gate))
                + variable("k", "rate", faces(gate, True)),
                "d(x)/d(t) = -k*x",
            ),
            component("rate", variable("k", "rate", f'initial_value="2" {faces(gate)}')),
            component("other", variable("t", "ms", faces(gate))),
            connections=connected(gate, "gate", "rate", "k k")
            + connected(gate, "gate", "other", "t t")
            + encapsulated(gate, "gate", "rate"),
        ),
        "parts/lib/units.cellml": cellml(units, units=UNITS),
    }


IN = 'public_interface="in"'


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files; return the first."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / next(iter(files))


@pytest.mark.parametrize(
    "versions", [("2.0",) * 3, ("1.1",) * 3, ("2.0", "1.1", "1.0"), ("1.1", "2.0", "2.0")]
)
def test_components_and_units_come_from_other_files(
    versions: tuple[str, str, str], tmp_path: Path
) -> None:
    model = OdeSystem.from_file(write(tmp_path, decays(versions))).to_mapping()
    assert model["states"] == {"m_x": 1.0, "h_x": 1.0}
    # Imported twice, the component has a rate of its own each time.
    assert model["parameters"] == {"rate_k": 2.0, "h_rate_k": 2.0}
    assert model["equations"] == {"m_x": "-rate_k*m_x", "h_x": "-h_rate_k*h_x"}
    assert model["observables"] == {"y": "m_x*h_x", "z": "0.001*t"}
    assert (model["time"]["unit"], model["units"]["rate_k"]) == ("ms", "rate")
    assert model["source"] == f"CellML {versions[0]}"


def test_a_cell_in_pieces_is_the_cell_in_one_file(tmp_path: Path) -> None:
    text = HEART.read_text()
    head, end = text[: text.index("<model")], "</model>"
    start = text[len(head) : text.index("\n <units")]
    units = re.findall(r"^ <units .*?</units>\n", text, re.MULTILINE | re.DOTALL)
    components = re.findall(r"^ <component .*?</component>\n", text, re.MULTILINE | re.DOTALL)
    names = [re.search('name="(.*?)"', part)[1] for part in (*units, *components)]  # type: ignore
    library = imported("units.cellml", *(f"units {name} {name}" for name in names[: len(units)]))
    files = {"heart.cellml": text, "units.cellml": f"{start}{''.join(units)}{end}"}
    for part in units:
        files["heart.cellml"] = files["heart.cellml"].replace(part, "")
    for name, part in zip(names[len(units) :], components, strict=True):
        one = imported(f"./{name}.cellml", f"component {name} {name}")
        files["heart.cellml"] = files["heart.cellml"].replace(part, one)
        files[f"{name}.cellml"] = f"{start}{library}{part}{end}"
    assert len(files) == 9
    pieces, whole = OdeSystem.from_file(write(tmp_path, files)), OdeSystem.from_file(HEART)
    assert pieces.to_mapping() == whole.to_mapping()


def test_a_study_needs_no_file_once_it_runs(tmp_path: Path) -> None:
    files = tmp_path / "model"
    path = write(files, decays(("2.0",) * 3))
    out = tmp_path / "out"
    before = OdeSystem.from_file(path).content_hash
    study = [
        f"system.file={path}", f"hydra.run.dir={out}", "duration=1", "batch=sobol",
        "batch.size=4", "batch.values={rate_k: {uniform: [1, 2]}}", "storage.picture=false",
        "engine.progress=false", "output.save_every=0.5",
    ]  # fmt: skip
    assert main(study) == 0
    # Another rate in an imported file is another model, but not that of the study.
    gate = files / "parts" / "gate.cellml"
    gate.write_text(gate.read_text().replace('initial_value="2"', 'initial_value="3"'))
    assert OdeSystem.from_file(path).content_hash != before
    assert main([f"resume={out}", "batch.size=8"]) == 0
    shutil.rmtree(files)
    assert main([f"resume={out}", "batch.size=16"]) == 0
    data = open_results(out)
    assert data.attrs["system_hash"] == before
    expected = np.exp(-(data.rate_k + 2.0) * 1.0)
    np.testing.assert_allclose(data.m_x_final * data.h_x_final, expected, rtol=1e-4)
    again = data.flow.rerun([0, 15])
    np.testing.assert_array_equal(again.m_x_final, data.m_x_final[[0, 15]])


# what is refused ----------------------------------------------------------------------------------


def importing(file: str, item: str = "component k k") -> str:
    own = component("c", variable("t") + variable("x", more='initial_value="1"'), "d(x)/d(t) = -x")
    return cellml("2.0", imported(file, item), own)


K = component("k", variable("k", more='initial_value="1"'))
INSIDE = "imports are read from files inside '.*', named without '..'"
NO_FILE = "it is not the name of a file"
#: Name of the imported file, and what is said of it.
NAMES = {
    "other.cellml": "the file '.*/other.cellml' does not exist",
    "folder": "the file .* does not exist",
    "o" * 5000: "the file .* does not exist",
    "": INSIDE,
    "/etc/passwd": INSIDE,
    "../o.cellml": "m.cellml', line 4, import '../o.cellml': " + INSIDE,
    "a/%2e%2e/%2E./o.cellml": INSIDE,
    "http://localhost/m.cellml": NO_FILE,
    "file:///etc/passwd": NO_FILE,
    "//host/m.cellml": NO_FILE,
    "//[x/m.cellml": "it is not an address",
    "o.cellml#k": NO_FILE,
    "..\\o.cellml": NO_FILE,
    "C:%5Co.cellml": NO_FILE,
    "o%00.cellml": NO_FILE,
    "m.cellml": "the files import each other in a circle",
}


def refused(path: Path, said: str) -> None:
    with pytest.raises(FlowError, match=said) as error:
        OdeSystem.from_file(path)
    assert str(path.parent) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_only_files_of_the_folder_are_imported(name: str, tmp_path: Path) -> None:
    outside = cellml("2.0", K)
    write(tmp_path, {"o.cellml": outside, "d/folder/o.cellml": outside})
    refused(write(tmp_path / "d", {"m.cellml": importing(name)}), NAMES[name])


TYPED = '<!DOCTYPE a [<!ENTITY b "c">]>\n<a>&b;</a>'
#: What is imported, the text of its file `o.cellml`, and what is said of it.
TEXTS = {
    "circle": (
        "component k k",
        cellml("2.0", imported("m.cellml", "component k k")),
        "o.cellml', line 4, import 'm.cellml': the files import each other in a circle: .*m.cellml "
        "-> .*o.cellml -> .*m.cellml",
    ),
    "component": (
        "component k kk",
        cellml("2.0", K),
        "m.cellml', line 4, import 'o.cellml': '.*o.cellml' has no component 'kk'",
    ),
    "units": (
        "units ms mss",
        cellml("2.0", units=UNITS),
        "m.cellml', .*: '.*o.cellml' has no units 'mss'; did you mean 'ms'",
    ),
    "another format": ("component k k", "<sbml/>", "o.cellml': .* is not one of CellML"),
    "no XML": ("component k k", "<model>\n", "o.cellml', line 2: it is not XML"),
    "entity": ("component k k", TYPED, r"o.cellml', line 1: a document type \(DOCTYPE\)"),
    "invalid": (
        "component k k",
        cellml("2.0", K.replace("component", "part")),
        "o.cellml'.*: it is not valid CellML 2.0: ",
    ),
    "reaction": (
        "component k k",
        cellml("1.1", K + "<reaction/>"),
        "o.cellml', line 6: reaction elements are not supported",
    ),
    "two units": (
        "component k k",
        cellml("1.1", K, units=UNITS + UNITS),
        "o.cellml': it is not valid CellML 1.1: .*multiple units with the name 'ms'",
    ),
    "unknown units": (
        "component k k",
        cellml("2.0", K.replace("dimensionless", "q")),
        "o.cellml'.*: it is not valid CellML 2.0: .*'q'",
    ),
}


@pytest.mark.parametrize("case", TEXTS)
def test_an_imported_file_is_checked_as_the_model_is(case: str, tmp_path: Path) -> None:
    item, text, said = TEXTS[case]
    refused(write(tmp_path, {"m.cellml": importing("o.cellml", item), "o.cellml": text}), said)


def test_a_link_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    outside = write(tmp_path, {"o.cellml": cellml("2.0", K)})
    path = write(tmp_path / "d", {"m.cellml": importing("o.cellml")})
    (tmp_path / "d" / "o.cellml").symlink_to(outside)
    refused(path, "import 'o.cellml': a link leads out of the folder")
    (tmp_path / "d" / "o.cellml").unlink()
    (tmp_path / "d" / "o.cellml").symlink_to("o.cellml")
    refused(path, "the file .* does not exist")


def chain(length: int) -> dict[str, str]:
    """Return files that import one another, each one the next twice."""
    files = {"0.cellml": importing("1.cellml", "component k k1")}
    for number in range(1, length):
        file = f"{number + 1}.cellml"
        items = [f"component {side} k{number + 1}" for side in "ab"]
        own = component(f"k{number}", variable("k", more=f'initial_value="1" {faces("2.0")}'))
        tree = "".join(f'<component_ref component="{side}"/>' for side in "ab")
        tree = f'<component_ref component="k{number}">{tree}</component_ref>'
        files[f"{number}.cellml"] = cellml(
            "2.0", imported(file, *items), own, f"<encapsulation>{tree}</encapsulation>"
        )
    return {**files, f"{length}.cellml": cellml("2.0", K.replace('"k"', f'"k{length}"', 1))}


@pytest.mark.parametrize(
    ("bound", "value", "files", "said"),
    [
        (None, None, chain(20), "15.cellml'.*, import '.*': imports go more than 16 files deep"),
        (None, None, chain(14), "more than 5000 components or"),
        ("MAX_FILES", 2, chain(3), "2.cellml', line 4, import '3.cellml': .*more than 2 files"),
        ("MAX_BYTES", 900, chain(3), "the imported files have more than 900 characters"),
    ],
)
def test_imports_are_bounded(
    bound: str | None,
    value: int,
    files: dict[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path, files)
    if bound is not None:
        OdeSystem.from_file(path)
        monkeypatch.setattr(cellml_files, bound, value)
    refused(path, said)
