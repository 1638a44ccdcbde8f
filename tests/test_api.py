"""The library entry: datasets and stores from models and batches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from attrs import evolve

from cubie_flow import OdeSystem, open_results, solve
from cubie_flow.api import ControllerChoice, OutputChoice, Study, run_study, solve_study
from cubie_flow.batches import make_design, swept_design
from cubie_flow.console.progress import Progress
from cubie_flow.errors import FlowError


@pytest.fixture
def study(lorenz: OdeSystem) -> Study:
    return Study(
        system=lorenz,
        design=make_design("grid", {"rho": {"linspace": [1, 25, 50]}, "x": [0.5, 1.0]}),
        name="small",
        duration=1.0,
        output=OutputChoice(save_every=0.1, variables=("x", "energy"), summaries=("z",)),
        controller=ControllerChoice(rtol=1e-6, atol=1e-6),
    )


def test_store_and_dataset_hold_the_same(study: Study, tmp_path: Path) -> None:
    report = run_study(study, tmp_path / "results.zarr", config_yaml="a: 1", overrides=["b=2"])
    stored = xr.open_zarr(tmp_path / "results.zarr")
    direct = solve_study(study)
    assert set(stored.variables) == set(direct.variables)
    for name in direct.variables:
        np.testing.assert_array_equal(stored[name].values, direct[name].values, err_msg=name)
    assert report.statuses == {"success": 100}
    assert report.runs == 100
    assert report.store_bytes > 0
    assert stored.x.dims == ("run", "time")
    assert stored.sizes == {"run": 100, "time": 11}
    assert {"rho", "x_initial", "time"} <= set(stored.coords)
    assert stored.attrs["config"] == "a: 1"
    assert "rho" in json.loads(stored.attrs["system"])["parameters"]
    assert stored.status.attrs["flag_meanings"].split()[0] == "success"
    memory = xr.open_zarr(tmp_path / "results.zarr", group="memory")
    assert "stage_increments" in memory.buffer.values
    assert memory.bytes.values.min() > 0


def test_bits_do_not_depend_on_chunking(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cubie_flow.study import plan as home

    whole = solve_study(study)
    monkeypatch.setattr(home, "SHARD_MEMORY", 1)
    monkeypatch.setattr(home, "SHARD_BYTES", 500)
    report = run_study(study, tmp_path / "cut.zarr")
    assert report.runs == 100
    stored = xr.open_zarr(tmp_path / "cut.zarr")
    for name in whole.variables:
        np.testing.assert_array_equal(stored[name].values, whole[name].values, err_msg=name)


def test_what_is_solved_in_memory_is_held_once(lorenz: OdeSystem) -> None:
    design = make_design("sobol", {"rho": {"uniform": [1, 25]}}, size=40_000, seed=3)
    study = Study(lorenz, design, duration=0.1, output=OutputChoice(save_every=0.01))
    solve_study(study)  # what is imported and compiled stays out of it
    tracemalloc.start()
    try:
        result = solve_study(study)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * result.nbytes, (peak, result.nbytes)


def test_a_run_is_regenerated_from_its_index(lorenz: OdeSystem) -> None:
    design = make_design("sobol", {"rho": {"uniform": [1, 25]}}, size=64, seed=3)
    whole = solve_study(Study(lorenz, design, duration=0.5))
    (value,) = design.columns(17, 18)["rho"]
    alone = solve(lorenz, parameters={"rho": [value]}, duration=0.5, precision="float32", rtol=1e-6,
                  atol=1e-6)  # fmt: skip
    assert float(alone.x_final[0]) == float(whole.x_final[17])


def test_python_functions_are_models() -> None:
    def oscillator(t, y, p):  # type: ignore[no-untyped-def]
        return {"x": y.v, "v": -p.k * y.x}

    system = OdeSystem.from_function(oscillator, states={"x": 1.0, "v": 0.0}, parameters={"k": 1.0})
    result = solve(system, parameters={"k": [1.0, 4.0]}, duration=np.pi, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.x_final, [-1, 1], atol=1e-6)


def test_grid_and_zip(lorenz: OdeSystem) -> None:
    values = {"rho": [1.0, 2.0, 3.0], "sigma": [8.0, 9.0, 10.0]}
    assert solve(lorenz, parameters=values, duration=0.1).sizes["run"] == 3
    assert solve(lorenz, parameters=values, duration=0.1, batch="grid").sizes["run"] == 9
    assert solve(lorenz, parameters={"rho": 5.0}, duration=0.1).sizes["run"] == 1


def test_an_existing_store_is_never_overwritten(study: Study, tmp_path: Path) -> None:
    run_study(study, tmp_path / "results.zarr")
    with pytest.raises(FlowError, match=r"results\.zarr"):
        run_study(study, tmp_path / "results.zarr")


def test_float32_refuses_more_steps_than_it_can_count(study: Study) -> None:
    with pytest.raises(FlowError, match="max_steps"):
        solve_study(evolve(study, controller=ControllerChoice(max_steps=10**8)))


LONG = """
import sys, numpy as np
from cubie_flow.batches import make_design
from cubie_flow import OdeSystem
from cubie_flow.api import OutputChoice, Study, run_study
system = OdeSystem.from_equations("dx/dt = y\\ndy/dt = -w*x", states={"x": 1.0, "y": 0.0},
                                  parameters={"w": 1.0})
