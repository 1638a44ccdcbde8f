"""``python -m benchmarks faults``: damages, hostile folders and kills, with a table at the end."""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field

from benchmarks.faults import damages, hostile, study
from benchmarks.faults.kills import kill_trial
from benchmarks.faults.watch import Outcome, watched
from cubie_flow.kernels.cache import FOLDER_VARIABLE

KINDS = ("hostile", "damages", "kills")
Say = Callable[[str], None]


@define
class Table:
    """Counts of trials, and the first example of every fault.

    Attributes
    ----------
    tried : Counter
        Trials by kind.
    ended : Counter
        How they ended, by kind and end.
    faults : dict of str to list of str
        What must not happen and did, with the trials.
    seconds, memory : float
        Largest time and memory of a command on a damaged or hostile study.
    """

    tried: Counter[str] = field(factory=Counter)
    ended: Counter[tuple[str, str]] = field(factory=Counter)
    faults: dict[str, list[str]] = field(factory=dict)
    seconds: float = 0.0
    memory: float = 0.0

    def add(self, kind: str, name: str, end: str, fault: str, text: str, say: Say) -> None:
        """Count a trial."""
        self.tried[kind] += 1
        self.ended[kind, fault or end] += 1
        if fault:
            self.faults.setdefault(f"{kind}: {fault}", []).append(name)
            say(f"FAULT {fault}: {name}\n{_indented(text)}")

    def text(self) -> str:
        """Return the table."""
        lines = []
        for kind, count in self.tried.items():
            ends = ", ".join(
                f"{end} {number}" for (of, end), number in self.ended.items() if of == kind
            )
            lines.append(f"{kind:<8} {count:>6} tried: {ends}")
        lines.append(
            f"largest  {self.seconds:.2f} s and {self.memory / 1e6:.0f} MB of one command on a "
            "damaged or hostile study"
        )
        for fault, names in self.faults.items():
            lines.append(f"FAULT    {fault}: {len(names)}, such as {names[0]}")
        return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-8:])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--minutes", type=float, default=None, help="stop each kind after these")
    parser.add_argument("--count", type=int, default=None, help="trials of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS), help="separated by commas")
    parser.add_argument("--commands", default="", help="only these commands, by commas")
    parser.add_argument("--only", default="", help="trials with this in their name")
    parser.add_argument("--out", type=Path, default=None, help="JSON of the table")


def command(given: argparse.Namespace) -> int:
    """Do what the command line says; return 1 if there was a fault."""
    table = campaign(
        given.kinds.split(","), given.seed, given.count, given.minutes,
        [name for name in given.commands.split(",") if name], given.only,
        lambda line: print(line, flush=True),
    )  # fmt: skip
    print(table.text())
    if given.out:
        given.out.write_text(json.dumps(_record(table, given.seed), indent=1) + "\n")
    return int(bool(table.faults))


def _record(table: Table, seed: int) -> dict[str, Any]:
    ended: dict[str, dict[str, int]] = {}
    for (kind, end), number in table.ended.items():
        ended.setdefault(kind, {})[end] = number
    return {
        "seed": seed, "tried": dict(table.tried), "ended": ended,
        "faults": {name: len(names) for name, names in table.faults.items()},
        "largest_seconds": table.seconds, "largest_memory_bytes": table.memory,
    }  # fmt: skip


def campaign(
    kinds: list[str],
    seed: int,
    count: int | None,
    minutes: float | None,
    chosen: list[str],
    only: str,
    say: Say,
) -> Table:
    """Try faults and return the table of how they ended.

    Parameters
    ----------
    kinds : list of str
        Of `KINDS`.
    seed : int
    count : int or None
        Trials of each kind: hostile folders with every command, damages with one command each,
        kills. None for as many as the time allows, and all hostile folders once.
    minutes : float or None
        Of each kind.
    chosen : list of str
        Commands; empty for all.
    only : str
        Part of the names of the trials.
    say : callable
        Takes lines of progress.
    """
    table = Table()
    home = Path(tempfile.mkdtemp(prefix="faults-"))
    if minutes is None and count is None:
        count = 200
    os.environ.update(study.environment())
    try:
        whole = home / "whole"
        whole.mkdir()
        study.solve(whole)
        began = time.monotonic()
        study.solve(whole, "hydra.run.dir=outputs/again")
        span = time.monotonic() - began
        shutil.rmtree(whole / "outputs" / "again")
        study.load()
        if "hostile" in kinds:
            _hostile(table, home, chosen, only, say)
        if "damages" in kinds:
            _damages(table, home, seed, count, minutes, chosen, only, say)
        if "kills" in kinds:
            _kills(table, home, seed, count, minutes, span, say)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return table


def _deadline(minutes: float | None) -> float:
    """Return when a kind of trials that begins now has to stop."""
    return math.inf if minutes is None else time.monotonic() + 60 * minutes


def _try(table: Table, folder: Path, run: study.Command) -> Outcome:
    cache = Path(os.environ.get(FOLDER_VARIABLE, str(Path.home() / ".cache")))
    allowed = [folder, cache, Path(os.environ.get("MPLCONFIGDIR", cache))]
    outcome = watched(run, folder, allowed)
    table.seconds = max(table.seconds, outcome.seconds)
    table.memory = max(table.memory, outcome.memory)
    return outcome


def _end(outcome: Outcome) -> str:
    return "worked" if outcome.code == 0 else "refused"


def _hostile(table: Table, home: Path, chosen: list[str], only: str, say: Say) -> None:
    for name, attack in hostile.ATTACKS.items():
        for command, run in study.commands().items():
            if (chosen and command not in chosen) or only not in name:
                continue
            folder = study.copy(home / "whole", home / "trials" / "study")
            attack(folder)
            outcome = _try(table, folder, run)
            fault = outcome.fault or _stolen(folder, outcome)
            if not fault and outcome.programs and command not in ("resume", "recheck", "audit"):
                fault = "program started"
            text = "\n".join(
                [*outcome.contacts, *outcome.writes, *outcome.programs, outcome.crash,
                 outcome.stderr]
            )  # fmt: skip
            table.add("hostile", f"{name}, {command}", _end(outcome), fault, text, say)
            shutil.rmtree(home / "trials")


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


def _damages(
    table: Table, home: Path, seed: int, count: int | None, minutes: float | None,
    chosen: list[str], only: str, say: Say,
) -> None:  # fmt: skip
    chance, limit = random.Random(seed), _deadline(minutes)
    commands = {n: r for n, r in study.commands().items() if not chosen or n in chosen}
    right = study.digests(home / "whole" / study.STORE)
    whole = home / "whole"
    names = list(commands)
    for number, trial in enumerate(damages.trials(whole, seed)):
        if (count is not None and number >= count) or time.monotonic() > limit:
            return
        name = names[number % len(names)]
        title = f"{trial.file} {trial.name}, {name}"
        if only not in title:
            continue
        folder = study.copy(whole, home / "trials" / "study")
        trial.apply(folder, chance)
        outcome = _try(table, folder, commands[name])
        fault = outcome.fault
        if not fault and name in ("resume", "recheck") and outcome.code == 0:
            fault = _wrong(folder, right, recheck=name == "recheck")
        text = "\n".join([*outcome.contacts, *outcome.writes, outcome.crash, outcome.stderr])
        table.add("damages", title, _end(outcome), fault, text, say)
        shutil.rmtree(home / "trials", ignore_errors=True)
        if (number + 1) % 200 == 0:
            say(f"{number + 1} damages")


def _wrong(folder: Path, right: dict[str, str], recheck: bool) -> str:
    """Return whether a study that a command called finished has other values than it should."""
    if not recheck:
        return ""  # damaged values are looked for by recheck=true alone, which the docs say
    try:
        return "" if study.digests(folder / study.STORE) == right else "wrong bytes"
    except Exception as error:
        return f"wrong bytes ({type(error).__name__})"


def _kills(
    table: Table, home: Path, seed: int, count: int | None, minutes: float | None, span: float,
    say: Say,
) -> None:  # fmt: skip
    right = study.digests(home / "whole" / study.STORE)
    chance = random.Random(seed)
    limit = _deadline(minutes)
    number = 0
    while (count is None or number < count) and time.monotonic() < limit:
        number += 1
        kill = kill_trial(home / "kills", right, span, chance)
        name = f"kill {number} at {', '.join(f'{moment:.3f}' for moment in kill.moments)} s"
        table.add("kills", name, f"the same bytes after {kill.state}", kill.fault, kill.text, say)
        if number % 50 == 0:
            say(f"{number} kills")
