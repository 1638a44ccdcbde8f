"""Drivers: interpolation, knots, series of their own for runs, and where the data comes from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray

from cubie_flow import ControllerChoice, OdeSystem, solve
from cubie_flow.api import OutputChoice, Study, TargetChoice
from cubie_flow.batches import make_design
from cubie_flow.config.defaults import load_system
from cubie_flow.errors import FlowError
from cubie_flow.kernels.targets.detect import cuda_devices
from cubie_flow.study.kernel import build_kernel

KNOTS = [0.0, 1.0, 2.5, 3.0]
LEVELS = [1.0, 3.0, -1.0, 1.0]


def forced(**entry: Any) -> OdeSystem:
    """Return ``x' = u - k*x`` with `entry` changed of a driver ``u``."""
    entry = {"times": KNOTS, "values": LEVELS, **entry}
    return OdeSystem.from_mapping(
        {
            "states": {"x": 1.0},
            "parameters": {"k": 0.5},
            "drivers": {"u": entry},
            "equations": {"x": "u - k*x"},
            "observables": {"shown": "u"},
        }
    )


def exact(t: Any, times: list[float], values: list[float], kind: str = "linear") -> Any:
    """Return the solution at times `t` from x = 1, for k = 0.5."""
    k, x, found = 0.5, 1.0, np.empty(len(t))
    for a, b, u, v in zip(times, times[1:], values, values[1:], strict=False):
        slope = (v - u) / (b - a) if kind == "linear" else 0.0
        steady = u / k - slope / k**2

        def at(s: Any, steady: float = steady, slope: float = slope, x: float = x) -> Any:
            return steady + slope / k * s + (x - steady) * np.exp(-k * s)

        inside = (t >= a) & (t <= b)
        found[inside] = at(t[inside] - a)
        x = at(b - a)
    return found


@pytest.mark.parametrize(("interpolation", "order"), [("step", 1), ("linear", 2), ("cubic", 4)])
def test_interpolations_have_their_order(interpolation: str, order: int) -> None:
    errors = []
    kernels = set()
    for knots in (9, 17, 33):
        t = np.linspace(0, 4, knots)
        system = forced(times=t.tolist(), values=np.sin(t).tolist(), interpolation=interpolation)
        data = solve(system, duration=4.0, save_every=0.01, variables=["shown"], target="cpu")
        errors.append(np.abs(data.shown.values[0] - np.sin(data.time.values)).max())
        study = Study(system, make_design("single", {}), output=OutputChoice(times=[1.0]))
        kernels.add(tuple(block.digest for block in build_kernel(study).run.product.values()))
    rates = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(rates, order, atol=0.35)
    assert len(kernels) == 1, "another series is no other kernel"


@pytest.mark.parametrize("interpolation", ["step", "linear", "cubic"])
def test_interpolations_in_the_simulator(interpolation: str) -> None:
    options: dict[str, Any] = {"duration": 1.5, "save_every": 0.25, "variables": ["x", "shown"]}
    system = forced(interpolation=interpolation)
    cpu, simulated = (solve(system, target=target, **options) for target in ("cpu", "simulator"))
    for name in cpu.data_vars:
        np.testing.assert_array_equal(cpu[name].values, simulated[name].values, err_msg=name)


@pytest.mark.parametrize("algorithm", ["rk4", "rodas5p"])
@pytest.mark.parametrize("interpolation", ["step", "linear"])
def test_methods_keep_their_order_across_knots(algorithm: str, interpolation: str) -> None:
    # Knots that no step of 0.2 meets by itself. Without the driver's time derivative rodas5p has
    # order 1, without landing on knots both have less than 2.
    times = [0.0, 0.77, 1.31, 3.0]
    system = forced(interpolation=interpolation, times=times)
    reference = exact(np.array([3.0]), times, LEVELS, interpolation)[0]
    errors = []
    for dt in (0.2, 0.1):
        control = ControllerChoice(kind="fixed", dt=dt)
        data = solve(system, duration=3.0, algorithm=algorithm, controller=control, target="cpu")
        errors.append(abs(data.x_final.values[0] - reference))
    assert np.log2(errors[0] / errors[1]) > 3.6


