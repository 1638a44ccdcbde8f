"""The host side of the CUDA target on a stand-in for the driver, which checks its rules."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubie_flow import OdeSystem, solve
from cubie_flow.api import ControllerChoice, OutputChoice, Study, TargetChoice, run_study
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.kernels.targets import cuda_api, cuda_sizes, detect
from cubie_flow.kernels.targets.batch import Batch
from cubie_flow.kernels.targets.cuda_program import CudaProgram

pytest.importorskip("cuda.bindings.driver")
from cuda_standin import (
    Driver,
    cpu_of,
    installed,
    null_of,
    simulated_of,
    transpose_kernel,
)

DECAY = OdeSystem.from_equations("x' = -k*x\nhalf = x/2", {"x": 1.0}, {"k": 0.5})
RUNS = 100
K = np.linspace(0.1, 2.0, RUNS)
DATA = {"time": [0.1, 0.3, 0.7], "x": [0.9, None, 0.5], "half": [None, 0.4, 0.3]}
#: A method with a small kernel, which compiles quickly.
OPTIONS: dict[str, Any] = {"parameters": {"k": K}, "duration": 1.0, "algorithm": "heun", "dt": 0.1}
STUDY = Study(
    DECAY, make_design("zip", {"k": K.tolist()}), duration=1.0, shard_runs=25,
    output=OutputChoice(save_every=0.25), target=TargetChoice("cuda"), precision="float64",
    algorithm="heun", controller=ControllerChoice(dt=0.1),
)  # fmt: skip


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """A GPU that holds 32 threads, with pieces of 1,024 bytes and late copies of all arrays."""
    driver = Driver(memory=1 << 22)
    driver.devices[0].multiprocessors, driver.devices[0].threads = 1, 32
    driver.interpret = cpu_of
    monkeypatch.setattr(cuda_sizes, "PIECE_BYTES", 1024)
    monkeypatch.setattr(cuda_api._PinnedPool, "LEAST", 64)
    with installed(driver):
        yield driver


def left(driver: Driver) -> list[Any]:
    """Return what has not been returned to the driver."""
    from cubie_flow.study.kernel import _recent

    _recent.clear()
    gc.collect()
    return held(driver)


def held(driver: Driver) -> list[Any]:
    return [*driver.slabs, *driver.modules, *driver.streams, *driver.events]


def assert_same(a: Any, b: Any) -> None:
    assert set(a.data_vars) == set(b.data_vars)
    for name in a.data_vars:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


def arrays(path: Path) -> dict[str, bytes]:
    group = zarr.open_group(path, mode="r", use_consolidated=False)
    return {name: array[:].tobytes() for name, array in group.arrays()}


# results ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    [
        {"save_every": 0.25},
        {"times": [1.0]},
        {"compare": DATA},
        {"compare": {"time": [0.5], "x": [0.7]}},
        {"compare": DATA, "times": [0.3, 0.5], "summaries": ["x"]},
        {},
    ],
)
def test_the_bits_are_those_of_the_cpu(output: dict[str, Any], driver: Driver) -> None:
    cpu = solve(DECAY, target="cpu", **OPTIONS, **output)
    assert_same(cpu, solve(DECAY, target="cuda", **OPTIONS, **output))
    assert driver.calls["cuMemcpyHtoDAsync"] > 1, "there are several pieces"
    assert not left(driver)


def test_the_kernel_itself_takes_the_arguments(driver: Driver) -> None:
    driver.interpret = simulated_of
    options = {**OPTIONS, "parameters": {"k": K[:16]}, "duration": 0.2}
    # Data before, between and after the saved times.
    data = {"time": [0.03, 0.07, 0.15], "x": [0.9, 0.8, 0.7]}
    output = {"times": [0.05, 0.1], "compare": data}
    cpu = solve(DECAY, target="cpu", **options, **output)
    # Each thread of a block is a thread of the simulator.
    small = TargetChoice("cuda", block_size=4)
    assert_same(cpu, solve(DECAY, target=small, **options, **output))


def test_trajectories_of_compared_runs(driver: Driver, tmp_path: Path) -> None:
    output = OutputChoice(save_every=0.5, compare=DATA, where="x_sse < 0.05")
    study = evolve(STUDY, output=output)
    run_study(study, tmp_path / "gpu.zarr")
    run_study(evolve(study, target=TargetChoice("cpu")), tmp_path / "cpu.zarr")
    assert arrays(tmp_path / "gpu.zarr") == arrays(tmp_path / "cpu.zarr")


@pytest.mark.parametrize("limit", [100, 2**31 - 1])
def test_rows_that_are_too_long_for_one_copy(
    limit: int, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cuda_standin.PITCH", limit)
    monkeypatch.setattr("cubie_flow.kernels.targets.cuda_slot.MAX_PITCH", limit)
    cpu = solve(DECAY, target="cpu", **OPTIONS, save_every=0.25)
    assert_same(cpu, solve(DECAY, target="cuda", **OPTIONS, save_every=0.25))


def test_solve_divides_what_is_large(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cubie_flow.study.in_memory.AT_ONCE", 1500)
    driver.interpret = null_of
    data = solve(DECAY, target="cuda", **OPTIONS, save_every=0.25)
    assert data.x.shape == (RUNS, 5)
    assert data.k.values.tolist() == K.tolist()
    longest = max(block._length_ for block in driver.pinned.values())
    assert longest < 8 * 5 * RUNS, "no array for all runs is page-locked"


# errors -------------------------------------------------------------------------------------------

#: Calls that can fail without losing what they return.
FAILING = (
    "cuMemGetInfo", "cuMemAlloc", "cuMemHostAlloc", "cuLaunchKernel", "cuMemcpyHtoDAsync",
    "cuMemcpy2DAsync", "cuEventRecord", "cuStreamSynchronize", "cuEventElapsedTime",
)  # fmt: skip
STICKY = "CUDA_ERROR_LAUNCH_FAILED"


def doubling(driver: Driver, values: Any, grid: Any, block: Any) -> None:
    """Double the input; save it plus 1000 k."""
    from cuda_standin import arguments

    given_ = arguments(driver, values, "float64")
    count, times = given_["count"], given_["time_count"]
    inputs = given_["inputs"][:count]
    given_["finals"][:count] = 2.0 * inputs
    saved = inputs + 1000.0 * np.arange(times)[:, None]
    given_["samples"][: times * count] = saved.ravel()
    given_["counts"][: 4 * count] = 7


def batch_of(pool: Any, runs: int, times: int, tick: Any) -> Batch:
    samples = pool.empty((1, runs, times), "float64")
    finals, counts = pool.empty((1, runs), "float64"), pool.empty((4, runs), "int32")
    for array in (samples, finals, counts):
        array[:] = -1
    return Batch(
        count=runs, inputs=np.arange(float(runs)).reshape(1, runs), initial=np.zeros(2),
        settings=np.zeros(3), times=np.zeros(times + 1), time_count=times, samples=samples,
        strides=(runs * times, times, 1), finals=finals, counts=counts, tick=tick,
    )  # fmt: skip


def assert_solved(batch: Batch) -> None:
    inputs = np.arange(batch.count)
    np.testing.assert_array_equal(batch.finals[0], 2.0 * inputs)
    np.testing.assert_array_equal(batch.counts, 7)
    saved = inputs[:, None] + 1000.0 * np.arange(batch.time_count)
    np.testing.assert_array_equal(batch.samples[0], saved)


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_failure_and_every_order_of_completion(driver: Driver, data: st.DataObject) -> None:
    done = itertools.cycle(data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=8)))
    driver.progress = lambda stream: next(done)
    driver.fail, driver.broken = {}, ""
    program = CudaProgram(driver.code(doubling), 32, 0, 0, driver.code(transpose_kernel(8)))
    runs, times = data.draw(st.sampled_from([1, 63, 200])), data.draw(st.integers(1, 3))
    call = data.draw(st.sampled_from([None, "tick", *FAILING]))
    sticky = call == "cuStreamSynchronize" or data.draw(st.booleans())
    status = STICKY if sticky else "CUDA_ERROR_OUT_OF_MEMORY"
    if call not in (None, "tick"):
        driver.fail[call, driver.calls[call] + data.draw(st.integers(1, 4))] = status

    def tick(started: int) -> None:
        if call == "tick":
            raise KeyboardInterrupt

    batch = batch_of(program.memory(), runs, times, tick)
    message = None
    try:
        program.run(batch)
    except KeyboardInterrupt:
        message = "interrupted"
    except FlowError as error:
        message = str(error)
    if message is None:
        assert_solved(batch)
    elif call == "tick":
        assert message == "interrupted"
    else:
        assert status.lower() in message, "it is the first error"
        assert ("start it again" in message) == sticky
    assert driver.broken or not driver.pending, "memory that is handed on may still be written"
    assert not driver.stack, "the context of this thread is as it was"
    driver.fail = {}
    if driver.broken:
        with pytest.raises(FlowError, match="start it again"):
            program.run(batch)
    else:
        again = batch_of(program.memory(), runs, times, None)
        program.run(again)
        assert_solved(again)
    driver.broken = ""
    del program, batch
    assert not held(driver)


def test_every_slot_is_waited_for(driver: Driver) -> None:
    """Nothing is done before someone waits, so that a slot without a wait is noticed."""
    program = CudaProgram(driver.code(doubling), 32, 0, 0, driver.code(transpose_kernel(8)))
    failed = 0
    for call in FAILING:
        if call in ("cuStreamSynchronize", "cuMemHostAlloc"):
            continue
        for number in range(1, 9):
            driver.fail = {(call, driver.calls[call] + number): "CUDA_ERROR_OUT_OF_MEMORY"}
            try:
                program.run(batch_of(program.memory(), 200, 2, None))
            except FlowError:
                failed += 1
            assert not driver.pending, (call, number)
    assert failed > 20


def test_a_failed_launch_leaves_a_store_that_resumes(driver: Driver, tmp_path: Path) -> None:
    driver.fail["cuLaunchKernel", 5] = "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"
    with pytest.raises(FlowError, match="launch_out_of_resources when blocks of 128 threads"):
        run_study(STUDY, tmp_path / "gpu.zarr")
    report = run_study(STUDY, tmp_path / "gpu.zarr", start="resume")
    assert 0 < report.solved < RUNS
    run_study(evolve(STUDY, target=TargetChoice("cpu")), tmp_path / "cpu.zarr")
    assert arrays(tmp_path / "gpu.zarr") == arrays(tmp_path / "cpu.zarr")


# what fits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("registers", "block"), [(90, 512), (64, 1024), (255, 256)])
def test_a_block_fits_the_registers(registers: int, block: int, driver: Driver) -> None:
    driver.figures = lambda kernel: (registers, 0)
    driver.interpret = null_of
    study = evolve(STUDY, target=TargetChoice("cuda", block_size=1024))
    from cubie_flow.api import plan_study

    (arch,) = plan_study(study).kernel.architectures
    assert arch.fit is not None
    assert arch.occupancy is not None
    assert (arch.fit.block_size, arch.occupancy.active_blocks > 0) == (block, True)
    data = solve(DECAY, target=study.target, **OPTIONS)  # refused by the driver if it were larger
    assert data.x_final.shape == (RUNS,)


def test_local_memory_of_all_threads_is_left_free(driver: Driver) -> None:
    """The driver takes it at the first launch, after the host has asked what is free."""
    stack = int(0.9 * (1 << 22)) // 32
    driver.figures = lambda kernel: (32, stack)
    driver.interpret = null_of
    data = solve(DECAY, target="cuda", **OPTIONS, times=np.linspace(0, 1, 200))
    assert data.x.shape == (RUNS, 200)
    driver.figures = lambda kernel: (32, stack + 2 * stack)
    with pytest.raises(FlowError, match=r"local memory of the 32 threads .* needs 11\.3 MB"):
        solve(DECAY, target="cuda", precision="float32", **OPTIONS)


def test_a_gpu_that_is_newer_than_our_tables(driver: Driver, tmp_path: Path) -> None:
    driver.devices[0].capability = (10, 7)
    from cubie_flow.api import plan_study

    (arch,) = plan_study(STUDY).kernel.architectures
    assert (arch.arch, arch.occupancy) == ("sm_107", None)
    assert arch.fit is not None
    assert arch.shared_limit == driver.devices[0].shared
    assert "sm_107" in plan_study(STUDY).text()
    run_study(STUDY, tmp_path / "gpu.zarr")


def test_code_for_a_newer_gpu_is_that_of_its_generation() -> None:
    from cubie_flow.kernels.targets.cuda import compiled_arch

    assert compiled_arch("sm_90") == "sm_90"
    assert compiled_arch("sm_105") == "sm_103"
    assert compiled_arch("sm_990") == "sm_990"


def test_an_older_gpu_names_its_extra(driver: Driver) -> None:
    assert "cuda13" in detect.install_hint()
    driver.devices[0].capability = (7, 0)
    detect.forget_devices()
    assert "cuda12" in detect.install_hint()
    from cubie_flow.kernels.targets.cuda_compile import compile_transpose

    with pytest.raises(FlowError, match=r"'sm_70'.*cubie-flow\[cuda12\]"):
        compile_transpose(32, "sm_70")


# contexts -----------------------------------------------------------------------------------------


def test_a_slot_that_is_dropped_leaves_the_context_of_the_thread(driver: Driver) -> None:
    driver.devices.append(driver.devices[0])
    program = CudaProgram(driver.code(doubling), 32, 0, 0, driver.code(transpose_kernel(8)))
    program.run(batch_of(program.memory(), 50, 2, None))
    driver.stack.append(1)  # another library's, or that of another device's solver
    del program
    assert not left(driver)
    assert driver.stack == [1]


def test_page_locked_memory_of_a_thread_without_a_context(driver: Driver) -> None:
    program = CudaProgram(driver.code(doubling), 32, 0, 0, driver.code(transpose_kernel(8)))
    pool, held = program.memory(), []

    def use() -> None:
        held.append(pool.empty(1000, "float64"))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert driver.pinned
    pool.IDLE = 0
    held.clear()
    assert not driver.pinned


def test_modules_are_unloaded_with_their_kernels(driver: Driver) -> None:
    driver.interpret = null_of
    for algorithm in ("ralston", "euler", "heun", "midpoint", "vern7", "rk4"):
        solve(DECAY, target="cuda", **{**OPTIONS, "algorithm": algorithm})
    # The kernels that were used last are kept.
    assert len(driver.modules) <= 2 * 4
    assert not left(driver)


# detection ----------------------------------------------------------------------------------------


def test_a_driver_that_fails_first_is_asked_again(driver: Driver) -> None:
    driver.interpret = null_of
    driver.started = 999
    detect.forget_devices()
    with pytest.warns(UserWarning, match="no GPU is used: the NVIDIA driver does not work"):
        assert solve(DECAY, **OPTIONS).status.values.tolist() == [0] * RUNS
    assert not driver.calls["cuLaunchKernel"]
    driver.started = 0
    solve(DECAY, **OPTIONS)
    assert driver.calls["cuLaunchKernel"]
    driver.started = 100  # it works, and offers no GPU
    detect.forget_devices()
    assert (detect.cuda_devices(), detect.driver_problem()) == ((), "")
