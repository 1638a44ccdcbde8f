"""The resources of the machine for this process; the only reader of ``/proc`` and of cgroups."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
#: Bytes assumed for a process whose memory the system does not report.
TYPICAL_MEMORY = 200_000_000


# processors -----------------------------------------------------------------------------------


def usable_cores(limit: int | None = None) -> int:
    """Return the number of cores this process may use.

    The affinity mask, the quota of its control group and `limit` each bound it.

    Parameters
    ----------
    limit : int, optional
        Upper bound that the user set.
    """
    cores = installed_cores()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    cores = min(cores, cpu_quota() or cores, limit or cores)
    return max(1, cores)


def installed_cores() -> int:
    """Return the number of cores of the machine."""
    return os.cpu_count() or 1


@cache
def cpu_quota() -> int | None:
    """Return the whole cores that the control groups allow, None without a limit."""
    quotas = [quota for folder in _control_groups("cpu") if (quota := _quota_of(folder))]
    return max(1, int(min(quotas))) if quotas else None


def _quota_of(folder: Path) -> float | None:
    """Return the cores that one control group allows (version 2, then version 1)."""
    words = _text(folder / "cpu.max").split()
    if not words:
        words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
    try:
        quota, period = float(words[0]), float(words[1])
    except (ValueError, IndexError):
        return None  # "max", or no such file
    return quota / period if quota > 0.0 and period > 0.0 else None


@cache
def cpu_name() -> str:
    """Return the name of the processor, or its architecture if the system has no name."""
    for line in _text(PROC / "cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# memory and disks -----------------------------------------------------------------------------


def available_memory() -> int:
    """Return the bytes of memory that this process may use, including those it uses now."""
    own = process_memory()
    available = _free_memory() + own
    for folder in _control_groups("memory"):
        texts = [_text(folder / name) for name in ("memory.max", "memory.limit_in_bytes")]
        limits = [int(text) for text in texts if text.isdigit()]
        if limits:
            left = min(limits) - _used_by_others(folder, own)
            available = max(1, min(available, left))
    return available or sys.maxsize


def _used_by_others(folder: Path, own: int) -> int:
    """Return the bytes that other processes of a control group use, without cached files."""
    used = _text(folder / "memory.current") or _text(folder / "memory.usage_in_bytes")
    names = ("inactive_file", "active_file", "total_inactive_file", "total_active_file")
    lines = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
    # Version 1 has both the totals of a group and its own part of them.
    parts = [int(lines.get(name, 0)) for name in names]
    cached = max(sum(parts[:2]), sum(parts[2:]))
    return max(0, int(used or 0) - cached - own)


def _free_memory() -> int:
    for line in _text(PROC / "meminfo").splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if os.name == "posix" else 0


def process_memory() -> int:
    """Return the resident memory of this process in bytes."""
    words = _text(PROC / "self/statm").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else TYPICAL_MEMORY


def peak_memory() -> int:
    """Return the largest resident memory of this process so far in bytes, 0 if unknown."""
    # On Linux ru_maxrss includes the memory of the parent at the fork; this line does not.
    for line in _text(PROC / "self/status").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


@cache
def _trim() -> Any:
    """Return the function of the C library that returns free memory; None without one."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def return_memory() -> None:
    """Return memory that was freed to the system.

    The allocator of glibc keeps what was freed for every thread separately.
    """
    if (trim := _trim()) is not None:
        trim(0)


def free_disk(folder: Path) -> int:
    """Return the free bytes of the disk of a folder, which need not exist yet."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


# processes ------------------------------------------------------------------------------------


def process_age() -> float:
    """Return the seconds since the start of this process, 0 if unknown."""
    started = process_start(os.getpid())
    try:
        ticks = os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - (started or math.inf) / ticks)
    except (AttributeError, OSError):
        return 0.0


def process_start(pid: int) -> int | None:
    """Return the start of a process in clock ticks after the boot, None if it is not running."""
    # Fields are counted from the closing bracket of the name, which may contain spaces.
    fields = _text(PROC / f"{pid}/stat").rpartition(")")[2].split()
    try:
        return None if fields[0] in "ZX" else int(fields[19])
    except (ValueError, IndexError):
        return None


def machine_id() -> str | None:
    """Return the identity of this machine, its boot and its process namespace.

    Processes of the same identity can find each other by process number. None if the system has
    no such identity.
    """
    boot = _text(PROC / "sys/kernel/random/boot_id")
    try:
        return f"{boot}:{os.stat(PROC / 'self/ns/pid').st_ino}" if boot else None
    except OSError:
        return None


# files of the system --------------------------------------------------------------------------


def _text(path: Path) -> str:
    """Return the text of a system file, empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _control_groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups of this process, the innermost first."""
    for line in _text(PROC / "self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            root = CGROUPS
        elif controller in controllers.split(","):
            root = CGROUPS / controllers
        else:
            continue
        folder = root / path.lstrip("/")
        yield from (folder, *(parent for parent in folder.parents if root in parent.parents))
    # A container sees its own group at the root.
    yield from (CGROUPS, CGROUPS / controller)
