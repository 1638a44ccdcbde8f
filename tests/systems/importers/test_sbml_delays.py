"""Delays of SBML: what quantities were before the start, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from markup_text import (
    compartment,
    event,
    initial,
    listed,
    parameter,
    reaction,
    rule,
    sbml,
    species,
)  # fmt: skip

from cubie_flow import OdeSystem, solve
from cubie_flow.errors import FlowError

pytest.importorskip("libsbml")


def free(*names: str) -> str:
    return "".join(parameter(name, None, False) for name in names)


def read(folder: Path, *parts: str, version: int = 2) -> OdeSystem:
    (folder / "delays.xml").write_text(sbml(*parts, version=version))
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


def test_closed_forms(tmp_path: Path) -> None:
    """x' = -delay(x, 1) from 1 is 1 - t up to 1, then 1 - t + (t - 1)**2/2."""
    system = read(
        tmp_path,
        listed("Parameters", parameter("x", 1, False), parameter("lag", 1), free(*"abcdeg")),
        listed("InitialAssignments", initial("g", "sin(time)")),
        listed(
            "Rules",
            rule("rate", "x", "-delay(x, lag)"),
            rule("assignment", "a", "delay(2*x, 0.5)"),
            rule("assignment", "b", "delay(time, lag)"),
            # A state does not move before the start.
            rule("assignment", "c", "rateOf(x)"),
            rule("assignment", "d", "delay(c, 0.5)"),
            # The past of an initial assignment is that of its formula.
            rule("assignment", "e", "delay(g, 0.5)"),
        ),
    )
    names = ["x", *"abcde"]
    data = solve(system, duration=1.75, save_every=0.25, variables=names, rtol=1e-10, atol=1e-12)
    t = data.time.values

    def x(at: np.ndarray) -> np.ndarray:
        late = 1 - at + np.maximum(at - 1, 0) ** 2 / 2
        return np.where(at < 0, 1.0, late)

    expected = {
        "x": x(t),
        "a": 2 * x(t - 0.5),
        "b": t - 1,
        "c": -x(t - 1),
        "d": np.where(t < 0.5, 0.0, -x(t - 1.5)),
        "e": np.where(t < 0.5, np.sin(t - 0.5), 0.0),
    }
    for name, values in expected.items():
        assert np.abs(data[name].values[0] - values).max() < 1e-8, name
    again = OdeSystem.from_mapping(system.to_mapping())
    assert again.content_hash == system.content_hash


def test_fast_reactions_have_not_run_before_the_start(tmp_path: Path) -> None:
    system = read(
        tmp_path,
        listed("Compartments", compartment("c")),
        listed("Species", *(species(name, "c", 'initialAmount="3"') for name in "AB")),
        listed("Parameters", free("p")),
        listed("Rules", rule("assignment", "p", "delay(A, 1)")),
        listed("Reactions", reaction("f", "A - 2*B", "A", "B", more='fast="true"')),
        version=1,
    )
    written = system.to_mapping()["observables"]["p"]
    assert written.startswith("where(t - 1.0 < 0.0, A_start")


def test_events_do_not_read_the_past(tmp_path: Path) -> None:
    parts = (
        listed("Parameters", parameter("x", 1, False)),
        listed("Rules", rule("rate", "x", "1")),
    )
    with pytest.raises(
        FlowError, match=r"line 6, event 'e': it uses delay\(\) .* events see the present only"
    ):
        read(tmp_path, *parts, listed("Events", event("e", "delay(x, 1) > 2", x="0")))
