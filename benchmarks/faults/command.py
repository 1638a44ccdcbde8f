"""``python -m benchmarks faults``: studies that are damaged, attacked, killed and starved."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from benchmarks.faults import clocks, damages, disks, hostile, limits, remotes, study
from benchmarks.faults.kills import kill_trial, whole_changes
from benchmarks.faults.table import Cost, Say, Table
from benchmarks.faults.trial import Bench, Trial
from benchmarks.faults.watch import Outcome, watched
from cubie_flow.errors import FlowError
from cubie_flow.kernels.cache import FOLDER_VARIABLE

#: Kinds with a table of trials that are tried in turn.
TABLES: dict[str, dict[str, Trial]] = {
    "disks": disks.TRIALS, "clocks": clocks.TRIALS, "limits": limits.TRIALS,
    "remotes": remotes.TRIALS,
}  # fmt: skip
KINDS = ("hostile", "damages", "kills", *TABLES)


@define
class Campaign:
    """Faults that are tried one after the other.

    Attributes
    ----------
    bench : Bench
    seed : int
    count : int or None
        Trials of each kind. None for as many as the time allows, and all once where there is a
        table of them.
    minutes : float or None
        Of each kind.
    chosen : list of str
        Commands; empty for all.
    only : str
        Part of the names of the trials.
    say : callable
        Takes lines of progress.
    table : Table
    """

    bench: Bench
    seed: int
    count: int | None
    minutes: float | None
    chosen: list[str]
    only: str
    say: Say
    table: Table = field(factory=Table)

    def run(self, kinds: list[str]) -> Table:
        """Try the faults of some kinds and return the table of how they ended."""
        self.table.healthy = self._healthy() if {"hostile", "damages"} & {*kinds} else {}
        for kind in kinds:
            if kind in TABLES:
                self._in_turn(kind, TABLES[kind])
            else:
                {"hostile": self._hostile, "damages": self._damages, "kills": self._kills}[kind]()
        return self.table

    def _commands(self) -> dict[str, study.Command]:
        every = study.commands().items()
        return {name: run for name, run in every if not self.chosen or name in self.chosen}

    def _numbers(self, all_at_once: int | None = None) -> Iterator[int]:
        """Count trials until the count or the time is used up.

        Parameters
        ----------
        all_at_once : int, optional
            How many there are if neither is bounded.
        """
        bounded = self.count is not None or self.minutes is not None
        count = self.count if bounded else all_at_once
        limit = math.inf if self.minutes is None else time.monotonic() + 60 * self.minutes
        number = 0
        while (count is None or number < count) and time.monotonic() < limit:
            yield number
            number += 1

    def _healthy(self) -> dict[str, Cost]:
        """Return what each command takes on a good study: the median of three, most memory."""
        costs = {}
        for name, run in self._commands().items():
            every = []
            for _ in range(3):
                folder = study.copy(self.bench.whole, self.bench.trials / "study")
                outcome = self._try(folder, run)
                if outcome.code:
                    raise FlowError(f"{name} refuses a good study: {outcome.text}")
                every.append(Cost.of(outcome))
            costs[name] = Cost(
                statistics.median(cost.cpu for cost in every),
                statistics.median(cost.seconds for cost in every),
                max(cost.memory for cost in every),
            )
        return costs

    def _try(self, folder: Path, run: study.Command) -> Outcome:
        cache = Path(os.environ.get(FOLDER_VARIABLE, str(Path.home() / ".cache")))
        return watched(run, folder, [folder, cache, Path(os.environ.get("MPLCONFIGDIR", cache))])

    def _weighed(self, kind: str, name: str, command: str, outcome: Outcome) -> str:
        """Return the fault of a command, also that it took too long or too much."""
        heavy = self.table.weigh(kind, name, command, outcome)
        return outcome.fault or heavy

    def _hostile(self) -> None:
        for name, attack in hostile.ATTACKS.items():
            for command, run in self._commands().items():
                if self.only not in name:
                    continue
                folder = study.copy(self.bench.whole, self.bench.trials / "study")
                attack(folder)
                outcome = self._try(folder, run)
                title = f"{name}, {command}"
                fault = self._weighed("hostile", title, command, outcome)
                fault = fault or _stolen(folder, outcome)
                if not fault and outcome.programs and command not in study.STARTING:
                    fault = "program started"
                self.table.add("hostile", title, _end(outcome), fault, outcome.text, self.say)
                shutil.rmtree(self.bench.trials)

    def _damages(self) -> None:
        chance, commands = random.Random(self.seed), self._commands()
        names = list(commands)
        trials = damages.trials(self.bench.whole, self.seed)
        for number, trial in zip(self._numbers(), trials, strict=False):
            name = names[number % len(names)]
            title = f"{trial.file} {trial.name}, {name}"
            if self.only not in title:
                continue
            folder = study.copy(self.bench.whole, self.bench.trials / "study")
            trial.apply(folder, chance)
            outcome = self._try(folder, commands[name])
            fault = self._weighed("damages", title, name, outcome)
            if not fault and name == "recheck" and outcome.code == 0:
                fault = _wrong(folder, self.bench.right)
            self.table.add("damages", title, _end(outcome), fault, outcome.text, self.say)
            shutil.rmtree(self.bench.trials, ignore_errors=True)
            if (number + 1) % 200 == 0:
                self.say(f"{number + 1} damages")

    def _kills(self) -> None:
        """Try kills until so many have hit a study that was running."""
        chance, count = random.Random(self.seed), self.count
        bounded = self.count
        self.count = None  # of kills that hit, and not of trials
        try:
            for number in self._numbers():
                if count is not None and self.table.kills.total() >= count:
                    return
                kill = kill_trial(
                    self.bench.trials, self.bench.right, self.bench.changes, chance
                )  # fmt: skip
                self.table.kills.update(kill.phases)
                name = f"trial {number} in {', '.join(kill.phases)}"
                self.table.add("kills", name, "the same bytes", kill.fault, kill.text, self.say)
                if (number + 1) % 50 == 0:
                    self.say(f"{self.table.kills.total()} kills in {number + 1} trials")
        finally:
            self.count = bounded

    def _in_turn(self, kind: str, trials: dict[str, Trial]) -> None:
        """Try the trials of a kind again and again, each time with other choices."""
        names = [name for name in trials if self.only in name]
        if not names:
            return
        for number in self._numbers(len(names)):
            name = names[number % len(names)]
            shutil.rmtree(self.bench.trials, ignore_errors=True)
            self.bench.trials.mkdir(parents=True)
            result = trials[name](self.bench, random.Random(f"{self.seed} {number}"))
            title = f"{name}, round {number // len(names)}"
            self.table.add(kind, title, result.end, result.fault, result.text, self.say)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--minutes", type=float, default=None, help="stop each kind after these")
    parser.add_argument("--count", type=int, default=None, help="trials of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS), help="separated by commas")
    parser.add_argument("--commands", default="", help="only these commands, by commas")
    parser.add_argument("--only", default="", help="trials with this in their name")
    parser.add_argument("--out", type=Path, default=None,
                        help="JSON of the table; a campaign is added to those in it")  # fmt: skip


def command(given: argparse.Namespace) -> int:
    """Do what the command line says; return 1 if there was a fault."""
    kinds = given.kinds.split(",")
    count = given.count
    if given.minutes is None and count is None:
        count = 200 if {"damages", "kills"} & {*kinds} else None
    began = time.monotonic()
    with _bench() as bench:
        table = Campaign(
            bench, given.seed, count, given.minutes,
            [name for name in given.commands.split(",") if name], given.only,
            lambda line: print(line, flush=True),
        ).run(kinds)  # fmt: skip
    print(table.text())
    if given.out:
        about = {"seed": given.seed, "minutes": round((time.monotonic() - began) / 60, 1)}
        _write(given.out, {**about, **table.record()})
    return int(bool(table.faults))


@contextmanager
def _bench() -> Iterator[Bench]:
    """Make the good study, and import what its commands need."""
    home = Path(tempfile.mkdtemp(prefix="faults-"))
    os.environ.update(study.environment())
    try:
        bench = Bench(home)
        bench.whole.mkdir()
        study.solve(bench.whole)
        study.load()
        bench.right = study.digests(bench.whole / study.STORE)
        bench.trials.mkdir()
        bench.changes = whole_changes(bench.trials)
        shutil.rmtree(bench.trials)
        yield bench
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _write(path: Path, campaign: dict[str, Any]) -> None:
    """Add a campaign to those of a record."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"campaigns": []}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    about = {"commit": commit, "python": platform.python_version(), "cores": os.cpu_count()}
    record["campaigns"].append({**about, **campaign})
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _end(outcome: Outcome) -> str:
    return "worked" if outcome.code == 0 else "refused"


def _stolen(folder: Path, outcome: Outcome) -> str:
    """Return whether the secret of the environment is anywhere in what a command left."""
    secret = "the secret"
    if secret in outcome.stdout or secret in outcome.stderr:
        return "secret shown"
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes():
            return "secret written"
    if any((folder.parent / "victim").rglob("*")):
        return "victim changed"
    victim = folder.parent / "victim.txt"
    if victim.exists() and victim.read_text() != "precious\n":
        return "victim changed"
    left = [Path("/tmp/cubie_flow_was_here"), Path("/tmp/cubie_flow_imported"), Path("/tmp/made")]
    for path in left:
        if path.exists():
            path.unlink()
            return "code ran"
    return ""


def _wrong(folder: Path, right: dict[str, str]) -> str:
    """Return whether a study that was rechecked has other values than it should.

    Without ``recheck=true`` damaged values are not looked for, which the documentation says.
    """
    try:
        return "" if study.digests(folder / study.STORE) == right else "wrong bytes"
    except Exception as error:
        return f"wrong bytes ({type(error).__name__})"
