"""An audit sees what was wrong with a study, also where the study was sure of itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from attrs import evolve
from settling import study, written

import cubie_flow
from cubie_flow.analysis.audit import audit
from cubie_flow.analysis.audited import reference, sentences
from cubie_flow.analysis.cli import main
from cubie_flow.api import ControllerChoice, OutputChoice, Study
from cubie_flow.batches import make_design
from cubie_flow.integrators import run
from cubie_flow.integrators.switches import SwitchFinder
from cubie_flow.kernels import launch
from cubie_flow.study import kernel, shards
from cubie_flow.systems import OdeSystem

ARRAYS = Mapping[str, Any]


def audited(made: Study, folder: Path, undo: Callable[[], None] | None = None) -> xr.Dataset:
    """Write a study, take the fault away, and return the audit of 100 of its runs or of all."""
    store = written(made, folder)
    if undo is not None:
        undo()
    assert (cubie_flow.open_results(store).status == 0).all(), "the study is sure of itself"
    return audit(store, fraction=min(1.0, 100 / made.design.size))


def clean(table: xr.Dataset) -> None:
    assert float(table.error.max()) < 1e-4
    for name in ("ends_differ", "counts_differ", "peaks_differ"):
        assert name not in table or not table[name].any()


def test_start_values_that_were_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = OdeSystem.from_mapping(
        {
            "name": "bolus",
            "parameters": {"weight": 70.0, "dose": 100.0, "k": 0.1},
            "states": {"c": "dose/(weight*0.05)"},
            "equations": {"c": "-k*c"},
        }
    )
    made = study(
        system, design=make_design("grid", {"weight": {"linspace": [50.0, 90.0, 8]}}),
        output=OutputChoice(),
    )  # fmt: skip
    clean(audited(made, tmp_path / "right"))
    compiled = kernel.kernel_settings

    def frozen(given: Study) -> Any:
        states = tuple(evolve(state, start=None) for state in given.system.states)
        return compiled(evolve(given, system=evolve(given.system, states=states)))

    monkeypatch.setattr(kernel, "kernel_settings", frozen)
    table = audited(made, tmp_path / "wrong", monkeypatch.undo)
    wrong = np.abs(70.0 - np.linspace(50.0, 90.0, 8)) > 5.0
    assert (table.error.values[wrong] > 0.05).all()
    assert table.resolved.values[wrong].all()


def test_a_pulse_that_was_stepped_over(tmp_path: Path) -> None:
    # The clock is a state, so that nothing but steps can find the pulse.
    system = OdeSystem.from_mapping(
        {
            "name": "hidden",
            "parameters": {"at": 15.0, "k": 0.1},
            "states": {"clock": 0.0, "x": 0.0},
            "equations": {"clock": "1", "x": "100*exp(-((clock - at)/0.03)**2) - k*x"},
        }
    )
    made = study(
        system, design=make_design("grid", {"at": {"linspace": [12.0, 24.0, 8]}}), duration=30.0,
        output=OutputChoice(),
    )  # fmt: skip
    table = audited(made, tmp_path)
    data = cubie_flow.open_results(tmp_path)
    exact = 100.0 * 0.03 * np.sqrt(np.pi) * np.exp(-0.1 * (30.0 - data["at"].values))
    missed = np.abs(data.x_final.values / exact - 1.0) > 0.5
    assert missed.any(), "steps became shorter; make the pulse narrower"
    assert (table.error.values[missed] > 0.3).all()
    assert table.resolved.values[missed].all()


@pytest.mark.parametrize(
    "pulse", ["where((t >= at) and (t <= at + 0.05), 100, 0)", "100*exp(-((t - at)/0.03)**2)"]
)
def test_a_finder_that_found_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pulse: str
) -> None:
    system = OdeSystem.from_equations(
        f"dx/dt = {pulse} - k*x", states={"x": 0.0}, parameters={"at": 15.0, "k": 0.1}
    )
    made = study(
        system, design=make_design("grid", {"at": {"linspace": [12.0, 24.0, 8]}}), duration=30.0,
        output=OutputChoice(),
    )  # fmt: skip
    monkeypatch.setattr(SwitchFinder, "replace", lambda _, nodes: list(nodes))
    monkeypatch.setattr(run, "find_pulses", lambda *_: ())
    monkeypatch.setattr(kernel, "_recent", {})
    table = audited(made, tmp_path / "wrong", monkeypatch.undo)
    missed = cubie_flow.open_results(tmp_path / "wrong").x_final.values < 0.1
    assert missed.any()
    assert (table.error.values[missed] > 0.3).all()
    assert table.resolved.values[missed].all()
    clean(audited(made, tmp_path / "right"))


@pytest.fixture(scope="module")
def swing() -> OdeSystem:
    return OdeSystem.from_mapping(
        {
            "name": "swing",
            "parameters": {"w": 1.0},
            "states": {"x": 1.0, "v": 0.0},
            "equations": {"x": "v", "v": "-w**2*x"},
            "events": {"up": {"when": "x > 0.5"}},
        }
    )


def swinging(system: OdeSystem, runs: int, **more: Any) -> Study:
    return study(
        system, design=make_design("grid", {"w": {"linspace": [0.4, 3.1, runs]}}), duration=20.0,
        output=OutputChoice(summaries=["x"]), controller=ControllerChoice(), **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fault", "sign"),
    [
        ("up_count", lambda values: values - 1, "in the number of events"),
        ("up_times", lambda values: values + 0.5, "of event times"),
        ("x_mean", lambda values: values + 0.05, "of metrics"),
        ("x_peaks", lambda values: values + 1, "in the number of maxima"),
    ],
)
def test_numbers_beside_the_final_values(
    swing: OdeSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
    fault: Callable[[Any], Any], sign: str,
) -> None:  # fmt: skip
    arrays = shards.shard_arrays

    def faulty(*given: Any) -> dict[str, Any]:
        found = arrays(*given)
        return {**found, name: fault(found[name])}

    monkeypatch.setattr(shards, "shard_arrays", faulty)
    table = audited(swinging(swing, 8), tmp_path, monkeypatch.undo)
    assert float(table.error.max()) < 1e-4
    assert sum(sign in text for text in sentences(table)) == 1


def test_counts_that_went_to_other_runs(
    swing: OdeSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = swinging(swing, 600, order="cost", shard_runs=600)
    clean(audited(made, tmp_path / "right"))
    monkeypatch.delitem(launch.RUN_AXES, "event_counts")
    table = audited(made, tmp_path / "wrong", monkeypatch.undo)
    assert float(table.error.max()) < 1e-4
    assert int((table.counts_differ > 0).sum()) > 8


def test_a_tolerance_that_says_nothing_of_the_states(tmp_path: Path) -> None:
    system = OdeSystem.from_equations("dx/dt = -k*x", states={"x": 1e-9}, parameters={"k": 1.0})
    made = study(
        system, design=make_design("grid", {"k": {"linspace": [1.0, 3.0, 8]}}),
        output=OutputChoice(),
    )  # fmt: skip
    table = audited(made, tmp_path / "loose")
    assert float(table.error.max()) > 0.01
    assert table.resolved.all()
    clean(audited(evolve(made, controller=ControllerChoice()), tmp_path / "auto"))


def test_invariants_that_rounding_destroyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system = OdeSystem.from_equations(
        """
        dy1/dt = -A*y1 - B*y1*y3
        dy2/dt = A*y1 - M*C*y2*y3
        dy3/dt = (A*y1 - M*C*y2*y3) - (B*y1*y3 - C*y4)
        dy4/dt = B*y1*y3 - C*y4
        """,
        states={"y1": 1.76e-3, "y2": 0.0, "y3": 0.0, "y4": 0.0},
        parameters={"A": 7.89e-10, "B": 1.1e7, "C": 1.13e3, "M": 1e6},
    )
    made = study(
        system, design=make_design("grid", {"A": {"linspace": [7.5e-10, 8.3e-10, 8]}}),
        duration=1e13, algorithm="rodas5p", output=OutputChoice(),
        controller=ControllerChoice(rtol=1e-6, atol=1e-24),
    )  # fmt: skip
    table = audited(made, tmp_path)
    assert reference(table).startswith("radau_iia_5, rtol 1e-09, atol")
    assert "steps of at most 1e+10" in reference(table)
    assert float(table.error.max()) > 1e-4
    assert table.resolved.values[table.error.values > 1e-4].all()
    assert "times controller.rtol" in " ".join(sentences(table))
    capsys.readouterr()
    assert main(["audit", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads(printed["attributes"]["reference"])["algorithm"] == "radau_iia_5"