@pytest.mark.parametrize("outside", ["hold", "zero", "periodic"])
def test_outside_of_the_series(outside: str) -> None:
    # A start before the first time, and one after the last.
    for t_start in (-2.0,) if outside == "hold" else (-2.0, 2.9):
        data = solve(
            forced(outside=outside), t_start=t_start, duration=4.0, save_every=0.125,
            variables=["shown"], target="cpu",
        )  # fmt: skip
        t = data.time.values
        if outside == "periodic":
            wanted = np.interp(np.mod(t, 3.0), KNOTS, LEVELS)
        else:
            ends = {} if outside == "hold" else {"left": 0.0, "right": 0.0}
            wanted = np.interp(t, KNOTS, LEVELS, **ends)
            # A value at a jump is that after it.
            wanted = np.where((t == 3.0) & (outside == "zero"), 0.0, wanted)
        np.testing.assert_allclose(data.shown.values[0], wanted, atol=1e-12)


@pytest.mark.parametrize("algorithm", ["rodas5p", "bdf"])
def test_runs_with_series_of_their_own(algorithm: str) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(19, 4))
    options = {
        "duration": 3.0, "times": [0.5, 1.0, 1.7, 2.9], "rtol": 1e-9, "atol": 1e-11,
        "algorithm": algorithm,
    }  # fmt: skip
    entry = {"u": {"times": KNOTS, "values": values}}
    data = solve(forced(), drivers=entry, target=TargetChoice("cpu", lanes=16), **options)
    assert data.u_series.values.tolist() == list(range(19))
    wanted = [exact(np.array(options["times"]), KNOTS, row.tolist()) for row in values]
    np.testing.assert_allclose(data.x.values, wanted, atol=1e-7 if algorithm == "bdf" else 2e-9)
    alone = solve(forced(), drivers=entry, target=TargetChoice("cpu", lanes=1), **options)
    np.testing.assert_array_equal(alone.x.values, data.x.values)
    if algorithm != "bdf":
        few = {"u": {"times": KNOTS, "values": values[:2]}}
        short = {**options, "duration": 1.1, "times": [1.0, 1.1], "rtol": 1e-3}
        simulated = solve(forced(), drivers=few, target="simulator", **short)
        cpu = solve(forced(), drivers=few, target="cpu", **short)
        np.testing.assert_array_equal(simulated.x.values, cpu.x.values)


def test_a_jump_does_not_touch_the_lanes_beside_it() -> None:
    # Run 1 jumps at its own times, run 0 never does.
    values = [[1.0, 1.0, 1.0, 1.0], [1.0, 50.0, -20.0, 1.0]]
    entry = {"u": {"times": KNOTS, "values": values, "interpolation": "step"}}
    options = {"duration": 3.0, "save_every": 0.25, "summaries": ["x", "shown"]}
    both = solve(forced(), drivers=entry, target=TargetChoice("cpu", lanes=8), **options)
    alone = solve(forced(), drivers=entry, parameters={"u_series": 0.0}, target="cpu", **options)
    for name in alone.data_vars:
        np.testing.assert_array_equal(both[name].values[0], alone[name].values[0], err_msg=name)
    assert both.shown_max.values.tolist() == [1.0, 50.0]
    assert both.shown_min.values.tolist() == [1.0, -20.0]


