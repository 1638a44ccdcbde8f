"""One piece of a batch on a GPU: upload, launch, transposition and download in a stream."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from ctypes import c_bool, c_int64, c_void_p
from typing import Any
from weakref import finalize

import numpy as np

from cubie_flow.kernels.targets.batch import Batch
from cubie_flow.kernels.targets.cuda_api import (
    check,
    current,
    load_function,
    note_stack,
    open_context,
    pinned,
    thread_stack,
)
from cubie_flow.kernels.targets.cuda_code import TILE, TILE_ROWS, CudaCode
from cubie_flow.kernels.targets.cuda_sizes import (
    MAX_PITCH,
    kernel_grid,
    offsets,
    regions,
    transpose_grid,
)

Array = Any


class LoadedKernel:
    """Functions loaded on a device, and the launch configuration of the kernel.

    The modules are unloaded with it; its slots hold it.

    Parameters
    ----------
    code : CudaCode
    block_size : int
        Threads per block.
    shared_bytes : int
        Dynamic shared memory per block.
    device : int
        Number of the GPU.
    transpose : CudaCode, optional
        Kernel that transposes samples; None for a kernel that does not sample.

    Attributes
    ----------
    function, transpose : object
        Handles of the CUDA driver.
    stack : int
        Bytes of local memory per thread.
    """

    def __init__(
        self,
        code: CudaCode,
        block_size: int,
        shared_bytes: int,
        device: int = 0,
        transpose: CudaCode | None = None,
    ) -> None:
        self.block_size, self.shared_bytes, self.device = block_size, shared_bytes, device
        self._context = open_context(device)
        modules: list[Any] = []
        finalize(self, _unload, self._context, modules).atexit = False
        with self.current():
            module, self.function = load_function(code, shared_bytes)
            modules.append(module)
            self.transpose = None
            if transpose is not None:
                module, self.transpose = load_function(transpose)
                modules.append(module)
            self.stack = thread_stack(self.function)

    @property
    def context(self) -> Any:
        """Handle of the device's primary context."""
        return self._context

    def current(self) -> AbstractContextManager[None]:
        """Return a block in which the context is current in the calling thread."""
        return current(self._context)


