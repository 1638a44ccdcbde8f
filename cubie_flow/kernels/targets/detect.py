"""Detection of GPUs through the NVIDIA driver library, without any CUDA package."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.util import find_spec
from typing import Any

from attrs import frozen

from cubie_flow.errors import FlowError


@frozen
class CudaDevice:
    """A GPU: its name, compute capability and bytes of memory."""

    name: str
    arch: str
    memory: int


class DriverProblem(Exception):
    """The NVIDIA driver is installed, but does not work; the reason in one sentence."""


@cache
def _nvidia_driver() -> Any:
    """Return the library of the NVIDIA driver, None if it is not installed."""
    names = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


#: CUDA_ERROR_NO_DEVICE: the driver works, and offers no GPU.
_NO_DEVICE = 100


def _ask(library: Any, function: str, *arguments: Any) -> None:
    """Call a function of the driver."""
    status = getattr(library, function)(*arguments)
    if status != 0:
        raise DriverProblem(f"the NVIDIA driver does not work ({function} gave error {status})")


@cache
def _devices() -> tuple[CudaDevice, ...]:
    """Return the GPUs that the driver offers; only a look that succeeds is remembered."""
    library = _nvidia_driver()
    if library is None:
        return ()
    if library.cuInit(0) == _NO_DEVICE:
        return ()
    _ask(library, "cuInit", 0)
    count = ctypes.c_int(0)
    _ask(library, "cuDeviceGetCount", ctypes.byref(count))
    return tuple(_device(library, number) for number in range(count.value))


def _device(library: Any, number: int) -> CudaDevice:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    _ask(library, "cuDeviceGet", ctypes.byref(device), number)
    _ask(library, "cuDeviceGetName", name, 256, device)
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
    _ask(library, "cuDeviceGetAttribute", ctypes.byref(major), 75, device)
    _ask(library, "cuDeviceGetAttribute", ctypes.byref(minor), 76, device)
    _ask(library, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    return CudaDevice(name.value.decode(), f"sm_{major.value}{minor.value}", memory.value)


def cuda_devices() -> tuple[CudaDevice, ...]:
    """Return the GPUs that the NVIDIA driver offers; none without a driver that works."""
    try:
        return _devices()
    except DriverProblem:
        return ()


def driver_problem() -> str:
    """Return why the NVIDIA driver offers no GPU although it is installed; empty if it works."""
    try:
        _devices()
    except DriverProblem as problem:
        return str(problem)
    return ""


def unused_gpu() -> str:
    """Return why ``target.kind=auto`` does not use the GPU of the machine, empty if it does."""
    if problem := driver_problem():
        return f"no GPU is used: {problem}; task=doctor shows what this machine offers"
    if cuda_devices() and not toolkit_installed():
        return f"GPU found ({cuda_devices()[0].name}) but not used: {install_hint()}"
    return ""


def forget_devices() -> None:
    """Look for the driver and its GPUs again at the next question."""
    _devices.cache_clear()


def nvidia_driver_version() -> str | None:
    """Return the CUDA version that the NVIDIA driver supports, None without a driver."""
    library, version = _nvidia_driver(), ctypes.c_int()
    if library is None or library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def toolkit_installed() -> bool:
    """Return whether numba-cuda and the toolkit wheels that it needs are installed."""
    try:
        return all(
            find_spec(name) is not None
            for name in ("numba_cuda", "cuda.bindings", "nvidia", "cuda.pathfinder")
        )
    except ModuleNotFoundError:
        return False


def install_hint() -> str:
    """Return the command that installs the packages for a GPU."""
    version = nvidia_driver_version()
    # CUDA 13 compiles for compute capability 7.5 and higher.
    old = any(device.arch in ("sm_70", "sm_72") for device in cuda_devices())
    old |= version is not None and version.startswith("12")
    extra = "cuda12" if old else "cuda13"
    return f'pip install "cubie-flow[{extra}]"'


def require_toolkit(purpose: str) -> None:
    """Refuse to go on without the CUDA toolkit; `purpose` begins the message.

    Raises
    ------
    FlowError
        Naming the command that installs it.
    """
    if not toolkit_installed():
        raise FlowError(f"{purpose} needs numba-cuda and its toolkit wheels: {install_hint()}")
