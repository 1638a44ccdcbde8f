"""The CUDA target: compiled kernels from the cache or the compiler, loaded on one device."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from attrs import evolve

from cubie_flow.errors import FlowError
from cubie_flow.expressions.dialect import Dialect
from cubie_flow.kernels.cache import KernelCache, source_digest
from cubie_flow.kernels.targets.cuda_api import shared_memory_limit
from cubie_flow.kernels.targets.cuda_code import CompilerStats, CudaCode
from cubie_flow.kernels.targets.detect import cuda_devices, require_toolkit
from cubie_flow.kernels.targets.simulator import gpu_dialect
from cubie_flow.kernels.targets.target import BuildResult, Target, package_versions
from cubie_flow.memory.occupancy import capability

if TYPE_CHECKING:
    from cubie_flow.kernels.kernel import BatchSolverKernel

#: Packages that decide, together with our own source, what a kernel compiles to: all whose code or
#: libraries are loaded while one is compiled, see `tests/kernels/test_wheels.py`.
WHEELS = (
    "numba", "llvmlite", "numba-cuda", "cuda-bindings", "cuda-core", "cuda-pathfinder",
    "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime",
    "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12", "nvidia-cuda-nvrtc-cu12",
    "nvidia-cuda-runtime-cu12",
)  # fmt: skip


class CudaTarget(Target):
    """Compiles the batch loop for an NVIDIA GPU, one run per thread."""

    def dialect(self, kernel: BatchSolverKernel) -> Dialect:
        """Return how blocks are emitted: one run per thread."""
        return gpu_dialect(kernel)

    def build(self, kernel: BatchSolverKernel) -> BuildResult:
        """Return the program, loaded on the device of the settings."""
        started = perf_counter()
        require_toolkit("target.kind=cuda")
        devices, number = cuda_devices(), kernel.settings.device
        if len(devices) <= number:
            raise FlowError(
                f"target.device is {number}, but the driver offers {len(devices)} "
                "GPU(s); use target.kind=cpu, or task=doctor to see what is missing"
            )
        from cubie_flow.kernels.targets.cuda_program import CudaProgram

        given = kernel.settings.arch
        arch = given or devices[number].arch
        kernel.fit_block()  # refuses what no block has room for, before it is compiled
        code, cached = cuda_code(kernel, arch, exact=bool(given))
        fit = kernel.fit_block(registers=code.figures.registers)
        saving = bool(kernel.run.loop.settings.saved_numbers)
        transpose = _transpose_code(kernel, arch, bool(given)) if saving else None
        program = CudaProgram(code, fit.block_size, fit.shared_bytes, number, transpose)
        return BuildResult(program, perf_counter() - started, cached, code.figures.as_dict())

    def shared_memory_limit(self, kernel: BatchSolverKernel) -> int:
        """Return the limit of the device, or the common one where there is no device."""
        if not cuda_devices():
            return super().shared_memory_limit(kernel)
        return shared_memory_limit(kernel.settings.device)


def compiled_arch(arch: str) -> str:
    """Return the architecture to compile for, so that the code runs on a device of `arch`.

    The compiler may be older than the device. Code for an architecture runs on those of the same
    generation with a higher number. Without such a one, `arch` is returned and the compiler says
    what it lacks.
    """
    from cubie_flow.kernels.targets.numba_cuda_adapter import get_supported_ccs

    number, supported = capability(arch), get_supported_ccs()
    older = [each for each in supported if each[0] == number[0] and each <= number]
    return "sm_{}{}".format(*max(older)) if older else arch


def cuda_code(kernel: BatchSolverKernel, arch: str, exact: bool = True) -> tuple[CudaCode, bool]:
    """Return the code of a kernel for an architecture, and whether it was cached.

    Parameters
    ----------
    kernel : BatchSolverKernel
    arch : str
    exact : bool
        Whether to compile for `arch` itself; else for what runs on it, see `compiled_arch`.

    Raises
    ------
    FlowError
        If the compiler is not installed or does not know `arch`.
    """
    require_toolkit("compiling for CUDA")
    dialect = gpu_dialect(kernel)
    stride, compilers = kernel.shared_memory_bytes, package_versions(*WHEELS)
    key = kernel.cache_key(dialect, arch=arch, stride=stride, compilers=compilers)

    def compile_code() -> CudaCode:
        from cubie_flow.kernels.targets import cuda_compile as compiler

        emitted = evolve(dialect, library=compiler.libdevice, intrinsics=compiler.rounding)
        return compiler.compile_kernel(
            kernel.run.product, emitted, kernel.places, kernel.arena_bytes, stride,
            arch if exact else compiled_arch(arch),
        )  # fmt: skip

    return _cached(kernel.cache, key, arch, compile_code)


def _transpose_code(kernel: BatchSolverKernel, arch: str, exact: bool) -> CudaCode:
    """Return the code that transposes samples."""
    bits = kernel.dialect.bits
    parts = ("transpose", bits, arch, source_digest(), package_versions(*WHEELS))

    def compile_code() -> CudaCode:
        from cubie_flow.kernels.targets.cuda_compile import compile_transpose

        return compile_transpose(bits, arch if exact else compiled_arch(arch))

    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    return _cached(kernel.cache, key, arch, compile_code)[0]


def _cached(
    cache: KernelCache, key: str, arch: str, compile_code: Callable[[], CudaCode]
) -> tuple[CudaCode, bool]:
    """Return code and whether it was cached; new code is compiled and stored."""
    entry = cache.get(key)
    if entry is not None:
        header, parts = entry
        ptx = zlib.decompress(parts["ptx"]).decode()
        stats = CompilerStats(**header["figures"])
        return CudaCode(ptx, parts["cubin"], header["entry"], arch, stats), True
    code = compile_code()
    header = {"entry": code.entry, "target": "cuda", "figures": code.figures.as_dict()}
    # PTX is text that shrinks to a tenth.
    ptx_bytes = zlib.compress(code.ptx.encode(), 1)
    cache.put(key, header, {"cubin": code.cubin, "ptx": ptx_bytes})
    return code, False
