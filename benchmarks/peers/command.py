"""cubie_flow: the whole command, which writes its Zarr store, in a new process each time."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.peers import Prepared


def overrides(case: Case, entry: Entry) -> list[str]:
    """Return the command line of an entry."""
    about = case.problem
    chosen = [
        f"system={about.model}",
        *(f"system.settings.{name}={value}" for name, value in about.settings.items()),
        f"algorithm={entry.method}",
        f"precision={entry.precision}",
        f"duration={about.duration!r}",
        f"controller.rtol={entry.rtol!r}",
        f"controller.atol={entry.atol!r}",
        f"batch.values={{{about.varied}:{{linspace:[{about.low!r},{about.high!r},{entry.runs}]}}}}",
        "target=cpu",
        "~experiment",
        "storage.picture=false",
    ]
    if entry.dt:
        chosen += ["controller=fixed", f"controller.dt={entry.dt!r}"]
    if case.saves:
        chosen.append(f"output.times={case.times().tolist()}")
    return chosen


def prepare(case: Case, entry: Entry) -> Prepared:
    folder = tempfile.TemporaryDirectory()
    chosen = overrides(case, entry)
    names = [state.name for state in case.problem.system.states]
    count = 0

    def run() -> Any:
        nonlocal count
        count += 1
        place = Path(folder.name) / str(count)
        done = subprocess.run(
            [sys.executable, "-m", "cubie_flow", *chosen, f"storage.folder={place}"],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError((done.stderr or done.stdout).strip()[-200:])
        (store,) = place.rglob("results.zarr")
        return store

    def ends(answer: Any, probes: Any) -> Any:
        import xarray

        held = xarray.open_zarr(answer)
        if case.saves:
            found = np.stack([held[name].values[probes] for name in names], axis=2)
        else:
            columns = [held[f"{name}_final"].values[probes] for name in names]
            found = np.stack(columns, axis=1)[:, None, :]
        # Its values are a linspace, so only the first and the last equal those of the probes.
        hidden = np.zeros(found.shape, bool)
        hidden[1:-1] = True
        return np.ma.array(found, mask=hidden)

    return Prepared(run, ends, elsewhere=True)
