"""What differs between compilation targets: precision, lanes, functions, places of buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from attrs import frozen

from cubie_flow.expressions.elementary import lower
from cubie_flow.expressions.graph import ALONE, Node, as_node
from cubie_flow.expressions.traversal import fuse, substitute, topological, transform

Arena = Literal["shared", "local", "persistent"]
ARENAS: tuple[Arena, ...] = ("shared", "local", "persistent")


@frozen
class Place:
    """Where a buffer is in memory.

    Parameters
    ----------
    arena : {"shared", "local", "persistent"}
    offset : int
        Bytes from the start of a run's part of the arena.
    dtype : {"float32", "float64", "int32"}
    elements : int
    """

    arena: Arena
    offset: int
    dtype: str
    elements: int


@frozen
class Dialect:
    """Properties of a target that decide what is emitted for it.

    Parameters
    ----------
    real : {"float32", "float64"}
        Working precision.
    lanes : int
        Runs that a block computes together; 1 emits scalars.
    vector : int, optional
        Lanes per vector value, a divisor of `lanes`; by default all. With fewer, a block is
        emitted once for each group of lanes, one group after another. A processor overlaps the
        groups, and each group needs only its own registers.
    shared_space : int
        LLVM address space of shared memory, 3 on CUDA and 0 on a CPU.
    portable : bool
        Lower elementary functions to polynomials; otherwise call `library`.
    library : callable, optional
        ``library(name, bits) -> str``: symbol of an elementary function of the target.
    intrinsics : callable, optional
        ``intrinsics(name, bits) -> str or None``: what replaces an intrinsic of LLVM.
    """

    real: str
    lanes: int
    shared_space: int = 0
    portable: bool = True
    library: Callable[[str, int], str] | None = None
    intrinsics: Callable[[str, int], str | None] | None = None
    vector: int | None = None

    @property
    def width(self) -> int:
        """Lanes per vector value."""
        return min(self.vector or self.lanes, self.lanes)

    @property
    def bits(self) -> int:
        """Bits of the working precision."""
        return 64 if self.real == "float64" else 32


def _read_value(node: Node) -> Node:
    """Return the value of a look-up in the past without what its derivatives need."""
    return node.args[0] if node.op == "past" else node


def prepare(nodes: Sequence[Node], dialect: Dialect) -> list[Node]:
    """Return `nodes` in the form that is emitted: multiply-adds fused, functions lowered."""
    operations = {node.op for node in topological(nodes)}
    if "past" in operations:
        nodes = transform(nodes, _read_value)
    if "alone" in operations:
        nodes = substitute(nodes, {ALONE: as_node(dialect.lanes == 1)})
    nodes = fuse(nodes)
    return lower(nodes, dialect.bits) if dialect.portable and "call" in operations else list(nodes)
