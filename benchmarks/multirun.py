"""The overhead of a job of a multirun, compared with Hydra's own sweeper and launcher.

The jobs are tiny (ten runs of ten steps) and their kernels are in the cache. With n jobs, the
overhead is the time of the command with n jobs minus that with one job, divided by n - 1. On a busy
machine only processor times are comparable.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

SWEEPERS = ("flow", "basic")
WORK = [
    "batch.size=10", "duration=0.1", "output.save_every=null", "output.summaries=null",
    "storage.picture=false", "engine.progress=false",
]  # fmt: skip
KERNELS = ["algorithm=tsit5,rk4", "precision=float32,float64"]


def measure(jobs: int, rounds: int) -> dict[str, Any]:
    """Return the seconds per job of both sweepers.

    Parameters
    ----------
    jobs
        Number of jobs, a multiple of four since there are four kernels.
    rounds
        Number of alternating rounds; the least time counts.
    """
    values = ",".join(f"{1e-3 / (i + 1):.6g}" for i in range(jobs // 4))
    many = [*WORK, *KERNELS, f"controller.rtol={values}"]
    one = [*WORK, "algorithm=tsit5", "precision=float32", "controller.rtol=choice(1e-3)"]
    _command("flow", many)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in SWEEPERS}
    for _ in range(rounds):
        for name in SWEEPERS:
            alone, together = _command(name, one), _command(name, many)
            wall, core = ((b - a) / (jobs - 1) for a, b in zip(alone, together, strict=True))
            seconds[name].append((wall, core))
    found = {name: [min(column) for column in zip(*pairs, strict=True)]
             for name, pairs in seconds.items()}  # fmt: skip
    return {
        "jobs": jobs,
        **{f"{name}_wall_seconds": found[name][0] for name in SWEEPERS},
        **{f"{name}_core_seconds": found[name][1] for name in SWEEPERS},
        "ratio_wall": found["basic"][0] / found["flow"][0],
        "ratio_core": found["basic"][1] / found["flow"][1],
    }


def _command(sweeper: str, words: list[str]) -> tuple[float, float]:
    """Return wall and processor seconds of one multirun in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-m", "cubie_flow", "-m", f"hydra/sweeper={sweeper}", *words]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        wall, after = perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, spent


def main(jobs: int = 200, rounds: int = 1) -> None:
    """Print the record."""
    print(json.dumps(measure(jobs, rounds), indent=2))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
