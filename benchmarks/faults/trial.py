"""What a trial is given, what it returns, and how a study ends in it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import define, field, frozen

from benchmarks.faults import study
from benchmarks.faults.kills import Progress, forked

#: Seconds after which a command counts as one that never ends.
PATIENCE = 120.0


@define
class Bench:
    """The good study, and where trials are made.

    Attributes
    ----------
    home : Path
        Its folder `whole` has the good study, and `trials` is for one trial.
    right : dict
        Digests of the arrays of the good study.
    changes : int
        How often an undisturbed study changes the file system.
    """

    home: Path
    right: dict[str, str] = field(factory=dict)
    changes: int = 0

    @property
    def whole(self) -> Path:
        """Folder of the good study."""
        return self.home / "whole"

    @property
    def trials(self) -> Path:
        """Folder of a trial."""
        return self.home / "trials"


@frozen
class Result:
    """How a trial ended.

    Attributes
    ----------
    end : str
    fault : str
        What must not happen and did; empty if nothing.
    text : str
        Output of the last command.
    """

    end: str
    fault: str = ""
    text: str = ""


#: A trial makes its choices by the second.
Trial = Callable[[Bench, random.Random], Result]


@define
class Running:
    """The command in a fork.

    Attributes
    ----------
    child : int
        Its process.
    progress : Progress
    output : Path
        What it prints.
    code : int or None
        Its exit status, once it has ended; negative for a signal.
    """

    child: int
    progress: Progress
    output: Path
    code: int | None = None

    def wait_for(self, change: int) -> None:
        """Wait until it has changed the file system so often, or has ended."""
        while self.progress.changes <= change and not os.waitid(
            os.P_PID, self.child, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            time.sleep(0.0002)

    def end(self, patience: float = PATIENCE) -> str:
        """Wait for its end, kill it if that does not come, and return what it printed."""
        until = time.monotonic() + patience
        while self.code is None and time.monotonic() < until:
            child, status = os.waitpid(self.child, os.WNOHANG)
            if child:
                self.code = os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        if self.code is None:
            os.kill(self.child, 9)
            os.waitpid(self.child, 0)
            self.code = -9
        return self.output.read_text(encoding="utf-8", errors="replace")


def start(
    words: Sequence[str], folder: Path, prepare: Callable[[], None] = lambda: None
) -> Running:
    """Start the command in a fork, with its output next to the folder; see `forked`."""
    progress, output = Progress(), folder.parent / "output"
    return Running(forked(words, folder, progress, output, prepare), progress, output)


def judge(code: int | None, text: str) -> str:
    """Return what is wrong with a command that had to be refused or to work; empty if nothing."""
    if code == -9:
        return "hang"
    if code is None or code < 0:
        return "killed"
    if "Traceback" in text:
        return "traceback"
    sentences = [line for line in text.splitlines() if line.startswith("cubie-flow: ")]
    if code and len(sentences) != 1:
        return f"{len(sentences)} sentences"
    return ""


def finished(bench: Bench, folder: Path, words: Sequence[str] | None = None) -> Result:
    """Resume the study of a folder and return whether it has the right bytes.

    Parameters
    ----------
    bench : Bench
    folder : Path
    words : sequence of str, optional
        In place of the resumption.
    """
    run = folder / study.RUN
    begun = (run / "config.yaml").exists()
    again = (f"resume={study.RUN}",) if begun else study.whole_words()
    running = start(again if words is None else words, folder)
    text = running.end()
    fault = judge(running.code, text)
    if not fault and running.code:
        fault = "not resumed"
    if not fault and study.digests(folder / study.STORE) != bench.right:
        fault = "wrong bytes"
    if not fault and list(folder.rglob("*.partial")):
        fault = "something left behind"
    return Result("the same bytes", fault, text)
