"""One piece of a batch on a GPU: upload, launch, transposition and download in a stream."""

from __future__ import annotations

from collections.abc import Iterable
from ctypes import c_bool, c_int64, c_void_p
from typing import Any
from weakref import finalize

import numpy as np
from attrs import frozen

from cubie_flow.kernels.targets.batch import Batch
from cubie_flow.kernels.targets.cuda_api import check, pinned
from cubie_flow.kernels.targets.cuda_code import TILE, TILE_ROWS

Array = Any


@frozen(eq=False)
class LoadedKernel:
    """Loaded functions of a context, and the launch configuration of the kernel.

    Attributes
    ----------
    context, function : object
        Handles of the CUDA driver.
    block_size : int
        Threads per block.
    shared_bytes : int
        Dynamic shared memory per block.
    transpose : object
        Function that transposes samples; None for a kernel that does not sample.
    """

    context: Any
    function: Any
    block_size: int
    shared_bytes: int
    transpose: Any

    def make_current(self) -> None:
        """Make the context current in the calling thread."""
        from cuda.bindings import driver

        check(driver.cuCtxSetCurrent(self.context))


def run_bytes(batch: Batch) -> tuple[int, int, int, int]:
    """Return the bytes per run on the device: inputs, finals, counts, and samples."""
    real = batch.finals.itemsize
    sampled = len(batch.samples) * batch.time_count if batch.time_count else 0
    copies = 2 if batch.time_count > 1 else 1  # as written, and transposed
    return (
        real * len(batch.inputs),
        real * len(batch.finals),
        batch.counts.itemsize * len(batch.counts),
        real * sampled * copies,
    )


class Slot:
    """A stream and device memory for one piece of a batch at a time.

    Parameters
    ----------
    kernel : LoadedKernel

    Attributes
    ----------
    bytes : int
        Size of the device memory.
    """

    def __init__(self, kernel: LoadedKernel) -> None:
        from cuda.bindings import driver

        self._kernel = kernel
        self._stream = check(driver.cuStreamCreate(0))
        self._events = [check(driver.cuEventCreate(0)) for _ in range(2)]
        #: Address of the slab, if there is one; a list, so that it can be freed without the slot.
        self._slabs: list[int] = []
        self.bytes = 0
        self._staging: Array = np.empty(0, np.uint8)
        self._busy = False
        finalize(self, _release, kernel, self._stream, self._events, self._slabs)

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
        inputs, finals, counts, samples = (size * n for size in run_bytes(batch))
        transposed = samples // 2 if batch.time_count > 1 else 0
        offsets = self._reserve(
            (inputs, shared.nbytes, finals, counts, samples - transposed, transposed)
        )
        # Inputs and shared values are packed, so that one copy sends both.
        end = offsets[1] + shared.nbytes
        if self._staging.nbytes < end:
            self._staging = pinned.empty(end, np.uint8)
        staging = self._staging
        staging[:inputs].view(real).reshape(len(batch.inputs), n)[:] = batch.inputs[:, start:stop]
        staging[offsets[1] : end].view(real)[:] = shared
        check(driver.cuMemcpyHtoDAsync(self._at[0], staging.ctypes.data, end, self._stream))
        self._busy = True

    def _reserve(self, sizes: Iterable[int]) -> list[int]:
        """Reserve device memory for arrays of these bytes; return their offsets in the slab."""
        from cuda.bindings import driver

        offsets = [0]
        for size in sizes:
            offsets.append(offsets[-1] + -(-max(size, 8) // 256) * 256)
        if offsets[-1] > self.bytes:
            self.free()
            self._slabs.append(int(check(driver.cuMemAlloc(offsets[-1]))))
            self.bytes = offsets[-1]
        self._at = [self._slabs[0] + offset for offset in offsets[:-1]]
        return offsets

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
        grid = (blocks or -(-n // kernel.block_size), 1, 1)
        block = (kernel.block_size, 1, 1)
        check(driver.cuEventRecord(self._events[0], self._stream))
        check(
            driver.cuLaunchKernel(
                kernel.function, *grid, *block, kernel.shared_bytes, self._stream,
                (values, kinds), 0,
            )
        )  # fmt: skip
        check(driver.cuEventRecord(self._events[1], self._stream))

    def download(self) -> None:
        """Begin to transpose the samples and to copy all results to the host."""
        batch, n, start = self._batch, self._count, self._start
        *_, finals, counts, samples, transposed = self._at
        size, times = batch.finals.itemsize, batch.time_count
        if times > 1:
            self._transpose(samples, transposed, len(batch.samples))
            samples = transposed
        if times:
            self._copy_rows(batch.samples, samples, size * times * n, size * times * start)
        self._copy_rows(batch.finals, finals, size * n, size * start)
        self._copy_rows(batch.counts, counts, 4 * n, 4 * start)

    def _transpose(self, source: int, target: int, rows: int) -> None:
        from cuda.bindings import driver

        assert self._kernel.transpose is not None
        n, times = self._count, self._batch.time_count
        values = (n, times, rows, source, target)
        kinds = (*[c_int64] * 3, c_void_p, c_void_p)
        grid = (-(-n // TILE), min(-(-times // TILE), 65535), min(rows, 65535))
        check(
            driver.cuLaunchKernel(
                self._kernel.transpose,
                *grid,
                TILE,
                TILE_ROWS,
                1,
                0,
                self._stream,
                (values, kinds),
                0,
            )
        )

    def _copy_rows(self, host: Array, source: int, width: int, offset: int) -> None:
        """Copy rows of `width` bytes to `offset` bytes into each row of a host array."""
        from cuda.bindings import driver

        copy = driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.srcPitch = source, width
        copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_HOST
        copy.dstHost = host.ctypes.data + offset
        copy.dstPitch = host.nbytes // len(host)
        copy.WidthInBytes, copy.Height = width, len(host)
        check(driver.cuMemcpy2DAsync(copy, self._stream))

    def wait(self) -> float:
        """Wait for the piece in flight; return the seconds in the kernel."""
        from cuda.bindings import driver

        if not self._busy:
            return 0.0
        self._busy = False
        check(driver.cuStreamSynchronize(self._stream))
        return float(check(driver.cuEventElapsedTime(*self._events))) / 1e3


def _release(kernel: LoadedKernel, stream: Any, events: list[Any], slabs: list[int]) -> None:
    """Free the resources of a slot; the driver may already be unloaded when a process ends."""
    from cuda.bindings import driver

    driver.cuCtxSetCurrent(kernel.context)
    while slabs:
        driver.cuMemFree(slabs.pop())
    for event in events:
        driver.cuEventDestroy(event)
    driver.cuStreamDestroy(stream)
