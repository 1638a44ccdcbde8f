"""The cost of storing: memory by size, time compared with zarr alone, overlap with solving.

The public command runs the same study of 3 variables at 100 saved times, with its picture, for
10^5 and 10^6 runs, and with 10 saved times for 10^7 runs. Its memory is the peak resident memory of
the process. Then one process alternately writes the arrays of the middle study from memory by zarr
alone and by our writer in the same layout, and solves the study without and with writing; it
measures wall and processor seconds. If the processor is the limit or is shared, only processor
seconds show costs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from benchmarks.machine import machine

#: Runs, saved times and design; sampled runs are not ordered.
SIZES = (
    (100_000, 100, "grid"), (1_000_000, 100, "grid"), (1_000_000, 100, "sobol"),
    (10_000_000, 10, "grid"), (10_000_000, 10, "sobol"),
)  # fmt: skip
COMPARED = (1_000_000, "grid")
DESIGNS = {
    "grid": ("batch.values={rho: {linspace: [0, 40, RUNS]}}",),
    "sobol": ("batch=sobol", "batch.values={rho: {uniform: [0, 40]}}", "batch.size=RUNS"),
}
STUDY = ("study=storage", "duration=0.99", "engine.progress=false", "confirm=true")


def command(out: Path, rounds: int) -> int:
    """Measure and write a record."""
    record: dict[str, Any] = {"machine": machine(), "studies": [], "compared": []}
    folder = Path(tempfile.mkdtemp(prefix="storage-"))
    try:
        for runs, times, design in SIZES:
            place = folder / f"{runs}_{design}"
            place.mkdir()
            record["studies"].append(study(place, runs, times, design))
            say(record["studies"][-1])
            if (runs, design) == COMPARED:
                # In another process: the peak of a child process includes the memory of its parent.
                words = [sys.executable, "-m", "benchmarks.storage", str(place), str(rounds)]
                told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
                record["compared"] = [json.loads(line) for line in told.splitlines()]
                print(told, end="", flush=True)
            shutil.rmtree(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    record["ratios"] = {
        name: median(row["ratios"][name] for row in record["compared"])
        for name in record["compared"][0]["ratios"]
    }
    say(record["ratios"])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def say(row: dict[str, Any]) -> None:
    """Print a row."""
    print(json.dumps(row), flush=True)


def study(place: Path, runs: int, times: int, design: str) -> dict[str, Any]:
    """Run the study in its own process and return its figures."""
    import xarray

    words = [word.replace("RUNS", str(runs)) for word in (*STUDY, *DESIGNS[design])]
    words.append(f"output.save_every={0.99 / (times - 1)}")
    began = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "cubie_flow", *words], cwd=place, stdout=subprocess.DEVNULL
    )
    # Of this process alone, with its picture: `RUSAGE_CHILDREN` is the maximum of all children.
    _, status, used = os.wait4(process.pid, 0)
    wall = perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    (store,) = place.glob("outputs/*/*/*/results.zarr")
    data = xarray.open_zarr(store, chunks=None, decode_times=False)
    memory = xarray.open_zarr(store, group="memory", chunks=None).attrs
    size = sum(array.nbytes for name, array in data.variables.items() if name != "time")
    seconds = {p: data.attrs[f"seconds_{p}"] for p in ("build", "kernel", "write", "total")}
    seconds["solve_and_write"] = seconds["total"] - seconds["build"]
    return {
        "runs": runs,
        "design": design,
        "times": int(data.sizes["time"]),
        "mb": size / 1e6,
        "stored_mb": memory["measured_store_bytes"] / 1e6,
        "peak_mb": used.ru_maxrss * 1024 / 1e6,
        "write_mb_per_s": size / 1e6 / seconds["write"],
        "seconds": {**seconds, "process": wall, "core": used.ru_utime + used.ru_stime},
        "solver_waited": data.attrs["seconds_solver_waited"],
        "writer_waited": data.attrs["seconds_writer_waited"],
    }


def compare_with_zarr(place: Path) -> dict[str, Any]:
    """Write the arrays of a store again from memory, solve its study, and do both at once."""
    import numpy as np
    import zarr

    from cubie_flow.config.stored import stored_config, stored_settings, stored_study
    from cubie_flow.engines import WorkerResources
    from cubie_flow.process.machine import usable_cores
    from cubie_flow.storage import Location, ResultStore
    from cubie_flow.study.kernel import build_kernel
    from cubie_flow.study.run import run_study
    from cubie_flow.study.shards import ShardWork

    (store,) = place.glob("outputs/*/*/*/results.zarr")
    source, given = zarr.open_group(store, mode="r"), ResultStore.open(store)
    settings = stored_settings(stored_config(store.parent), [], given.attrs, str(store.parent))
    anew = stored_study(settings, given.attrs)
    kernel = build_kernel(anew)
    _ = kernel.product  # compiled, or from the cache
    solver = ShardWork(anew, Location.of(store), given.plan, kernel).solver(WorkerResources())
    names = (*given.names, "status")
    spent = {who: np.zeros(2) for who in ("zarr", "writer", "solve", "both")}
    size = 0.0

    def timed(who: str, do: Callable[[], object]) -> object:
        core, wall = process_time(), perf_counter()
        found = do()
        spent[who] += perf_counter() - wall, process_time() - core
        return found

    with tempfile.TemporaryDirectory(dir=place) as folder:
        target = zarr.open_group(f"{folder}/zarr", mode="w")
        arrays = {name: like(target, source[name]) for name in names}
        ours = ResultStore.open(shutil.copytree(store, f"{folder}/ours.zarr"))

        def alone(held: dict[str, Any], start: int, stop: int) -> None:
            for name, values in held.items():
                arrays[name][start:stop] = values

        for index, (start, stop) in enumerate(given.plan.shards):
            held = {name: np.asarray(source[name][start:stop]) for name in names}
            size += sum(values.nbytes for values in held.values()) / 1e9
            tasks: list[tuple[str, Callable[[], object]]] = [
                ("zarr", lambda: alone(held, start, stop)),  # noqa: B023  called at once
                ("writer", lambda: ours.write_shard(index, held)),  # noqa: B023
                ("solve", lambda: solver.solve(index)),  # noqa: B023
            ]
            for who, do in tasks if index % 2 else reversed(tasks):
                timed(who, do)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        report: Any = timed("both", lambda: run_study(anew, f"{folder}/both.zarr"))
    wall = {who: float(one[0]) for who, one in spent.items()}
    core = {who: float(one[1]) for who, one in spent.items()}
    return {
        "gb": size,
        "wall": wall,
        "core": core,
        "ratios": {
            "writer / zarr, throughput": wall["zarr"] / wall["writer"],
            "writer / zarr, core": core["writer"] / core["zarr"],
            "writing while solving / zarr, throughput": wall["zarr"] / report.seconds["write"],
            "both / longer of solve and zarr, wall": wall["both"]
            / max(wall["solve"], wall["zarr"]),
            "both / all cores at work on solve and zarr, wall": wall["both"]
            * usable_cores()
            / (core["solve"] + core["zarr"]),
            "both / solve and zarr, core": core["both"] / (core["solve"] + core["zarr"]),
        },
    }


def like(group: Any, array: Any) -> Any:
    """Return a new array in a group with the layout of another array."""
    return group.create_array(
        array.basename, shape=array.shape, chunks=array.chunks, shards=array.shards,
        dtype=array.dtype, compressors=array.compressors, fill_value=array.fill_value,
    )  # fmt: skip


if __name__ == "__main__":
    for _ in range(int(sys.argv[2])):
        say(compare_with_zarr(Path(sys.argv[1])))
