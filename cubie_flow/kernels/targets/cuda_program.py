"""Loaded CUDA kernels: batches that run piece by piece on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from time import perf_counter

from attrs import frozen

from cubie_flow.errors import FlowError
from cubie_flow.kernels.targets.batch import Batch
from cubie_flow.kernels.targets.cuda_api import (
    check,
    missing_stack,
    pinned,
    resident_threads,
    stack_problem,
)
from cubie_flow.kernels.targets.cuda_code import CudaCode
from cubie_flow.kernels.targets.cuda_sizes import SLOTS, fixed_bytes, piece_runs, run_bytes
from cubie_flow.kernels.targets.cuda_slot import LoadedKernel, Slot
from cubie_flow.kernels.targets.result_pool import ResultPool


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
        from cuda.bindings import driver

        self.kernel = LoadedKernel(code, block_size, shared_bytes, device, transpose)
        self._resident = resident_threads(device)
        with self.kernel.current():
            _, memory = check(driver.cuMemGetInfo())
        if problem := stack_problem(self.kernel.stack, self._resident, memory):
            raise FlowError(problem)
        with self.kernel.current():
            self._slots = [Slot(self.kernel) for _ in range(SLOTS)]
        # One batch at a time: all batches share the slots.
        self._lock = Lock()

    def memory(self) -> ResultPool:
        """Return the pool that result arrays come from; large ones are page-locked."""
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
        with self.kernel.current():
            slot = Slot(self.kernel)

            def fetch() -> None:
                slot.download()
                slot.wait()

            try:
                slot.upload(batch, 0, batch.count)
                yield LoadedBatch(lambda: slot.launch(blocks), fetch)
            finally:
                slot.free()

    def run(self, batch: Batch) -> None:
        """Integrate every run of the batch.

        Raises
        ------
        FlowError
            The first error of the driver. No memory of the batch is in use any more.
        """
        with self._lock, self.kernel.current():
            began, kernel = perf_counter(), 0.0
            try:
                piece = self._piece(batch)
                for number, start in enumerate(range(0, batch.count, piece)):
                    slot = self._slots[number % SLOTS]
                    kernel += slot.wait()
                    slot.upload(batch, start, min(start + piece, batch.count))
                    slot.launch()
                    slot.download()
                    if batch.tick is not None:
                        batch.tick(start)
            except BaseException:
                with suppress(BaseException):
                    self._wait()
                raise
            kernel += self._wait()
            batch.measured["device_bytes"] = sum(slot.bytes for slot in self._slots)
            batch.measured["device_local_bytes"] = self.kernel.stack * self._resident
            batch.measured["transfer_seconds"] = max(0.0, perf_counter() - began - kernel)
        if batch.tick is not None:
            batch.tick(batch.count)

    def _wait(self) -> float:
        """Wait for every slot, then raise the first error; return the seconds in the kernel."""
        kernel, errors = 0.0, list[BaseException]()
        for slot in self._slots:
            # An interrupt must not leave a slot that still writes to the memory of the batch.
            while slot.busy:
                try:
                    kernel += slot.wait()
                except BaseException as error:
                    errors.append(error)
        try:
            if errors:
                raise errors[0]
        finally:
            del errors  # an error that its own traceback holds would hold the slots, too
        return kernel

    def _piece(self, batch: Batch) -> int:
        """Return the number of runs per piece."""
        from cuda.bindings import driver

        free, _ = check(driver.cuMemGetInfo())
        free += sum(slot.bytes for slot in self._slots)
        # The first launch takes local memory, which is free until then.
        free -= missing_stack(self.kernel.device, self.kernel.stack)
        shape = batch.shape
        return piece_runs(batch.count, run_bytes(shape), free, self._resident, fixed_bytes(shape))

    def resident_blocks(self) -> int:
        """Return how many blocks of the kernel a multiprocessor holds, asked of the driver."""
        from cuda.bindings import driver

        kernel = self.kernel
        with kernel.current():
            blocks = driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(
                kernel.function, kernel.block_size, kernel.shared_bytes
            )
            return int(check(blocks))
