"""Trajectories of chosen runs only, and runs ordered by cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from cubie_flow import OdeSystem
from cubie_flow.api import ControllerChoice, OutputChoice, Study, run_study, solve_study
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.expressions.graph import symbol
from cubie_flow.study.cost_order import LEAST, cost_order
from cubie_flow.systems.events import Event

#: The larger mu, the stiffer, and the more expensive for an explicit method.
SYSTEM = OdeSystem.from_equations(
    "x' = v\nv' = mu*(1 - x**2)*v - x",
    states={"x": 2.0, "v": 0.0},
    parameters={"mu": 1.0},
    name="oscillator",
)
STUDY = Study(
    SYSTEM,
    make_design("latin_hypercube", {"mu": {"loguniform": [0.1, 30.0]}}, size=700),
    duration=10.0,
    precision="float64",
    controller=ControllerChoice(rtol=1e-5, atol=1e-7),
    output=OutputChoice(save_every=2.5, summaries=("v",)),
    shard_runs=128,
)
WHERE = "v_max > 3 and status == success and mu < 20"


def test_trajectories_of_chosen_runs(tmp_path: Path) -> None:
    whole = solve_study(STUDY)
    some = evolve(STUDY, output=evolve(STUDY.output, where=WHERE))
    run_study(some, tmp_path / "some.zarr")
    found = zarr.open_group(tmp_path / "some.zarr", mode="r")
    wanted = (whole.v_max > 3) & (whole.status == 0) & (whole.mu < 20)
    wanted = wanted.to_numpy()
    assert 50 < wanted.sum() < 650
    np.testing.assert_array_equal(found["trajectory_saved"][:], wanted)
    for name in ("x", "v"):
        values = found[name][:]
        assert np.isnan(values[~wanted]).all()
        assert values[wanted].tobytes() == whole[name].to_numpy()[wanted].tobytes()
    for name in ("v_max", "v_rms", "x_final", "mu", "steps", "status"):
        assert found[name][:].tobytes() == whole[name].to_numpy().tobytes(), name


def test_shards_without_a_chosen_run_write_no_trajectories(tmp_path: Path) -> None:
    none = evolve(STUDY, output=evolve(STUDY.output, where="x_final > 1e6"))
    run_study(none, tmp_path / "none.zarr")
    assert not list((tmp_path / "none.zarr" / "x").glob("c/*"))
    assert np.isnan(zarr.open_group(tmp_path / "none.zarr", mode="r")["x"][:]).all()


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("max_v > 1", "'max_v' is not kept of every run.*did you mean 'v_max'"),
        ("x_max > 1", "'x_max' is not kept of every run.*v_max"),
        ("v_max", "is neither true nor false"),
        ("1 > 0", "names no quantity"),
        ("v_max >", "cannot be read"),
        ("__import__('os').getcwd() > 1", "not allowed"),
        ("v_max.real > 1", r"output.trajectories.where: 'v_max.real'"),
        ("open(v_max) > 1", r"output.trajectories.where: "),
    ],
)
def test_conditions_that_are_refused(where: str, words: str) -> None:
    with pytest.raises(FlowError, match=words) as caught:
        solve_study(evolve(STUDY, output=evolve(STUDY.output, where=where)))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("output.trajectories.where")


def test_a_condition_needs_saved_times() -> None:
    output = evolve(STUDY.output, where=WHERE, save_every=None)
    with pytest.raises(FlowError, match=r"no trajectories are saved; give output.save_every"):
        solve_study(evolve(STUDY, output=output))


def test_a_condition_reads_one_value_of_each_run() -> None:
    ball = OdeSystem.from_equations(
        "h' = v\nv' = -g", states={"h": 1.0, "v": 0.0}, parameters={"g": 9.81}
    )
    ball = evolve(ball, events=(Event("ground", root=symbol("h"), direction="falling"),))
    output = OutputChoice(save_every=0.1, where="ground_times > 0.1")
    study = evolve(STUDY, system=ball, design=make_design("single", {}), output=output)
    with pytest.raises(FlowError, match=r"'ground_times' is not kept of every run.*ground_count"):
        solve_study(study)


@pytest.mark.parametrize("lanes", [4, 16])
def test_the_order_changes_no_bit(lanes: int) -> None:
    study = evolve(STUDY, shard_runs=None, target=evolve(STUDY.target, kind="cpu", lanes=lanes))
    given_order, by_cost = solve_study(study), solve_study(evolve(study, order="cost"))
    assert set(by_cost) == set(given_order)
    for name, values in given_order.variables.items():
        assert by_cost[name].to_numpy().tobytes() == values.to_numpy().tobytes(), name


@settings(max_examples=30, deadline=None)
@given(st.integers(LEAST, 3000), st.integers(0, 2**32 - 1))
def test_an_order_is_a_permutation_that_sorts(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    columns = {"a": random.uniform(-1, 1, count), "b": random.uniform(0, 1e-6, count)}
    cost = 100.0 + 50.0 * columns["a"] + 4e7 * columns["b"]
    order = cost_order(columns, count, lambda runs: cost[runs])
    assert order is not None
    assert (np.sort(order) == np.arange(count)).all()
    # Neighbours differ much less than they did before.
    assert np.abs(np.diff(cost[order])).mean() < 0.5 * np.abs(np.diff(cost)).mean()


def test_nothing_to_order() -> None:
    def never(runs: np.ndarray) -> np.ndarray:
        raise AssertionError

    assert cost_order({"a": np.arange(10.0)}, 10, never) is None
    assert cost_order({"a": np.ones(1000)}, 1000, never) is None
