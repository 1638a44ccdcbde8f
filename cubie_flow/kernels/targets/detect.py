"""Detection of GPUs through the NVIDIA driver library, without any CUDA package."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.util import find_spec

from attrs import frozen

from cubie_flow.errors import FlowError


@frozen
class CudaDevice:
    """A GPU: its name, compute capability and bytes of memory."""

    name: str
    arch: str
    memory: int


def _nvidia_driver() -> ctypes.CDLL | None:
    names = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return library if library.cuInit(0) == 0 else None
    return None


@cache
def cuda_devices() -> tuple[CudaDevice, ...]:
    """Return the GPUs that the NVIDIA driver offers; none without a driver."""
    library = _nvidia_driver()
    count = ctypes.c_int(0)
    if library is None or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    devices = []
    for number in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
        library.cuDeviceGet(ctypes.byref(device), number)
        library.cuDeviceGetName(name, 256, device)
        # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        library.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        library.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        arch = f"sm_{major.value}{minor.value}"
        devices.append(CudaDevice(name.value.decode(), arch, memory.value))
    return tuple(devices)


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
    extra = "cuda12" if version is not None and version.startswith("12") else "cuda13"
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
