"""What the machine offers: cores, memory, processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cubie_flow.process import machine


def system(monkeypatch: pytest.MonkeyPatch, folder: Path, files: Mapping[str, str]) -> None:
    """Let the files of the system be those given, with their paths below ``/``."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(machine, "PROC", folder / "proc")
    monkeypatch.setattr(machine, "CGROUPS", folder / "sys")
    machine.cpu_quota.cache_clear()
    monkeypatch.setattr(machine, "installed_cores", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


@pytest.fixture(autouse=True)
def fresh() -> None:
    machine.cpu_quota.cache_clear()


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        ({"sys/cpu.max": "max 100000"}, 64),
        ({"sys/cpu.max": "200000 100000"}, 2),
        ({"sys/cpu.max": "50000 100000"}, 1),
        ({"sys/cpu/cpu.cfs_quota_us": "300000", "sys/cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"sys/cpu/cpu.cfs_quota_us": "-1", "sys/cpu/cpu.cfs_period_us": "100000"}, 64),
        # The group of a batch job, and one above it.
        ({"proc/self/cgroup": "0::/job/step", "sys/job/step/cpu.max": "400000 100000"}, 4),
        ({"proc/self/cgroup": "0::/job/step", "sys/job/cpu.max": "500000 100000"}, 5),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/job",
                "sys/cpu,cpuacct/job/cpu.cfs_quota_us": "250000",
                "sys/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            },
            2,
        ),
    ],
)
def test_a_quota_bounds_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    system(monkeypatch, tmp_path, files)
    assert machine.usable_cores() == cores
    assert machine.usable_cores(3) == min(cores, 3)


def test_affinity_bounds_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    system(monkeypatch, tmp_path, {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5})
    assert machine.usable_cores() == 2


def test_a_control_group_bounds_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 4000000 kB", "proc/self/statm": "9 10"}
    system(monkeypatch, tmp_path, files)
    assert machine.available_memory() == 4_096_000_000 + machine.process_memory()
    system(monkeypatch, tmp_path, {"sys/memory.max": "1000000000"})
    assert machine.available_memory() == 1_000_000_000
    # Others of the group use 0.6 GB, and 0.1 GB are files that the system can drop.
    own = machine.process_memory()
    files = {
        "sys/memory.current": str(700_000_000 + own),
        "sys/memory.stat": "anon 600000000\ninactive_file 70000000\nactive_file 30000000",
    }
    system(monkeypatch, tmp_path, files)
    assert machine.available_memory() == 400_000_000


def test_processes_are_told_apart() -> None:
    mine = machine.process_start(os.getpid())
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert machine.process_start(ended.pid) in (None, mine)
    if mine is not None:
        assert 0.0 < machine.process_age() < 1e5
        assert machine.machine_id()


def test_nothing_of_the_system_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    system(monkeypatch, tmp_path, {})
    assert machine.process_memory() == machine.TYPICAL_MEMORY
    assert machine.process_start(os.getpid()) is None
    assert machine.process_age() == 0.0
    assert machine.machine_id() is None
    assert machine.cpu_name()
