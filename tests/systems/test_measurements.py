"""Misfit of runs to measured data, against the same sums over saved trajectories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cubie_flow import ControllerChoice, OdeSystem, solve
from cubie_flow.analysis import accessor  # noqa: F401
from cubie_flow.api import OutputChoice, Study, TargetChoice
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.study.kernel import build_kernel

DECAY = OdeSystem.from_equations(
    "x' = -k*x\nhalf = x/2\nodd = log(x - 0.5)", {"x": 1.0}, {"k": 0.5}, units={"x": "mg"}
)
#: Not in order, one time twice, values missing; `odd` is NaN where nothing was measured of it.
DATA: dict[str, list[Any]] = {
    "time": [0.5, 0.0, 2.0, 2.0, 3.5],
    "x": [0.8, 1.1, None, 0.3, 0.15],
    "x_sigma": [0.1, 0.1, None, 0.05, 0.2],
    "half": [None, 0.4, 0.2, 0.25, None],
    "odd": [-1.2, None, None, None, None],
}
K = np.linspace(0.2, 1.0, 21)
OPTIONS: dict[str, Any] = {"duration": 4.0, "rtol": 1e-10, "atol": 1e-12}


def wanted(k: np.ndarray) -> dict[str, np.ndarray]:
    """Return the misfits by their definitions."""
    t = np.array(DATA["time"])
    x = np.exp(-np.outer(k, t))
    data = {name: np.array(values, float) for name, values in DATA.items()}
    squares = {
        "x": (x - data["x"]) ** 2,
        "half": (x / 2 - data["half"]) ** 2,
        "odd": (np.log(x[:, :1] - 0.5) - data["odd"][:1]) ** 2,
    }
    found = {f"{name}_sse": np.nansum(square, axis=1) for name, square in squares.items()}
    found["x_wls"] = np.nansum(squares["x"] / data["x_sigma"] ** 2, axis=1)
    found["loglik"] = -0.5 * found["x_wls"] - np.nansum(
        np.log(np.sqrt(2 * np.pi) * data["x_sigma"])
    )
    for name, n in (("half", 3), ("odd", 1)):
        sse = found[f"{name}_sse"]
        found["loglik"] = found["loglik"] - n / 2 * (np.log(2 * np.pi * sse / n) + 1)
    return found


@pytest.fixture(scope="module")
def compared() -> Any:
    return solve(DECAY, parameters={"k": K}, compare=DATA, target="cpu", **OPTIONS)


def test_misfits_are_those_of_their_definitions(compared: Any) -> None:
    for name, values in wanted(K).items():
        np.testing.assert_allclose(compared[name], values, rtol=1e-6, err_msg=name)
    assert "half_wls" not in compared
    assert "x" not in compared, "no trajectory is kept"
    assert compared.x_sse.attrs["units"] == "(mg)2"


@pytest.mark.parametrize("algorithm", ["rodas5p", "rk4"])
def test_saved_times_do_not_change_the_misfit(compared: Any, algorithm: str) -> None:
    more: dict[str, Any] = {"save_every": 0.75, "algorithm": algorithm}
    if algorithm == "rk4":
        more["controller"] = ControllerChoice(dt=0.01)
        more |= {"rtol": None, "atol": None}
    data = solve(DECAY, parameters={"k": K}, compare=DATA, target="cpu", **{**OPTIONS, **more})
    np.testing.assert_allclose(data.time, 0.75 * np.arange(6))
    np.testing.assert_allclose(data.x, np.exp(-np.outer(K, data.time)), rtol=1e-6)
    np.testing.assert_allclose(data.loglik, compared.loglik, rtol=1e-6)


def test_the_simulator_gives_the_bits_of_the_cpu() -> None:
    options = {**OPTIONS, "rtol": 1e-5, "duration": 3.5, "parameters": {"k": [0.3, 0.6]}}
    cpu, simulated = (
        solve(DECAY, compare=DATA, target=target, **options) for target in ("cpu", "simulator")
    )
    for name in cpu.data_vars:
        np.testing.assert_array_equal(cpu[name].values, simulated[name].values, err_msg=name)


def test_the_comparison_compiles_for_cuda() -> None:
    study = Study(
        DECAY, make_design("single", {}), duration=4.0, output=OutputChoice(compare=DATA),
        target=TargetChoice("cuda"),
    )  # fmt: skip
    assert build_kernel(study).compile_cuda("sm_90").figures.registers > 0


def test_a_run_that_ends_before_the_data_has_no_misfit() -> None:
    columns = {"time": DATA["time"], "x": DATA["x"]}
    data = solve(DECAY, duration=np.array([3.4, 3.5, 4.0]), compare=columns, target="cpu")
    assert np.isnan(data.x_sse.values).tolist() == [True, False, False]
    assert np.isnan(data.loglik.values).tolist() == [True, False, False]
    assert (data.status.values == 0).all()


def test_a_failed_run_has_no_misfit_until_it_is_rescued() -> None:
    stiff = OdeSystem.from_equations("x' = -k*(x - cos(t))", {"x": 1.0}, {"k": 1.0})
    options: dict[str, Any] = {
        "parameters": {"k": [1.0, 1e5]}, "duration": 2.0, "target": "cpu",
        "compare": {"time": [1.0], "x": [0.5]},
        "controller": ControllerChoice(max_steps=500),
    }  # fmt: skip
    failed = solve(stiff, **options)
    assert np.isnan(failed.x_sse.values).tolist() == [False, True]
    rescued = solve(stiff, rescue=[{"algorithm": "rodas5p"}], **options)
    assert rescued.attempt.values.tolist() == [0, 1]
    np.testing.assert_allclose(rescued.x_sse.values[1], (np.cos(1.0) - 0.5) ** 2, rtol=1e-3)
    assert rescued.x_sse.values[0] == failed.x_sse.values[0]


def test_files_are_read_and_travel_in_the_store(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("time,x,x_sigma\n0.5,0.8,0.1\n2,NA,\n3.5, 0.15,0.2\n")
    data = solve(DECAY, parameters={"k": K}, compare=path, target="cpu", **OPTIONS)
    kept = json.loads(data.attrs["compare"])
    assert kept["x"] == [0.8, None, 0.15]
    again = solve(DECAY, parameters={"k": K}, compare=kept, target="cpu", **OPTIONS)
    np.testing.assert_array_equal(data.x_wls, again.x_wls)
    assert again.attrs["compare_hash"] == data.attrs["compare_hash"]
    path.unlink()
    rerun = data.flow.rerun([3, 7])
    np.testing.assert_array_equal(rerun.loglik, data.loglik[[3, 7]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"time": None}, "has no column 'time'"),
        ({"y": [1] * 5}, "has the column 'y', which is not a state or observable"),
        ({"hlaf": [1] * 5}, "'hlaf', which is not a state or observable.*did you mean 'half'"),
        ({"x": [1] * 4}, "'x' and 'time' differ in length"),
        ({"x_sigma": [0.1, 0, None, 1, 1]}, "x_sigma is 0 in data row 2; it must be positive"),
        ({"x": ["a"] * 5}, "output.compare.x holds 'a' in data row 1, which is not a number"),
        ({"half": [None] * 5}, "'half' has no value at all"),
        ({"time": [0.5, 0, 2, 2, 9]}, "a value at time 9, but runs go from 0 to 4"),
    ],
)
def test_mistakes_are_said(change: dict[str, Any], said: str) -> None:
    data = {key: value for key, value in {**DATA, **change}.items() if value is not None}
    with pytest.raises(FlowError, match=said):
        solve(DECAY, compare=data, **OPTIONS)
