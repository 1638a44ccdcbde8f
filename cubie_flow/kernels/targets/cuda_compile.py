"""The CUDA target's compiler: driver and blocks to PTX and cubin, no GPU needed."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.compiler import compile_cuda, kernel_fixup
from numba.cuda.cudadrv.nvrtc import get_supported_ccs
from numba.cuda.extending import intrinsic

from cubie_flow.errors import FlowError
from cubie_flow.expressions.block import Block
from cubie_flow.expressions.dialect import Dialect, Place
from cubie_flow.expressions.emit_memory import I8, I64
from cubie_flow.kernels.targets.batch_loop import make_driver
from cubie_flow.kernels.targets.blocks import block_intrinsic
from cubie_flow.kernels.targets.cuda import CompilerFigures, CudaCode
from cubie_flow.kernels.targets.cuda_kernel import make_kernel, make_turner, take
from cubie_flow.memory.occupancy import capability

#: NVVM knows these only as libdevice functions.
_LIBDEVICE_ROUNDING = {"floor": "__nv_floor", "rint": "__nv_rint", "fabs": "__nv_fabs"}


def libdevice(name: str, bits: int) -> str:
    """Return the libdevice symbol of an elementary function."""
    return f"__nv_{name}" + ("f" if bits == 32 else "")


def rounding(name: str, bits: int) -> str | None:
    """Return the libdevice symbol that replaces an LLVM intrinsic, if one must."""
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
        Place of every buffer that lives in memory.
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
    driver = make_driver(compiled, compile_function(take), 1, compile_function)
    kernel = make_kernel(driver, _pointer, shared_stride, arena_bytes[1], arena_bytes[2])
    real = types.CPointer(types.float64 if dialect.real == "float64" else types.float32)
    size = types.int64
    signature = (
        size, types.boolean, real, real, real, real, size, real, size, size, size, real,
        types.CPointer(types.int32),
    )  # fmt: skip
    return _compiled(kernel, signature, arch)


def compile_turner(bits: int, arch: str) -> CudaCode:
    """Compile the kernel that turns samples of `bits` bits a value."""
    words = types.int64 if bits == 64 else types.int32
    pointer, size = types.CPointer(words), types.int64
    return _compiled(make_turner(words), (size, size, size, pointer, pointer), arch)


def _compiled(kernel: Any, signature: tuple[Any, ...], arch: str) -> CudaCode:
    number = capability(arch)
    if number not in get_supported_ccs():
        known = ", ".join(f"sm_{major}{minor}" for major, minor in get_supported_ccs())
        raise FlowError(f"target.arch is '{arch}'; the toolkit here compiles for {known}")
    result = compile_cuda(
        kernel, types.void, signature, nvvm_options={"fma": False, "opt": 3}, cc=number
    )
    library = result.library
    kernel_fixup(library.get_function(result.fndesc.llvm_func_name), False)
    library._entry_name = result.fndesc.llvm_func_name
    ptx = library.get_asm_str(cc=number)
    cubin, figures = link(ptx, arch)
    return CudaCode(ptx, cubin, library._entry_name, arch, figures)


def link(ptx: str, arch: str) -> tuple[bytes, CompilerFigures]:
    """Assemble PTX for `arch`; return the cubin and what the assembler reports.

    Raises
    ------
    FlowError
        With the assembler's own reason, such as a stack that no thread can have.
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
        said = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, said)
        lines = [line for line in said.decode(errors="replace").split("\n") if line.strip("\0 ")]
        reason = lines[0].strip("\0 ") if lines else str(error)
        raise FlowError(f"the assembler refuses the kernel for {arch}: {reason}") from error
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin), _figures(log.decode(errors="replace"), bytes(cubin))


def sections(cubin: bytes) -> dict[str, bytes]:
    """Return the sections of a cubin, which is a 64-bit ELF file, by name.

    Sections without contents, such as reserved shared memory, are empty here.
    """
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<3H", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    text, found = headers[names][4], {}
    for name, kind, _, _, start, length in headers:
        end = cubin.index(b"\0", text + name)
        held = b"" if kind == _NO_BITS else cubin[start : start + length]
        found[cubin[text + name : end].decode()] = held
    return found


_NO_BITS = 8
# Attributes of ``.nv.info``, each of a symbol and a number, as cuobjdump names them.
_EIFMT_SVAL, _EIATTR_REGCOUNT, _EIATTR_MIN_STACK_SIZE = 0x04, 0x2F, 0x12


def _attribute(info: bytes, wanted: int) -> int:
    """Return the largest value of an attribute among the functions of a cubin."""
    largest = place = 0
    while place + 4 <= len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, place)
        place += 4
        if form == _EIFMT_SVAL:
            if attribute == wanted and size == 8:
                largest = max(largest, struct.unpack_from("<2I", info, place)[1])
            place += size
    return largest


def _figures(log: str, cubin: bytes) -> CompilerFigures:
    held = sections(cubin)
    info = held.get(".nv.info", b"")
    stack = _attribute(info, _EIATTR_MIN_STACK_SIZE)

    def spilled(what: str) -> int:
        # The log is not always whole; without a stack there are no spills, and with one it
        # bounds them.
        found = [int(value) for value in re.findall(rf"(\d+) bytes spill {what}", log)]
        return max(found, default=stack)

    def total(prefix: str) -> int:
        return sum(len(part) for name, part in held.items() if name.startswith(prefix))

    return CompilerFigures(
        registers=_attribute(info, _EIATTR_REGCOUNT),
        stack=stack,
        spill_stores=spilled("stores"),
        spill_loads=spilled("loads"),
        constant=total(".nv.constant"),
        code=total(".text"),
    )
