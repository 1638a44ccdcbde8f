"""Compiled CUDA code, and the constants that host and device share."""

from __future__ import annotations

from attrs import asdict, frozen

#: The kernel that transposes samples works on tiles: elements along an edge, their stride in shared
#: memory, and rows that a block of threads reads at once.
TILE, TILE_STRIDE, TILE_ROWS = 32, 33, 8


@frozen
class CompilerStats:
    """Statistics of ptxas for one kernel on one architecture.

    Attributes
    ----------
    registers : int
        Registers per thread.
    stack, spill_stores, spill_loads : int
        Bytes per thread.
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
        """Return the statistics by name."""
        return asdict(self)


@frozen
class CudaCode:
    """A compiled kernel: PTX, cubin, entry name and the compiler's statistics."""

    ptx: str
    cubin: bytes
    entry: str
    arch: str
    figures: CompilerStats
