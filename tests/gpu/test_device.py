"""What is claimed of a GPU, on a GPU: ``pytest -m gpu``.

``GPU_TESTS=dry pytest tests/gpu/test_device.py`` runs most of it on the stand-in for the driver,
whose kernels are those of the CPU, to try the tests themselves.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from attrs import evolve

from cubie_flow import OdeSystem, solve
from cubie_flow.api import (
    ControllerChoice,
    OutputChoice,
    Study,
    TargetChoice,
    plan_study,
    run_study,
    solve_study,
)
from cubie_flow.batches import make_design
from cubie_flow.config.defaults import load_system
from cubie_flow.errors import FlowError
from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.tableaus import METHODS
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.kernels.targets.detect import cuda_devices
from cubie_flow.study.attempts import read_rescue

DRY = os.environ.get("GPU_TESTS") == "dry"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (cuda_devices() or DRY), reason="no NVIDIA GPU here"),
]
on_device = pytest.mark.skipif(DRY, reason="needs the device itself")
CONF = Path(__file__).parents[2] / "conf" / "system"
MODELS = sorted(path.stem for path in CONF.glob("*.yaml"))
DEVICES = 2 if DRY else len(cuda_devices())
OSCILLATOR = OdeSystem.from_equations(
    "x' = y\ny' = -k*x - 0.1*y*x*x\npower = y*y", {"x": 1.0, "y": 0.0}, {"k": 1.0}
)
K = np.linspace(0.5, 2.0, 100)
STUDY = Study(
    OSCILLATOR, make_design("zip", {"k": np.linspace(0.5, 2.0, 2000).tolist()}), duration=2.0,
    output=OutputChoice(save_every=0.25, summaries=["x"]), target=TargetChoice("cuda"),
    precision="float64", shard_runs=500,
)  # fmt: skip


@pytest.fixture(autouse=True)
def device() -> Iterator[Any]:
    """The device, or the stand-in of a dry run with two of them."""
    if not DRY:
        yield None
        return
    from cuda_standin import Driver, cpu_of, installed

    driver = Driver(memory=1 << 28, devices=2)
    driver.interpret = cpu_of
    with installed(driver):
        yield driver


def assert_same(cpu: Any, gpu: Any) -> None:
    assert set(cpu.data_vars) == set(gpu.data_vars)
    for name in cpu.data_vars:
        np.testing.assert_array_equal(cpu[name].values, gpu[name].values, err_msg=name)


def both(system: OdeSystem, **options: Any) -> tuple[Any, Any]:
    """Return what the CPU and the GPU give; the latter with the target `gpu` if it is given."""
    gpu = options.pop("gpu", TargetChoice("cuda"))
    return solve(system, target="cpu", **options), solve(system, target=gpu, **options)


def arrays(path: Path) -> dict[str, bytes]:
    group = zarr.open_group(path, mode="r", use_consolidated=False)
    return {name: array[:].tobytes() for name, array in group.arrays()}


def stored(study: Study, folder: Path) -> dict[str, bytes]:
    """Return the arrays that the CPU stores."""
    run_study(evolve(study, target=TargetChoice("cpu")), folder / "cpu.zarr")
    return arrays(folder / "cpu.zarr")


# the same bits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", METHODS)
def test_every_method(algorithm: str, precision: str) -> None:
    """Taylor methods are among them."""
    fixed = METHODS[algorithm].embedded_order is None
    tolerance = 1e-4 if precision == "float32" else 1e-7
    cpu, gpu = both(
        OSCILLATOR, parameters={"k": K}, duration=2.0, save_every=0.25, algorithm=algorithm,
        precision=precision, rtol=tolerance, atol=tolerance, dt=0.05 if fixed else None,
    )  # fmt: skip
    assert (cpu.status.values == 0).all()
    assert_same(cpu, gpu)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", ["rk4", "euler"])
def test_eight_steps_at_a_time(algorithm: str, precision: str) -> None:
    """Without samples, steps of one size are taken several at a time."""
    assert_same(
        *both(
            OSCILLATOR, parameters={"k": K}, duration=np.linspace(1.0, 2.0, 100), dt=0.01,
            algorithm=algorithm, precision=precision,
        )
    )  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_model(name: str) -> None:
    """With their events and doses; a stiff one may run out of steps, on both in the same way."""
    import yaml

    system = load_system(yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8")))
    varied = system.parameters[0] if system.parameters else system.states[0]
    values = varied.value * np.linspace(0.9, 1.1, 32) + (varied.value == 0)
    group = "parameters" if system.parameters else "initial_values"
    span = float(system.duration or 1.0)
    cpu, gpu = both(
        system, **{group: {varied.name: values}}, duration=span, save_every=span / 8,
        controller=ControllerChoice(max_steps=2000, rtol=1e-5, atol=1e-7),
    )  # fmt: skip
    assert_same(cpu, gpu)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_comparison_rescue_and_sensitivities(precision: str) -> None:
    data = {"time": np.linspace(0.1, 1.9, 50).tolist(), "x": [0.5] * 50}
    cpu, gpu = both(
        OSCILLATOR, parameters={"k": K}, duration=2.0, times=[0.5, 1.0], compare=data,
        precision=precision, sensitivities=["k"],
    )  # fmt: skip
    assert_same(cpu, gpu)
    only_data = both(OSCILLATOR, parameters={"k": K}, duration=2.0, compare=data)
    assert_same(*only_data)
    stiff = OdeSystem.from_equations("x' = -k*(x - cos(t))", {"x": 1.0}, {"k": 1.0})
    cpu, gpu = both(
        stiff, parameters={"k": np.geomspace(1.0, 1e5, 64)}, duration=2.0, save_every=0.5,
        controller=ControllerChoice(max_steps=500), rescue=[{"algorithm": "rodas5p"}],
    )  # fmt: skip
    assert set(gpu.attempt.values.tolist()) == {0, 1}
    assert_same(cpu, gpu)


def test_order_and_chosen_trajectories(tmp_path: Path) -> None:
    study = evolve(STUDY, output=evolve(STUDY.output, where="x_final > 0"), order="cost",
                   shard_runs=1000)  # fmt: skip
    run_study(study, tmp_path / "gpu.zarr")
    assert arrays(tmp_path / "gpu.zarr") == stored(evolve(study, order="given"), tmp_path)


@pytest.mark.parametrize("block", [32, 256])
def test_moved_buffers_and_more_than_48_kb_of_shared_memory(block: int) -> None:
    states = {f"x{i}": float(i % 5) for i in range(40)}
    ring = OdeSystem.from_equations(
        "\n".join(f"x{i}' = k*(x{(i + 1) % 40} - x{i})" for i in range(40)), states, {"k": 1.0}
    )
    locations = {"stage_increments": "shared", "state": "shared"}
    run = RunSettings(ring, varied=("k",), precision="float64", duration=1.0)
    kernel = BatchSolverKernel(run, BatchSolverConfig("cuda", block_size=block), locations)
    assert kernel.fit_block().shared_bytes > 48 * 1024
    options: dict[str, Any] = {"parameters": {"k": K}, "duration": 1.0, "save_every": 0.5}
    cpu = solve(ring, target="cpu", **options)
    target = TargetChoice("cuda", block_size=block)
    assert_same(cpu, solve(ring, target=target, locations=locations, **options))


@on_device
def test_native_functions_are_close(pendulum: OdeSystem) -> None:
    options: dict[str, Any] = {
        "parameters": {"damping": np.linspace(0, 0.5, 100)}, "duration": 2.0, "save_every": 0.5,
        "rtol": 1e-10, "atol": 1e-12,
    }  # fmt: skip
    cpu, gpu = both(pendulum, gpu=TargetChoice("cuda", math="native"), **options)
    for name in ("angle", "speed"):
        np.testing.assert_allclose(gpu[name], cpu[name], rtol=1e-8, atol=1e-10)


# large batches ------------------------------------------------------------------------------------


def test_rows_of_more_than_2_gib() -> None:
    """5.5 million runs at 100 times in float32: a row of 2.2 GB."""
    runs, times = (5_000 if DRY else 5_500_000), np.linspace(0.0, 1.0, 100)
    decay = OdeSystem.from_equations("x' = -k*x", {"x": 1.0}, {"k": 1.0})
    settings = RunSettings(
        decay, varied=("k",), algorithm="rk4", precision="float32", duration=1.0, saved=("x",),
        sampling=True,
    )  # fmt: skip
    k = np.linspace(0.1, 2.0, runs)
    steps = Tolerances(dt=0.1)
    gpu = BatchSolverKernel(settings, BatchSolverConfig("cuda")).solve({"k": k}, runs, steps, times)
    part = slice(runs - 1000, runs)
    cpu = BatchSolverKernel(settings, BatchSolverConfig("cpu")).solve(
        {"k": k[part]}, 1000, steps, times
    )
    np.testing.assert_array_equal(gpu.samples[:, part], cpu.samples)
    np.testing.assert_array_equal(gpu.finals[:, part], cpu.finals)


@on_device
def test_local_memory_of_all_threads_is_as_planned() -> None:
    """A kernel whose buffers are in local memory takes them for every thread the device holds."""
    from cuda.bindings import driver

    from cubie_flow.kernels.targets.cuda_api import check, current, open_context

    n = 150
    states = {f"x{i}": float(i % 5) for i in range(n)}
    ring = OdeSystem.from_equations(
        "\n".join(f"x{i}' = k*(x{(i + 1) % n} - x{i})" for i in range(n)), states, {"k": 1.0}
    )
    study = evolve(STUDY, system=ring, output=OutputChoice())
    plan = plan_study(study)
    context = open_context(0)

    def free() -> int:
        with current(context):
            return int(check(driver.cuMemGetInfo())[0])

    before = free()
    data = solve_study(study)
    assert (data.status.values == 0).all()
    taken = before - free()
    # Other kernels of the process may have made the driver take a part before.
    assert taken <= 1.25 * plan.device_bytes + (64 << 20)
    assert plan.device_local > 1 << 20


@on_device
@pytest.mark.parametrize("algorithm", ["tsit5", "rodas5p"])
def test_a_block_of_1024_threads_fits_the_registers(algorithm: str, lorenz: OdeSystem) -> None:
    from cuda.bindings import driver

    from cubie_flow.kernels.targets.cuda_api import check

    run = RunSettings(lorenz, varied=("rho",), algorithm=algorithm, duration=1.0)
    kernel = BatchSolverKernel(run, BatchSolverConfig("cuda", block_size=1024))
    loaded = kernel.product.program.kernel
    name = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
    with loaded.current():
        most = check(driver.cuFuncGetAttribute(name, loaded.function))
    assert loaded.block_size <= most < 2 * loaded.block_size or loaded.block_size == 1024
    result = kernel.solve({"rho": K}, len(K), Tolerances(1e-6, 1e-6))
    assert (result.status == 0).all()


def test_memory_is_returned_with_the_kernels() -> None:
    import gc

    from cuda.bindings import driver

    from cubie_flow.kernels.targets.cuda_api import check, current, open_context

    def free() -> int:
        gc.collect()
        with current(open_context(0)):
            return int(check(driver.cuMemGetInfo())[0])

    def use() -> None:
        run = RunSettings(OSCILLATOR, varied=("k",), duration=1.0, saved=("x",), sampling=True)
        kernel = BatchSolverKernel(run, BatchSolverConfig("cuda"))
        runs = 1000 if DRY else 1_000_000
        kernel.solve({"k": np.ones(runs)}, runs, Tolerances(1e-4, 1e-4), np.linspace(0, 1, 10))

    use()
    before = free()
    use()
    assert abs(free() - before) < 32 << 20


# errors -------------------------------------------------------------------------------------------


def interrupt(progress: Any) -> None:
    if progress.done >= 500:
        raise KeyboardInterrupt


def test_an_interrupted_study_resumes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_study(STUDY, tmp_path / "gpu.zarr", on_progress=interrupt)
    report = run_study(STUDY, tmp_path / "gpu.zarr", start="resume")
    assert 0 < report.solved < 2000
    assert arrays(tmp_path / "gpu.zarr") == stored(STUDY, tmp_path)


def test_a_full_gpu_is_reported_and_the_study_resumes(tmp_path: Path) -> None:
    from cuda.bindings import driver

    from cubie_flow.kernels.targets.cuda_api import check, current, open_context

    with pytest.raises(KeyboardInterrupt):
        run_study(STUDY, tmp_path / "gpu.zarr", on_progress=interrupt)
    # Another program takes the rest of the memory.
    blocks, size = [], 1 << 36
    with current(open_context(0)):
        while size >= 1 << 12:
            status, address = driver.cuMemAlloc(size)
            if status == driver.CUresult.CUDA_SUCCESS:
                blocks.append(address)
            else:
                size //= 2
    one = evolve(STUDY, target=TargetChoice("cuda", device=0))
    with pytest.raises(FlowError, match=r"out.of.memory|bytes free"):
        run_study(one, tmp_path / "gpu.zarr", start="resume")
    with current(open_context(0)):
        for address in blocks:
            check(driver.cuMemFree(address))
    report = run_study(one, tmp_path / "gpu.zarr", start="resume")
    assert 0 < report.solved < 2000
    assert arrays(tmp_path / "gpu.zarr") == stored(STUDY, tmp_path)


# devices ------------------------------------------------------------------------------------------


@on_device
@pytest.mark.parametrize(("visible", "count"), [("", 0), ("0", 1)])
def test_visible_devices(visible: str, count: int) -> None:
    code = (
        "from cubie_flow.kernels.targets.detect import cuda_devices, driver_problem\n"
        "from cubie_flow.kernels.kernel import BatchSolverConfig\n"
        "print(len(cuda_devices()), BatchSolverConfig().resolved_target(), driver_problem())"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.split() == [str(count), "cuda" if count else "cpu"]


def test_a_device_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    missing = evolve(STUDY, target=TargetChoice("cuda", device=DEVICES))
    with pytest.raises(FlowError, match=rf"target\.device is {DEVICES}"):
        run_study(missing, tmp_path / "gpu.zarr")


@pytest.mark.parametrize("chosen", [0, (0,), DEVICES - 1])
def test_a_device_is_chosen(chosen: Any, tmp_path: Path) -> None:
    study = evolve(STUDY, target=TargetChoice("cuda", device=chosen))
    run_study(study, tmp_path / "gpu.zarr")
    assert arrays(tmp_path / "gpu.zarr") == stored(study, tmp_path)


@pytest.mark.skipif(DEVICES < 2, reason="there is one GPU here")
def test_shards_spread_over_several_devices(tmp_path: Path, device: Any) -> None:
    run_study(STUDY, tmp_path / "gpu.zarr")
    if device is not None:
        assert all(each.peak for each in device.devices)
    assert arrays(tmp_path / "gpu.zarr") == stored(STUDY, tmp_path)


def test_a_rescue_of_another_precision_runs_beside_the_main_kernel() -> None:
    study = evolve(
        STUDY, precision="float32", controller=ControllerChoice(max_steps=2),
        rescue=read_rescue([{"precision": "float64", "max_steps_factor": 1000}]),
        output=OutputChoice(times=[1.0]), duration=2.0,
    )  # fmt: skip
    gpu = solve_study(study)
    assert (gpu.attempt.values == 1).all()
    assert_same(solve_study(evolve(study, target=TargetChoice("cpu"))), gpu)
