"""Delays of SBML: what quantities were before the start, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from markup_text import event, initial, listed, parameter, rule, sbml

from cubie_flow import OdeSystem
from cubie_flow.errors import FlowError

pytest.importorskip("libsbml")


def read(folder: Path, *parts: str) -> OdeSystem:
    (folder / "delays.xml").write_text(sbml(*parts))
    return OdeSystem.from_file(folder / "delays.xml")


def test_quantities_have_a_past_before_the_start(tmp_path: Path) -> None:
    system = read(
        tmp_path,
        listed("Parameters", *(parameter(name, 1, name == "k") for name in "xyzwk")),
        listed("InitialAssignments", initial("y", "2 + time"), initial("k", "time")),
        listed(
            "Rules",
            rule("rate", "x", "-delay(x, 2)"),
            rule("rate", "y", "delay(y, 1) + delay(k, 3)"),
            rule("assignment", "z", "delay(rateOf(x), 1)"),
            rule("assignment", "w", "delay(z*time, x)"),
        ),
    )
    model = system.to_mapping()
    assert model["equations"] == {
        "x": "-delay(x, 2.0)",
        "y": "delay(y, 1.0) + where(t - 3.0 < 0.0, t - 3.0, k)",
    }
    assert model["history"] == {"y": "2.0 + t"}
    # The rate of x was 0 before the start, and is that of an earlier time after it.
    assert model["observables"]["z"] == "where(t - 1.0 < 0.0, 0.0, -delay(x, 3.0))"
    assert "(t - x)" in model["observables"]["w"]


def test_events_do_not_read_the_past(tmp_path: Path) -> None:
    parts = (
        listed("Parameters", parameter("x", 1, False)),
        listed("Rules", rule("rate", "x", "1")),
    )
    with pytest.raises(FlowError, match="reads the past; an event sees the present"):
        read(tmp_path, *parts, listed("Events", event("e", "delay(x, 1) > 2", x="0")))
