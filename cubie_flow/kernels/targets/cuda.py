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

if TYPE_CHECKING:
    from cubie_flow.kernels.kernel import BatchSolverKernel

#: Packages that decide, together with our own source, what a kernel compiles to.
WHEELS = (
    "numba", "llvmlite", "numba-cuda", "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink",
    "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12",
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

        arch = kernel.settings.arch or devices[number].arch
        fit = kernel.fit_block()
        code, cached = cuda_code(kernel, arch)
        transpose = _transpose_code(kernel, arch) if kernel.run.loop.settings.sampling else None
        program = CudaProgram(code, fit.block_size, fit.shared_bytes, number, transpose)
        return BuildResult(program, perf_counter() - started, cached, code.figures.as_dict())

    def shared_memory_limit(self, kernel: BatchSolverKernel) -> int:
        """Return the limit of the device, or the common one where there is no device."""
        if not cuda_devices():
            return super().shared_memory_limit(kernel)
        return shared_memory_limit(kernel.settings.device)


def cuda_code(kernel: BatchSolverKernel, arch: str) -> tuple[CudaCode, bool]:
    """Return the code of a kernel for an architecture, and whether it was cached.

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
            kernel.run.product, emitted, kernel.places, kernel.arena_bytes, stride, arch
        )

    return _cached(kernel.cache, key, arch, compile_code)


def _transpose_code(kernel: BatchSolverKernel, arch: str) -> CudaCode:
    """Return the code that transposes samples."""
    bits = kernel.dialect.bits
    parts = ("transpose", bits, arch, source_digest(), package_versions(*WHEELS))

    def compile_code() -> CudaCode:
        from cubie_flow.kernels.targets.cuda_compile import compile_transpose

        return compile_transpose(bits, arch)

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
