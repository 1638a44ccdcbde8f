"""Clocks that jump: back by years, forward, and to and fro, while a study runs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from benchmarks.faults.study import whole_words
from benchmarks.faults.trial import Bench, Result, Trial, finished, judge, start

YEAR = 365 * 86400.0


def shifted(shift: Callable[[int], float]) -> Callable[[], None]:
    """Return what lets the clock of the day be wrong in a process.

    Parameters
    ----------
    shift : callable
        Takes how often the clock was read, and returns the seconds by which it is ahead.
    """

    def prepare() -> None:
        from cubie_flow.storage import lease

        right, reads = time.time, 0

        def wrong() -> float:
            nonlocal reads
            reads += 1
            return right() + shift(reads)

        time.time = wrong
        time.time_ns = lambda: int(wrong() * 1e9)
        setattr(lease, "time", wrong)  # noqa: B010  it imports the function

    return prepare


def _clock(shift: Callable[[random.Random], Callable[[int], float]]) -> Trial:
    def trial(bench: Bench, chance: random.Random) -> Result:
        folder = bench.trials / "study"
        folder.mkdir()
        running = start(whole_words(), folder, shifted(shift(chance)))
        text = running.end()
        fault = judge(running.code, text)
        if not fault and running.code:
            fault = "stopped by a clock"
        return Result("", fault, text) if fault else finished(bench, folder)

    return trial


TRIALS: dict[str, Trial] = {
    "a clock years ago": _clock(lambda chance: lambda read: -30 * YEAR * chance.random()),
    "a clock set back once": _clock(
        lambda chance: (lambda at: lambda read: -YEAR * (read > at))(chance.randrange(1, 40))
    ),
    "a clock that jumps": _clock(
        lambda chance: lambda read: chance.choice([-YEAR, -3600.0, 0.0, 3600.0, YEAR])
    ),
}