study = Study(system, make_design("grid", {"w": {"linspace": [1, 2, 400_000]}}), duration=400.0,
              output=OutputChoice(save_every=20.0))
def say(progress):
    print(progress.done, flush=True)
run_study(study, sys.argv[1], on_progress=say)
"""


def test_ctrl_c_leaves_a_readable_store(tmp_path: Path) -> None:
    path = tmp_path / "results.zarr"
    # It waits for the signal before it ends, however late that comes, and it receives it even if
    # whatever began the tests does not.
    wait = "\n    import time\n    time.sleep(60 if progress.done > 300_000 else 0)"
    said = "print(progress.done, flush=True)"
    hear = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    with subprocess.Popen(
        [sys.executable, "-c", hear + LONG.replace(said, said + wait), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) > 100_000:
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait() != 0
    stored = xr.open_zarr(path, consolidated=False)
    status = stored.status.values
    assert 0 < (status == 0).sum() < 400_000
    done = np.flatnonzero(status == 0)
    assert np.isfinite(stored.x[done[:100]].values).all()


def test_ctrl_c_returns_what_is_done(lorenz: OdeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interactive sessions keep what is done; a script ends."""

    def interrupting(state: Progress) -> None:
        if state.done:
            os.kill(os.getpid(), signal.SIGINT)

    @contextmanager
    def show(*_: object) -> Iterator[object]:
        yield interrupting

    monkeypatch.setattr("cubie_flow.api.progress_of_solve", show)
    batch: dict[str, Any] = {"parameters": {"rho": np.linspace(0, 40, 1_000_000)}, "duration": 25.0}
    with pytest.raises(KeyboardInterrupt):
        solve(lorenz, **batch)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.warns(UserWarning, match=r"interrupted: [\d,]+ of 1,000,000 runs are finished"):
        data = solve(lorenz, **batch)
    done = data.status.values == 0
    assert 0 < done.sum() < 1_000_000
    assert (data.status.values[~done] == 255).all()
    assert np.isnan(data.z_final.values[~done]).all()
    assert not data.steps.values[~done].any()
    assert data.attrs["interrupted"].startswith("interrupted: ")
    assert data.flow.summary().values["statuses"]["not_written"] == (~done).sum()
    run = int(np.flatnonzero(done)[-1])
    again = solve(lorenz, **{**batch, "parameters": {"rho": [float(data.rho[run])]}})
    assert float(again.z_final[0]) == float(data.z_final[run])


def test_memory_is_bounded_by_the_plan(tmp_path: Path) -> None:
    """Four times the runs need little more memory: shards are of one size, and four are held."""
    script = (
        LONG.replace("400_000", "int(sys.argv[2])")
        .replace("400.0", "1.0")
        .replace("20.0)", "0.01), shard_runs=50_000")
        .replace("print(progress.done, flush=True)", "pass")
    )
    script += "\nfrom cubie_flow.process.machine import peak_memory\nprint(peak_memory())"
    peaks = []
    for runs in (300_000, 1_200_000):
        out = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / f"{runs}.zarr"), str(runs)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(out.stdout.split()[-1]) / 2**20)
    assert peaks[1] < peaks[0] + 100, peaks


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"initial_values": {"x": 1e39}}, "system.states.x"),
        ({"parameters": {"k": -1e39}}, "system.parameters.k"),
        ({"parameters": {"k": [1.0, 1e39]}}, "batch.values.k"),
        ({"duration": 1e39}, "duration"),
        ({"t_start": -1e39}, "t_start"),
        ({"dt": 1e39}, "controller.dt"),
        ({"drivers": {"k": {"times": [0, 1], "values": [0, 1e39]}}}, "the driver k"),
    ],
)
def test_what_the_precision_does_not_hold_is_refused(changes: dict[str, Any], key: str) -> None:
    system = OdeSystem.from_equations("x' = -k*x", states={"x": 1.0}, parameters={"k": 0.5})
    with pytest.raises(FlowError, match=rf"{key} is -?1e\+39, but float32 .*precision=float64"):
        solve(system, precision="float32", **changes)
    if "initial_values" in changes:
        assert float(solve(system, **changes).x_final[0]) > 1e38


def test_numbers_of_equations_are_held_by_the_precision() -> None:
    system = OdeSystem.from_equations("x' = -1e39*x*x", states={"x": 1e-39})
    with pytest.raises(FlowError, match=r"equations of model is -?1e\+39, but float32"):
        solve(system, precision="float32")
    assert float(solve(system).x_final[0]) < 1e-39


