"""Finding GPUs through the driver library alone, without any CUDA package."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.util import find_spec

from attrs import frozen


@frozen
class CudaDevice:
    """A GPU: its name, compute capability and bytes of memory."""

    name: str
    arch: str
    memory: int


def _driver() -> ctypes.CDLL | None:
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
    """Return the GPUs the driver offers, none where there is no driver."""
    driver = _driver()
    count = ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    found = []
    for number in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceGetName(name, 256, device)
        # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        arch = f"sm_{major.value}{minor.value}"
        found.append(CudaDevice(name.value.decode(), arch, memory.value))
    return tuple(found)


def driver_version() -> str | None:
    """Return the CUDA version the driver supports, or None without a driver."""
    driver, version = _driver(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def toolkit_installed() -> bool:
    """Tell whether numba-cuda and the toolkit wheels it compiles with are installed."""
    try:
        return all(
            find_spec(name) is not None
            for name in ("numba_cuda", "cuda.bindings", "nvidia", "cuda.pathfinder")
        )
    except ModuleNotFoundError:
        return False


def install_hint() -> str:
    """Return the command that installs what a GPU needs."""
    version = driver_version()
    extra = "cuda12" if version is not None and version.startswith("12") else "cuda13"
    return f'pip install "cubie-flow[{extra}]"'
