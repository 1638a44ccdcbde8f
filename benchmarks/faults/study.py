"""The small study that is damaged and killed, and the commands that are tried on it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from cubie_flow.errors import FlowError

RUNS, SHARD = 40, 16
WORDS = (
    "study=faults", f"batch.values={{rho: {{linspace: [0, 40, {RUNS}]}}}}", "duration=2",
    "output.save_every=0.5", "output.summaries=[x]", "engine.progress=false",
    "storage.picture=false", f"storage.shard_runs={SHARD}", "target.threads=1",
)  # fmt: skip
#: Where a study and the store in it are, below the folder of a trial.
RUN = Path("outputs/run")
STORE = RUN / "results.zarr"
Command = Callable[[], int | None]
#: Commands that may start programs: compilers.
STARTING = ("resume", "recheck", "audit")


def solve(folder: Path, *words: str) -> None:
    """Run the small study in a folder by the public command.

    Raises
    ------
    FlowError
        If the command fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", "cubie_flow", *whole_words(), *words],
        cwd=folder, capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    if done.returncode:
        raise FlowError(f"the study of the fault harness does not run: {done.stderr[-500:]}")


def whole_words() -> tuple[str, ...]:
    """Return the arguments of the command that solves the small study."""
    return (*WORDS, f"hydra.run.dir={RUN}")


def environment() -> dict[str, str]:
    """Return the environment of commands: the packages at hand, and a secret to be stolen."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": paths, "STOLEN": "the secret"}


def digests(store: Path) -> dict[str, str]:
    """Return a digest of the values of every array, read by zarr alone; clock times excepted."""
    import zarr

    group = zarr.open_group(store, mode="r", use_consolidated=False)
    arrays = dict(group.arrays())
    return {
        name: hashlib.sha256(np.ascontiguousarray(array[...]).tobytes()).hexdigest()
        for name, array in sorted(arrays.items())
    }


def copy(source: Path, target: Path) -> Path:
    """Copy a study into a new folder of a trial; return the folder of the trial."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target


def commands() -> Mapping[str, Command]:
    """Return what is tried on every study, by name; each runs in the folder of the trial."""
    from cubie_flow.analysis.cli import main as results
    from cubie_flow.cli.app import main as flow

    run = str(RUN)
    return {
        "show": lambda: results(["show", run]),
        "ls": lambda: results(["ls", "."]),
        "runs": lambda: results(["runs", run]),
        "plot": lambda: results(["plot", "trajectories", run]),
        "plot overview": lambda: results(["plot", "overview", run]),
        "report": lambda: results(["report", run]),
        "export": lambda: results(["export", run, "made.csv"]),
        "audit": lambda: results(["audit", run]),
        "compare": lambda: results(["compare", run, run]),
        "verify": lambda: flow([f"verify={run}"]),
        "results verify": lambda: results(["verify", run]),
        "resume": lambda: flow([f"resume={run}"]),
        "recheck": lambda: flow([f"resume={run}", "recheck=true"]),
        "open": _open,
        "rerun": _rerun,
    }


def _open() -> None:
    from cubie_flow import open_results

    try:
        print(open_results(RUN))
    except FlowError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


def _rerun() -> None:
    from cubie_flow import open_results

    try:
        print(open_results(RUN).flow.rerun([0, 1]))
    except FlowError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


def load() -> None:
    """Import everything that the commands need, so that a fork of this process starts at once."""
    import matplotlib as mpl

    mpl.use("agg")
    for name in (
        "cubie_flow.analysis.accessor", "cubie_flow.analysis.opening", "cubie_flow.analysis.audit",
        "cubie_flow.analysis.reports.report", "cubie_flow.analysis.pictures.overview",
        "cubie_flow.analysis.pictures.plots", "cubie_flow.cli.app", "cubie_flow.analysis.cli",
        "cubie_flow.api", "cubie_flow.study.run", "matplotlib.pyplot", "pandas", "xarray", "zarr",
        "llvmlite.binding", "cubie_flow.multirun.resuming", "numba", "dask.array",
        "cubie_flow.config.defaults", "cubie_flow.kernels.targets.cpu",
        "cubie_flow.storage.backends", "cubie_flow.storage.writer", "cubie_flow.study.summary",
        "cubie_flow.systems.files", "cubie_flow.storage.unfinished",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher",
        "hydra._internal.core_plugins.basic_launcher",
    ):  # fmt: skip
        with suppress(ImportError):  # some are extras
            __import__(name)
