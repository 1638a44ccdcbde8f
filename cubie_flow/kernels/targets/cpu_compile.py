"""The CPU target's compiler: numba turns the driver and its blocks into object code.

Only a cold cache imports this module, and with it numba.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from cubie_flow.expressions.block import Block
from cubie_flow.expressions.dialect import Dialect, Place
from cubie_flow.expressions.emit_memory import I64
from cubie_flow.kernels.targets.batch_loop import make_driver
from cubie_flow.kernels.targets.blocks import block_call, define_block


@intrinsic  # type: ignore[untyped-decorator]
def _take(context: Any, counter: Any, following: Any, chunk: Any) -> Any:
    """Take the next run: of the thread's own chunk, else the first of one that all share."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        counter, following, chunk = args
        beside = builder.add(following, I64(1))
        place = builder.and_(beside, builder.sub(chunk, I64(1)))
        used_up = builder.icmp_signed("==", place, I64(0))
        # Before its first run a thread comes with a negative number.
        wanting = builder.or_(used_up, builder.icmp_signed("<", following, I64(0)))
        here = builder.block
        with builder.if_then(wanting):
            first = builder.atomic_rmw("add", counter, chunk, "monotonic")
            there = builder.block
        found = builder.phi(I64)
        found.add_incoming(beside, here)
        found.add_incoming(first, there)
        return found

    return types.int64(counter, following, chunk), generate


@intrinsic  # type: ignore[untyped-decorator]
def _lowest(context: Any, mask: Any) -> Any:
    """Return the number of the lowest bit that is set, of a mask that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(mask), generate


def compile_driver(
    blocks: Mapping[str, Block], dialect: Dialect, places: Mapping[str, Place]
) -> tuple[bytes, str]:
    """Return (object code, entry symbol) of the driver for this processor."""
    module, entry = _driver_module(blocks, dialect, places)
    return _target_machine().emit_object(module), entry


def driver_assembly(
    blocks: Mapping[str, Block],
    dialect: Dialect,
    places: Mapping[str, Place],
    processor: str | None = None,
) -> str:
    """Return the assembly of the driver, to see what instructions it is made of.

    `processor` is LLVM's name of another one than this machine's.
    """
    module, _ = _driver_module(blocks, dialect, places, processor)
    return str(_target_machine(processor).emit_assembly(module))


def _driver_module(
    blocks: Mapping[str, Block],
    dialect: Dialect,
    places: Mapping[str, Place],
    processor: str | None = None,
) -> tuple[Any, str]:
    """Return (optimised LLVM module, entry symbol) of the driver.

    The loop of the driver knows of its blocks only what they take and return, so numba, which is
    most of the time of a first kernel, lowers it once; the blocks are put into it by LLVM.
    """
    shape = tuple((name, block.externals, block.mask is None) for name, block in blocks.items())
    known = _loops.get((shape, dialect.real, dialect.lanes))
    if known is None:
        known = _loops[shape, dialect.real, dialect.lanes] = _lowered_loop(blocks, dialect)
    loop, name = known
    # Large functions are kept from the loop, which would optimise them several times over.
    bodies = ir.Module("flow_bodies", context=ir.Context())
    given = ir.Module("flow_blocks", context=ir.Context())
    for block_name, block in blocks.items():
        function = define_block(given, f"{_BLOCK}{block_name}", block, dialect, places, bodies)
        # It goes where all calls of it are inlined.
        function.linkage = "linkonce_odr"
        function.attributes.add("alwaysinline")
    module = llvm.parse_bitcode(loop)
    given.triple = module.triple
    module.link_in(llvm.parse_assembly(str(given)))
    _inline(module, processor)
    _optimise(module, 3, processor)
    # Large functions are optimised once.
    bodies.triple = module.triple
    apart = _promised(bodies)
    _optimise(apart, 2, processor)
    module.link_in(apart)
    missing = [f.name for f in module.functions if f.is_declaration and f.name.startswith("flow_")]
    assert not missing, missing
    return module, name


#: What numba made of the loop, (bitcode, entry symbol), by the shape of the blocks, the precision
#: and the lanes.
_loops: dict[tuple[Any, str, int], tuple[bytes, str]] = {}
_BLOCK = "flow_block_"


def _lowered_loop(blocks: Mapping[str, Block], dialect: Dialect) -> tuple[bytes, str]:
    """Return (bitcode, entry symbol) of the driver, which calls its blocks by their names."""

    def compile_function(function: Any) -> Any:
        # Inlined before anything is compiled: machine code of a part alone would be for nothing.
        return njit(function, inline="always")

    called = {
        name: block_call(f"{_BLOCK}{name}", block, intrinsic, types)
        for name, block in blocks.items()
    }
    driver = make_driver(called, _take, dialect.lanes, compile_function, True, _lowest)

    def entry(
        shared: Any, local: Any, persistent: Any, runs: Any, attempts: int, count: int, chunk: int,
        counter: Any, inputs: Any, initial: Any, settings: Any, times: Any, time_count: int,
        samples: Any, rows: int, run_stride: int, time_stride: int, finals: Any, counts: Any,
    ) -> None:  # fmt: skip
        driver(
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
    module, name = _lowered(entry, signature)
    return _promised(module).as_bitcode(), name


def _promised(module: Any) -> Any:
    """Return the module with what only we know of the functions in it.

    No two arrays overlap, so that what a run is can stay in registers from one attempt to the
    next; the counter is shared with other threads. And stacks are aligned to a vector register:
    else one of 512 bits is spilled to a multiple of 16 bytes, in two lines of the cache.
    """

    def promise(line: re.Match[str]) -> str:
        alone = re.sub(r"ptr (?=%arg\.)(?!%arg\.counter)", "ptr noalias ", line[1])
        return f"{alone} alignstack(64) {{"

    return llvm.parse_assembly(re.sub(r"(?m)^(define .*?) \{$", promise, str(module)))


def _inline(module: Any, processor: str | None) -> None:
    """Put the blocks where they are called, before anything is optimised."""
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    options = llvm.create_pipeline_tuning_options()
    passes.run(module, llvm.create_pass_builder(_target_machine(processor), options))


def _optimise(module: Any, level: int, processor: str | None) -> None:
    # What can be vectors is already.
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    options.slp_vectorization = options.loop_vectorization = False
    builder = llvm.create_pass_builder(_target_machine(processor), options)
    builder.getModulePassManager().run(module, builder)


def _lowered(function: Any, signature: Any) -> tuple[Any, str]:
    """Return (LLVM module, symbol) of a function.

    Numba is left before it would optimise the module and make machine code that nobody runs.
    """
    flags = compiler.Flags()
    flags.nrt = False
    flags.error_model = "numpy"
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    with global_compiler_lock:
        result = compiler.compile_extra(
            cpu_target.typing_context, cpu_target.target_context, function, signature.args,
            signature.return_type, flags, locals={},
        )  # fmt: skip
        library = result.library
        module = llvm.parse_assembly(str(library._final_module))
        for linked in dict.fromkeys(library._linking_libraries):
            module.link_in(linked._get_module_for_linking(), preserve=True)
    return module, result.fndesc.llvm_func_name


def _target_machine(processor: str | None = None) -> Any:
    # Numba emits for code that may lie anywhere, so every constant costs an instruction to
    # find its address; ours is one object, whose constants are near.
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=processor or llvm.get_host_cpu_name(),
        features="" if processor else llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="small",
    )
