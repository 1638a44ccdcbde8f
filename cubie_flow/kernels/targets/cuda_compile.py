"""The compiler of the CUDA target: batch loop and blocks to PTX and cubin, without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

from cubie_flow.errors import FlowError
from cubie_flow.expressions.block import Block
from cubie_flow.expressions.dialect import Dialect, Place
from cubie_flow.expressions.emit_memory import I8, I64
from cubie_flow.kernels.targets.batch_loop import make_batch_loop
from cubie_flow.kernels.targets.blocks import block_intrinsic
from cubie_flow.kernels.targets.cubin import compiler_stats
from cubie_flow.kernels.targets.cuda_code import CompilerStats, CudaCode
from cubie_flow.kernels.targets.cuda_kernel import make_kernel, make_transpose, take
from cubie_flow.kernels.targets.numba_cuda_adapter import compile_ptx, get_supported_ccs
from cubie_flow.memory.occupancy import capability

#: Functions that NVVM has only in libdevice.
_LIBDEVICE_ROUNDING = {"floor": "__nv_floor", "rint": "__nv_rint", "fabs": "__nv_fabs"}


def libdevice(name: str, bits: int) -> str:
    """Return the libdevice symbol of an elementary function."""
    return f"__nv_{name}" + ("f" if bits == 32 else "")


def rounding(name: str, bits: int) -> str | None:
    """Return the libdevice symbol that replaces an LLVM intrinsic, None if none is needed."""
    base = _LIBDEVICE_ROUNDING.get(name)
    return base and base + ("f" if bits == 32 else "")


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(context: Any, array: Any, offset: Any, size: Any) -> Any:
    """Return the address of a byte of an array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        start = builder.bitcast(data, ir.PointerType(I8))
        position = args[1]
        if position.type != I64:
            position = builder.sext(position, I64)
        return builder.gep(start, [position])

    return types.voidptr(array, offset, size), generate


def compile_kernel(
    blocks: Mapping[str, Block],
    dialect: Dialect,
    places: Mapping[str, Place],
    arena_bytes: tuple[int, int, int],
    shared_stride: int,
    arch: str,
) -> CudaCode:
    """Compile the batch kernel.

    Parameters
    ----------
    blocks : mapping
        The run's blocks by name.
    dialect : Dialect
    places : mapping
        Place of every buffer that is in memory.
    arena_bytes : tuple of int
        Bytes of a run's shared, local and persistent arena.
    shared_stride : int
        Bytes between the shared parts of neighbouring threads.
    arch : str
        Architecture, for instance ``"sm_90"``.
    """

    def compile_function(function: Any) -> Any:
        return cuda.jit(device=True, inline="always")(function)

    compiled = {
        name: block_intrinsic(block, dialect, places, intrinsic, types)
        for name, block in blocks.items()
    }
    batch_loop = make_batch_loop(compiled, compile_function(take), 1, compile_function)
    kernel = make_kernel(batch_loop, _pointer, shared_stride, arena_bytes[1], arena_bytes[2])
    real = types.CPointer(types.float64 if dialect.real == "float64" else types.float32)
    size = types.int64
    signature = (
        size, types.boolean, real, real, real, real, size, real, size, size, size, real,
        types.CPointer(types.int32),
    )  # fmt: skip
    return _compiled(kernel, signature, arch)


def compile_transpose(bits: int, arch: str) -> CudaCode:
    """Compile the kernel that transposes samples of `bits` bits per value."""
    words = types.int64 if bits == 64 else types.int32
    pointer, size = types.CPointer(words), types.int64
    return _compiled(make_transpose(words), (size, size, size, pointer, pointer), arch)


def _compiled(kernel: Any, signature: tuple[Any, ...], arch: str) -> CudaCode:
    number, supported = capability(arch), get_supported_ccs()
    if number not in supported:
        known = ", ".join(f"sm_{major}{minor}" for major, minor in supported)
        older = number < min(supported)
        remedy = '; for older GPUs: pip install "cubie-flow[cuda12]"' if older else ""
        raise FlowError(f"target.arch is '{arch}'; the toolkit here compiles for {known}{remedy}")
    ptx, entry = compile_ptx(kernel, signature, number)
    cubin, stats = link(ptx, arch)
    return CudaCode(ptx, cubin, entry, arch, stats)


def link(ptx: str, arch: str) -> tuple[bytes, CompilerStats]:
    """Assemble PTX for `arch`; return the cubin and the assembler's statistics.

    Raises
    ------
    FlowError
        With the assembler's reason, such as a stack that is too large for a thread.
    """
    from cuda.bindings import nvjitlink

    handle = nvjitlink.create(2, [f"-arch={arch}", "-verbose"])
    try:
        source = ptx.encode()
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, source, len(source), "kernel")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    except nvjitlink.nvJitLinkError as error:
        errors = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, errors)
        lines = [line for line in errors.decode(errors="replace").split("\n") if line.strip("\0 ")]
        reason = lines[0].strip("\0 ") if lines else str(error)
        raise FlowError(f"the assembler refuses the kernel for {arch}: {reason}") from error
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin), compiler_stats(log.decode(errors="replace"), bytes(cubin))