@pytest.mark.parametrize("target", ["cpu", "simulator"])
def test_events_and_doses_beside_drivers(target: str) -> None:
    # A dose on a knot, a condition that a jump makes true, and one that time does.
    system = OdeSystem.from_mapping(
        {
            "states": {"x": 0.0},
            "parameters": {"high": 2.0},
            "drivers": {"u": {"times": KNOTS, "values": LEVELS, "interpolation": "step"}},
            "equations": {"x": "u"},
            "events": {
                "strong": {"when": "u > high", "set": {"x": "x + 1000"}},
                "late": {"when": "t >= 1.25", "set": {"x": "x + 10"}},
            },
            "doses": [{"into": "x", "amount": 100.0, "at": [2.5]}],
        }
    )
    data = solve(
        system, parameters={"high": [2.0, 5.0]}, duration=3.0, target=target,
        times=[0.5, 1.0, 1.25, 2.0, 2.5, 3.0],
    )  # fmt: skip
    # 1 until t = 1, then 3, from 2.5 on -1.
    wanted = [0.5, 1.0, 11.75, 14.0, 115.5, 115.0]
    np.testing.assert_allclose(data.x.values[1], wanted, rtol=1e-9)
    # In the other run the jump at t = 1 makes the condition true.
    np.testing.assert_allclose(data.x.values[0], wanted + 1000 * (data.time >= 1), rtol=1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_devices(), reason="no NVIDIA GPU here")
def test_a_gpu_gives_the_bits_of_the_cpu() -> None:
    entry = {"u": {"times": KNOTS, "values": [LEVELS, LEVELS[::-1]], "interpolation": "cubic"}}
    options: dict[str, Any] = {
        "drivers": entry, "duration": 3.0, "save_every": 0.5, "sensitivities": ["k"],
        "compare": {"time": [0.7, 2.0], "x": [1.0, None], "shown": [None, 2.0]},
        "algorithm": "rodas5p",
    }  # fmt: skip
    cpu, gpu = (solve(forced(), target=target, **options) for target in ("cpu", "cuda"))
    for name in cpu.data_vars:
        np.testing.assert_array_equal(cpu[name].values, gpu[name].values, err_msg=name)


def test_drivers_compile_for_cuda() -> None:
    study = Study(
        forced(interpolation="cubic", outside="periodic"), make_design("single", {}),
        algorithm="rodas5p", target=TargetChoice("cuda"), output=OutputChoice(save_every=0.1),
    )  # fmt: skip
    assert build_kernel(study).compile_cuda("sm_90").figures.registers > 0


def test_a_parameter_becomes_a_driver_with_sensitivities_beside_it(lorenz: OdeSystem) -> None:
    driven = lorenz.with_drivers({"rho": {"times": [0, 1], "values": [21.0, 21.0]}})
    assert "rho" not in [item.name for item in driven.parameters]
    assert driven.content_hash != lorenz.content_hash
    options = {"duration": 0.5, "sensitivities": ["sigma"], "rtol": 1e-9, "atol": 1e-11}
    a, b = solve(lorenz, **options), solve(driven, **options)
    np.testing.assert_allclose(a.dx_dsigma_final, b.dx_dsigma_final, rtol=1e-6)


def test_a_parameter_of_a_composed_config_becomes_a_driver(lorenz: OdeSystem) -> None:
    given = {**lorenz.to_mapping(), "drivers": {"rho": {"times": [0, 1], "values": [20, 28]}}}
    system = load_system(given)
    assert [item.name for item in system.parameters] == ["sigma", "beta"]
    assert system.drivers[0].values == ((20.0, 28.0),)


def test_data_from_files_travels_in_the_model(tmp_path: Path) -> None:
    frame = pd.DataFrame({"hour": KNOTS, "a": LEVELS, "b": [0.0, 1.0, 2.0, 0.0]})
    frame.to_csv(tmp_path / "data.csv", index=False)
    frame.to_parquet(tmp_path / "data.parquet")
    hashes = set()
    for name in ("data.csv", "data.parquet"):
        model = tmp_path / "model.yaml"
        model.write_text(
            "states: {x: 1}\nequations: {x: u - x}\nunits: {u: mV}\n"
            f"drivers: {{u: {{file: {name}, time: hour, columns: [a, b], series: patient}}}}\n"
        )
        system = OdeSystem.from_file(model)
        assert system.drivers[0].values == (tuple(LEVELS), (0.0, 1.0, 2.0, 0.0))
        assert [item.name for item in system.parameters] == ["patient"]
        again = OdeSystem.from_mapping(json.loads(json.dumps(system.to_mapping())))
        assert again.content_hash == system.content_hash
        assert again.drivers == system.drivers
        assert again.drivers[0].unit == "mV"
        hashes.add(system.content_hash)
    assert len(hashes) == 1


