"""The time of opening a synthetic result of 10^7 runs and of selecting runs from it.

Every figure is measured in its own process, so that its memory is known.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import write
from cubie_flow.analysis.opening import open_runs

LARGE, MIDDLE = 10_000_000, 1_000_000
TIMES = 10
ROUNDS = 7

_OPEN = """
import json, sys, time
began = time.perf_counter()
import cubie_flow, xarray, zarr
imported, core = time.perf_counter(), time.process_time()
data = cubie_flow.open_results(sys.argv[1])
opened, core = time.perf_counter(), time.process_time() - core
cubie_flow.open_results(sys.argv[1])
again = time.perf_counter()
from pathlib import Path
peak = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
print(json.dumps({
    "runs": data.sizes["run"], "import_seconds": imported - began,
    "open_seconds": opened - imported, "open_core_seconds": core,
    "open_again_seconds": again - opened, "peak_bytes": 1024 * int(peak.split()[1]),
}))
"""

_SELECT = """
import json, sys, time
import cubie_flow
data = cubie_flow.open_results(sys.argv[1])
limit = float(sys.argv[2])
began, core = time.perf_counter(), time.process_time()
chosen = data.flow.sel_runs(f"status == 'success' and z_max > {limit!r} and rho > 1")
selected, core = time.perf_counter(), time.process_time() - core
chosen[["z_final", "z_max", "steps"]].load()
metrics = time.perf_counter()
chosen.z.load()
trajectories = time.perf_counter()
print(json.dumps({
    "matching": chosen.sizes["run"], "select_seconds": selected - began,
    "select_core_seconds": core, "metrics_seconds": metrics - selected,
    "trajectories_seconds": trajectories - metrics,
}))
"""


def synthetic(path: Path, runs: int) -> None:
    """Write a store with the usual layout and random numbers."""
    from cubie_flow.storage import ResultStore, StoreSchema, Variable, plan_shards
    from cubie_flow.storage.provenance import provenance

    per_run = ("run",)
    schema = StoreSchema(
        runs=runs,
        variables=(
            *(Variable(name, dtype="float32") for name in ("x", "y", "z")),
            *(Variable(f"{name}_final", per_run, "float32") for name in ("x", "y", "z")),
            Variable("z_max", per_run, "float32"),
        ),
        status_flags={0: "success", 1: "step_limit", 2: "non_finite"},
        time=np.linspace(0.0, 25.0, TIMES),
        coordinates=(Variable("rho", per_run), Variable("sigma", per_run)),
        attrs={**provenance(), "study": "synthetic", "algorithm": "tsit5"},
    )
    store = ResultStore.create(path, schema, plan_shards(runs, 4 * TIMES))
    for index, (start, stop) in enumerate(store.plan.shards):
        random = np.random.default_rng(index)
        count = stop - start
        arrays: dict[str, Any] = {}
        for name in ("x", "y", "z"):
            arrays[name] = random.standard_normal((count, TIMES), np.float32)
            arrays[f"{name}_final"] = arrays[name][:, -1].copy()
        arrays["z_max"] = arrays["z"].max(axis=1)
        arrays["rho"] = np.linspace(0.0, 60.0, runs)[start:stop]
        arrays["sigma"] = random.uniform(5.0, 15.0, count)
        arrays["steps"] = random.integers(100, 200, count, np.int32)
        arrays["rejected"] = np.zeros(count, np.int32)
        arrays["status"] = (random.random(count) < 0.01).astype(np.uint8)
        store.write_shard(index, arrays)
    store.finalise({"statuses": json.dumps({"success": runs})})


def _medians(code: str, *words: str) -> dict[str, float]:
    found = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout))
    return {name: statistics.median(round_[name] for round_ in found) for name in found[0]}


def command(out: Path, say: Callable[[str], None] = print) -> None:
    """Measure, print and write a record."""
    from benchmarks.machine import machine

    record: dict[str, Any] = {"machine": machine(), "opening": {}}
    with tempfile.TemporaryDirectory() as folder:
        for runs in (MIDDLE, LARGE):
            path = Path(folder) / f"{runs}.zarr"
            synthetic(path, runs)
            record["opening"][str(runs)] = _medians(_OPEN, str(path))
            say(f"{runs:,} runs: {record['opening'][str(runs)]}")
        path = Path(folder) / f"{MIDDLE}.zarr"
        data = open_runs(path)
        good = data["z_max"].values[(data["status"].values == 0) & (data["rho"].values > 1)]
        limit = str(float(np.sort(good)[-1001]))
        record["selecting"] = _medians(_SELECT, str(path), limit)
        say(f"1,000 of {MIDDLE:,} runs: {record['selecting']}")
    write(record, out)
