"""Kills: SIGKILL at random moments of a study and of its resumption, then the same bytes.

Most studies are forks of a process that has imported everything, so that a trial takes little time.
The fork runs the public command and really writes. It counts its changes of the file system in
memory that it shares with its parent, and the parent kills it a moment after a random one of them:
so every kill hits a study that is being written, however busy the machine is. One command in twenty
is a new process, which is killed at a random time, while it imports too.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from mmap import mmap
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from benchmarks.faults.study import RUN, STORE, digests, environment, whole_words

#: One command in so many is a new process.
PROCESSES = 20
#: Changes of the file system by a resumption that finds nothing to do.
RESUMED = 12
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.link", "os.truncate", "os.chmod")
_WRITING = os.O_WRONLY | os.O_RDWR
#: Where a kill hit, by the number that a study shares.
PHASES = (
    "before the first file", "folder of the run", "making the store", "values of a shard",
    "status of a shard", "finishing", "a new process",
)  # fmt: skip


@frozen
class Kill:
    """The result of a trial of kills.

    Attributes
    ----------
    fault : str
        What must not happen and did; empty if nothing.
    phases : tuple of str
        Of `PHASES`: where each kill hit. A study that had ended already was not killed.
    text : str
        Output of the last command.
    """

    fault: str
    phases: tuple[str, ...]
    text: str = ""


@define
class Progress:
    """How far a study is, in memory that a fork shares: changes of the file system, and phase."""

    shared: mmap = field(factory=lambda: mmap(-1, 16))

    def reset(self) -> None:
        """Begin a new study."""
        self.shared[:] = bytes(16)

    @property
    def changes(self) -> int:
        """Changes of the file system so far."""
        return int(struct.unpack_from("q", self.shared, 0)[0])

    @property
    def phase(self) -> int:
        """Index of `PHASES`."""
        return int(struct.unpack_from("q", self.shared, 8)[0])

    def watch(self) -> None:
        """Count what this process does from now on."""
        from cubie_flow.process import safe_files
        from cubie_flow.storage import local_files

        write = safe_files.write_inside

        def noted(folder: Path, name: str, data: Any, **options: Any) -> None:
            self._enter(_phase(name, self.phase))
            write(folder, name, data, **options)

        setattr(local_files, "write_inside", noted)  # noqa: B010  it imports the function
        sys.addaudithook(self._hook)

    def _enter(self, phase: int) -> None:
        struct.pack_into("q", self.shared, 8, phase)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        writing = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        if writing or event in _CHANGES:
            if not self.phase:
                self._enter(1)
            struct.pack_into("q", self.shared, 0, self.changes + 1)


def _phase(name: str, before: int) -> int:
    """Return the phase in which a file of the store is written."""
    made_with = name.startswith(("time/", "memory/", "config/"))
    if "/c/" in name and not made_with:
        return 4 if name.startswith("status/") else 3
    return 5 if before >= 3 else 2


def forked(
    words: Sequence[str],
    folder: Path,
    progress: Progress,
    output: Path,
    prepare: Callable[[], None] = lambda: None,
) -> int:
    """Start the command in a fork and return its process.

    Parameters
    ----------
    words : sequence of str
        Its arguments.
    folder : Path
        Its current folder.
    progress : Progress
        Set to its start.
    output : Path
        Takes what it prints.
    prepare : callable
        Runs in the fork before the command.
    """
    progress.reset()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        from cubie_flow.cli.app import main

        os.chdir(folder)
        prepare()
        progress.watch()
        with (
            output.open("w", encoding="utf-8") as file,
            redirect_stdout(file),
            redirect_stderr(file),
        ):
            try:
                code = main(list(words))
            except BaseException:
                import traceback

                traceback.print_exc()
    finally:
        os._exit(code)


def whole_changes(folder: Path) -> int:
    """Return how often an undisturbed study changes the file system.

    Parameters
    ----------
    folder : Path
        An empty folder.
    """
    progress = Progress()
    child = forked(whole_words(), folder, progress, folder / "output")
    os.waitpid(child, 0)
    return progress.changes


def kill_trial(folder: Path, whole: dict[str, str], changes: int, chance: random.Random) -> Kill:
    """Kill a study, and perhaps its resumptions, and finish it.

    Parameters
    ----------
    folder : Path
        Replaced.
    whole : dict
        Digests of the arrays of an undisturbed run.
    changes : int
        How often an undisturbed study changes the file system.
    chance : random.Random
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "study").mkdir(parents=True)
    phases: list[str] = []
    text, left, words = "", changes, whole_words()
    for _ in range(chance.choice([1, 2, 3, 4])):
        started = _killed_process if chance.randrange(PROCESSES) == 0 else _killed_fork
        phase, done, text = started(words, folder, left, chance)
        if "Traceback" in text:
            return Kill("traceback", tuple(phases), text)
        if phase:
            phases.append(phase)
        left = max(0, left - done)
        if (folder / "study" / RUN / "config.yaml").exists():
            words = (f"resume={RUN}",)
            left += RESUMED
    progress = Progress()
    child = forked(words, folder / "study", progress, folder / "output")
    _, status = os.waitpid(child, 0)
    text = _text(folder)
    return Kill(_judged(folder / "study", status, text, whole), tuple(phases), text)


def _judged(folder: Path, status: int, text: str, whole: dict[str, str]) -> str:
    """Return what is wrong with a study that was killed and finished; empty if nothing."""
    if "Traceback" in text:
        return "traceback"
    if status:
        return "not resumed"
    if digests(folder / STORE) != whole:
        return "wrong bytes"
    if list(folder.rglob("*.partial")):
        return "something left behind"
    if re.search(r"warning", text, re.IGNORECASE):
        return "a warning"
    return ""


_Started = Callable[[Sequence[str], Path, int, random.Random], tuple[str, int, str]]


def _killed_fork(
    words: Sequence[str], folder: Path, left: int, chance: random.Random
) -> tuple[str, int, str]:
    """Kill a fork a moment after a random change; return its phase, its changes and its output."""
    progress, target = Progress(), chance.randrange(max(1, left))
    moment = chance.choice([0.0, chance.uniform(0.0, 0.003), chance.uniform(0.0, 0.05)])
    child = forked(words, folder / "study", progress, folder / "output")
    while progress.changes <= target and not os.waitid(
        os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
    ):
        time.sleep(0.0002)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)  # it is a zombie at worst
    _, status = os.waitpid(child, 0)
    hit = os.WIFSIGNALED(status)
    return PHASES[progress.phase] if hit else "", progress.changes, _text(folder)


def _killed_process(
    words: Sequence[str], folder: Path, left: int, chance: random.Random
) -> tuple[str, int, str]:
    """Kill a new process at a random time."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cubie_flow", *words], cwd=folder / "study", env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    time.sleep(chance.uniform(0.0, 2.5))
    process.send_signal(signal.SIGKILL)
    text, _ = process.communicate()
    return PHASES[-1] if process.returncode == -signal.SIGKILL else "", 0, text


def _text(folder: Path) -> str:
    return (folder / "output").read_text(encoding="utf-8", errors="replace")
