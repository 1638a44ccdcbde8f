"""The batch loop of the CPU target as LLVM code, made by numba; this module imports numba."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from cubie_flow.expressions.block import Block
from cubie_flow.expressions.dialect import Dialect
from cubie_flow.expressions.emit_memory import I64
from cubie_flow.kernels.targets.batch_loop import make_batch_loop
from cubie_flow.kernels.targets.blocks import BLOCK, block_call
from cubie_flow.kernels.targets.numba_adapter import lower


@intrinsic  # type: ignore[untyped-decorator]
def _take(context: Any, counter: Any, following: Any, chunk: Any) -> Any:
    """Return the next run: the next of the thread's chunk, or the first of a new chunk."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        counter, following, chunk = args
        successor = builder.add(following, I64(1))
        index = builder.and_(successor, builder.sub(chunk, I64(1)))
        used_up = builder.icmp_signed("==", index, I64(0))
        # A thread without a run passes a negative number.
        needs_chunk = builder.or_(used_up, builder.icmp_signed("<", following, I64(0)))
        before = builder.block
        with builder.if_then(needs_chunk):
            first = builder.atomic_rmw("add", counter, chunk, "monotonic")
            after = builder.block
        run = builder.phi(I64)
        run.add_incoming(successor, before)
        run.add_incoming(first, after)
        return run

    return types.int64(counter, following, chunk), generate


@intrinsic  # type: ignore[untyped-decorator]
def _lowest(context: Any, mask: Any) -> Any:
    """Return the number of the lowest set bit of a mask that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(mask), generate


def lowered_loop(blocks: Mapping[str, Block], dialect: Dialect) -> tuple[Any, str]:
    """Return (LLVM module, entry symbol) of the batch loop, which calls its blocks by name.

    Parameters
    ----------
    blocks : mapping
        The run's blocks by name; only their arguments and results count.
    dialect : Dialect
    """

    def compile_function(function: Any) -> Any:
        # Inlined before anything is compiled: nobody runs the machine code of a part.
        return njit(function, inline="always")

    calls = {
        name: block_call(f"{BLOCK}{name}", block, intrinsic, types)
        for name, block in blocks.items()
    }
    batch_loop = make_batch_loop(calls, _take, dialect.lanes, compile_function, True, _lowest)

    def entry(
        shared: Any, local: Any, persistent: Any, runs: Any, attempts: int, count: int, chunk: int,
        counter: Any, inputs: Any, initial: Any, settings: Any, times: Any, time_count: int,
        samples: Any, rows: int, run_stride: int, time_stride: int, finals: Any, counts: Any,
    ) -> None:  # fmt: skip
        batch_loop(
            (shared, local, persistent), runs, attempts, (0, count, chunk, counter),
            (inputs, initial, settings),
            (times, time_count, samples, rows, run_stride, time_stride), (finals, counts),
        )  # fmt: skip

    real = types.CPointer(types.float64 if dialect.real == "float64" else types.float32)
    whole, size = types.CPointer(types.int64), types.int64
    signature = types.void(
        types.voidptr, types.voidptr, types.voidptr, whole, size, size, size, whole, real, real,
        real, real, size, real, size, size, size, real, types.CPointer(types.int32),
    )  # fmt: skip
    return lower(entry, signature)
