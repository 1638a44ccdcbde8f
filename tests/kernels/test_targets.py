"""Targets: the same bits everywhere, real vector code, real CUDA kernels, checked memory."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.cuda import types
from numba.cuda.simulator.kernel import FakeCUDAKernel

from cubie_flow import OdeSystem, solve
from cubie_flow.api import OutputChoice, Study, TargetChoice, plan_study
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.expressions.block import Evaluate, flattened
from cubie_flow.expressions.dialect import prepare
from cubie_flow.expressions.traversal import topological
from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.kernels.targets.cpu_compile import batch_loop_assembly
from cubie_flow.kernels.targets.cuda_kernel import make_transpose
from cubie_flow.kernels.targets.cuda_sizes import piece_runs
from cubie_flow.kernels.targets.detect import cuda_devices
from cubie_flow.memory.occupancy import occupancy
from cubie_flow.study.kernel import build_kernel

needs_gpu = pytest.mark.skipif(not cuda_devices(), reason="no NVIDIA GPU here")


def batch(system: OdeSystem, target: TargetChoice, runs: int = 37, **more):  # type: ignore[no-untyped-def]
    values = {"damping": np.linspace(0, 0.5, runs), "drive": np.linspace(0.5, 1.5, runs)}
    options = {"duration": 6.0, "save_every": 0.5, "rtol": 1e-7, "atol": 1e-9}
    options |= {"variables": ["angle", "power"], "summaries": ["angle", "power"]}
    return solve(system, parameters=values, target=target, **{**options, **more})


def assert_same_bits(a, b, runs=slice(None)) -> None:  # type: ignore[no-untyped-def]
    assert set(a.data_vars) == set(b.data_vars)
    for name in a.data_vars:
        np.testing.assert_array_equal(a[name].values[runs], b[name].values, err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_bits_do_not_depend_on_lanes_or_threads(pendulum: OdeSystem, precision: str) -> None:
    reference = batch(pendulum, TargetChoice("cpu", lanes=1, threads=1), precision=precision)
    assert (reference.status.values == 0).all()
    for lanes, threads in ((2, 1), (8, 2), (32, 2)):
        other = batch(
            pendulum, TargetChoice("cpu", lanes=lanes, threads=threads), precision=precision
        )
        assert_same_bits(reference, other)


@pytest.mark.parametrize("algorithm", ["tsit5", "rk4", "dormand_prince_853"])
def test_simulated_kernel_gives_the_bits_of_the_cpu(pendulum: OdeSystem, algorithm: str) -> None:
    options = {"algorithm": algorithm, "duration": 1.0, "save_every": 0.25}
    if algorithm == "rk4":
        options["dt"] = 0.1
    cpu = batch(pendulum, TargetChoice("cpu"), runs=3, **options)
    simulated = batch(pendulum, TargetChoice("simulator"), runs=3, **options)
    assert_same_bits(cpu, simulated)


def test_simulator_runs_whole_blocks_and_shared_memory(lorenz: OdeSystem) -> None:
    options = {"parameters": {"rho": np.linspace(1, 25, 5)}, "duration": 0.2, "save_every": 0.1}
    cpu = solve(lorenz, target="cpu", **options)
    moved = solve(
        lorenz,
        target=TargetChoice("simulator", block_size=2),
        locations={"state": "shared", "stage_increments": "shared", "counters": "shared"},
        **options,
    )
    assert_same_bits(cpu, moved)


def test_simulator_catches_a_kernel_that_asks_for_too_little(
    lorenz: OdeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct = BatchSolverKernel.arena_bytes.fget
    assert correct is not None

    def short(self: BatchSolverKernel) -> tuple[int, int, int]:
        shared, local, persistent = correct(self)
        return shared, local, persistent - 8

    monkeypatch.setattr(BatchSolverKernel, "arena_bytes", property(short))
    with pytest.raises(Exception, match=r"outside its arena|bytes"):
        solve(lorenz, target="simulator", duration=0.1)


def test_neighbours_of_a_failing_run_keep_their_bits() -> None:
    system = OdeSystem.from_equations(
        "dx/dt = k*x**2 - x", states={"x": 1.0}, parameters={"k": 1.0}
    )
    k = np.linspace(0.1, 0.9, 50)
    alone = solve(system, parameters={"k": k}, duration=1.0, save_every=0.1)
    k[[3, 20, 21]] = [50.0, 1e30, 1e300]
    mixed = solve(system, parameters={"k": k}, duration=1.0, save_every=0.1)
    good = np.delete(np.arange(50), [3, 20, 21])
    assert (mixed.status.values[[3, 20, 21]] != 0).all()
    for name in alone.data_vars:
        np.testing.assert_array_equal(mixed[name].values[good], alone[name].values[good])


def scalar_multiply_adds(assembly: str, precision: str) -> int:
    suffix = "sd" if precision == "float64" else "ss"
    return len(re.findall(rf"vfn?m(?:add|sub)\d+{suffix}\s", assembly))


def allowed_scalars(kernel: BatchSolverKernel) -> int:
    """Multiply-adds of the one block that works on a lane by itself: the start of a run."""
    count = 0
    for statement in flattened(kernel.run.product["begin"].statements):
        sweep = statement.inlined() if isinstance(statement, Evaluate) else statement
        nodes = topological(prepare(sweep.nodes, kernel.dialect))
        count += sweep.count * sum(node.op == "fma" for node in nodes)
    return count


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_cpu_code_is_vector_code(pendulum: OdeSystem, precision: str) -> None:
    run = RunSettings(pendulum, varied=("damping",), precision=precision, duration=1.0)
    kernel = BatchSolverKernel(run, BatchSolverConfig("cpu"))
    assembly = batch_loop_assembly(kernel.run.product, kernel.dialect, kernel.places)
    suffix = "pd" if precision == "float64" else "ps"
    assert len(re.findall(rf"vfn?m(?:add|sub)\d+{suffix}\s", assembly)) > 100
    assert scalar_multiply_adds(assembly, precision) <= allowed_scalars(kernel)
    called = set(re.findall(r"\$(\w+)|call\w*\s+(\w+)", assembly))
    names = {name for pair in called for name in pair if name}
    library = {"sin", "cos", "exp", "pow", "log", "fma", "sqrt", "floor", "rint"}
    assert not names & (library | {f"{name}f" for name in library}), names


def test_one_lane_would_fail_the_vector_check(pendulum: OdeSystem) -> None:
    """The check above can fail: a scalar kernel has scalar multiply-adds."""
    run = RunSettings(pendulum, varied=("damping",), precision="float64", duration=1.0)
    kernel = BatchSolverKernel(run, BatchSolverConfig("cpu", lanes=1))
    assembly = batch_loop_assembly(kernel.run.product, kernel.dialect, kernel.places)
    assert scalar_multiply_adds(assembly, "float64") > 1.5 * allowed_scalars(kernel)


# CUDA -----------------------------------------------------------------------------------------


def cuda_kernel(system: OdeSystem, locations=None, **more) -> BatchSolverKernel:  # type: ignore[no-untyped-def]
    run = RunSettings(system, **{"duration": 1.0, "precision": "float32", **more})
    return BatchSolverKernel(run, BatchSolverConfig("cuda"), locations)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_cuda_kernel_compiles(pendulum: OdeSystem, arch: str, precision: str) -> None:
    code = cuda_kernel(pendulum, varied=("drive",), precision=precision).compile_cuda(arch)
    assert code.cubin.startswith(b"\x7fELF")
    assert f".target {arch}" in code.ptx
    assert 16 < code.figures.registers <= 255
    assert code.figures.spill_stores == 0


def test_small_models_live_in_registers(lorenz: OdeSystem) -> None:
    code = cuda_kernel(lorenz, varied=("rho",)).compile_cuda("sm_90")
    assert code.figures.stack <= 8
    assert "ld.local" not in code.ptx


def test_shared_buffers_are_in_shared_memory(lorenz: OdeSystem) -> None:
    plain = cuda_kernel(lorenz, varied=("rho",)).compile_cuda("sm_90")
    assert "ld.shared" not in plain.ptx or plain.ptx.count(".shared.f32") == 0
    for buffer in ("state", "stage_increments", "stage_state", "proposed_state", "step_control"):
        code = cuda_kernel(lorenz, {buffer: "shared"}, varied=("rho",)).compile_cuda("sm_90")
        loads = len(re.findall(r"ld\.volatile\.shared", code.ptx))
        stores = len(re.findall(r"st\.volatile\.shared", code.ptx))
        assert loads > 0, buffer
        assert stores > 0, buffer


def test_no_multiply_add_is_contracted(lorenz: OdeSystem) -> None:
    """Every FMA is one the graph asked for: PTX rounds each of its operations as written."""
    code = cuda_kernel(lorenz, varied=("rho",)).compile_cuda("sm_90")
    assert "fma.rn.f32" in code.ptx
    loose = re.findall(r"\b(?:add|mul|sub)\.f(?:32|64)\b", code.ptx)
    assert not loose, "an add or mul without .rn may be contracted by the assembler"
    # The number of a thread has 64 bits: large grids have more than 2^31 threads.
    assert "mul.wide.s32" in code.ptx
    assert not re.findall(r"\b(?:mul|mad)\.lo\.[su]32", code.ptx)


def test_native_functions_come_from_libdevice(pendulum: OdeSystem) -> None:
    run = RunSettings(pendulum, precision="float32", duration=1.0)
    config = BatchSolverConfig("cuda", math="native")
    code = BatchSolverKernel(run, config).compile_cuda("sm_90")
    assert code.cubin.startswith(b"\x7fELF")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_gpu_gives_the_bits_of_the_cpu(pendulum: OdeSystem, precision: str) -> None:
    cpu = batch(pendulum, TargetChoice("cpu"), runs=1000, precision=precision)
    gpu = batch(pendulum, TargetChoice("cuda"), runs=1000, precision=precision)
    assert_same_bits(cpu, gpu)


@pytest.mark.gpu
@needs_gpu
def test_gpu_integrates_a_large_batch_in_pieces(
    pendulum: OdeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cubie_flow.kernels.targets.cuda_program import CudaProgram

    cpu = batch(pendulum, TargetChoice("cpu"), runs=5000)
    monkeypatch.setattr(CudaProgram, "_piece", lambda *_: 777)
    assert_same_bits(cpu, batch(pendulum, TargetChoice("cuda"), runs=5000))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("block_size", [32, 128, 512])
def test_predicted_occupancy_is_that_of_the_driver(lorenz: OdeSystem, block_size: int) -> None:
    device = cuda_devices()[0]
    for places in ({}, {"state": "shared"}, {"state": "shared", "stage_increments": "shared"}):
        run = RunSettings(lorenz, varied=("rho",), precision="float64", duration=1.0)
        kernel = BatchSolverKernel(run, BatchSolverConfig("cuda", block_size=block_size), places)
        program, fit = kernel.product.program, kernel.fit_block()
        registers = kernel.compile_cuda(device.arch).figures.registers
        predicted = occupancy(device.arch, registers, fit.shared_bytes, fit.block_size)
        assert predicted.active_blocks == program.resident_blocks(), places


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("runs", [1_000, 700_000])
def test_planned_device_memory_is_what_is_taken(lorenz: OdeSystem, runs: int) -> None:
    study = Study(
        system=lorenz,
        design=make_design("grid", {"rho": {"linspace": [1.0, 20.0, runs]}}),
        duration=0.1,
        output=OutputChoice(save_every=0.005),
        target=TargetChoice("cuda"),
        shard_runs=runs,
    )
    planned = plan_study(study).device_slabs
    kernel = build_kernel(study)
    columns = study.design.columns(0, runs)
    result = kernel.solve(columns, runs, Tolerances(), study.times)
    assert result.measured["device_bytes"] == pytest.approx(planned, rel=0.05, abs=20_000)


@given(
    count=st.integers(1, 10**8), each=st.integers(1, 10**6), free=st.integers(10**7, 10**12),
    resident=st.integers(1, 10**6),
)  # fmt: skip
def test_two_pieces_fit_the_device(count: int, each: int, free: int, resident: int) -> None:
    piece = piece_runs(count, each, free, resident)
    assert 1 <= piece <= count
    assert 2 * piece * each <= 0.8 * free
    assert piece == count or piece >= min(resident, int(0.4 * free) // each)


def test_a_run_that_does_not_fit_the_device_is_refused() -> None:
    with pytest.raises(FlowError, match="one run takes 1,000 bytes on the GPU, which has 2,000"):
        piece_runs(10, 1000, 2000, 64)


@pytest.mark.parametrize(("runs", "times", "rows"), [(70, 33, 2), (32, 32, 1), (5, 100, 3)])
def test_samples_are_turned(runs: int, times: int, rows: int) -> None:
    transpose = FakeCUDAKernel(make_transpose(types.int32), device=False)
    source = np.arange(rows * times * runs, dtype=np.int32)
    target = np.full_like(source, -1)
    transpose[(-(-runs // 32), 1, 1), (32, 8), 0, 0](runs, times, rows, source, target)
    wanted = source.reshape(rows, times, runs).transpose(0, 2, 1)
    np.testing.assert_array_equal(target.reshape(rows, runs, times), wanted)


# kernel ---------------------------------------------------------------------------------------


def test_sizes_follow_the_registry(lorenz: OdeSystem) -> None:
    run = RunSettings(lorenz, varied=("rho",), precision="float64", duration=1.0)
    kernel = BatchSolverKernel(run, BatchSolverConfig("cpu"))
    assert kernel.shared_memory_elements == 0
    assert kernel.shared_memory_bytes == 0
    before = kernel.local_memory_elements
    kernel.update(state_location="shared")
    assert kernel.shared_memory_elements == 3
    assert kernel.local_memory_elements <= before - 3
    assert kernel.shared_memory_bytes == 24
    kernel.update(derivative_location="shared")
    assert kernel.shared_memory_elements == 6
    assert kernel.shared_memory_bytes == 56


def test_updates_rebuild_what_they_must_and_nothing_else(lorenz: OdeSystem) -> None:
    run = RunSettings(lorenz, varied=("rho",), precision="float64", duration=1.0)
    kernel = BatchSolverKernel(run, BatchSolverConfig("cpu"))
    first, blocks = kernel.product, kernel.run.product
    kernel.update(algorithm="tsit5", lanes=None, state_location="local")
    assert kernel.product is first
    columns = {"rho": np.linspace(1, 20, 4)}
    for tolerance in (1e-4, 1e-6):
        kernel.solve(columns, 4, Tolerances(tolerance, tolerance))
    assert kernel.product is first
    kernel.update(state_location="shared")
    assert kernel.product is not first
    second = kernel.product
    kernel.update(algorithm="bogacki_shampine_32")
    assert kernel.product is not second
    assert kernel.run.product is not blocks
    assert kernel.layout.find(kernel.run.loop, "state").location == "shared"


def test_the_cache_serves_a_second_kernel(lorenz: OdeSystem, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from cubie_flow.kernels.cache import KernelCache

    run = RunSettings(lorenz, varied=("rho",), precision="float64", duration=0.5)
    kernels = [
        BatchSolverKernel(run, BatchSolverConfig("cpu"), cache=KernelCache(tmp_path / "c"))
        for _ in range(2)
    ]
    assert [kernel.product.cached for kernel in kernels] == [False, True]
    results = [k.solve({"rho": np.array([20.0])}, 1, Tolerances()).finals for k in kernels]
    np.testing.assert_array_equal(*results)
    (file,) = (tmp_path / "c").glob("*.kernel")
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(file.read_bytes()[:-9] + b"corrupted")
    third = BatchSolverKernel(run, BatchSolverConfig("cpu"), cache=KernelCache(tmp_path / "c"))
    assert not third.product.cached
    assert KernelCache(tmp_path / "c").clear()[0] == 1


def test_the_cache_is_trimmed_and_other_changes_miss(lorenz: OdeSystem, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from cubie_flow.kernels.cache import KernelCache

    cache = KernelCache(tmp_path / "c", limit=1000)
    for key in "abc":
        cache.put(key, {"entry": key}, {"object": bytes(400)})
    assert cache.size()[1] <= 1000
    assert cache.get("c") is not None
    assert cache.get("a") is None


def test_rare_parts_are_found_from_functions_of_their_own() -> None:
    """A heavy model is a function of its own; what it rarely needs is called from there and here.

    Lanes without a run hold zeros, whose logarithm takes the rare way.
    """
    terms = " + ".join(f"log(x)*exp(-{k}*x)*sin({k}*x)" for k in range(1, 16))
    system = OdeSystem.from_equations(
        f"dx/dt = k*({terms})*1e-3\nlogarithm = log(x)", {"x": 1.5}, {"k": 1.0}
    )
    for algorithm in ("tsit5", "rodas5p"):
        run = RunSettings(
            system, ("k",), algorithm=algorithm, duration=1.0, saved=("logarithm",), sampling=True,
            summarised=("logarithm",),
        )  # fmt: skip
        kernel = BatchSolverKernel(run, BatchSolverConfig("cpu", lanes=16))
        assert kernel.run.step.settings.rhs.apart
        columns = {"k": np.array([1.0])}
        result = kernel.solve(columns, 1, Tolerances(1e-6, 1e-9), np.array([0.0, 1.0]))
        assert result.status.tolist() == [0]
        assert np.isfinite(result.samples).all()
