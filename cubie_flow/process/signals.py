"""Stopping a study between two shards: Ctrl-C, a scheduler's warning, a limit of time."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from time import monotonic
from types import FrameType

from cubie_flow.errors import FlowError

#: Exit status after a limit of time, as timeout(1) has it.
TIMED_OUT = 124
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Stopped(Exception):
    """A study stopped between two shards; what it has is complete and can be resumed.

    Parameters
    ----------
    reason : str
        In words.
    code : int
        Exit status.
    """

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.code = code


def read_limit(key: str, value: object) -> float | None:
    """Return a limit of time in seconds: a number, or a text such as ``90s``, ``30m``, ``3h``.

    Raises
    ------
    FlowError
        Naming the key.
    """
    if value is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([smhd]?)\s*", str(value))
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if isinstance(value, bool) or not seconds > 0.0:
        raise FlowError(f"{key} is {value!r}; it must be seconds, or such as 90s, 30m, 3h, or null")
    return seconds


class StopGuard:
    """Says between two shards whether to go on.

    Parameters
    ----------
    limit : float, optional
        Seconds the whole run may take.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.limit = limit
        self.signal: int | None = None
        self._began = self._last = monotonic()
        self._longest = 0.0

    def check(self, took: float = 0.0) -> None:
        """Note that a shard is done.

        Parameters
        ----------
        took : float
            Seconds the shard took, where it was not the only one since the last call.

        Raises
        ------
        Stopped
            If a signal came, or the next shard might end after the limit.
        """
        now = monotonic()
        self._longest, self._last = max(self._longest, now - self._last, took), now
        if self.signal is not None:
            name = signal.Signals(self.signal).name
            raise Stopped(f"stopped by {name} after the shard in flight", 128 + self.signal)
        if self.limit is not None and now - self._began + 1.2 * self._longest > self.limit:
            raise Stopped(
                f"stopped before engine.time_limit ({self.limit:g} s), which one more shard of "
                f"{self._longest:.1f} s might exceed",
                TIMED_OUT,
            )

    @contextmanager
    def listening(self, told: bool = True) -> Iterator[None]:
        """Take the first SIGINT, SIGTERM or SIGUSR1 as a wish to stop soon, the second as now.

        Parameters
        ----------
        told : bool
            Whether the first one is answered; of many processes one is enough.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, n)]

        def hear(number: int, frame: FrameType | None) -> None:
            if self.signal is not None:
                raise KeyboardInterrupt
            self.signal = number
            if told:
                text = "finishing the shard in flight; once more stops now"
                print(f"cubie-flow: {text}", file=sys.stderr, flush=True)

        before = {number: signal.signal(number, hear) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block signals while threads and processes are started, which then never hear them.

    A terminal sends Ctrl-C to every process of the group, and a batch system its warning; the
    command alone is to answer.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It would unblock them in the thread that starts it, so it must be there before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
