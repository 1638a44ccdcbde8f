"""The memory that a plan promises, compared with the peak of the process that runs the study.

Each study runs in a process of its own; studies with the same kernel take it from the cache. The
writer is held back until its queue is full, because a plan promises the most that
can be in memory at once; how fast a disk is must not matter.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.record import write
from cubie_flow.errors import FlowError

#: Largest deviation of the peak from the plan.
TOLERANCE = 0.15
Row = dict[str, Any]


def studies() -> dict[str, Any]:
    """Return twenty studies by name; all are light to solve and differ in what they keep."""
    import numpy as np
    from attrs import evolve

    from cubie_flow import OdeSystem
    from cubie_flow.api import ControllerChoice, OutputChoice, Study, TargetChoice
    from cubie_flow.batches import make_design
    from cubie_flow.study.attempts import read_rescue

    small = OdeSystem.from_equations("x' = -k*x\nhalf = x/2", {"x": 1.0}, {"k": 0.5})
    ring = OdeSystem.from_equations(
        "\n".join(f"x{i}' = k*(x{(i + 1) % 30} - x{i})" for i in range(30)),
        {f"x{i}": float(i % 3) for i in range(30)}, {"k": 0.5},
    )  # fmt: skip
    eventful = OdeSystem.from_mapping(
        {
            "name": "eventful", "states": {"x": 1.0}, "parameters": {"k": 0.5},
            "equations": {"x": "-k*x"},
            "events": {"low": {"when": "x < 0.9", "set": {"x": "x + 0.5"}, "record": True}},
        }
    )  # fmt: skip

    def design(runs: int) -> Any:
        return make_design("sobol", {"k": {"uniform": [0.1, 2.0]}}, size=runs)

    base = Study(
        small, design(400_000), duration=1.0, algorithm="heun", precision="float64",
        controller=ControllerChoice(dt=0.25), target=TargetChoice("cpu"),
        output=OutputChoice(save_every=0.02),
    )  # fmt: skip
    data = {"time": np.linspace(0.0, 1.0, 101).tolist(), "x": [0.5] * 101}
    failing = evolve(base.controller, max_steps=2)
    again = read_rescue([{"algorithm": "tsit5", "max_steps_factor": 100}])
    condition = OutputChoice(save_every=0.02, where="x_final > 0.5")
    summaries = OutputChoice(summaries=["x", "half"])
    return {
        "few runs": evolve(base, design=design(100)),
        "thousand runs": evolve(base, design=design(1000)),
        "shards": base,
        "float32": evolve(base, precision="float32"),
        "one time": evolve(base, design=design(4_000_000), output=OutputChoice(times=[0.5])),
        "finals": evolve(base, design=design(8_000_000), output=OutputChoice()),
        "many times": evolve(base, design=design(40_000), output=OutputChoice(save_every=0.0005)),
        "observables": evolve(
            base, output=OutputChoice(save_every=0.02, variables=["x", "half"])
        ),
        "summaries": evolve(base, design=design(4_000_000), output=summaries),
        "many states": evolve(
            base, system=ring, design=design(100_000), output=OutputChoice(save_every=0.1)
        ),
        "many finals": evolve(base, system=ring, design=design(1_000_000), output=OutputChoice()),
        "compare": evolve(base, design=design(4_000_000), output=OutputChoice(compare=data)),
        "compare and save": evolve(base, output=OutputChoice(compare=data, save_every=0.02)),
        "events": evolve(
            base, system=eventful, design=design(1_000_000),
            output=OutputChoice(save_every=0.25, event_times=8),
        ),
        "sensitivities": evolve(
            base, output=OutputChoice(save_every=0.04, sensitivities=["k"])
        ),
        "order": evolve(base, order="cost"),
        "where": evolve(base, output=condition),
        "rescue": evolve(base, controller=failing, rescue=again),
        "small shards": evolve(base, shard_runs=5_000),
        "large shards": evolve(base, shard_runs=200_000),
    }  # fmt: skip


def measure_one(name: str) -> Row:
    """Run one of the studies in this process; return the bytes of its plan and of the peak."""
    import cubie_flow.storage.writer as writer
    from cubie_flow.api import plan_study, run_study
    from cubie_flow.process.machine import peak_memory

    study = studies()[name]
    writes = writer.write_timed

    def late(store: Any, index: int, arrays: Any) -> Any:
        # Wait until the queue is full, or no shard comes any more.
        held.wait(timeout=HELD)
        return writes(store, index, arrays)

    from threading import Event

    held = Event()
    submit = writer.AsyncWriter.submit

    def counted(self: Any, index: int, arrays: Any) -> None:
        counted.number += 1  # type: ignore[attr-defined]
        if counted.number > SHARDS:  # type: ignore[attr-defined]
            held.set()
        submit(self, index, arrays)

    counted.number = 0  # type: ignore[attr-defined]
    writer.write_timed = late
    writer.AsyncWriter.submit = counted  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_study(study, folder, compiling=False)
        report = run_study(study, Path(folder) / "results.zarr")
    return {
        "planned": plan.host_bytes,
        "measured": peak_memory(),
        "shards": plan.shards,
        "shard_bytes": plan.shard_bytes,
        "failed": report.failed,
        "compile_seconds": report.seconds["build"],
    }


#: Shards that are solved before the writer goes on, and the seconds that it waits for them.
SHARDS, HELD = 3, 30.0


def rows(only: str) -> Iterator[tuple[str, Row]]:
    """Yield the name and the measurements of every study."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "CUBIE_FLOW_CACHE": cache}
        for name in studies():
            if only and only not in name:
                continue
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.memory", name],
                capture_output=True, text=True, env=environment, check=False,
            )  # fmt: skip
            if done.returncode:
                raise FlowError(f"'{name}' failed: {done.stderr.strip().splitlines()[-1:]}")
            yield name, json.loads(done.stdout.strip().splitlines()[-1])


def command(out: Path, only: str) -> int:
    """Measure all studies, write the record, and return 1 if a plan is too far from its peak."""
    record: dict[str, Any] = {"machine": machine(), "tolerance": TOLERANCE, "studies": {}}
    far = []
    for name, row in rows(only):
        row["ratio"] = row["measured"] / row["planned"]
        record["studies"][name] = row
        write(record, out)
        marked = abs(row["ratio"] - 1.0) > TOLERANCE
        far += [name] * marked
        megabytes = row["planned"] / 1e6, row["measured"] / 1e6
        print(
            f"{name:<18} planned {megabytes[0]:>7,.0f} MB, measured {megabytes[1]:>7,.0f} MB, "
            f"{row['ratio']:.2f}{' *' * marked}", flush=True,
        )  # fmt: skip
    print(f"{len(record['studies'])} studies, {len(far)} further from the plan than 15 %")
    return int(bool(far))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    from benchmarks.record import RESULTS

    parser.add_argument("--only", default="", help="studies, by part of their name")
    parser.add_argument("--out", type=Path, default=RESULTS / "memory.json")


if __name__ == "__main__":
    print(json.dumps(measure_one(sys.argv[1])))