def test_the_command_line_drives_and_resumes_without_the_file(tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_text("time,u\n0,1\n1,2\n2,0\n")
    (tmp_path / "m.yaml").write_text(
        "states: {x: 1}\nparameters: {k: 1, u: 0}\nequations: {x: u - k*x}\ntime: {duration: 2}\n"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cubie_flow", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run(
        "system.file=m.yaml", "system.drivers.u.file=u.csv", "batch=sobol",
        "batch.values={k: {uniform: [0.5, 2]}}", "batch.size=8", "precision=float64",
        "storage.picture=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("outputs/m/*/*")
    (tmp_path / "u.csv").unlink()
    grown = run(f"resume={folder}", "batch.size=16")
    assert grown.returncode == 0, grown.stderr
    data = xarray.open_zarr(folder / "results.zarr", chunks=None)
    assert data.sizes["run"] == 16
    assert list(json.loads(data.attrs["drivers"])) == ["u"]
    system = OdeSystem.from_mapping(json.loads(data.attrs["system"]))
    assert system.drivers[0].times == (0.0, 1.0, 2.0)
    wanted = solve(system, parameters={"k": data.k.values}, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(data.x_final, wanted.x_final, rtol=1e-5)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"interpolation": "linaer"}, "interpolation is 'linaer'; it must be one of step.*linear"),
        ({"outside": "none"}, "outside is 'none'; it must be one of hold, zero, periodic"),
        ({"values": [1, 2]}, "has 4 times, but 2 values"),
        ({"times": [0, 2, 1, 3]}, r"times must increase, but 2 is followed by 1 \(number 3\)"),
        ({"times": [0.0], "values": [1.0]}, "has 1 times; it needs at least 2"),
        ({"outside": "periodic", "values": [1, 2, 3, 4]}, "begins with 1 and ends with 4"),
        ({"file": "a.csv"}, "either 'file', or 'times' and 'values'"),
        ({"values": None}, "'times' is given, but not the other"),
        ({"colunm": "a"}, "unknown key 'colunm'.*did you mean 'column'"),
        ({"series": "patient"}, "'series' is 'patient', but there is one series only"),
        ({"times": None, "values": None, "file": "a.txt"}, "must end in one of .csv"),
        ({"times": None, "values": None, "file": "none.csv"}, "none.csv' is not a file"),
        ({"values": [1, float("nan"), 2, 3]}, r"values\[1\] is nan, which is not finite"),
    ],
)
def test_mistakes_are_said(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(FlowError, match=said):
        forced(**entry)


def test_mistakes_in_the_choice_of_series_are_said() -> None:
    entry = {"u": {"times": KNOTS, "values": [LEVELS, LEVELS]}}
    with pytest.raises(FlowError, match=r"u_series is 2, but it chooses one.*from 0 to 1"):
        solve(forced(), drivers=entry, parameters={"u_series": [0.0, 2.0]})
    with pytest.raises(FlowError, match=r"u_series is 0\.5, but"):
        solve(forced(), drivers=entry, parameters={"u_series": 0.5})
    with pytest.raises(FlowError, match=r"drivers.kk: system model has no driver or parameter"):
        solve(forced(), drivers={"kk": entry["u"]})
    with pytest.raises(FlowError, match="driver 'v' is used nowhere"):
        OdeSystem.from_mapping(
            {"states": {"x": 1}, "equations": {"x": "-x"}, "drivers": {"v": entry["u"]}}
        )
