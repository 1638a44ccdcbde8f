"""Signals and time limits that stop a study between two shards."""

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
from cubie_flow.process.startup import process

#: Exit status after a time limit, that of timeout(1).
TIMED_OUT = 124
#: Guards that handle signals now.
_listening: list[StopGuard] = []
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Stopped(Exception):
    """A study was stopped between two shards; it can be resumed.

    Parameters
    ----------
    reason : str
        Why it was stopped.
    code : int
        Exit status.
    """

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.code = code


def read_limit(key: str, value: object) -> float | None:
    """Return a time limit in seconds: a number, or a text such as ``90s``, ``30m``, ``3h``.

    Parameters
    ----------
    key : str
        Config key, named in errors.
    value : object

    Raises
    ------
    FlowError
        If the value is not a positive time.
    """
    if value is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([smhd]?)\s*", str(value))
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if isinstance(value, bool) or not seconds > 0.0:
        raise FlowError(f"{key} is {value!r}; it must be seconds, or such as 90s, 30m, 3h, or null")
    return seconds


def stop_if_asked(during: str) -> None:
    """Stop where nothing has been solved yet, if a signal arrived.

    Parameters
    ----------
    during : str
        What is done, for the message.

    Raises
    ------
    Stopped
        If a guard of this process has caught a signal.
    """
    for guard in _listening:
        if guard.signal is not None:
            name = signal.Signals(guard.signal).name
            raise Stopped(f"stopped by {name} while {during}", 128 + guard.signal)


class StopGuard:
    """Decides between two shards whether to go on.

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
        """Note that a shard is complete, and stop if it must be the last one.

        Parameters
        ----------
        took : float
            Seconds that the shard took, if others ended since the last call as well.

        Raises
        ------
        Stopped
            If a signal arrived, or the next shard might exceed the limit.
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
    def listening(self, verbose: bool = True) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGUSR1: the first stops soon, the second at once.

        Parameters
        ----------
        verbose : bool
            Whether to print an answer to the first signal; of many processes one should.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [
            getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, n)
        ]

        def handle(number: int, frame: FrameType | None) -> None:
            if self.signal is not None:
                raise KeyboardInterrupt
            self.signal = number
            if verbose:
                text = "finishing the shard in flight; once more stops now"
                print(f"cubie-flow: {text}", file=sys.stderr, flush=True)

        before = {number: signal.signal(number, handle) for number in numbers}
        _listening.append(self)
        try:
            yield
        finally:
            _listening.remove(self)
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block signals while threads and processes are started, which inherit the block.

    A terminal sends Ctrl-C to every process of the group, and so does a batch system with its
    warning. Only the command itself must answer.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The tracker unblocks signals in the thread that starts it, so it is started first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_interrupts() -> None:
    """Ignore further Ctrl-C while the process only reports why it ends."""
    if process.owned and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
