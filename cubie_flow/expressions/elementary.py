"""Elementary functions as branch-free polynomials in graph primitives."""

from __future__ import annotations

from collections.abc import Sequence

from cubie_flow.expressions.graph import Node


def lower(nodes: Sequence[Node], width: int) -> list[Node]:
    """Return `nodes` with every elementary function replaced by primitives of `width` bits."""
    return list(nodes)
