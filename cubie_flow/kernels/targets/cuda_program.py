"""Loaded CUDA kernels: batches that run piece by piece on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from time import perf_counter

from attrs import frozen

from cubie_flow.errors import FlowError
from cubie_flow.kernels.targets.batch import Batch
from cubie_flow.kernels.targets.cuda_api import (
    check,
    load_function,
    open_context,
    pinned,
    resident_threads,
)
from cubie_flow.kernels.targets.cuda_code import CudaCode
from cubie_flow.kernels.targets.cuda_slot import LoadedKernel, Slot, run_bytes
from cubie_flow.kernels.targets.result_pool import ResultPool

#: Fraction of the free device memory that a batch may use.
DEVICE_FRACTION = 0.8
#: Bytes on the device above which a batch is divided into pieces.
PIECE_BYTES = 64 << 20


@frozen(eq=False)
class LoadedBatch:
    """A whole batch on the device.

    Attributes
    ----------
    launch : callable
        Starts the kernel without waiting for it.
    fetch : callable
        Waits for the kernel and writes the arrays of the batch.
    """

    launch: Callable[[], None]
    fetch: Callable[[], None]


class CudaProgram:
    """A kernel loaded on one device.

    A large batch is divided into pieces: while one piece is integrated, the results of the
    previous one are copied to the host. The kernel writes samples with the run as the fastest
    axis, so that the threads of a warp write to neighbouring addresses; the device then transposes
    them.

    Parameters
    ----------
    code : CudaCode
        The kernel.
    block_size : int
        Threads per block, after fitting shared memory.
    shared_bytes : int
        Dynamic shared memory per block.
    device : int
        Number of the GPU.
    transpose : CudaCode, optional
        Kernel that transposes samples, see `cuda_compile.compile_transpose`; needed by a kernel
        that samples.

    Attributes
    ----------
    kernel : LoadedKernel
    """

    def __init__(
        self,
        code: CudaCode,
        block_size: int,
        shared_bytes: int,
        device: int = 0,
        transpose: CudaCode | None = None,
    ) -> None:
        context = open_context(device)
        function = load_function(code, shared_bytes)
        transposing = None if transpose is None else load_function(transpose)
        self.kernel = LoadedKernel(context, function, block_size, shared_bytes, transposing)
        self._resident = resident_threads(device)
        self._slots = [Slot(self.kernel), Slot(self.kernel)]
        # One batch at a time: all batches share the slots.
        self._lock = Lock()

    def memory(self) -> ResultPool:
        """Return the pool that result arrays come from; large ones are page-locked."""
        self.kernel.make_current()
        return pinned

    @contextmanager
    def loaded(self, batch: Batch, blocks: int | None = None) -> Iterator[LoadedBatch]:
        """Hold a whole batch on the device.

        Parameters
        ----------
        batch : Batch
        blocks : int, optional
            Blocks to launch, whose threads then integrate several runs each; None gives every run
            a thread of its own.
        """
        self.kernel.make_current()
        slot = Slot(self.kernel)
        slot.upload(batch, 0, batch.count)

        def fetch() -> None:
            slot.download()
            slot.wait()

        try:
            yield LoadedBatch(lambda: slot.launch(blocks), fetch)
        finally:
            slot.free()

    def run(self, batch: Batch) -> None:
        """Integrate every run of the batch."""
        with self._lock:
            self.kernel.make_current()
            began, kernel = perf_counter(), 0.0
            piece = self._piece(batch)
            starts = range(0, batch.count, piece)
            try:
                for number, start in enumerate(starts):
                    slot = self._slots[number % 2]
                    kernel += slot.wait()
                    slot.upload(batch, start, min(start + piece, batch.count))
                    slot.launch()
                    slot.download()
                    if batch.tick is not None:
                        batch.tick(start)
            finally:
                kernel += sum(slot.wait() for slot in self._slots)
            batch.measured["device_bytes"] = sum(slot.bytes for slot in self._slots)
            batch.measured["transfer_seconds"] = max(0.0, perf_counter() - began - kernel)
        if batch.tick is not None:
            batch.tick(batch.count)

    def _piece(self, batch: Batch) -> int:
        """Return the number of runs per piece."""
        from cuda.bindings import driver

        free, _ = check(driver.cuMemGetInfo())
        free += sum(slot.bytes for slot in self._slots)
        return piece_runs(batch.count, sum(run_bytes(batch)), free, self._resident)

    def resident_blocks(self) -> int:
        """Return how many blocks of the kernel a multiprocessor holds, asked of the driver."""
        from cuda.bindings import driver

        kernel = self.kernel
        blocks = driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(
            kernel.function, kernel.block_size, kernel.shared_bytes
        )
        return int(check(blocks))


def piece_runs(count: int, each: int, free: int, resident: int) -> int:
    """Return the number of runs per piece; two pieces are on the device at a time.

    Parameters
    ----------
    count : int
        Runs of the batch.
    each : int
        Bytes per run on the device.
    free : int
        Free bytes of the device, those of earlier pieces included.
    resident : int
        Largest number of threads that the device holds at once.

    Raises
    ------
    FlowError
        If not even one run fits.
    """
    fitting = int(DEVICE_FRACTION * free / 2) // each
    if fitting < 1:
        raise FlowError(
            f"one run takes {each:,} bytes on the GPU, which has {free:,} bytes free; save fewer "
            "times or variables"
        )
    pieces = max(1, count * each // PIECE_BYTES)
    # Smaller pieces would leave part of the device idle.
    wanted = max(resident, -(-count // pieces))
    return min(fitting, wanted, count)
