"""However the runs of a study are moved about, every stored array holds the same for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from attrs import evolve, fields, frozen

from cubie_flow import OdeSystem
from cubie_flow.api import ControllerChoice, OutputChoice, Study, run_study, solve_study
from cubie_flow.batches import make_design
from cubie_flow.kernels.launch import RUN_AXES, BatchResult, run_axes
from cubie_flow.study.attempts import read_rescue

RUNS = 600
#: x is stiff for large k, so that an explicit method with few steps fails there; the ball bounces
#: the more often the smaller its height.
SYSTEM = OdeSystem.from_mapping(
    {
        "name": "all_that_is_kept",
        "states": {"x": 0.0, "height": 1.0, "speed": 0.0},
        "parameters": {"k": 10.0, "g": 9.81, "lost": 0.1},
        "equations": {"x": "-k*(x - cos(t))", "height": "speed", "speed": "-g"},
        "observables": {"energy": "g*height + 0.5*speed**2"},
        "events": {
            "bounce": {
                "root": "height",
                "direction": "falling",
                "set": {"speed": "-(1 - lost)*speed"},
            },
            "high": {"when": "x > 0.5"},
        },
    }
)
STUDY = Study(
    SYSTEM,
    make_design(
        "latin_hypercube",
        {
            "k": {"loguniform": [1.0, 3e4]},
            "height": {"uniform": [0.05, 1.0]},
            "lost": {"uniform": [0.1, 0.3]},
            "duration": {"uniform": [1.0, 1.5]},
        },
        size=RUNS,
    ),
    precision="float64",
    controller=ControllerChoice(rtol=1e-5, atol=1e-7, max_steps=400),
    output=OutputChoice(
        times=(0.5, 1.0, 1.4),
        variables=("x", "energy"),
        summaries=("height", "energy"),
        compare={"time": [0.3, 0.9], "x": [0.5, 0.4], "height": [0.3, 0.1]},
        event_times=4,
    ),
    rescue=read_rescue([{"algorithm": "rodas4", "max_steps_factor": 1.0}]),
)


@pytest.fixture(scope="module")
def plain() -> dict[str, np.ndarray]:
    """Every array, the runs solved in the order of the design by one thread."""
    one = evolve(STUDY, target=evolve(STUDY.target, kind="cpu", threads=1))
    solved = solve_study(one)
    return {str(name): array.to_numpy() for name, array in solved.variables.items()}


def test_the_model_shows_every_kind_of_array(plain: dict[str, np.ndarray]) -> None:
    """Arrays that are the same in all runs would prove nothing below."""
    kept = {
        "x", "energy", "x_final", "height_final", "height_min", "energy_mean", "x_sse", "loglik",
        "bounce_count", "bounce_times", "high_count", "high_times", "status", "steps", "rejected",
        "attempt", "k",
    }  # fmt: skip
    assert kept <= plain.keys()
    for name in kept - {"status", "high_count"}:
        assert len(np.unique(plain[name], axis=0)) > 1, name
    assert set(plain["attempt"]) == {0, 1}
    assert (plain["bounce_count"] > 1).any()


@pytest.mark.parametrize(
    "changes",
    [
        {"order": "cost"},
        {"order": "cost", "threads": 2, "shard_runs": 550},
        {"shard_runs": 97, "threads": 2},
        {"order": "cost", "where": "bounce_count > 4 and attempt == 1"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_array_is_the_same(
    changes: dict[str, Any], plain: dict[str, np.ndarray], tmp_path: Path
) -> None:
    output = evolve(STUDY.output, where=changes.get("where"))
    study = evolve(
        STUDY,
        output=output,
        order=changes.get("order", "given"),
        shard_runs=changes.get("shard_runs"),
        target=evolve(STUDY.target, kind="cpu", threads=changes.get("threads", 1)),
    )
    run_study(study, tmp_path / "results.zarr")
    found = zarr.open_group(tmp_path / "results.zarr", mode="r")
    stored = {name: np.asarray(found[name][...]) for name in found.array_keys()}
    chosen = np.ones(RUNS, bool)
    if output.where is not None:
        chosen = (plain["bounce_count"] > 4) & (plain["attempt"] == 1)
        assert 10 < chosen.sum() < RUNS - 10
        np.testing.assert_array_equal(stored.pop("trajectory_saved"), chosen)
    # Names of occurrences are not data.
    assert stored.keys() - {"occurrence"} == plain.keys() - {"occurrence"}
    for name, values in plain.items():
        rows = chosen if name in study.saved else slice(None)
        assert stored[name][rows].tobytes() == values[rows].tobytes(), name


def test_every_field_of_a_result_says_which_axis_counts_the_runs() -> None:
    """A result whose arrays have as many runs as no other axis has elements."""
    runs = 7
    solved = _solved(runs)
    for one in fields(BatchResult):
        value = getattr(solved, one.name)
        has_runs = isinstance(value, np.ndarray) and runs in value.shape
        assert has_runs == (one.name in RUN_AXES), one.name
        if has_runs:
            assert value.shape[RUN_AXES[one.name]] == runs, one.name


def test_a_field_that_does_not_say_it_is_named() -> None:
    @frozen
    class Grown(BatchResult):
        waits: np.ndarray | None = None

    with pytest.raises(TypeError, match=r"Grown\.waits does not say which axis counts the runs"):
        run_axes(Grown)


def _solved(runs: int) -> BatchResult:
    """Return a result with every array, none of whose other axes is as long as the runs."""
    from cubie_flow.study.kernel import lent_kernel, tolerances
    from cubie_flow.study.rescue import Rescue

    design = make_design("zip", {"k": np.linspace(1.0, 3e4, runs).tolist()})
    study = evolve(STUDY, design=design, duration=1.5)
    columns = design.columns(0, runs)
    with lent_kernel(study) as kernel:
        limits = tolerances(study)
        result = kernel.solve(columns, runs, limits, study.times)
    return Rescue(study).apply(columns, result, study.times, 1)
