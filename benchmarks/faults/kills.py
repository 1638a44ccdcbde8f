"""Kills: SIGKILL at random moments of a study and of its resumption, then the same bytes."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from attrs import frozen

from benchmarks.faults.study import RUN, STORE, WORDS, digests, environment


@frozen
class Kill:
    """The result of a trial of kills.

    Attributes
    ----------
    fault : str
        What must not happen and did; empty if nothing.
    moments : tuple of float
        Seconds after which the command and its resumptions were killed.
    state : str
        What the first kill left: ``nothing``, ``begun`` or ``complete``.
    text : str
        Output of the last command.
    """

    fault: str
    moments: tuple[float, ...]
    state: str
    text: str = ""


def command(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start the command in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "cubie_flow", *words], cwd=folder, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_trial(folder: Path, whole: dict[str, str], span: float, chance: random.Random) -> Kill:
    """Kill a study, and perhaps its resumptions, and finish it.

    Parameters
    ----------
    folder : Path
        An empty folder.
    whole : dict
        Digests of the arrays of an undisturbed run.
    span : float
        Seconds that an undisturbed run takes.
    chance : random.Random
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    moments, text = [], ""
    words: tuple[str, ...] = (*WORDS, f"hydra.run.dir={RUN}")
    state = ""
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        moments.append(chance.uniform(0.0, 1.05 * span))
        process = command(folder, *words)
        time.sleep(moments[-1])
        process.send_signal(signal.SIGKILL)
        text = "".join(process.communicate())
        if "Traceback" in text:
            return Kill("traceback", tuple(moments), state, text)
        if not (folder / RUN / "config.yaml").exists():
            state = state or "nothing"
            continue
        state = state or ("begun" if process.returncode else "complete")
        words = (f"resume={RUN}",)
    process = command(folder, *words)
    text = "".join(process.communicate(timeout=300))
    if "Traceback" in text:
        return Kill("traceback", tuple(moments), state, text)
    if process.returncode:
        return Kill("not resumed", tuple(moments), state, text)
    if digests(folder / STORE) != whole:
        return Kill("wrong bytes", tuple(moments), state, text)
    if list(folder.rglob("*.partial")) or re.search(r"warning", text, re.IGNORECASE):
        return Kill("something left behind", tuple(moments), state, text)
    return Kill("", tuple(moments), state)
