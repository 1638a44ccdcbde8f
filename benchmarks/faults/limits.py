"""Limits of the machine and of numbers, and names that are those of the store."""

from __future__ import annotations

import random
import resource
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults import study
from benchmarks.faults.trial import PATIENCE, Bench, Result, Trial, judge
from benchmarks.faults.watch import watched

_QUIET = ("engine.progress=false", "storage.picture=false", "target.threads=1")
#: Keys with a count.
COUNTS = (
    "batch.size", "batch.seed", "storage.shard_runs", "target.threads", "engine.time_limit",
    "output.event_times", "controller.max_steps", "target.lanes", "target.block_size",
    "output.save_every", "duration", "t_start", "controller.rtol", "controller.atol",
)  # fmt: skip
#: Groups of the store, and words that mean something elsewhere.
NAMES = (
    "memory", "checksums", "config", "audit", "status", "run", "results", "time", "sample",
    "steps_taken", "t_end", "shards", "attrs", "c", "zarr", "initial", "none", "e", "final",
)  # fmt: skip

FOLDERS = (
    "${oc.env:HOME}", "${oc.env:STOLEN}", "a=b,c", "%s %(x)d", "{x}", "-rf", "é ü", "~",
    "'quoted'", "a\\b", "[1]", "#", "line\nbreak",
)  # fmt: skip


def _flow(folder: Path, words: Sequence[str], memory: int | None = None) -> tuple[int, str]:
    """Run the command in a fork; return its status and its output."""
    from cubie_flow.cli.app import main

    def run() -> int:
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        return main([*words])

    outcome = watched(run, folder, [Path("/")], PATIENCE)
    return outcome.code, outcome.stdout + outcome.stderr + outcome.crash


def _digits(bench: Bench, chance: random.Random) -> Result:
    """Give a key 300 digits."""
    bench.trials.joinpath("study").mkdir()
    key = chance.choice(COUNTS)
    sign = chance.choice(["", "-"])
    words = (*_QUIET, "batch.size=8", f"{key}={sign}{'9' * 300}", "storage.folder=out")
    code, text = _flow(bench.trials / "study", words)
    fault = judge(code, text)
    if not fault and code == 0:
        fault = f"{key} was taken"
    if not fault and (bench.trials / "study" / "out").exists():
        fault = "something left behind"
    return Result("refused", fault, f"{key}\n{text}")


def _late_start(bench: Bench, chance: random.Random) -> Result:
    """Start at a time whose neighbours are far away."""
    bench.trials.joinpath("study").mkdir()
    start = chance.choice(["1e30", "-1e30", "1e17", "1e300", "1e308"])
    method = chance.choice(["tsit5", "rodas5p", "rk4", "auto", "bdf", "taylor_12"])
    every = chance.choice(["output.save_every=null", "output.save_every=0.5"])
    words = (*_QUIET, "batch.size=8", f"t_start={start}", "duration=2", "storage.folder=out",
             every, f"algorithm={method}")  # fmt: skip
    code, text = _flow(bench.trials / "study", words)
    fault = judge(code, text)
    if not fault and code == 0:
        fault = "" if "failed" in text or "0 of" in text else "called a success"
    return Result("refused" if code else "each run failed", fault, f"{method} {start}\n{text}")


def _grid(bench: Bench, chance: random.Random) -> Result:
    """Solve a grid of 10^10 runs, from Python and by the command."""
    folder = bench.trials / "study"
    folder.mkdir()

    def solve() -> int:
        import numpy as np

        from cubie_flow import OdeSystem
        from cubie_flow import solve as solved
        from cubie_flow.errors import FlowError

        model = OdeSystem.from_equations("x' = a - k*x", {"x": 1.0}, {"k": 1.0, "a": 1.0})
        values = np.linspace(0.1, 1.0, 100_000)
        try:
            solved(model, parameters={"k": values, "a": values}, batch="grid", duration=1.0)
        except FlowError as error:
            print(f"cubie-flow: {error}", file=sys.stderr)
            return 1
        return 0

    outcome = watched(solve, folder, [folder], PATIENCE)
    text = outcome.stderr + outcome.crash
    fault = outcome.fault or judge(outcome.code, text)
    if not fault and (outcome.seconds > 10 or outcome.memory > 500_000_000):
        fault = "slow"
    if not fault:
        values = "{linspace: [0, 1, 100000]}"
        words = ("batch=grid", f"batch.values={{rho: {values}, sigma: {values}}}", *_QUIET,
                 "output.save_every=null", "duration=1", "storage.folder=out",
                 "batch.random={}")  # fmt: skip
        code, text = _flow(folder, words[:-1])
        fault = judge(code, text) or ("" if code else "10^10 runs were solved")
    return Result("refused", fault, text)


