"""The machine of a measurement: processor, cores, memory, versions; no host name, no path."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cubie_flow.kernels.targets.cpu import processor, vector_bits
from cubie_flow.process.machine import cpu_name, usable_cores
from cubie_flow.storage.provenance import provenance, utc_now

PACKAGES = (
    "cubie-flow", "numpy", "scipy", "llvmlite", "numba", "numba-cuda", "numbalsoda", "jax",
    "diffrax", "torch", "torchdiffeq", "heyoka", "casadi", "cubie",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Return the machine and the versions of all solvers."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    origin = provenance()
    return {
        "date": utc_now(),
        "processor": cpu_name(),
        "llvm_processor": processor()[0],
        "vector_bits": vector_bits(),
        "threads": usable_cores(),
        "memory_gib": round(_memory() / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": str(origin.get("git_commit", ""))[:12],
        "modified": bool(origin.get("git_modified", False)),
        "versions": versions,
    }


def _memory() -> int:
    import os

    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
