"""``task=doctor``: what this machine offers, and what to install for what it lacks."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from cubie_flow.console.tables import fact_lines

PACKAGES = ("cubie-flow", "hydra-core", "numpy", "numba", "llvmlite", "scipy", "xarray", "zarr")
CUDA_PACKAGES = ("numba-cuda", "cuda-bindings", "cuda-core", "nvidia-nvjitlink", "nvidia-nvvm")


def report() -> str:
    """Return a line for each fact about GPU, CPU, cache and installed packages."""
    return fact_lines([*_gpu(), *_cpu(), *_cache(), *_versions()], width=9)


def _gpu() -> list[tuple[str, str]]:
    from cubie_flow.kernels.targets.detect import (
        cuda_devices,
        driver_problem,
        install_hint,
        nvidia_driver_version,
        toolkit_installed,
    )

    devices, driver, toolkit = cuda_devices(), nvidia_driver_version(), toolkit_installed()
    rows = [
        ("GPU", f"{device.name}, {device.arch}, {device.memory / 1e9:.1f} GB") for device in devices
    ] or [("GPU", "none found")]
    if driver is None:
        rows.append(("driver", "no NVIDIA driver (libcuda) found"))
    else:
        rows.append(("driver", driver_problem() or f"supports CUDA {driver}"))
    if toolkit:
        rows.append(("toolkit", _package_versions(CUDA_PACKAGES)))
    else:
        rows.append(("toolkit", f"numba-cuda and its wheels are missing: {install_hint()}"))
    if devices and toolkit:
        rows.append(("target", "auto means cuda here"))
    elif devices:
        rows.append(("target", f"auto means cpu here; to use the GPU: {install_hint()}"))
    else:
        rows.append(("target", "auto means cpu here, because there is no GPU"))
    return rows


def _cpu() -> list[tuple[str, str]]:
    from cubie_flow.kernels.targets.cpu import processor, vector_bits
    from cubie_flow.process.machine import cpu_name, usable_cores

    bits, threads = vector_bits(), usable_cores()
    return [
        ("CPU", f"{cpu_name()} (LLVM calls it {processor()[0]})"),
        ("vectors", f"{bits} bits: {bits // 64} float64 or {bits // 32} float32 per instruction"),
        ("threads", f"{threads} usable (after affinity and cgroup limits)"),
    ]


def _cache() -> list[tuple[str, str]]:
    from cubie_flow.kernels.cache import FOLDER_VARIABLE, KernelCache

    cache = KernelCache()
    if cache.refusal:
        return [("cache", cache.refusal)]
    kernels, size = cache.size()
    text = f"{cache.folder}: {kernels} kernels, {size / 1e6:.1f} of at most {cache.limit / 1e6:.0f}"
    return [("cache", f"{text} MB; {FOLDER_VARIABLE} moves it, task=clear_cache empties it")]


def _versions() -> list[tuple[str, str]]:
    rows = [
        ("Python", f"{platform.python_version()} at {sys.executable}, {platform.platform()}"),
        ("versions", _package_versions(PACKAGES)),
    ]
    if find_spec("pyarrow") is None:
        rows.append(("tables", "CSV only; for Parquet: pip install pyarrow"))
    return rows


def _package_versions(packages: tuple[str, ...]) -> str:
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} missing (pip install {package})")
    return ", ".join(versions)
