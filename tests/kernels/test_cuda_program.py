"""The host side of the CUDA target, with a driver API that is emulated in host memory."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from cubie_flow.kernels.targets.batch import Batch
from cubie_flow.kernels.targets.cuda_code import CompilerStats, CudaCode
from cubie_flow.kernels.targets.cuda_program import CudaProgram

driver = pytest.importorskip("cuda.bindings.driver")
OK = driver.CUresult.CUDA_SUCCESS
RUNS, TIMES = 100, 3


def view(address: int, count: int, kind: Any = ctypes.c_double) -> np.ndarray:
    return np.ctypeslib.as_array((kind * count).from_address(address))


class EmulatedDriver:
    """Device memory is host memory; the kernel doubles its input, and saves it plus 1000 k."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.opted_in: list[int] = []

    def allocate(self, size: int, *_: int) -> tuple[Any, int]:
        block = (ctypes.c_char * size)()
        self.memory[ctypes.addressof(block)] = block
        return OK, ctypes.addressof(block)

    def free(self, address: int) -> tuple[Any]:
        del self.memory[address]
        return (OK,)

    def set_attribute(self, function: Any, name: Any, value: int) -> tuple[Any]:
        self.opted_in.append(value)
        return (OK,)

    def upload(self, target: int, source: int, size: int, _: Any) -> tuple[Any]:
        ctypes.memmove(target, source, size)
        return (OK,)

    def download(self, copy: Any, _: Any) -> tuple[Any]:
        for row in range(copy.Height):
            target = int(copy.dstHost) + row * copy.dstPitch
            ctypes.memmove(target, int(copy.srcDevice) + row * copy.srcPitch, copy.WidthInBytes)
        return (OK,)

    def launch(self, *arguments: Any) -> tuple[Any]:
        values, kinds = arguments[-2]
        assert len(values) == len(kinds)
        if len(values) == 5:
            runs, times, _, source, target = values
            samples = view(source, runs * times).reshape(times, runs)
            view(target, runs * times)[:] = samples.T.ravel()
            return (OK,)
        runs, inputs, times, samples = values[0], values[2], values[6], values[7]
        saved = view(inputs, runs) + 1000.0 * np.arange(times)[:, None]
        view(samples, runs * times)[:] = saved.ravel()
        view(values[11], runs)[:] = 2.0 * view(inputs, runs)
        view(values[12], runs, ctypes.c_int32)[:] = 7
        return (OK,)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> EmulatedDriver:
    emulated = EmulatedDriver()
    for name in ("cuInit", "cuCtxSetCurrent", "cuEventRecord", "cuStreamSynchronize",
                 "cuEventDestroy", "cuStreamDestroy"):  # fmt: skip
        monkeypatch.setattr(driver, name, lambda *_: (OK,))
    for name in ("cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuModuleLoadData", "cuStreamCreate",
                 "cuModuleGetFunction", "cuEventCreate", "cuEventElapsedTime",
                 "cuDeviceGetAttribute"):  # fmt: skip
        monkeypatch.setattr(driver, name, lambda *_: (OK, 1))
    for name, call in (("cuMemAlloc", emulated.allocate), ("cuMemHostAlloc", emulated.allocate),
                       ("cuMemFree", emulated.free), ("cuLaunchKernel", emulated.launch),
                       ("cuFuncSetAttribute", emulated.set_attribute),
                       ("cuMemcpyHtoDAsync", emulated.upload),
                       ("cuMemcpy2DAsync", emulated.download)):  # fmt: skip
        monkeypatch.setattr(driver, name, call)
    return emulated


@pytest.mark.parametrize("piece", [30, RUNS])
def test_a_batch_comes_back_piece_by_piece(
    piece: int, emulated: EmulatedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CudaProgram, "_piece", lambda *_: piece)
    code = CudaCode("", b"cubin", "entry", "sm_90", CompilerStats(1, 0, 0, 0, 0, 0))
    program = CudaProgram(code, 128, 60_000, 0, code)
    assert emulated.opted_in == [60_000], "more than 48 KiB of shared memory"
    ticks: list[int] = []
    batch = Batch(
        count=RUNS, inputs=np.arange(float(RUNS)).reshape(1, RUNS), initial=np.zeros(2),
        settings=np.zeros(3), times=np.zeros(TIMES + 1), time_count=TIMES,
        samples=np.zeros((1, RUNS, TIMES)), strides=(RUNS * TIMES, TIMES, 1),
        finals=np.zeros((1, RUNS)), counts=np.zeros((1, RUNS), np.int32), tick=ticks.append,
    )  # fmt: skip
    program.run(batch)
    assert ticks == [*range(0, RUNS, piece), RUNS]
    np.testing.assert_array_equal(batch.finals[0], 2.0 * np.arange(RUNS))
    np.testing.assert_array_equal(batch.counts, 7)
    saved = np.arange(RUNS)[:, None] + 1000.0 * np.arange(TIMES)
    np.testing.assert_array_equal(batch.samples[0], saved)
    assert batch.measured["device_bytes"] > 0
