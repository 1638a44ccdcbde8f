"""Calls of the CUDA driver API by cuda.bindings (written for version 12 and 13)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_char
from threading import Lock
from typing import Any

import numpy as np

from cubie_flow.errors import FlowError
from cubie_flow.kernels.targets.cuda_code import CudaCode
from cubie_flow.kernels.targets.result_pool import ResultPool

#: Errors after which every call of the process fails, by the end of their names ("this leaves the
#: process in an inconsistent state", CUDA Driver API, CUresult).
STICKY = (
    "ILLEGAL_ADDRESS", "LAUNCH_TIMEOUT", "HARDWARE_STACK_ERROR", "ILLEGAL_INSTRUCTION",
    "MISALIGNED_ADDRESS", "INVALID_ADDRESS_SPACE", "INVALID_PC", "LAUNCH_FAILED", "ASSERT",
    "ECC_UNCORRECTABLE", "NVLINK_UNCORRECTABLE", "EXTERNAL_DEVICE", "CONTAINED", "TENSOR_LEAK",
)  # fmt: skip


def check(result: tuple[Any, ...], doing: str = "") -> Any:
    """Return the values of a call.

    Parameters
    ----------
    result : tuple
        What the call returned: a status, then the values.
    doing : str
        What the call is for, added to the message.

    Raises
    ------
    FlowError
        With the text of the status, if it is an error.
    """
    from cuda.bindings import driver

    status, *values = result
    if status != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(status)
        message = f"CUDA driver: {text.decode() if text else status}{doing and f' {doing}'}"
        if getattr(status, "name", "").endswith(STICKY):
            message += (
                "; this process cannot use the GPU any more, so start it again (resume=FOLDER "
                "finishes a study)"
            )
        raise FlowError(message)
    return values[0] if len(values) == 1 else tuple(values)


# contexts ---------------------------------------------------------------------------------------

#: The primary context of every device that is in use; each is retained once, for good.
_contexts: dict[int, Any] = {}
_opening = Lock()


def open_context(device: int) -> Any:
    """Return the primary context of a device."""
    from cuda.bindings import driver

    with _opening:
        if device not in _contexts:
            check(driver.cuInit(0))
            handle = check(driver.cuDeviceGet(device))
            _contexts[device] = check(driver.cuDevicePrimaryCtxRetain(handle))
        return _contexts[device]


@contextmanager
def current(context: Any) -> Iterator[None]:
    """Make a context current in the calling thread for a block; then the former one is again.

    Other code of the thread, another library or the solver of another device, has a context of its
    own.
    """
    from cuda.bindings import driver

    check(driver.cuCtxPushCurrent(context))
    try:
        yield
    finally:
        driver.cuCtxPopCurrent()


# functions --------------------------------------------------------------------------------------


def load_function(code: CudaCode, shared_bytes: int = 0) -> tuple[Any, Any]:
    """Return a module in the current context, and its function.

    Parameters
    ----------
    code : CudaCode
    shared_bytes : int
        Dynamic shared memory per block; the function opts in to more than the default.
    """
    from cuda.bindings import driver

    address = np.frombuffer(code.cubin, np.uint8).ctypes.data
    module = check(driver.cuModuleLoadData(address), "when a kernel was loaded")
    try:
        function = check(driver.cuModuleGetFunction(module, code.entry.encode()))
        if shared_bytes > 48 * 1024:
            name = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            check(driver.cuFuncSetAttribute(function, name, shared_bytes))
    except BaseException:
        driver.cuModuleUnload(module)
        raise
    return module, function


def thread_stack(function: Any) -> int:
    """Return the bytes of local memory that a thread of a function takes."""
    from cuda.bindings import driver

    name = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES
    return int(check(driver.cuFuncGetAttribute(name, function)))


# devices ----------------------------------------------------------------------------------------


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


# memory -----------------------------------------------------------------------------------------

#: Bytes of local memory per thread that the driver has reserved for all resident threads, by
#: device; it grows with the first launch of a kernel that needs more and never shrinks.
_stacks: dict[int, int] = {}


def missing_stack(device: int, stack: int) -> int:
    """Return the bytes that the driver will take at the launch of a kernel with `stack` bytes."""
    return max(0, stack - _stacks.get(device, 0)) * resident_threads(device)


def note_stack(device: int, stack: int) -> None:
    """Note that a kernel with `stack` bytes per thread was launched."""
    _stacks[device] = max(stack, _stacks.get(device, 0))


def stack_problem(stack: int, resident: int, memory: int) -> str:
    """Return why a device cannot hold the local memory of its threads; empty if it can.

    Parameters
    ----------
    stack : int
        Bytes per thread.
    resident : int
        Threads that the device holds at once.
    memory : int
        Bytes of the device.
    """
    if stack * resident <= memory:
        return ""
    return (
        f"the local memory of the {resident:,} threads that the GPU holds needs "
        f"{stack * resident / 1e6:,.1f} MB, but it has {memory / 1e6:,.1f} MB; use "
        "precision=float32, another algorithm or a smaller model"
    )


class _PinnedPool(ResultPool):
    """Page-locked host memory, which a device copies to without the processor.

    Arrays are made and freed in any thread, also in one without a context.
    """

    IDLE = 2 << 30

    def _allocate(self, size: int) -> int | None:
        from cuda.bindings import driver

        portable = 1  # CU_MEMHOSTALLOC_PORTABLE: for every device of the process
        for context in list(_contexts.values())[:1]:
            with current(context):
                status, address = driver.cuMemHostAlloc(size, portable)
            if status == driver.CUresult.CUDA_SUCCESS:
                return int(address)
        # Without page-locked memory copies are slower, and nothing fails.
        return None

    def _view(self, block: int, size: int) -> Any:
        return (c_char * size).from_address(block)

    def _free(self, block: int) -> None:
        from cuda.bindings import driver

        # A context is there since the memory was allocated. After a fault of the device the call
        # fails, and the memory is returned when the process ends.
        driver.cuCtxPushCurrent(next(iter(_contexts.values())))
        driver.cuMemFreeHost(block)
        driver.cuCtxPopCurrent()


#: The pool of the process; page-locked memory is slow to allocate.
pinned = _PinnedPool()
