"""What storing costs: memory at any size, beside zarr alone, and whether it overlaps with solving.

The same study of 3 variables at 100 saved times is run by the public command at 10^5 and 10^6
runs, and shortened to 10 times at 10^7. Then zarr alone and our writer write the
arrays of the middle one anew from memory, shard by shard and in turns, in the same layout.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.machine import machine

#: Runs and saved times.
SIZES = ((100_000, 100), (1_000_000, 100), (10_000_000, 10))
BESIDE = 1_000_000
RATIOS = ("writer_beside_zarr", "writing_while_solving_beside_zarr", "whole_run_beside_zarr")
STUDY = (
    "study=storage", "batch.values={rho: {linspace: [0, 40, RUNS]}}", "duration=0.99",
    "storage.picture=false", "engine.progress=false", "confirm=true",
)  # fmt: skip


def command(out: Path, rounds: int) -> int:
    """Measure and write a record."""
    record: dict[str, Any] = {"machine": machine(), "studies": [], "zarr_alone": []}
    folder = Path(tempfile.mkdtemp(prefix="storage-"))
    try:
        for runs, times in SIZES:
            for number in range(rounds if runs == BESIDE else 1):
                place = folder / f"{runs}_{number}"
                place.mkdir()
                record["studies"].append(study(place, runs, times))
                say(record["studies"][-1])
                if runs == BESIDE:
                    # Side by side, so that both meet the same machine.
                    record["zarr_alone"].append(alone(place))
                    say(record["zarr_alone"][-1])
                shutil.rmtree(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    beside = [row for row in record["studies"] if row["runs"] == BESIDE]
    pairs = list(zip(beside, record["zarr_alone"], strict=True))
    # The writer from memory like zarr, and while two threads of the solver want the cores too.
    record["writer_beside_zarr"] = median(
        zarr["writer_mb_per_s"] / zarr["mb_per_s"] for _, zarr in pairs
    )
    record["writing_while_solving_beside_zarr"] = median(
        ours["write_mb_per_s"] / zarr["mb_per_s"] for ours, zarr in pairs
    )
    record["whole_run_beside_zarr"] = median(
        ours["mb"] / ours["seconds"]["solve_and_write"] / zarr["mb_per_s"] for ours, zarr in pairs
    )
    say({key: record[key] for key in RATIOS})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def say(row: dict[str, Any]) -> None:
    """Print a row."""
    print(json.dumps(row), flush=True)


def study(place: Path, runs: int, times: int) -> dict[str, Any]:
    """Run the study in a process of its own and return what it says of itself."""
    import xarray

    words = [word.replace("RUNS", str(runs)) for word in STUDY]
    words.append(f"output.save_every={0.99 / (times - 1)}")
    began = perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cubie_flow", *words], cwd=place, check=True, capture_output=True
    )
    wall = perf_counter() - began
    (store,) = place.glob("outputs/*/*/*/results.zarr")
    data = xarray.open_zarr(store, chunks=None, decode_times=False)
    memory = xarray.open_zarr(store, group="memory", chunks=None).attrs
    size = sum(array.nbytes for name, array in data.variables.items() if name != "time")
    seconds = {p: data.attrs[f"seconds_{p}"] for p in ("build", "kernel", "write", "total")}
    seconds["solve_and_write"] = seconds["total"] - seconds["build"]
    return {
        "runs": runs,
        "times": int(data.sizes["time"]),
        "mb": size / 1e6,
        "stored_mb": memory["measured_store_bytes"] / 1e6,
        "peak_mb": memory["measured_host_bytes"] / 1e6,
        "write_mb_per_s": size / 1e6 / seconds["write"],
        "seconds": {**seconds, "process": wall},
        "solver_waited": data.attrs["seconds_solver_waited"],
        "writer_waited": data.attrs["seconds_writer_waited"],
    }


def alone(place: Path) -> dict[str, Any]:
    """Write the arrays of a store anew with zarr alone, each shard from memory."""
    import numpy as np
    import zarr

    from cubie_flow.storage import ResultStore

    (store,) = place.glob("outputs/*/*/*/results.zarr")
    source = zarr.open_group(store, mode="r")
    ours = ResultStore.open(shutil.copytree(store, place / "ours.zarr"))
    target = zarr.open_group(place / "alone.zarr", mode="w")
    arrays = {}
    for name, array in source.arrays():
        if array.metadata.dimension_names[0] == "run":
            arrays[name] = target.create_array(
                name, shape=array.shape, chunks=array.chunks, shards=array.shards,
                dtype=array.dtype, compressors=array.compressors, fill_value=array.fill_value,
            )  # fmt: skip
    shard = source["status"].chunks[0]
    spent = {"zarr": 0.0, "ours": 0.0}
    size = 0.0
    for index, start in enumerate(range(0, source["status"].shape[0], shard)):
        held = {name: np.asarray(source[name][start : start + shard]) for name in arrays}
        for who in ("zarr", "ours") if index % 2 else ("ours", "zarr"):
            began = perf_counter()
            if who == "ours":
                ours.write_shard(index, held)
            else:
                for name, values in held.items():
                    arrays[name][start : start + shard] = values
            spent[who] += perf_counter() - began
        size += sum(values.nbytes for values in held.values()) / 1e6
    return {
        "mb": size,
        "mb_per_s": size / spent["zarr"],
        "writer_mb_per_s": size / spent["ours"],
    }
