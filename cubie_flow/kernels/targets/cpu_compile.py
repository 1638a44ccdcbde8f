"""The compiler of the CPU target: numba compiles the batch loop and its blocks to object code.

This module imports numba, so it is imported only for a kernel that is not cached.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from cubie_flow.expressions.block import Block
from cubie_flow.expressions.dialect import Dialect, Place
from cubie_flow.expressions.emit_memory import I64
from cubie_flow.kernels.targets.batch_loop import make_batch_loop
from cubie_flow.kernels.targets.blocks import block_call, define_block
from cubie_flow.kernels.targets.numba_adapter import lower
from cubie_flow.kernels.targets.size import COMPILING, announce
from cubie_flow.process.signals import stop_if_asked


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


def compile_batch_loop(
    blocks: Mapping[str, Block], dialect: Dialect, places: Mapping[str, Place]
) -> tuple[bytes, str]:
    """Return (object code, entry symbol) of the batch loop for this processor.

    Parameters
    ----------
    blocks : mapping
        The run's blocks by name.
    dialect : Dialect
    places : mapping
        Place of every buffer that is in memory.
    """
    announce(blocks)
    module, entry = _batch_loop_module(blocks, dialect, places)
    stop_if_asked(COMPILING)
    return _target_machine().emit_object(module), entry


def batch_loop_assembly(
    blocks: Mapping[str, Block],
    dialect: Dialect,
    places: Mapping[str, Place],
    processor: str | None = None,
) -> str:
    """Return the assembly of the batch loop, to inspect its instructions.

    Parameters
    ----------
    blocks : mapping
        The run's blocks by name.
    dialect : Dialect
    places : mapping
        Place of every buffer that is in memory.
    processor : str, optional
        LLVM's name of a processor; by default that of this machine.
    """
    module, _ = _batch_loop_module(blocks, dialect, places, processor)
    return str(_target_machine(processor).emit_assembly(module))


def _batch_loop_module(
    blocks: Mapping[str, Block],
    dialect: Dialect,
    places: Mapping[str, Place],
    processor: str | None = None,
) -> tuple[Any, str]:
    """Return (optimised LLVM module, entry symbol) of the batch loop.

    The loop depends only on the arguments and results of its blocks. Numba takes most of the time
    of a first kernel, so it lowers a loop once, and LLVM inlines the blocks.
    """
    shape = tuple((name, block.externals, block.mask is None) for name, block in blocks.items())
    key = (shape, dialect.real, dialect.lanes)
    if key not in _loops:
        _loops[key] = _lowered_loop(blocks, dialect)
    loop, name = _loops[key]
    # Large functions stay out of the loop, where LLVM would optimise them several times.
    bodies = ir.Module("flow_bodies", context=ir.Context())
    definitions = ir.Module("flow_blocks", context=ir.Context())
    for block_name, block in blocks.items():
        stop_if_asked(COMPILING)
        function = define_block(
            definitions, f"{_BLOCK}{block_name}", block, dialect, places, bodies
        )
        # LLVM drops it once all calls are inlined.
        function.linkage = "linkonce_odr"
        function.attributes.add("alwaysinline")
    module = llvm.parse_bitcode(loop)
    definitions.triple = module.triple
    module.link_in(llvm.parse_assembly(str(definitions)))
    stop_if_asked(COMPILING)
    _inline(module, processor)
    _optimise(module, 3, processor)
    # Large functions are optimised once, on their own.
    bodies.triple = module.triple
    stop_if_asked(COMPILING)
    large = _annotated(bodies)
    _optimise(large, 2, processor)
    module.link_in(large)
    missing = [f.name for f in module.functions if f.is_declaration and f.name.startswith("flow_")]
    assert not missing, missing
    return module, name


#: Lowered loops as (bitcode, entry symbol), by the shape of the blocks, the precision and the
#: lanes.
_loops: dict[tuple[Any, str, int], tuple[bytes, str]] = {}
_BLOCK = "flow_block_"


def _lowered_loop(blocks: Mapping[str, Block], dialect: Dialect) -> tuple[bytes, str]:
    """Return (bitcode, entry symbol) of the batch loop, which calls its blocks by name."""

    def compile_function(function: Any) -> Any:
        # Inlined before anything is compiled: nobody runs the machine code of a part.
        return njit(function, inline="always")

    calls = {
        name: block_call(f"{_BLOCK}{name}", block, intrinsic, types)
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
    module, name = lower(entry, signature)
    return _annotated(module).as_bitcode(), name


def _annotated(module: Any) -> Any:
    """Return the module with attributes that LLVM cannot infer.

    No two arrays overlap, so the state of a run can stay in registers between attempts; only the
    counter is shared with other threads. Stacks are aligned to a vector register: otherwise a
    512-bit register may be spilled across two cache lines.
    """

    def annotate(line: re.Match[str]) -> str:
        arguments = re.sub(r"ptr (?=%arg\.)(?!%arg\.counter)", "ptr noalias ", line[1])
        return f"{arguments} alignstack(64) {{"

    return llvm.parse_assembly(re.sub(r"(?m)^(define .*?) \{$", annotate, str(module)))


def _inline(module: Any, processor: str | None) -> None:
    """Inline the blocks before anything is optimised."""
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    options = llvm.create_pipeline_tuning_options()
    passes.run(module, llvm.create_pass_builder(_target_machine(processor), options))


def _optimise(module: Any, level: int, processor: str | None) -> None:
    # The emitted blocks are vector code already.
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    options.slp_vectorization = options.loop_vectorization = False
    builder = llvm.create_pass_builder(_target_machine(processor), options)
    builder.getModulePassManager().run(module, builder)


def _target_machine(processor: str | None = None) -> Any:
    # Numba emits code that may be placed anywhere, so each constant costs an instruction for its
    # address. Ours is one object whose constants are near.
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=processor or llvm.get_host_cpu_name(),
        features="" if processor else llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="small",
    )
