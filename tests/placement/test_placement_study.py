"""Placement studies and the equivalence gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray
from attrs import evolve

from cubie_flow import OdeSystem
from cubie_flow.api import OutputChoice, Study, TargetChoice
from cubie_flow.batches import make_design
from cubie_flow.cli.app import main
from cubie_flow.errors import FlowError
from cubie_flow.expressions.dialect import Place
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.placement import equivalence, search
from cubie_flow.placement import study as placement
from cubie_flow.study.kernel import build_kernel


@pytest.fixture
def study(lorenz: OdeSystem) -> Study:
    return Study(
        system=lorenz,
        design=make_design("zip", {"rho": [1.0, 15.0, 28.0]}),
        duration=0.5,
        target=TargetChoice("cpu"),
        output=OutputChoice(save_every=0.01),
    )


def integrated(study: Study, target: str, **locations: str) -> equivalence.Trajectories:
    span = 0.1 if target == "simulator" else None
    return equivalence.integrate(evolve(study, locations=locations), target, span)


# the gate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["simulator", "cpu"])
def test_moving_a_buffer_changes_no_bit(study: Study, target: str) -> None:
    results = {
        "here": integrated(study, target),
        "state=shared": integrated(study, target, state="shared"),
        "state=local": integrated(study, target, state="local"),
    }
    verdicts = equivalence.gate(results, "here")
    # Where the state is local already the same code is emitted, and equality proves nothing.
    assert verdicts == {
        "here": "baseline",
        "state=shared": "equal",
        "state=local": "no_difference_possible",
    }


@pytest.mark.parametrize("target", ["simulator", "cpu"])
def test_the_gate_fails_when_one_offset_is_corrupted(
    study: Study, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = integrated(study, target)
    correct = BatchSolverKernel.places.fget
    assert correct is not None

    def corrupted(self: BatchSolverKernel) -> dict[str, Place]:
        places = dict(correct(self))
        # One element too early: the first derivative is placed where the last state is.
        derivative = places["derivative"]
        places["derivative"] = evolve(derivative, offset=derivative.offset - 4)
        return places

    monkeypatch.setattr(BatchSolverKernel, "places", property(corrupted))
    moved = integrated(study, target, state="shared", derivative="shared")
    with pytest.raises(FlowError, match=r"state=shared .*run \d+, variable '\w+', at ") as caught:
        equivalence.compare(baseline, moved, "state=shared derivative=shared")
    assert "\n" not in str(caught.value)


def test_the_first_difference_is_named(study: Study) -> None:
    one = integrated(study, "cpu")
    arrays = {name: array.copy() for name, array in one.arrays.items()}
    arrays["z"][2, 7] = np.nextafter(arrays["z"][2, 7], np.inf, dtype=np.float32)
    arrays["y"][1, 9] = -arrays["y"][1, 9]
    arrays["x"][1, 30] = 0
    other = evolve(one, arrays=arrays)
    said = equivalence.first_difference(one, other)
    assert said is not None
    assert said.startswith("run 1, variable 'y', at time 0.09:")
    assert equivalence.first_difference(one, one) is None


# the search -----------------------------------------------------------------------------------


def test_only_allowed_locations_are_searched(study: Study) -> None:
    kernel = build_kernel(study)
    names = ["stage_increments", "state", "proposed_state"]
    space = search.search_space(kernel, names)
    # With samples, increments outlive the step; the state always does.
    assert space == {
        "stage_increments": ("local", "shared"),
        "state": ("local", "shared"),
        "proposed_state": ("register", "local", "shared"),
    }
    assert {e.name: e.location for e in kernel.layout.entries}["state"] == "local"
    assert len(search.candidates(space, "all", 64) or []) == 12
    assert len(search.candidates(space, "one_at_a_time", 64) or []) == 5
    with pytest.raises(FlowError, match=r"did you mean 'state'\?"):
        search.search_space(kernel, ["stat"])


def test_a_large_space_asks_for_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    space = dict.fromkeys("abcdefg", ("local", "shared"))
    with pytest.raises(FlowError, match=r"128 placements.*cubie-flow\[placement\]"):
        search.candidates(space, "all", 64)


def test_a_pareto_search_measures_each_placement_once() -> None:
    pytest.importorskip("optuna")
    space = dict.fromkeys("abcd", ("local", "shared"))
    seen: list[str] = []

    def measure(placements: list[search.Placement]) -> list[tuple[float, ...]]:
        seen.extend(search.label(p) for p in placements)
        return [(sum(v == "shared" for v in p.values()), 1.0) for p in placements]

    search.pareto(space, 9, 3, measure, 2)
    assert len(seen) == len(set(seen)) == 9
    assert seen[0] == "a=local b=local c=local d=local"


def test_placements_are_timed_in_turns() -> None:
    order: list[str] = []

    def solver(name: str) -> float:
        order.append(name)
        return float(len(order))

    solvers = {name: lambda name=name: solver(name) for name in "AB"}
    seconds = placement.time_interleaved(solvers, rounds=4)
    assert "".join(order) == "AB" + "ABBAABBA"
    assert {name: len(times) for name, times in seconds.items()} == {"A": 4, "B": 4}


# the study ------------------------------------------------------------------------------------


def test_the_command_leaves_one_dataset_a_picture_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["task=placement", "buffers.sweep=[state,proposed_state]", "batch.size=8"]
    assert main([*words, "duration=1.0", "target.kind=cpu", "engine.progress=false"]) == 0
    printed = capsys.readouterr().out
    assert "ranked by compiler statistics, because nothing was timed" in printed
    (store,) = tmp_path.glob("outputs/lorenz_sweep_placement/*/*/results.zarr")
    assert list(store.parent.glob("*.png"))
    data = xarray.open_dataset(store, engine="zarr", consolidated=False)
    assert data.sizes == {"placement": 6}
    assert data.attrs["baseline"] == "state=local proposed_state=register"
    assert np.isnan(data["time"]).all()
    shared = data["location_state"] == 2
    assert (data["ld_shared"].values[shared] > 0).all()
    assert (data["st_shared"].values[shared] > 0).all()
    plain = data.sel(placement="state=local proposed_state=register")
    assert plain["ld_shared"] == plain["st_shared"] == plain["shared_run"] == 0
    assert plain["equivalence_cpu"] == plain["equivalence_simulator"] == 0
    # Three states in local memory become registers: the same code as in registers.
    same = data.sel(placement="state=local proposed_state=local")
    assert str(same["ptx_hash"].values) == str(plain["ptx_hash"].values)
    for name in ("registers", "occupancy", "block_size"):
        assert (data[name] > 0).all()


def test_auto_says_why(study: Study) -> None:
    same, why = placement.choose_placement(study)
    assert same is study
    assert "CPU" in why
    simulated = evolve(study, target=TargetChoice("simulator", arch="sm_80"))
    chosen, why = placement.choose_placement(simulated, workers=1)
    assert "compiled for sm_80" in why
    assert "registers" in why
    assert "occupancy" in why
    figures = placement.measure_placements(chosen, ["state"], "one_at_a_time", 1, workers=1)
    assert figures[0].spills == 0
