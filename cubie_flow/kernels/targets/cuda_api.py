"""Calls of the CUDA driver API by cuda.bindings (written for version 12 and 13)."""

from __future__ import annotations

from ctypes import c_char
from typing import Any

import numpy as np

from cubie_flow.errors import FlowError
from cubie_flow.kernels.targets.cuda_code import CudaCode
from cubie_flow.kernels.targets.result_pool import ResultPool


def check(result: tuple[Any, ...]) -> Any:
    """Return the values of a call.

    Parameters
    ----------
    result : tuple
        What the call returned: a status, then the values.

    Raises
    ------
    FlowError
        With the text of the status, if it is an error.
    """
    from cuda.bindings import driver

    status, *values = result
    if status != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(status)
        raise FlowError(f"CUDA driver: {text.decode() if text else status}")
    return values[0] if len(values) == 1 else tuple(values)


def open_context(device: int) -> Any:
    """Return the primary context of a device, current in the calling thread."""
    from cuda.bindings import driver

    check(driver.cuInit(0))
    context = check(driver.cuDevicePrimaryCtxRetain(check(driver.cuDeviceGet(device))))
    check(driver.cuCtxSetCurrent(context))
    return context


def load_function(code: CudaCode, shared_bytes: int = 0) -> Any:
    """Return a function that stays loaded for the life of the process.

    Parameters
    ----------
    code : CudaCode
    shared_bytes : int
        Dynamic shared memory per block; the function opts in to more than the default.
    """
    from cuda.bindings import driver

    module = check(driver.cuModuleLoadData(np.frombuffer(code.cubin, np.uint8).ctypes.data))
    function = check(driver.cuModuleGetFunction(module, code.entry.encode()))
    if shared_bytes > 48 * 1024:
        name = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        check(driver.cuFuncSetAttribute(function, name, shared_bytes))
    return function


def resident_threads(device: int = 0) -> int:
    """Return the largest number of threads that a device holds at once."""
    per_processor = _attribute(device, "MAX_THREADS_PER_MULTIPROCESSOR")
    return _attribute(device, "MULTIPROCESSOR_COUNT") * per_processor


def shared_memory_limit(device: int = 0) -> int:
    """Return the bytes of shared memory that a block may opt in to."""
    return _attribute(device, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")


def _attribute(device: int, name: str) -> int:
    from cuda.bindings import driver

    check(driver.cuInit(0))
    attribute = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
    return int(check(driver.cuDeviceGetAttribute(attribute, check(driver.cuDeviceGet(device)))))


class _PinnedPool(ResultPool):
    """Page-locked host memory, which a device copies to without the processor."""

    IDLE = 2 << 30

    def _allocate(self, size: int) -> int | None:
        from cuda.bindings import driver

        portable = 1  # CU_MEMHOSTALLOC_PORTABLE: for every device of the process
        status, address = driver.cuMemHostAlloc(size, portable)
        # Without page-locked memory copies are slower, and nothing fails.
        return int(address) if status == driver.CUresult.CUDA_SUCCESS else None

    def _view(self, block: int, size: int) -> Any:
        return (c_char * size).from_address(block)

    def _free(self, block: int) -> None:
        from cuda.bindings import driver

        driver.cuMemFreeHost(block)


#: The pool of the process; page-locked memory is slow to allocate.
pinned = _PinnedPool()
