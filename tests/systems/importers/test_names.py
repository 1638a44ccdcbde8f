"""Names that mean something here are changed in imports, and the model says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from markup_text import cellml, component, event, listed, parameter, rule, sbml, variable

from cubie_flow import OdeSystem
from cubie_flow.cli.app import main
from cubie_flow.systems.importers.names import MAX_LISTED
from cubie_flow.systems.quantities import RESERVED

NAMES = [*RESERVED, "lambda", "x" * 65]


def written(kind: str) -> str:
    """Return a model with a parameter of every reserved name, and a state that uses them."""
    total = " + ".join(f"p{k}" for k in range(len(NAMES)))
    if kind == "cellml":
        constants = "".join(variable(f"p{k}", more='initial_value="2"') for k in range(len(NAMES)))
        state = variable("u") + variable("state", more='initial_value="1"')
        text = cellml("2.0", component("c", state + constants, f"d(state)/d(u) = {total}"))
    else:
        numbers = [parameter(f"p{k}", 2.0) for k in range(len(NAMES))]
        text = sbml(
            listed("Parameters", parameter("state", 1.0, False), *numbers),
            listed("Rules", rule("rate", "state", total)),
        )
    # Written first with plain names: the formulas of the tests know only those.
    for number in reversed(range(len(NAMES))):
        for left, right in (("<ci>", "</ci>"), ('id="', '"'), ('name="', '"')):
            text = text.replace(f"{left}p{number}{right}", f"{left}{NAMES[number]}{right}")
    return text


@pytest.mark.parametrize("kind", ["sbml", "cellml"])
def test_reserved_names_are_changed_with_a_note(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"m.{kind}"
    path.write_text(written(kind))
    system = OdeSystem.from_file(path)
    found = {item.long_name.removesuffix(" of c"): item.name for item in system.parameters}
    assert set(found) == set(NAMES)
    for old, new in found.items():
        assert new != old
        assert new.startswith(old[:60])
    told = [old for old, new in found.items() if f"'{old}' is '{new}'" in system.description]
    assert told == list(found)[:MAX_LISTED]
    assert main([f"system.file={path}", "task=import", f"to={tmp_path / 'm.yaml'}"]) == 0
    assert system.description in capsys.readouterr().out
    assert OdeSystem.from_file(tmp_path / "m.yaml").description == system.description


def test_an_event_with_a_reserved_name(tmp_path: Path) -> None:
    path = tmp_path / "m.xml"
    path.write_text(
        sbml(
            listed("Parameters", parameter("x", 1.0, False)),
            listed("Rules", rule("rate", "x", "1")),
            listed("Events", event("status", "x > 2", x="0")),
        )
    )
    system = OdeSystem.from_file(path)
    assert system.events[0].name == "status_"
    assert system.description == "names that cannot be used here are changed: 'status' is 'status_'"