def _address_space(bench: Bench, chance: random.Random) -> Result:
    """Limit the address space, of a new process as `ulimit -v` does."""
    folder = bench.trials / "study"
    folder.mkdir()
    megabytes = chance.randrange(200, 1500)
    words = [sys.executable, "-m", "cubie_flow", *study.whole_words()]
    line = f"ulimit -v {megabytes * 1000}; exec {shlex.join(words)}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False,
        env=study.environment(), timeout=PATIENCE,
    )  # fmt: skip
    if done.returncode == 0:
        wrong = study.digests(folder / study.STORE) != bench.right
        return Result("it was enough", "wrong bytes" if wrong else "")
    text = done.stderr
    # Python itself, and libraries that are loaded, cannot always say it.
    if done.returncode < 0 or "Traceback" in text:
        return Result("refused", "killed" if done.returncode < 0 else "traceback",
                      f"{megabytes} MB\n{text}")  # fmt: skip
    return Result("refused", "" if "memory" in text else "no word of memory", text)


def _odd_folder(bench: Bench, chance: random.Random) -> Result:
    """Solve, read and resume in a current folder with an odd name."""
    name = chance.choice(FOLDERS)
    folder = bench.trials / name
    folder.mkdir()
    code, text = _flow(folder, study.whole_words())
    if code or (fault := judge(code, text)):
        return Result("", fault if not code else "does not run", f"{name!r}\n{text}")
    if study.digests(folder / study.STORE) != bench.right:
        return Result("", "wrong bytes", name)
    for command, run in study.commands().items():
        outcome = watched(run, folder, [Path("/")])
        if outcome.fault or outcome.code:
            return Result("", outcome.fault or "refused", f"{name!r} {command}\n{outcome.text}")
        if "the secret" in outcome.stdout + outcome.stderr:
            return Result("", "secret shown", name)
    code, text = _flow(bench.trials, (f"resume={bench.trials / name / study.RUN}",))
    return Result("worked", "not resumed by its path" if code else "", f"{name!r}\n{text}")


def _names(bench: Bench, chance: random.Random) -> Result:
    """Name states and parameters like parts of a store, and use every command."""
    folder = bench.trials / "study"
    folder.mkdir()
    state, other, parameter = chance.sample(NAMES, 3)
    (folder / "m.yaml").write_text(
        f"name: {chance.choice(NAMES)}\nstates: {{{state}: 1.0, {other}: 0.5}}\n"
        f"parameters: {{{parameter}: 0.3}}\n"
        f"equations: {{{state}: -{parameter}*{state}, {other}: {state} - {other}}}\n",
        encoding="utf-8",
    )
    words = (
        "study=faults", "system.file=m.yaml", f"batch.values={{{parameter}: [0.1, 0.2, 0.3]}}",
        "duration=2", "output.save_every=0.5", f"output.summaries=[{state}]", *_QUIET,
        "storage.shard_runs=2", f"hydra.run.dir={study.RUN}",
    )  # fmt: skip
    about = f"{state}, {other}, {parameter}"
    code, text = _flow(folder, words)
    if code:
        return Result(f"refused: {about}", judge(code, text), f"{about}\n{text}")
    for command, run in study.commands().items():
        outcome = watched(run, folder, [folder, Path("/")])
        if outcome.fault or outcome.code:
            fault = outcome.fault or "refused after solving"
            return Result("", fault, f"{command} {about}\n{outcome.text}")
    return Result("worked")


def _handles(bench: Bench, chance: random.Random) -> Result:
    """Allow few open files."""
    folder = bench.trials / "study"
    folder.mkdir()
    most = chance.randrange(8, 64)

    def run() -> int:
        from cubie_flow.cli.app import main

        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return main([*study.whole_words()])

    outcome = watched(run, folder, [Path("/")], PATIENCE)
    text = outcome.text
    fault = outcome.fault or judge(outcome.code, text)
    return Result("refused" if outcome.code else "it was enough", fault, f"{most} files\n{text}")


def _sizes(bench: Bench, chance: random.Random) -> Result:
    """Allow small files only, as `ulimit -f` does."""
    folder = bench.trials / "study"
    folder.mkdir()
    most = 512 * chance.randrange(1, 60)

    def run() -> int:
        import signal

        from cubie_flow.cli.app import main

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does where it starts
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        return main([*study.whole_words()])

    outcome = watched(run, folder, [Path("/")], PATIENCE)
    fault = outcome.fault or judge(outcome.code, outcome.text)
    return Result("refused" if outcome.code else "it was enough", fault, outcome.text)


TRIALS: dict[str, Trial] = {
    "300 digits": _digits,
    "a start beyond the precision": _late_start,
    "a grid of 10^10 runs": _grid,
    "little address space": _address_space,
    "an odd current folder": _odd_folder,
    "names of the store": _names,
    "few open files": _handles,
    "small files only": _sizes,
}
