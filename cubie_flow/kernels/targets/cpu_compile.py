"""The compiler of the CPU target: LLVM compiles the batch loop and its blocks to object code.

It is imported only for a kernel that is not cached, and imports numba only for a loop that is not
cached.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from cubie_flow.expressions.block import Block
from cubie_flow.expressions.dialect import Dialect, Place
from cubie_flow.kernels.cache import LOOP, KernelCache, source_digest
from cubie_flow.kernels.targets.blocks import BLOCK, define_block
from cubie_flow.kernels.targets.size import COMPILING, announce
from cubie_flow.kernels.targets.target import package_versions
from cubie_flow.process.signals import stop_if_asked


def compile_batch_loop(
    blocks: Mapping[str, Block],
    dialect: Dialect,
    places: Mapping[str, Place],
    cache: KernelCache | None = None,
) -> tuple[bytes, str]:
    """Return (object code, entry symbol) of the batch loop for this processor.

    Parameters
    ----------
    blocks : mapping
        The run's blocks by name.
    dialect : Dialect
    places : mapping
        Place of every buffer that is in memory.
    cache : KernelCache, optional
        Where loops that numba lowered are kept.
    """
    announce(blocks)
    module, entry = _batch_loop_module(blocks, dialect, places, cache)
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
    module, _ = _batch_loop_module(blocks, dialect, places, None, processor)
    return str(_target_machine(processor).emit_assembly(module))


def _batch_loop_module(
    blocks: Mapping[str, Block],
    dialect: Dialect,
    places: Mapping[str, Place],
    cache: KernelCache | None,
    processor: str | None = None,
) -> tuple[Any, str]:
    """Return (optimised LLVM module, entry symbol) of the batch loop.

    The blocks are inlined into a loop that numba lowered before.
    """
    loop, name = _loop(blocks, dialect, cache)
    # Large functions stay out of the loop, where LLVM would optimise them several times.
    bodies = ir.Module("flow_bodies", context=ir.Context())
    definitions = ir.Module("flow_blocks", context=ir.Context())
    for block_name, block in blocks.items():
        stop_if_asked(COMPILING)
        function = define_block(definitions, f"{BLOCK}{block_name}", block, dialect, places, bodies)
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


#: Lowered loops as (bitcode, entry symbol), by their key in the cache.
_loops: dict[str, tuple[bytes, str]] = {}


def _loop(
    blocks: Mapping[str, Block], dialect: Dialect, cache: KernelCache | None
) -> tuple[bytes, str]:
    """Return (bitcode, entry symbol) of the batch loop, which calls its blocks by name.

    It depends only on the arguments and results of its blocks, so most kernels of a method have
    the same. Numba takes longer to lower it than LLVM to compile the blocks: it is kept in the
    process and on disk.
    """
    parts = {
        "blocks": [(name, block.externals, block.mask is None) for name, block in blocks.items()],
        "dialect": (dialect.real, dialect.lanes),
        "source": source_digest(),
        "compilers": package_versions("numba", "llvmlite", "numpy"),
        "triple": llvm.get_default_triple(),
    }
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    if key not in _loops:
        stored = None if cache is None else cache.get(key, LOOP)
        if stored is not None:
            _loops[key] = stored[1]["bitcode"], stored[0]["entry"]
        else:
            from cubie_flow.kernels.targets.cpu_lowering import lowered_loop

            module, entry = lowered_loop(blocks, dialect)
            _loops[key] = _annotated(module).as_bitcode(), entry
            if cache is not None:
                cache.put(key, {"entry": entry}, {"bitcode": _loops[key][0]}, LOOP)
    return _loops[key]


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