class Slot:
    """A stream and device memory for one piece of a batch at a time.

    All methods are called with the context of the kernel current.

    Parameters
    ----------
    kernel : LoadedKernel

    Attributes
    ----------
    bytes : int
        Size of the device memory.
    busy : bool
        Whether work may be in flight, see `wait`.
    """

    def __init__(self, kernel: LoadedKernel) -> None:
        from cuda.bindings import driver

        self._kernel = kernel
        self._stream = check(driver.cuStreamCreate(0))
        self._events: list[Any] = []
        #: Address of the slab, if there is one; a list, so that it can be freed without the slot.
        self._slabs: list[int] = []
        self.bytes = 0
        self._staging: Array = np.empty(0, np.uint8)
        self.busy = False
        resources = self._stream, self._events, self._slabs
        finalize(self, _release, kernel, *resources).atexit = False
        for _ in range(2):
            self._events.append(check(driver.cuEventCreate(0)))

    def free(self) -> None:
        """Free the device memory."""
        from cuda.bindings import driver

        while self._slabs:
            driver.cuMemFree(self._slabs.pop())
        self.bytes = 0

    def upload(self, batch: Batch, start: int, stop: int) -> None:
        """Begin to send the inputs of the runs from `start` to before `stop`.

        Parameters
        ----------
        batch : Batch
        start, stop : int
        """
        from cuda.bindings import driver

        self._batch, self._start, self._count = batch, start, stop - start
        n, real = self._count, batch.finals.dtype
        shared = np.concatenate([batch.settings, batch.times, batch.initial]).astype(real)
        sizes = regions(batch.shape, n)
        places = self._reserve(sizes)
        # Inputs and shared values are packed, so that one copy sends both.
        inputs, end = sizes[0], places[1] + shared.nbytes
        if self._staging.nbytes < end:
            self._staging = pinned.empty(end, np.uint8)
        staging = self._staging
        staging[:inputs].view(real).reshape(len(batch.inputs), n)[:] = batch.inputs[:, start:stop]
        staging[places[1] : end].view(real)[:] = shared
        self.busy = True
        check(driver.cuMemcpyHtoDAsync(self._at[0], staging.ctypes.data, end, self._stream))

    def _reserve(self, sizes: Sequence[int]) -> list[int]:
        """Reserve device memory for arrays of these bytes; return their offsets in the slab."""
        from cuda.bindings import driver

        places = offsets(sizes)
        if places[-1] > self.bytes:
            self.free()
            doing = (
                f"when {places[-1]:,} bytes of GPU memory were reserved for {self._count:,} runs; "
                "other programs may use this GPU"
            )
            self._slabs.append(int(check(driver.cuMemAlloc(places[-1]), doing)))
            self.bytes = places[-1]
        self._at = [self._slabs[0] + place for place in places[:-1]]
        return places

    def launch(self, blocks: int | None = None) -> None:
        """Begin to integrate.

        Parameters
        ----------
        blocks : int, optional
            Blocks to launch, whose threads then integrate several runs each; None gives every run
            a thread of its own.
        """
        from cuda.bindings import driver

        batch, kernel, n = self._batch, self._kernel, self._count
        inputs, shared, finals, counts, samples, _ = self._at
        size = batch.finals.itemsize
        times = shared + size * len(batch.settings)
        initial = times + size * len(batch.times)
        values = (
            n, blocks is not None, inputs, initial, shared, times, batch.time_count, samples,
            n * batch.time_count, 1, n, finals, counts,
        )  # fmt: skip
        kinds = (c_int64, c_bool, *[c_void_p] * 4, c_int64, c_void_p, *[c_int64] * 3)
        kinds += (c_void_p, c_void_p)
        grid = kernel_grid(n, kernel.block_size) if blocks is None else (blocks, 1, 1)
        self.busy = True
        check(driver.cuEventRecord(self._events[0], self._stream))
        check(
            driver.cuLaunchKernel(
                kernel.function, *grid, kernel.block_size, 1, 1, kernel.shared_bytes,
                self._stream, (values, kinds), 0,
            ),
            f"when blocks of {kernel.block_size} threads were launched",
        )  # fmt: skip
        note_stack(kernel.device, kernel.stack)
        check(driver.cuEventRecord(self._events[1], self._stream))

    def download(self) -> None:
        """Begin to transpose the samples and to copy all results to the host."""
        batch, n, start = self._batch, self._count, self._start
        shape = batch.shape
        *_, finals, counts, samples, transposed = self._at
        if shape.saved:
            if shape.times > 1:
                self._transpose(samples, transposed)
                samples = transposed
            each = shape.real * shape.times
            self._copy_rows(batch.samples, samples, each * n, each * start)
        self._copy_rows(batch.finals, finals, shape.real * n, shape.real * start)
        self._copy_rows(batch.counts, counts, 4 * n, 4 * start)

    def _transpose(self, source: int, target: int) -> None:
        from cuda.bindings import driver

        shape, n = self._batch.shape, self._count
        values = (n, shape.times, shape.saved, source, target)
        kinds = (*[c_int64] * 3, c_void_p, c_void_p)
        check(
            driver.cuLaunchKernel(
                self._kernel.transpose, *transpose_grid(shape, n), TILE, TILE_ROWS, 1, 0,
                self._stream, (values, kinds), 0,
            )
        )  # fmt: skip

    def _copy_rows(self, host: Array, source: int, width: int, offset: int) -> None:
        """Copy rows of `width` bytes to `offset` bytes into each row of a host array."""
        from cuda.bindings import driver

        pitch = host.nbytes // len(host)
        if pitch > MAX_PITCH:
            for row in range(len(host)):
                target = host.ctypes.data + row * pitch + offset
                check(driver.cuMemcpyDtoHAsync(target, source + row * width, width, self._stream))
            return
        copy = driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.srcPitch = source, width
        copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_HOST
        copy.dstHost = host.ctypes.data + offset
        copy.dstPitch = pitch
        copy.WidthInBytes, copy.Height = width, len(host)
        check(driver.cuMemcpy2DAsync(copy, self._stream))

    def wait(self) -> float:
        """Wait for the piece in flight; return the seconds in the kernel.

        Until it returns or raises an error of the driver, memory of the batch may be written.
        """
        from cuda.bindings import driver

        if not self.busy:
            return 0.0
        status = driver.cuStreamSynchronize(self._stream)
        self.busy = False
        check(status, "while the GPU integrated")
        return float(check(driver.cuEventElapsedTime(*self._events))) / 1e3


# A garbage collection calls the following in any thread; the context of that thread stays.


def _release(kernel: LoadedKernel, stream: Any, events: list[Any], slabs: list[int]) -> None:
    """Free the resources of a slot."""
    from cuda.bindings import driver

    driver.cuCtxPushCurrent(kernel.context)
    # Work may be in flight if the batch was abandoned.
    driver.cuStreamSynchronize(stream)
    while slabs:
        driver.cuMemFree(slabs.pop())
    for event in events:
        driver.cuEventDestroy(event)
    driver.cuStreamDestroy(stream)
    driver.cuCtxPopCurrent()


def _unload(context: Any, modules: list[Any]) -> None:
    """Unload the modules of a kernel."""
    from cuda.bindings import driver

    driver.cuCtxPushCurrent(context)
    for module in modules:
        driver.cuModuleUnload(module)
    driver.cuCtxPopCurrent()
