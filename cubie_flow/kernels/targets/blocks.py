"""Blocks as numba intrinsics, for either of numba's compilers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cubie_flow.expressions.block import Block
from cubie_flow.expressions.emit import ARENAS, I64, BlockEmitter, Dialect, Place


def block_intrinsic(
    block: Block,
    dialect: Dialect,
    places: Mapping[str, Place],
    intrinsic: Callable[[Any], Any],
    types: Any,
    bodies: Any = None,
) -> Any:
    """Return `block` as an intrinsic ``(memory, lane, *externals) -> int64 or None``.

    Parameters
    ----------
    block : Block
    dialect : Dialect
    places : mapping
        Place of every buffer that lives in memory.
    intrinsic : callable
        The decorator of numba or of numba-cuda.
    types : module
        The types module that goes with it.
    bodies : llvmlite.ir.Module, optional
        Where the block's own functions are defined, see `BlockEmitter`.
    """
    result = types.void if block.mask is None else types.int64

    def define(memory: Any, lane: Any, *externals: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arenas: dict[str, Any] = {
                arena: builder.extract_value(args[0], position)
                for position, arena in enumerate(ARENAS)
            }
            outside = {
                name: tuple(builder.extract_value(args[2 + position], i) for i in range(3))
                for position, name in enumerate(block.externals)
            }
            lane = args[1] if block.per_lane else None
            groups = [0] if block.per_lane else range(0, dialect.lanes, dialect.width)
            total: Any = None
            for first in groups:
                emitter = BlockEmitter(
                    builder, dialect, places, arenas, outside, lane, first, bodies
                )
                mask = emitter.run(block)
                if mask is not None and first:
                    mask = builder.shl(mask, I64(first))
                total = mask if total is None else builder.or_(total, mask)
            return context.get_dummy_value() if total is None else total

        return result(memory, lane, *externals), generate

    # Numba reads the parameters from the signature, so each count needs its own function.
    if len(block.externals) == 0:

        def declare0(context: Any, memory: Any, lane: Any) -> Any:
            return define(memory, lane)

        return intrinsic(declare0)
    if len(block.externals) == 1:

        def declare1(context: Any, memory: Any, lane: Any, a: Any) -> Any:
            return define(memory, lane, a)

        return intrinsic(declare1)
    if len(block.externals) == 2:

        def declare2(context: Any, memory: Any, lane: Any, a: Any, b: Any) -> Any:
            return define(memory, lane, a, b)

        return intrinsic(declare2)

    def declare3(context: Any, memory: Any, lane: Any, a: Any, b: Any, c: Any) -> Any:
        return define(memory, lane, a, b, c)

    assert len(block.externals) == 3
    return intrinsic(declare3)
