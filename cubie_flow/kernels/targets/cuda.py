"""The CUDA target: loading a cubin and running batches through the driver API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_bool, c_int64, c_void_p
from time import perf_counter
from typing import Any

import numpy as np
from attrs import asdict, frozen

from cubie_flow.errors import FlowError
from cubie_flow.kernels.targets.batch import Batch

Array = Any


def _check(result: tuple[Any, ...]) -> Any:
    """Return what a driver call returns, or raise its error as one sentence."""
    from cuda.bindings import driver

    error, *values = result
    if error != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(error)
        raise FlowError(f"CUDA driver: {text.decode() if text else error}")
    return values[0] if len(values) == 1 else tuple(values)


@frozen
class CompilerFigures:
    """What ptxas reports of one kernel on one architecture.

    Attributes
    ----------
    registers : int
        Registers a thread.
    stack, spill_stores, spill_loads : int
        Bytes a thread.
    constant, code : int
        Bytes of constant memory and of machine code.
    """

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    constant: int
    code: int

    def as_dict(self) -> dict[str, int]:
        """Return the figures by name."""
        return asdict(self)


@frozen
class CudaCode:
    """Compiled kernel: PTX, cubin, entry name and the compiler's figures."""

    ptx: str
    cubin: bytes
    entry: str
    arch: str
    figures: CompilerFigures


@frozen(eq=False)
class Loaded:
    """A batch on the device.

    Attributes
    ----------
    launch : callable
        Starts the kernel and does not wait for it.
    fetch : callable
        Waits for it and writes the batch's arrays.
    """

    launch: Callable[[], None]
    fetch: Callable[[], None]


class CudaProgram:
    """A kernel loaded on one device.

    Parameters
    ----------
    cubin : bytes
    entry : str
    block_size : int
        Threads a block, after fitting shared memory.
    shared_bytes : int
        Dynamic shared memory a block.
    device : int
    """

    def __init__(
        self, cubin: bytes, entry: str, block_size: int, shared_bytes: int, device: int = 0
    ) -> None:
        from cuda.bindings import driver

        _check(driver.cuInit(0))
        self.device = _check(driver.cuDeviceGet(device))
        self.context = _check(driver.cuDevicePrimaryCtxRetain(self.device))
        _check(driver.cuCtxSetCurrent(self.context))
        self.module = _check(driver.cuModuleLoadData(np.frombuffer(cubin, np.uint8).ctypes.data))
        self.function = _check(driver.cuModuleGetFunction(self.module, entry.encode()))
        self.block_size, self.shared_bytes = block_size, shared_bytes
        if shared_bytes > 48 * 1024:
            attribute = driver.CUfunction_attribute
            _check(
                driver.cuFuncSetAttribute(
                    self.function,
                    attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    shared_bytes,
                )
            )

    @contextmanager
    def loaded(self, batch: Batch, blocks: int | None = None) -> Iterator[Loaded]:
        """Hold a batch on the device.

        Parameters
        ----------
        batch : Batch
        blocks : int, optional
            Blocks to launch; their threads then take runs a grid apart. None gives every run a
            thread of its own.
        """
        from cuda.bindings import driver

        _check(driver.cuCtxSetCurrent(self.context))
        given = (batch.inputs, batch.initial, batch.settings, batch.times)
        written = (batch.samples, batch.finals, batch.counts)
        pointers: list[Any] = []
        try:
            for host in (*given, *written):
                pointers.append(_check(driver.cuMemAlloc(max(8, host.nbytes))))
            for host, pointer in zip(given, pointers, strict=False):
                if host.nbytes:
                    _check(driver.cuMemcpyHtoD(pointer, host.ctypes.data, host.nbytes))
            a, b, c, d, e, f, g = (int(pointer) for pointer in pointers)
            values = (
                batch.count, blocks is not None, a, b, c, d, batch.time_count, e, *batch.strides,
                f, g,
            )  # fmt: skip
            kinds = (c_int64, c_bool, *[c_void_p] * 4, c_int64, c_void_p, *[c_int64] * 3)
            kinds += (c_void_p, c_void_p)
            grid = (blocks or -(-batch.count // self.block_size), 1, 1)
            block = (self.block_size, 1, 1)

            def launch() -> None:
                _check(
                    driver.cuLaunchKernel(
                        self.function, *grid, *block, self.shared_bytes, 0, (values, kinds), 0
                    )
                )

            def fetch() -> None:
                for host, pointer in zip(written, pointers[len(given) :], strict=True):
                    _check(driver.cuMemcpyDtoH(host.ctypes.data, pointer, host.nbytes))

            yield Loaded(launch, fetch)
        finally:
            for pointer in pointers:
                driver.cuMemFree(pointer)
        batch.measured["device_bytes"] = sum(max(8, host.nbytes) for host in (*given, *written))

    def run(self, batch: Batch) -> None:
        """Integrate every run of the batch in one launch."""
        from cuda.bindings import driver

        began = perf_counter()
        with self.loaded(batch) as held:
            launched = perf_counter()
            held.launch()
            _check(driver.cuCtxSynchronize())
            kernel = perf_counter() - launched
            held.fetch()
        batch.measured["transfer_seconds"] = perf_counter() - began - kernel
        if batch.tick is not None:
            batch.tick(batch.count)


def shared_memory_limit(device: int = 0) -> int:
    """Return the bytes of shared memory a block may opt in to."""
    from cuda.bindings import driver

    _check(driver.cuInit(0))
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    return int(_check(driver.cuDeviceGetAttribute(attribute, _check(driver.cuDeviceGet(device)))))
