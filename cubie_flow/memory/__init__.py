"""Memory: factories that own buffers, their registry and layout, and the sizes of blocks."""

from cubie_flow.allowed_values import LOCATIONS
from cubie_flow.memory.arenas import ARENAS
from cubie_flow.memory.factory import CUDAFactory
from cubie_flow.memory.layout import Allocator, ChildAllocators, Layout, LayoutEntry, Region
from cubie_flow.memory.registry import BufferRegistry, buffer_registry
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
