"""Batches in the CUDA simulator of numba, in checked memory that starts as NaN.

Blocks are interpreted in NumPy. Everything else is the source that a GPU compiles: the kernel, the
batch loop, and the slicing of shared and local memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cubie_flow.expressions.block import Block
from cubie_flow.expressions.dialect import Dialect, Place
from cubie_flow.expressions.interpret import BlockInterpreter
from cubie_flow.kernels.targets.batch import Batch
from cubie_flow.kernels.targets.batch_loop import make_batch_loop
from cubie_flow.kernels.targets.cuda_kernel import make_kernel, take
from cubie_flow.kernels.targets.numba_cuda_adapter import FakeCUDAKernel, simulated_memory
from cubie_flow.kernels.targets.result_pool import ResultPool

Array = Any
_NAN_BYTE = 0xFF


def _pointer(array: Array, offset: int, size: int) -> Array:
    """Return the `size` bytes at `offset`; NumPy would clip a range that is too long."""
    part = np.asarray(array).view(np.uint8)[offset : offset + size]
    assert part.nbytes == size, f"bytes {offset} to {offset + size} of {np.asarray(array).nbytes}"
    return part


class SimulatorProgram:
    """The CUDA kernel in numba's simulator, for small batches.

    Parameters
    ----------
    blocks : mapping
        The run's blocks by name.
    dialect : Dialect
    places : mapping
        Place of every buffer that is in memory.
    arena_bytes : tuple of int
        Bytes of a run's shared, local and persistent arena.
    shared_stride : int
        Bytes between the shared parts of neighbouring threads.
    block_size : int
        Threads per block.
    """

    def __init__(
        self,
        blocks: Mapping[str, Block],
        dialect: Dialect,
        places: Mapping[str, Place],
        arena_bytes: tuple[int, int, int],
        shared_stride: int,
        block_size: int,
    ) -> None:
        interpreted = {
            name: BlockInterpreter(block, dialect, places) for name, block in blocks.items()
        }
        batch_loop = make_batch_loop(interpreted, take, 1, lambda function: function)
        self._kernel = make_kernel(batch_loop, _pointer, shared_stride, *arena_bytes[1:])
        self._shared_stride, self._block_size = shared_stride, block_size

    def memory(self) -> ResultPool:
        """Return the pool that result arrays come from."""
        return ResultPool()

    def run(self, batch: Batch) -> None:
        """Integrate every run of the batch."""
        block = min(self._block_size, 32)
        blocks = -(-batch.count // block)
        kernel = FakeCUDAKernel(self._kernel, device=False)
        flat = [array.reshape(-1) for array in (batch.samples, batch.finals, batch.counts)]
        launch = kernel[blocks, block, 0, -(-self._shared_stride * block // 8) * 8]
        with simulated_memory(_NAN_BYTE):
            launch(
                batch.count, False, batch.inputs.reshape(-1), batch.initial, batch.settings,
                batch.times, batch.time_count, flat[0], *batch.strides, flat[1], flat[2],
            )  # fmt: skip
        if batch.tick is not None:
            batch.tick(batch.count)
