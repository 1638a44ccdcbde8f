"""The plan of a study: what it says, and what it refuses."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import xarray
from attrs import evolve

from cubie_flow.api import OutputChoice, Study, TargetChoice, plan_study, run_study
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.integrators.run import RunSettings
from cubie_flow.kernels import plan as kernel_plan
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.kernels.targets.detect import toolkit_installed
from cubie_flow.memory.occupancy import occupancy
from cubie_flow.process.machine import process_memory
from cubie_flow.study import plan as planning
from cubie_flow.study.kernel import build_kernel
from cubie_flow.systems import OdeSystem

SYSTEM = OdeSystem.from_equations(
    "x' = a*(y - x)\ny' = x*(b - z) - y\nz' = x*y - 2.0*z",
    states={"x": 1.0, "y": 1.0, "z": 1.0},
    parameters={"a": 10.0, "b": 28.0},
)
STUDY = Study(
    SYSTEM,
    make_design("sobol", {"b": {"uniform": [1.0, 20.0]}}, size=1000),
    duration=1.0,
    output=OutputChoice(save_every=0.1, summaries=["x"]),
    target=TargetChoice("cpu", threads=2),
)
needs_toolkit = pytest.mark.skipif(not toolkit_installed(), reason="needs the CUDA wheels")


def test_every_buffer_is_the_registrys() -> None:
    plan = plan_study(STUDY, compiling=False)
    kernel = build_kernel(STUDY)
    fields = ("path", "name", "location", "dtype", "elements", "bytes", "offset", "alias")
    expected = [[getattr(entry, name) for name in fields] for entry in kernel.layout.entries]
    found = [[getattr(entry, name) for name in fields] for entry in plan.kernel.buffers]
    assert found == expected
    text = plan.text()
    for entry in kernel.layout.entries:
        assert any(line.split()[:1] == [entry.name] for line in text.splitlines())


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_moved_buffer_moves_the_plan(precision: str) -> None:
    moved = evolve(STUDY, precision=precision, locations={"stage_increments": "shared"})
    plan = plan_study(moved, compiling=False).kernel
    kernel = build_kernel(moved)
    item = np.dtype(precision).itemsize
    assert plan.shared_bytes == 21 * item
    assert plan.shared_elements == kernel.shared_memory_elements == 21
    assert plan.stride == kernel.shared_memory_bytes == 21 * item
    assert "odd number already" in plan.stride_reason
    more = plan_study(
        evolve(moved, locations={"stage_increments": "shared", "state": "shared"}), compiling=False
    ).kernel
    assert (more.shared_bytes, more.stride) == (24 * item, 25 * item)
    assert "instead of" in more.stride_reason
    still = plan_study(evolve(STUDY, precision=precision), compiling=False).kernel
    assert (still.stride, still.shared_bytes) == (0, 0)
    assert "nothing is in shared memory" in still.stride_reason


@needs_toolkit
def test_figures_and_occupancy_come_from_the_compiler() -> None:
    target = TargetChoice("cpu", arch="sm_75,sm_90")
    plan = plan_study(evolve(STUDY, target=target))
    assert [arch.arch for arch in plan.kernel.architectures] == ["sm_75", "sm_90"]
    for arch in plan.kernel.architectures:
        figures = build_kernel(STUDY).compile_cuda(arch.arch).figures
        assert arch.figures == figures.as_dict()
        assert figures.code > 1000
        assert figures.constant > 300
        assert arch.fit is not None
        assert arch.occupancy == occupancy(arch.arch, figures.registers, 0, 128)
        assert arch.occupancy.limiter in plan.text()
        assert f"{figures.registers} registers" in plan.text()


@needs_toolkit
def test_the_code_size_is_that_of_the_machine_code() -> None:
    from cubie_flow.kernels.targets.cubin import sections

    code = build_kernel(STUDY).compile_cuda("sm_90")
    sizes = {name: len(part) for name, part in sections(code.cubin).items()}
    assert sizes[f".text.{code.entry}"] <= code.figures.code
    assert code.figures.code < len(code.cubin)
    assert code.figures.code % 16 == 0  # an instruction is 16 bytes since Volta


@needs_toolkit
def test_an_architecture_the_toolkit_does_not_know() -> None:
    plan = plan_study(evolve(STUDY, target=TargetChoice("cpu", arch="sm_70")))
    (arch,) = plan.kernel.architectures
    assert not arch.figures
    assert "sm_75" in arch.missing
    assert arch.missing in plan.text()
    assert "store" in plan.text()


def test_without_the_toolkit_the_rest_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_plan, "toolkit_installed", lambda: False)
    plan = plan_study(STUDY)
    assert plan.kernel.architectures[0].figures == {}
    text = plan.text()
    assert "pip install" in text
    assert "stage_increments" in text
    assert "host" in text


def test_a_block_is_halved_until_it_fits() -> None:
    system = OdeSystem.from_equations(
        "\n".join(f"x{i}' = -k * x{i}" for i in range(40)),
        states={f"x{i}": 1.0 for i in range(40)},
        parameters={"k": 1.0},
    )
    study = evolve(
        STUDY,
        system=system,
        design=make_design("zip", {"k": [0.1, 0.2]}),
        output=OutputChoice(),
        precision="float64",
        locations={"stage_increments": "shared"},
        target=TargetChoice("cpu", arch="sm_75,sm_90", block_size=256),
    )
    plan = plan_study(study, compiling=False)
    assert plan.kernel.stride == 281 * 8
    small, large = plan.kernel.architectures
    assert small.fit is not None
    assert large.fit is not None
    assert (small.fit.block_size, small.fit.halvings) == (16, 4)
    assert (large.fit.block_size, large.fit.halvings) == (64, 2)
    assert small.fit.shared_bytes <= 65536 < 2 * small.fit.shared_bytes + 2 * plan.kernel.stride
    assert "256 halved 4x" in plan.text()


def test_one_run_that_does_not_fit_shared_memory() -> None:
    states = {f"x{i}": 1.0 for i in range(1300)}
    system = OdeSystem.from_equations(
        "\n".join(f"{name}' = -k * {name}" for name in states), states=states, parameters={"k": 1.0}
    )
    study = evolve(
        STUDY,
        system=system,
        design=make_design("zip", {"k": [0.1, 0.2]}),
        output=OutputChoice(),
        precision="float64",
        locations={"stage_increments": "shared"},
        target=TargetChoice("cpu", arch="sm_75"),
    )
    plan = plan_study(study, compiling=False)
    assert plan.kernel.architectures[0].fit is None
    assert "stage_increments_location=local would fit" in plan.text()
    assert "shared memory of a block" in plan.binding
    plan.refuse()  # a CPU has no such limit


def test_sizes_add_up() -> None:
    plan = plan_study(STUDY, compiling=False)
    # 3 states x 11 times, 3 final values, 6 metrics of x: float32; status, steps, rejected
    assert plan.output_run == 4 * (33 + 3 + 6) + 1 + 3 * 4
    assert plan.store_bytes == 1000 * (4 * 42 + 8 + 4 + 4 + 1)
    assert plan.shards * plan.shard_runs >= 1000
    assert plan.host_bytes - process_memory() < 1_000_000_000


@pytest.mark.parametrize("what", ["disk", "memory"])
def test_what_cannot_fit_is_refused_before_it_starts(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"disk": "free_disk", "memory": "available_memory"}[what]
    enough = 100_000 if what == "disk" else plan_study(STUDY, compiling=False).host_bytes - 100_000
    monkeypatch.setattr(planning, "process_memory", lambda: 0)
    if what == "memory":
        enough = plan_study(STUDY, compiling=False).host_bytes - 100_000
    monkeypatch.setattr(planning, name, lambda *_: enough)
    plan = plan_study(STUDY, compiling=False)
    assert len(plan.problems) == 1
    store = tmp_path / "results.zarr"
    with pytest.raises(FlowError, match=r"batch\.size=") as refused:
        run_study(STUDY, store)
    assert not store.exists()
    assert "output.save_every=" in str(refused.value)
    # Each change that is advised fits, and one run more would not.
    advice = dict(part.split("=") for part in str(refused.value).split() if "=" in part)
    runs = int(advice["batch.size"])
    for count, fits in ((runs, True), (runs + 1, False)):
        changed = evolve(
            STUDY, design=make_design("sobol", {"b": {"uniform": [1.0, 20.0]}}, size=count)
        )
        assert (not plan_study(changed, compiling=False).problems) == fits
    every = float(advice["output.save_every"])
    changed = evolve(STUDY, output=OutputChoice(save_every=every, summaries=["x"]))
    assert not plan_study(changed, compiling=False).problems


def test_shards_are_smaller_where_memory_is_scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system of a container may kill what takes more than its limit."""
    study = evolve(
        STUDY,
        design=make_design("sobol", {"b": {"uniform": [1.0, 20.0]}}, size=2_000_000),
        output=OutputChoice(save_every=0.05),
    )
    monkeypatch.setattr(planning, "process_memory", lambda: 100_000_000)
    wide = plan_study(study, compiling=False)
    monkeypatch.setattr(planning, "available_memory", lambda: 500_000_000)
    narrow = plan_study(study, compiling=False)
    assert narrow.shard_runs < wide.shard_runs / 2
    assert narrow.host_bytes <= 500_000_000 < wide.host_bytes
    assert not narrow.problems
    given = evolve(study, shard_runs=wide.shard_runs)
    (problem,) = plan_study(given, compiling=False).problems
    runs = int(re.findall(r"storage\.shard_runs=(\d+)", problem)[0])
    assert not plan_study(evolve(given, shard_runs=runs), compiling=False).problems


