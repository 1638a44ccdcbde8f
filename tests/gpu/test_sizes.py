"""Sizes of launches on paper, and the plan compared with what the driver is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from attrs import evolve

from cubie_flow import OdeSystem
from cubie_flow.api import OutputChoice, Study, TargetChoice, plan_study, run_study
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.integrators.status import STATUS
from cubie_flow.kernels.launch import SharedArrays
from cubie_flow.kernels.targets import cuda_api, cuda_sizes, detect
from cubie_flow.kernels.targets.batch import BatchShape
from cubie_flow.kernels.targets.cuda_code import TILE
from cubie_flow.study.attempts import read_rescue
from cubie_flow.study.kernel import build_kernel

INT64, INT32 = 2**63, 2**31
#: Bytes and threads of a small and a large GPU.
GPUS = ((4 << 30, 10 * 1024), (141 << 30, 132 * 2048))


@pytest.mark.parametrize("elements", [1, 10**3, 10**6, 10**8, 10**10])
def test_every_number_of_a_launch_is_in_range(elements: int) -> None:
    for real, saved, times, finals in product(
        (4, 8), (0, 1, 10, 400, 100_000), (1, 2, 100, 10**6, 3 * 10**6), (1, 30, 4000)
    ):
        shape = BatchShape(real, 3, finals, saved, times if saved else 0, 2 * 10**6)
        runs = max(1, elements // max(1, saved * times))
        for (memory, resident), block in product(GPUS, (1, 32, 1024)):
            free = int(0.95 * memory)
            try:
                piece = cuda_sizes.piece_runs(
                    runs, cuda_sizes.run_bytes(shape), free, resident, cuda_sizes.fixed_bytes(shape)
                )
            except FlowError:
                assert 2 * cuda_sizes.slab_bytes(shape, 1) > 0.8 * free - 4096
                continue
            check_piece(shape, piece, block, free)
            check_host(shape, runs, piece)


def check_piece(shape: BatchShape, piece: int, block: int, free: int) -> None:
    """Check the numbers of one piece on the device."""
    slab = cuda_sizes.slab_bytes(shape, piece)
    assert 2 * slab <= 0.8 * free
    places = cuda_sizes.offsets(cuda_sizes.regions(shape, piece))
    sizes = cuda_sizes.regions(shape, piece)
    for place, size, following in zip(places, sizes, places[1:], strict=False):
        assert place % 256 == 0
        assert place + max(size, 8) <= following
    x, y, z = cuda_sizes.kernel_grid(piece, block)
    assert 1 <= x <= cuda_sizes.MAX_GRID[0] == INT32 - 1
    assert (y, z) == (1, 1)
    assert piece <= x * block < piece + block
    assert x * block < INT64, "the number of a thread"
    rows = piece * shape.times
    # Strides of samples, and the largest index: rows are behind one another.
    assert (shape.saved - 1) * rows + (shape.times - 1) * piece + piece < INT64 // shape.real
    assert shape.finals * piece * shape.real < INT64
    if shape.times > 1:
        grid = cuda_sizes.transpose_grid(shape, piece)
        for extent, most in zip(grid, cuda_sizes.MAX_GRID, strict=True):
            assert 1 <= extent <= most
        assert grid[0] * TILE >= piece


def check_host(shape: BatchShape, runs: int, piece: int) -> None:
    """Check the numbers of copies to the arrays of the whole batch."""
    for each in (shape.real, 4, shape.real * shape.times):
        pitch, width = each * runs, each * piece
        assert width <= pitch < INT64
        # Beyond the limit of two-dimensional copies each row is copied for itself.
        assert cuda_sizes.MAX_PITCH == INT32 - 1


def test_tables_that_the_precision_cannot_count_are_refused() -> None:
    study = Study(DECAY, make_design("single", {}), output=OutputChoice(times=[0.1]))
    kernel = build_kernel(evolve(study, duration=1.0))
    with pytest.raises(FlowError, match=r"16,777,217 sampled times, but float32 counts up to"):
        SharedArrays.of(kernel.run, np.arange(2**24 + 1.0))


# the plan -----------------------------------------------------------------------------------------

pytest.importorskip("cuda.bindings.driver")
from cuda_standin import Driver, installed, null_kernel  # noqa: E402

DECAY = OdeSystem.from_equations("x' = -k*x\nhalf = x/2", {"x": 1.0}, {"k": 0.5})
EVENTFUL = OdeSystem.from_mapping(
    {
        "name": "eventful",
        "states": {"x": 1.0},
        "parameters": {"k": 0.5},
        "equations": {"x": "-k*x"},
        "events": {"low": {"when": "x < 0.5", "set": {"x": "x + 1"}, "record": True}},
    }
)
DRIVEN = DECAY.with_drivers(
    {"k": {"times": [0.0, 0.5, 1.0], "values": [0.1, 0.4, 0.2], "interpolation": "linear"}}
)
RUNS, SHARD = 300, 120
DESIGN = make_design("grid", {"k": {"linspace": [0.1, 2.0, RUNS]}})
STUDY = Study(
    DECAY, DESIGN, duration=1.0, shard_runs=SHARD, target=TargetChoice("cuda"),
    output=OutputChoice(save_every=0.25),
)  # fmt: skip
DATA = {"time": np.linspace(0, 1, 1001).tolist(), "x": [0.5] * 1001}
LARGE = 40_000
WHERE = OutputChoice(save_every=0.25, where="status == 'success'")
AGAIN = read_rescue([{"algorithm": "rodas5p", "precision": "float64"}])
STUDIES: dict[str, Study] = {
    "float32": STUDY,
    "float64": evolve(STUDY, precision="float64"),
    "finals": evolve(STUDY, output=OutputChoice(summaries=["x"])),
    "compare": evolve(STUDY, output=OutputChoice(compare=DATA)),
    "compare and save": evolve(STUDY, output=OutputChoice(compare=DATA, times=[0.5, 1.0])),
    "events": evolve(STUDY, system=EVENTFUL, output=OutputChoice(save_every=0.5, event_times=3)),
    "sensitivities": evolve(STUDY, output=OutputChoice(save_every=0.5, sensitivities=["k"])),
    "drivers": evolve(
        STUDY, system=DRIVEN, design=make_design("grid", {"x": {"linspace": [0.1, 2.0, RUNS]}})
    ),
    "where": evolve(STUDY, output=WHERE, shard_runs=15),
    "rescue": evolve(STUDY, rescue=AGAIN, shard_runs=15),
    "divided where": evolve(STUDY, output=WHERE),
    "divided rescue": evolve(STUDY, rescue=AGAIN),
    "stack": evolve(STUDY, name="stack"),
}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """A GPU of 64 MiB that holds 32 threads, with pieces of 1,024 bytes."""
    driver = Driver(memory=1 << 26)
    driver.devices[0].multiprocessors, driver.devices[0].threads = 1, 32
    monkeypatch.setattr(cuda_sizes, "PIECE_BYTES", 1024)
    monkeypatch.setattr(cuda_api._PinnedPool, "LEAST", 64)
    with installed(driver):
        yield driver


def figures(name: str) -> Any:
    """Return the statistics of the compiler: buffers are in local memory, with `LARGE` more."""
    more = LARGE if name == "stack" else 0
    return lambda kernel: (40, sum(kernel.arena_bytes[1:]) + more)


def interpretation(kernel: Any) -> Any:
    """Let all runs fail that a rescue can solve again."""
    rescued = kernel.run.settings.algorithm == "rodas5p"
    failing = bool(FAILING & {"rescue", "divided rescue"}) and not rescued
    code = STATUS["step_limit"] if failing else STATUS["success"]
    return null_kernel(kernel.settings.precision, code)


FAILING: set[str] = set()
DIVIDED = {"divided where", "divided rescue"}


@pytest.mark.parametrize("name", STUDIES)
def test_the_plan_is_what_the_driver_is_asked_for(
    name: str, driver: Driver, tmp_path: Path
) -> None:
    study = STUDIES[name]
    FAILING.clear()
    FAILING.add(name)
    driver.figures, driver.interpret = figures(name), interpretation
    plan = plan_study(study)
    assert not driver.slabs, "planning takes nothing"
    report = run_study(study, tmp_path / "results.zarr")
    peak = driver.devices[0].peak
    # Of chosen and failed runs only the largest number is known.
    assert plan.device_bytes == peak or (name in DIVIDED and peak < plan.device_bytes < 1.3 * peak)
    if name == "stack":
        assert plan.device_local >= 32 * LARGE
    memory = xarray.open_zarr(report.path, group="memory", chunks=None).attrs
    assert memory["measured_device_bytes"] == peak
    assert driver.calls["cuMemAlloc"] >= 2


def test_fewer_chosen_runs_never_take_more(driver: Driver) -> None:
    shape = BatchShape(8, 2, 5, 2, 4, 50)
    for count in range(1, 400):
        most = cuda_sizes.most_slot_bytes(shape, count, 1 << 26, 32)
        slots = cuda_sizes.slot_bytes(shape, count, 1 << 26, 32)
        assert len(slots) <= len(most)
        for fewer in range(1, count + 1):
            taken = cuda_sizes.slot_bytes(shape, fewer, 1 << 26, 32)
            assert all(a <= b for a, b in zip(taken, most, strict=False)), (count, fewer)


def test_data_times_take_no_memory_of_samples(driver: Driver) -> None:
    few = plan_study(evolve(STUDY, output=OutputChoice(times=[0.5, 1.0])), compiling=False)
    many = plan_study(STUDIES["compare and save"], compiling=False)
    assert many.shard_bytes < 1.5 * few.shard_bytes
    assert many.host_bytes < few.host_bytes + 100_000


def test_a_study_that_a_gpu_cannot_hold_is_refused(driver: Driver) -> None:
    driver.figures = lambda kernel: (40, 3 << 20)
    with pytest.raises(FlowError, match=r"local memory of the 32 threads .*precision=float32"):
        plan_study(STUDY).refuse()
    driver.figures = lambda kernel: (40, 0)
    driver.devices[0].memory = 1 << 20
    detect.forget_devices()
    times = np.linspace(0, 1, 60_000).tolist()
    with pytest.raises(FlowError, match=r"a run needs .* of GPU memory, but a piece of a batch"):
        plan_study(evolve(STUDY, output=OutputChoice(times=times))).refuse()
