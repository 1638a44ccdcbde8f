"""Several GPUs on one machine, as the driver would tell of them: the simulator runs the kernels."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from attrs import evolve

from cubie_flow import OdeSystem
from cubie_flow.api import ControllerChoice, OutputChoice, Study, TargetChoice, run_study
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.targets import detect
from cubie_flow.kernels.targets.batch import Batch
from cubie_flow.kernels.targets.cuda import CudaTarget
from cubie_flow.kernels.targets.simulator import SimulatorTarget
from cubie_flow.kernels.targets.target import BuildResult

pytestmark = pytest.mark.skipif(not detect.toolkit_installed(), reason="needs numba-cuda")
PRESENT, RUNS, SHARD = 3, 14, 2
STUDY = Study(
    OdeSystem.from_equations("x' = -k*x", states={"x": 1.0}, parameters={"k": 0.5}, name="decay"),
    make_design("grid", {"k": {"linspace": [0.1, 2.0, RUNS]}}),
    duration=1.0,
    controller=ControllerChoice(dt=0.25),
    output=OutputChoice(save_every=0.5),
    algorithm="rk4",
    target=TargetChoice(kind="cpu", threads=1),
    shard_runs=SHARD,
)


class Driver:
    """What libcuda says of `PRESENT` devices; their memory is unknown."""

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = PRESENT
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:
        name.value = b"simulated"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        value._obj.value = 9 if attribute == 75 else 0
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: ctypes.c_int) -> int:
        return 0


class Devices:
    """Notes which device solved how many runs, in which thread.

    Parameters
    ----------
    expected : int
        Devices that must all be at work on their first shard before any of them ends it.
    """

    #: The simulator changes modules of numba while it runs.
    lock = threading.Lock()

    def __init__(self, expected: int) -> None:
        self.solved: dict[int, list[str]] = {}
        self.together = threading.Barrier(expected, timeout=20)

    def program(self, kernel: BatchSolverKernel) -> Any:
        program = SimulatorTarget().build(kernel).program
        device = kernel.settings.device
        run = program.run

        def noted(batch: Batch) -> None:
            first = device not in self.solved
            self.solved.setdefault(device, []).append(threading.current_thread().name)
            if first:
                self.together.wait()
            with self.lock:
                run(batch)

        program.run = noted
        return program


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the driver tell of devices for one test."""
    monkeypatch.setattr(detect, "_nvidia_driver", Driver)
    monkeypatch.setattr("cubie_flow.kernels.targets.cuda.shared_memory_limit", lambda device: 49152)
    detect.forget_devices()
    yield monkeypatch
    detect.forget_devices()


def on(device: Any) -> Study:
    return evolve(STUDY, target=TargetChoice(kind="cuda", device=device))


def arrays(path: Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(path, mode="r", use_consolidated=False)
    return {name: array[:] for name, array in group.arrays()}


@pytest.mark.parametrize(
    ("device", "used"), [(None, {0, 1, 2}), ((0, 2), {0, 2}), ((2, 1), {1, 2}), (1, {1})]
)
def test_shards_spread_over_the_devices_that_are_picked(
    device: Any, used: set[int], driver: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    devices = Devices(len(used))
    driver.setattr(CudaTarget, "build", lambda _, kernel: BuildResult(devices.program(kernel), 0.0))
    run_study(on(device), tmp_path / "gpus.zarr")
    assert set(devices.solved) == used
    assert sum(map(len, devices.solved.values())) == RUNS // SHARD
    # Each device has a thread of its own; a single one is driven by the calling thread.
    threads = [set(names) for names in devices.solved.values()]
    assert all(len(names) == 1 for names in threads)
    assert len(set.union(*threads)) == len(used)
    # What is stored does not depend on it.
    run_study(STUDY, tmp_path / "cpu.zarr")
    one, other = arrays(tmp_path / "gpus.zarr"), arrays(tmp_path / "cpu.zarr")
    assert set(one) == set(other)
    for name, values in one.items():
        assert values.tobytes() == other[name].tobytes(), name


def test_a_device_that_is_not_there(driver: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(FlowError, match=r"target\.device is 3, but the driver offers 3 GPU"):
        run_study(on((0, 3)), tmp_path / "gpus.zarr")
    assert not list(tmp_path.iterdir()), "it is said before anything is written"
