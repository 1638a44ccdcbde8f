"""Memory: factories that own buffers, the registry that places them, the sizes that follow."""

from cubie_flow.memory.factory import CUDAFactory
from cubie_flow.memory.registry import (
    ARENAS,
    LOCATIONS,
    Allocator,
    BufferRegistry,
    ChildAllocators,
    Layout,
    LayoutEntry,
    Region,
    buffer_registry,
)
from cubie_flow.memory.sizing import BlockFit, bank_conflicts, fit_block, padded_stride_bytes

__all__ = [
    "ARENAS",
    "LOCATIONS",
    "Allocator",
    "BlockFit",
    "BufferRegistry",
    "CUDAFactory",
    "ChildAllocators",
    "Layout",
    "LayoutEntry",
    "Region",
    "bank_conflicts",
    "buffer_registry",
    "fit_block",
    "padded_stride_bytes",
]
