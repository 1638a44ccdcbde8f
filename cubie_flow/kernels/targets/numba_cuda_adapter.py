"""Private parts of numba-cuda that its compiler and simulator are used by; written for 0.30."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba.cuda import types
from numba.cuda.compiler import compile_cuda, kernel_fixup
from numba.cuda.cudadrv.nvrtc import get_supported_ccs
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.kernel import FakeCUDAKernel

__all__ = ["FakeCUDAKernel", "compile_ptx", "get_supported_ccs", "simulated_memory"]


def compile_ptx(
    kernel: Any, signature: tuple[Any, ...], capability: tuple[int, int]
) -> tuple[str, str]:
    """Return (PTX, entry name) of a kernel, compiled without contracting multiply-adds.

    Parameters
    ----------
    kernel : callable
        Python source of the kernel.
    signature : tuple of numba types
    capability : tuple of int
        Compute capability, (major, minor).
    """
    result = compile_cuda(
        kernel, types.void, signature, nvvm_options={"fma": False, "opt": 3}, cc=capability
    )
    library, name = result.library, result.fndesc.llvm_func_name
    kernel_fixup(library.get_function(name), False)
    library._entry_name = name
    return library.get_asm_str(cc=capability), name


@contextmanager
def simulated_memory(fill: int) -> Iterator[None]:
    """Let the simulator hand out shared and local memory whose bytes are all `fill`."""
    local, shared = kernelapi.FakeCUDALocal, kernelapi.FakeCUDAShared

    class FilledShared(shared):  # type: ignore[misc, valid-type]
        def __init__(self, size: int) -> None:
            super().__init__(size)
            self._dynshared.view(np.uint8)[:] = fill

    class FilledLocal:
        def array(self, shape: int, dtype: Any) -> Any:
            words = np.empty(shape, np.dtype(str(dtype)))
            words.view(np.uint8)[:] = fill
            return words

    kernelapi.FakeCUDALocal, kernelapi.FakeCUDAShared = FilledLocal, FilledShared
    try:
        yield
    finally:
        kernelapi.FakeCUDALocal, kernelapi.FakeCUDAShared = local, shared
