"""Blocks as LLVM functions and as intrinsics for the compilers of numba and numba-cuda."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llvmlite import ir

from cubie_flow.expressions.block import Block
from cubie_flow.expressions.dialect import ARENAS, Dialect, Place
from cubie_flow.expressions.emit import BlockEmitter
from cubie_flow.expressions.emit_memory import I8, I32, I64

#: Prefix of the names of blocks as functions.
BLOCK = "flow_block_"


def emit_block(
    builder: Any,
    block: Block,
    dialect: Dialect,
    places: Mapping[str, Place],
    arenas: Mapping[str, Any],
    outside: Mapping[str, Any],
    lane: Any,
    bodies: Any = None,
) -> Any:
    """Emit `block` for one lane or for all, vector by vector; return its mask or None.

    Parameters
    ----------
    builder : llvmlite.ir.IRBuilder
    block : Block
    dialect : Dialect
    places : mapping
        Place of every buffer that is in memory.
    arenas : mapping
        Pointer to every arena, by its name.
    outside : mapping
        Pointer, offset and stride of every external array, by its name.
    lane : llvmlite.ir.Value
        Number of the lane; ignored by a block of all lanes.
    bodies : llvmlite.ir.Module, optional
        Where the block's own functions are defined, see `BlockEmitter`.
    """
    groups = [0] if block.per_lane else range(0, dialect.lanes, dialect.width)
    alone = lane if block.per_lane else None
    total: Any = None
    for first in groups:
        emitter = BlockEmitter(
            builder, dialect, places, dict(arenas), dict(outside), alone, first, bodies
        )
        mask = emitter.run(block)
        if mask is not None and first:
            mask = builder.shl(mask, I64(first))
        total = mask if total is None else builder.or_(total, mask)
    return total


def define_block(
    module: Any,
    name: str,
    block: Block,
    dialect: Dialect,
    places: Mapping[str, Place],
    bodies: Any = None,
) -> Any:
    """Define `block` as a function of a module; return it.

    Its arguments are the arenas, the lane, and three for every external array; see `emit_block`.

    Parameters
    ----------
    module : llvmlite.ir.Module
    name : str
    block : Block
    dialect : Dialect
    places : mapping
        Place of every buffer that is in memory.
    bodies : llvmlite.ir.Module, optional
        Where the block's own functions are defined, see `BlockEmitter`.
    """
    real = ir.DoubleType() if dialect.real == "float64" else ir.FloatType()
    arguments = [ir.PointerType(I8)] * len(ARENAS) + [I64]
    for external in block.externals:
        arguments += [ir.PointerType(I32 if external == "counts" else real), I64, I64]
    result = ir.VoidType() if block.mask is None else I64
    function = ir.Function(module, ir.FunctionType(result, arguments), name)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    arenas = dict(zip(ARENAS, function.args, strict=False))
    lane, *rest = function.args[len(ARENAS) :]
    outside = {
        external: tuple(rest[3 * i : 3 * i + 3]) for i, external in enumerate(block.externals)
    }
    mask = emit_block(builder, block, dialect, places, arenas, outside, lane, bodies)
    if mask is None:
        builder.ret_void()
    else:
        builder.ret(mask)
    return function


def block_intrinsic(
    block: Block,
    dialect: Dialect,
    places: Mapping[str, Place],
    intrinsic: Callable[[Any], Any],
    types: Any,
) -> Any:
    """Return `block` as an intrinsic ``(memory, lane, *externals) -> int64 or None``.

    Parameters
    ----------
    block : Block
    dialect : Dialect
    places : mapping
        Place of every buffer that is in memory.
    intrinsic : callable
        The decorator of numba or of numba-cuda.
    types : module
        The types module of the same compiler.
    """

    def generate(builder: Any, arenas: list[Any], lane: Any, outside: list[Any]) -> Any:
        return emit_block(
            builder, block, dialect, places, dict(zip(ARENAS, arenas, strict=True)),
            {name: tuple(three) for name, three in zip(block.externals, outside, strict=True)},
            lane,
        )  # fmt: skip

    return _intrinsic(block, generate, intrinsic, types)


def block_call(name: str, block: Block, intrinsic: Callable[[Any], Any], types: Any) -> Any:
    """Return an intrinsic that calls `block`, which `define_block` defines elsewhere.

    Parameters
    ----------
    name : str
        Name of the function.
    block : Block
    intrinsic : callable
        The decorator of numba or of numba-cuda.
    types : module
        The types module of the same compiler.
    """

    def generate(builder: Any, arenas: list[Any], lane: Any, outside: list[Any]) -> Any:
        arguments = [*arenas, lane, *(value for three in outside for value in three)]
        result = ir.VoidType() if block.mask is None else I64
        function = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(result, [value.type for value in arguments]), name
        )
        mask = builder.call(function, arguments)
        return None if block.mask is None else mask

    return _intrinsic(block, generate, intrinsic, types)


def _intrinsic(
    block: Block, emit: Callable[..., Any], intrinsic: Callable[[Any], Any], types: Any
) -> Any:
    """Return an intrinsic with the arguments of `block`; `emit` emits its body."""
    result = types.void if block.mask is None else types.int64

    def define(memory: Any, lane: Any, *externals: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arenas = [builder.extract_value(args[0], i) for i in range(len(ARENAS))]
            outside = [
                [builder.extract_value(external, i) for i in range(3)] for external in args[2:]
            ]
            mask = emit(builder, arenas, args[1], outside)
            return context.get_dummy_value() if mask is None else mask

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
