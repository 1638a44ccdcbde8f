"""The CUDA kernel around the batch loop; a GPU compiles this source, the simulator runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import cuda
from numba.cuda import types

from cubie_flow.kernels.targets.cuda_code import TILE, TILE_ROWS, TILE_STRIDE


def make_kernel(
    batch_loop: Callable[..., Any],
    pointer: Callable[..., Any],
    shared_stride: int,
    local_bytes: int,
    persistent_bytes: int,
) -> Callable[..., Any]:
    """Return the kernel: each thread is one lane, whose runs are one grid size apart.

    Parameters
    ----------
    batch_loop : callable
        From `make_batch_loop`, for one lane.
    pointer : callable
        ``pointer(array, offset, size)``: address of a run's part of an array, in bytes.
    shared_stride : int
        Bytes from one thread's part of shared memory to the next, padding included.
    local_bytes, persistent_bytes : int
        Size of the two local arenas.
    """
    # Arrays of float64 are aligned for every type; empty arrays are not allowed.
    local_words = max(1, -(-local_bytes // 8))
    persistent_words = max(1, -(-persistent_bytes // 8))

    def batch_kernel(
        count: int, persistent_threads: bool, inputs: Any, initial: Any, settings: Any, times: Any,
        time_count: int, samples: Any, rows: int, run_stride: int, time_stride: int, finals: Any,
        counts: Any,
    ) -> None:  # fmt: skip
        first = cuda.threadIdx.x + cuda.blockIdx.x * cuda.blockDim.x
        shared = cuda.shared.array(0, types.float64)
        local = cuda.local.array(local_words, types.float64)
        persistent = cuda.local.array(persistent_words, types.float64)
        run = cuda.local.array(1, types.int64)
        stride = cuda.gridDim.x * cuda.blockDim.x if persistent_threads else count
        memory = (
            pointer(shared, cuda.threadIdx.x * shared_stride, shared_stride),
            pointer(local, 0, local_bytes),
            pointer(persistent, 0, persistent_bytes),
        )
        if first < count:
            batch_loop(
                memory, run, 1, (first, count, stride, 0), (inputs, initial, settings),
                (times, time_count, samples, rows, run_stride, time_stride), (finals, counts),
            )  # fmt: skip

    return batch_kernel


def take(counter: int, following: int, stride: int) -> int:
    """Return the next run of this thread.

    Parameters
    ----------
    counter : int
        Not used: the runs of a thread are fixed.
    following : int
        The previous run.
    stride : int
        Threads of the grid.
    """
    return following + stride


def make_transpose(words: Any) -> Callable[..., Any]:
    """Return a kernel that transposes every row from (times, runs) to (runs, times).

    A block of `TILE` by `TILE_ROWS` threads transposes a tile in shared memory, so that both its
    reads and its writes are contiguous. The odd column keeps the threads of a warp in different
    banks.

    Parameters
    ----------
    words : numba type
        An integer of the elements' size.
    """

    def transpose(runs: int, times: int, rows: int, source: Any, target: Any) -> None:
        tile = cuda.shared.array((TILE, TILE_STRIDE), words)
        column, line = cuda.threadIdx.x, cuda.threadIdx.y
        first_run = cuda.blockIdx.x * TILE
        for row in range(cuda.blockIdx.z, rows, cuda.gridDim.z):
            base = row * runs * times
            for first_time in range(cuda.blockIdx.y * TILE, times, cuda.gridDim.y * TILE):
                for k in range(line, TILE, TILE_ROWS):
                    if first_run + column < runs and first_time + k < times:
                        offset = base + (first_time + k) * runs + first_run + column
                        tile[k, column] = source[offset]
                cuda.syncthreads()
                for k in range(line, TILE, TILE_ROWS):
                    if first_run + k < runs and first_time + column < times:
                        offset = base + (first_run + k) * times + first_time + column
                        target[offset] = tile[column, k]
                cuda.syncthreads()

    return transpose
