"""The simulator target: the CUDA kernel's own source, run in Python with checked memory.

Blocks are interpreted in NumPy, everything else is the source that is compiled: the kernel, the
driver, the slicing of shared and local memory. Memory starts as NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.kernel import FakeCUDAKernel

from cubie_flow.expressions.block import Block
from cubie_flow.expressions.dialect import Dialect, Place
from cubie_flow.expressions.interpret import BlockInterpreter
from cubie_flow.kernels.targets.batch import Batch
from cubie_flow.kernels.targets.batch_loop import make_driver
from cubie_flow.kernels.targets.cuda_kernel import make_kernel, take
from cubie_flow.kernels.targets.result_pool import KeptMemory

Array = Any
_NAN_BYTE = 0xFF


class _NanLocal:
    """Local arrays that start as NaN instead of what the allocator left."""

    def array(self, shape: int, dtype: Any) -> Array:
        words = np.empty(shape, np.dtype(str(dtype)))
        words.view(np.uint8)[:] = _NAN_BYTE
        return words


def _pointer(array: Array, offset: int, size: int) -> Array:
    """Return exactly the `size` bytes at `offset`; numpy would clip silently."""
    part = np.asarray(array).view(np.uint8)[offset : offset + size]
    assert part.nbytes == size, f"bytes {offset} to {offset + size} of {np.asarray(array).nbytes}"
    return part


class SimulatorProgram:
    """The CUDA kernel in numba's simulator, for small batches.

    Parameters
    ----------
    blocks : mapping
    dialect : Dialect
    places : mapping
    arena_bytes : tuple of int
    shared_stride : int
    block_size : int
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
        driver = make_driver(interpreted, take, 1, lambda function: function)
        self._kernel = make_kernel(driver, _pointer, shared_stride, *arena_bytes[1:])
        self._shared_stride, self._block_size = shared_stride, block_size

    def memory(self) -> KeptMemory:
        """Return what makes arrays for results."""
        return KeptMemory()

    def run(self, batch: Batch) -> None:
        """Integrate every run of the batch."""
        block = min(self._block_size, 32)
        blocks = -(-batch.count // block)
        kernel = FakeCUDAKernel(self._kernel, device=False)
        flat = [array.reshape(-1) for array in (batch.samples, batch.finals, batch.counts)]
        launch = kernel[blocks, block, 0, -(-self._shared_stride * block // 8) * 8]
        with _nan_memory():
            launch(
                batch.count, False, batch.inputs.reshape(-1), batch.initial, batch.settings,
                batch.times, batch.time_count, flat[0], *batch.strides, flat[1], flat[2],
            )  # fmt: skip
        if batch.tick is not None:
            batch.tick(batch.count)


class _nan_memory:
    """Make the simulator hand out NaN-filled shared and local memory."""

    def __enter__(self) -> None:
        self._local, self._shared = kernelapi.FakeCUDALocal, kernelapi.FakeCUDAShared

        class NanShared(self._shared):  # type: ignore[name-defined, misc]
            def __init__(self, size: int) -> None:
                super().__init__(size)
                self._dynshared.view(np.uint8)[:] = _NAN_BYTE

        kernelapi.FakeCUDALocal, kernelapi.FakeCUDAShared = _NanLocal, NanShared

    def __exit__(self, *_: object) -> None:
        kernelapi.FakeCUDALocal, kernelapi.FakeCUDAShared = self._local, self._shared