@pytest.mark.parametrize(
    ("kind", "values", "size"),
    [
        ("grid", {"k": {"linspace": [-1e39, 0.0, 5]}}, None),
        ("zip", {"k": {"logspace": [1.0, 1e39, 5]}}, None),
        ("sobol", {"k": {"uniform": [-1e39, 0.0]}}, 8),
        ("latin_hypercube", {"k": {"lognormal": [1.0, 20.0]}}, 8),
    ],
)
def test_the_largest_value_of_a_batch_is_known(
    kind: str, values: dict[str, Any], size: int | None
) -> None:
    design = make_design(kind, values, size)
    largest = design.largest()["k"]
    assert largest >= 1e39
    assert np.abs(design.columns(0, 5)["k"]).max() <= largest


def test_the_largest_value_of_a_table_and_of_a_sweep_is_known(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("k,x\n1,-3e39\n-2,0\n")
    table = make_design("table", {}, path=tmp_path / "runs.csv")
    assert table.largest() == {"k": 2.0, "x": 3e39}
    design = swept_design(
        [{"k": [1.0, -7.0]}, {"batch.seed": [1, 2]}],
        0,
        lambda seed: make_design("sobol", {"x": {"uniform": [0, 2]}}, 4, seed),
    )
    assert design.largest() == {"k": 7.0, "x": 2.0}


@pytest.mark.parametrize("rtol", [1.0, 10, {"x": 2.0}])
def test_a_relative_tolerance_is_a_part_of_the_value(rtol: Any) -> None:
    system = OdeSystem.from_equations("x' = -x", states={"x": 1.0})
    with pytest.raises(FlowError, match=r"controller\.rtol.* is .*below 1"):
        solve(system, rtol=rtol)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"save_every": "a"}, "output.save_every is 'a'; it must be a number"),
        ({"variables": 3, "save_every": 0.1}, "output.variables is 3; it must be a list of names"),
        ({"summaries": [1]}, "output.summaries is .1.; it must be a list of names"),
        ({"sensitivities": "nu"}, "output.sensitivities names 'nu'"),
        ({"rtol": "a"}, "controller.rtol is 'a'; it must be a number"),
        ({"atol": {"x": 1.0, "y": "a"}}, "controller.atol.y is 'a'"),
        ({"rtol": float("nan")}, "controller.rtol is nan; it must be a number above 0"),
        ({"dt": "a"}, "controller.dt is 'a'; it must be a number"),
        ({"target": 3}, "target must be a name or a TargetChoice, not 3"),
        ({"locations": 3}, "locations must map buffers to locations, not be 3"),
    ],
)
def test_an_argument_of_another_kind_is_one_sentence(
    arguments: dict[str, Any], message: str
) -> None:
    system = OdeSystem.from_equations("x' = -k*x", states={"x": 1.0}, parameters={"k": 0.5})
    with pytest.raises(FlowError, match=message):
        solve(system, **arguments)


def test_one_name_is_a_list_of_one() -> None:
    system = OdeSystem.from_equations("xy' = -mu*xy", states={"xy": 1.0}, parameters={"mu": 0.5})
    found = solve(system, save_every=0.5, variables="xy", summaries="xy", sensitivities="mu")
    assert {"xy", "xy_max", "dxy_dmu_final"} <= set(found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OdeSystem.from_equations(3, states={"x": 1.0}), "equations are lines of text"),  # type: ignore[arg-type]
        (lambda: OdeSystem.from_file(3), "a model file is named by its path, not by 3"),  # type: ignore[arg-type]
        (
            lambda: OdeSystem.from_equations("x' = 1", {"x": 0.0}).with_values(3),  # type: ignore[arg-type]
            "values of a parameter are given by name, not as 3",
        ),
        (lambda: open_results(3), "a result is named by its path, not by 3"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_model_and_no_result_is_one_sentence(make: Any, message: str) -> None:
    with pytest.raises(FlowError, match=message):
        make()


def test_the_span_of_a_grid_needs_no_look_at_its_runs() -> None:
    design = make_design("grid", {"duration": {"linspace": [2, 1, 10**15]}, "x": [1.0, 3.0, 2.0]})
    assert (design.bounds("duration"), design.bounds("x")) == ((1.0, 2.0), (1.0, 3.0))
    drawn = make_design("sobol", {"x": {"normal": [0, 1]}}, 100)
    values = drawn.columns(0, 100)["x"]
    assert drawn.bounds("x") == (values.min(), values.max())
    swept = swept_design(
        [{"x": [5.0, 4.0]}], 0, lambda seed: make_design("sobol", {"y": {"uniform": [0, 2]}}, 4)
    )
    assert swept.bounds("x") == (4.0, 5.0)
    assert 0 < swept.bounds("y")[0] < swept.bounds("y")[1] < 2