def test_a_store_holds_predicted_beside_measured(tmp_path: Path) -> None:
    report = run_study(STUDY, tmp_path / "results.zarr")
    memory = xarray.open_zarr(report.path, group="memory", chunks=None)
    kernel = build_kernel(STUDY)
    assert memory.bytes.values.tolist() == [entry.bytes for entry in kernel.layout.entries]
    attrs = memory.attrs
    assert attrs["target"] == "cpu"
    predicted, measured = (
        attrs["predicted_buffer_bytes_per_thread"], attrs["measured_buffer_bytes"],
    )  # fmt: skip
    threads = -(-measured // (predicted + 128))
    assert measured == threads * (predicted + 128)
    assert attrs["predicted_store_bytes"] >= 0.5 * report.store_bytes - 200_000
    assert attrs["measured_host_bytes"] == report.peak_memory_bytes
    assert memory.runs.sum() == 1000
    names = ("kernel", "transfer", "encode", "write")
    seconds = {name: memory[f"{name}_seconds"].values for name in names}
    for values in seconds.values():
        assert (values >= 0).all()
    both = (seconds["encode"] + seconds["write"]).sum()
    assert math.isclose(both, report.seconds["write"], rel_tol=1e-6)
    assert (seconds["write"] > 0).all()
    assert math.isclose(
        (seconds["kernel"] + seconds["transfer"]).sum(), report.seconds["kernel"], rel_tol=1e-6
    )
    assert attrs["solver_waited_seconds"] >= 0
    assert attrs["writer_waited_seconds"] > 0


@needs_toolkit
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_registers_and_stack_are_what_the_assembler_says(precision: str) -> None:
    """They are read from the machine code, and the log, where it is whole, says the same."""
    from cuda.bindings import nvjitlink

    # Eight states in memory: there is a stack.
    system = OdeSystem.from_equations(
        "\n".join(f"dx{i}/dt = -x{(i + 1) % 12}*x{i}" for i in range(12)),
        states={f"x{i}": 1.0 for i in range(12)},
        parameters={},
    )
    run = RunSettings(system, precision=precision, duration=1.0)
    code = BatchSolverKernel(run, BatchSolverConfig("cuda", precision)).compile_cuda("sm_90")
    handle = nvjitlink.create(2, ["-arch=sm_90", "-verbose"])
    source = code.ptx.encode()
    nvjitlink.add_data(handle, nvjitlink.InputType.PTX, source, len(source), "kernel")
    nvjitlink.complete(handle)
    log = bytearray(nvjitlink.get_info_log_size(handle))
    nvjitlink.get_info_log(handle, log)
    nvjitlink.destroy(handle)
    said = [int(n) for n in re.findall(r"Used (\d+) registers", log.decode())]
    stack = [int(n) for n in re.findall(r"(\d+) bytes stack frame", log.decode())]
    assert said
    assert code.figures.registers == max(said)
    assert stack
    assert code.figures.stack == max(stack) > 0
