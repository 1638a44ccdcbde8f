"""The sizes of a batch on a GPU: device memory, pieces and grids. Arithmetic alone, no driver.

The program that runs a batch and the plan both take their numbers from here.
"""

from __future__ import annotations

from collections.abc import Sequence

from cubie_flow.errors import FlowError
from cubie_flow.kernels.targets.batch import COUNT_BYTES, BatchShape
from cubie_flow.kernels.targets.cuda_code import TILE

#: Fraction of the free device memory that a batch may use.
DEVICE_FRACTION = 0.8
#: Bytes on the device above which a batch is divided into pieces.
PIECE_BYTES = 64 << 20
#: Pieces on the device at a time: one is integrated, the other is copied.
SLOTS = 2
#: Arrays of a piece begin at multiples of this many bytes.
ALIGNMENT = 256
#: Largest distance between the rows of a two-dimensional copy, and largest extents of a grid
#: (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
MAX_PITCH = 2**31 - 1
MAX_GRID = 2**31 - 1, 65535, 65535


def regions(shape: BatchShape, runs: int) -> tuple[int, ...]:
    """Return the bytes of the arrays of a piece.

    Parameters
    ----------
    shape : BatchShape
    runs : int

    Returns
    -------
    tuple of int
        Of inputs, shared values, final values, counts, samples as the kernel writes them, and
        transposed samples.
    """
    samples = shape.sample_bytes * runs
    return (
        shape.real * shape.inputs * runs,
        shape.real * shape.shared,
        shape.real * shape.finals * runs,
        COUNT_BYTES * runs,
        samples,
        # The samples of a single time need no transposition.
        samples if shape.times > 1 else 0,
    )


def offsets(sizes: Sequence[int]) -> list[int]:
    """Return where arrays of these bytes begin in the memory of a piece, and its size."""
    places = [0]
    for size in sizes:
        places.append(places[-1] + -(-max(size, 8) // ALIGNMENT) * ALIGNMENT)
    return places


def slab_bytes(shape: BatchShape, runs: int) -> int:
    """Return the bytes of device memory for a piece of `runs` runs."""
    return offsets(regions(shape, runs))[-1]


def run_bytes(shape: BatchShape) -> int:
    """Return the bytes that one more run takes on the device, without alignment."""
    return sum(regions(shape, 1)) - shape.real * shape.shared


def fixed_bytes(shape: BatchShape) -> int:
    """Return the largest number of bytes of a piece that do not depend on its runs."""
    return shape.real * shape.shared + len(regions(shape, 1)) * ALIGNMENT


def piece_runs(count: int, each: int, free: int, resident: int, fixed: int = 0) -> int:
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
    fixed : int
        Bytes per piece on top.

    Raises
    ------
    FlowError
        If not even one run fits.
    """
    fitting = (int(DEVICE_FRACTION * free / SLOTS) - fixed) // each
    if fitting < 1:
        raise FlowError(
            f"one run takes {each + fixed:,} bytes on the GPU, which has {max(free, 0):,} bytes "
            "free; save fewer times or variables"
        )
    pieces = max(1, count * each // PIECE_BYTES)
    # Smaller pieces would leave part of the device idle.
    wanted = max(resident, -(-count // pieces))
    return min(fitting, wanted, count)


def slot_bytes(shape: BatchShape, count: int, free: int, resident: int) -> tuple[int, ...]:
    """Return the device memory of each slot after a batch of `count` runs; see `piece_runs`."""
    piece = piece_runs(count, run_bytes(shape), free, resident, fixed_bytes(shape))
    firsts = range(0, count, piece)[:SLOTS]
    return tuple(slab_bytes(shape, min(piece, count - first)) for first in firsts)


def most_slot_bytes(shape: BatchShape, count: int, free: int, resident: int) -> tuple[int, ...]:
    """Return the most that the slots take after batches of up to `count` runs.

    A batch just below two pieces has the longest ones.
    """
    each = run_bytes(shape)
    longest = min(count, max(resident, -(-2 * PIECE_BYTES // each) - 1))
    slots = slot_bytes(shape, count, free, resident)
    if len(slots) == 1:
        return slots
    fitting = piece_runs(longest, each, free, resident, fixed_bytes(shape))
    return (slab_bytes(shape, fitting),) * SLOTS


def kernel_grid(runs: int, block_size: int) -> tuple[int, int, int]:
    """Return the grid of the kernel for one run per thread."""
    return -(-runs // block_size), 1, 1


def transpose_grid(shape: BatchShape, runs: int) -> tuple[int, int, int]:
    """Return the grid that transposes samples; its blocks take further times and rows in turn."""
    _, y, z = MAX_GRID
    return -(-runs // TILE), min(-(-shape.times // TILE), y), min(shape.saved, z)
