"""Calls of the CUDA driver for the GPU measurements: events, memory, device attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cubie_flow.errors import FlowError

Array = Any
#: Fused multiply-adds per clock and multiprocessor, float32 and float64, by compute capability
#: (CUDA C++ Programming Guide, table of the throughput of arithmetic instructions).
PER_CLOCK = {
    (7, 0): (64, 32), (7, 5): (64, 2), (8, 0): (64, 32), (8, 6): (128, 2), (8, 9): (128, 2),
    (9, 0): (128, 64), (10, 0): (128, 64), (12, 0): (128, 2),
}  # fmt: skip


def check(result: tuple[Any, ...]) -> Any:
    """Return the result of a driver call, or raise its error as a FlowError."""
    from cuda.bindings import driver

    error, *values = result
    if error != driver.CUresult.CUDA_SUCCESS:
        raise FlowError(f"CUDA driver: {driver.cuGetErrorName(error)[1].decode()}")
    return values[0] if len(values) == 1 else tuple(values)


class Stopwatch:
    """Times launches with two CUDA events."""

    def __init__(self) -> None:
        from cuda.bindings import driver

        self._ends = [check(driver.cuEventCreate(0)) for _ in range(2)]
        self.seconds = 0.0

    def time(self, launch: Callable[[], None]) -> None:
        """Launch, wait, and set `seconds` to the time on the device."""
        from cuda.bindings import driver

        check(driver.cuEventRecord(self._ends[0], 0))
        launch()
        check(driver.cuEventRecord(self._ends[1], 0))
        check(driver.cuEventSynchronize(self._ends[1]))
        self.seconds = check(driver.cuEventElapsedTime(*self._ends)) / 1e3


def to_device(host: Array) -> int:
    """Copy an array to the device and return its address; it is never freed."""
    from cuda.bindings import driver

    host = np.ascontiguousarray(host)
    pointer = check(driver.cuMemAlloc(max(8, host.nbytes)))
    check(driver.cuMemcpyHtoD(pointer, host.ctypes.data, host.nbytes))
    return int(pointer)


def to_host(pointer: int, host: Array) -> Array:
    """Fill `host` from the device and return it."""
    from cuda.bindings import driver

    check(driver.cuMemcpyDtoH(host.ctypes.data, pointer, host.nbytes))
    return host


def description(number: int = 0) -> dict[str, Any]:
    """Return name, architecture, multiprocessors and clock of a device."""
    from cuda.bindings import driver

    from cubie_flow.kernels.targets.detect import cuda_devices, nvidia_driver_version

    check(driver.cuInit(0))
    handle = check(driver.cuDeviceGet(number))
    attribute = driver.CUdevice_attribute
    found = cuda_devices()[number]
    return {
        "name": found.name,
        "arch": found.arch,
        "memory_gib": round(found.memory / 2**30, 1),
        "driver": str(nvidia_driver_version()),
        "multiprocessors": int(check(driver.cuDeviceGetAttribute(
            attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, handle))),
        "clock_hz": 1e3 * int(check(driver.cuDeviceGetAttribute(
            attribute.CU_DEVICE_ATTRIBUTE_CLOCK_RATE, handle))),
    }  # fmt: skip


def operations_a_second(device: dict[str, Any], precision: str) -> float:
    """Return the arithmetic instructions per second of all multiprocessors; NaN if unknown."""
    number = device["arch"].removeprefix("sm_")
    known = PER_CLOCK.get((int(number[:-1]), int(number[-1])))
    if known is None:
        return float("nan")
    per_clock = known[precision == "float64"]
    return float(device["multiprocessors"] * device["clock_hz"] * per_clock)
