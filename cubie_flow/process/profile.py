"""The profile of a command: phases that add up to its wall time.

Phases are those of the thread that runs the command. The work of other threads in the meantime,
such as encoding and writing, is shown in a second column and not added.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

#: Phases in the order of the table; all time outside of them is the rest.
PHASES = (
    "start-up", "configure", "plan", "compile", "solve", "transfer", "encode", "write", "picture",
    "rest",
)  # fmt: skip


class Stopwatch:
    """Charges every moment to one phase, from `start` to `stop`.

    Attributes
    ----------
    seconds : dict
        Wall time by phase.
    meanwhile : dict
        Time of other threads by phase.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.meanwhile: dict[str, float] = {}
        self._phases: list[str] = []
        self._since = 0.0
        self._thread: int | None = None

    def start(self, elapsed: float = 0.0) -> None:
        """Start from zero; the last `elapsed` seconds count as start-up."""
        self.seconds = dict.fromkeys(PHASES, 0.0) | {"start-up": elapsed}
        self.meanwhile = {}
        self._phases, self._since = ["rest"], perf_counter()
        self._thread = threading.get_ident()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time inside to a phase, except the time of inner phases."""
        if self._thread != threading.get_ident():
            yield
            return
        self._charge()
        self._phases.append(name)
        try:
            yield
        finally:
            self._charge()
            self._phases.pop()

    def move(self, source: str, target: str, seconds: float) -> None:
        """Move seconds from one phase to another, at most those that `source` has.

        Parameters
        ----------
        source, target : str
            Names of phases.
        seconds : float
        """
        if self._thread == threading.get_ident():
            seconds = min(seconds, self.seconds[source])
            self.seconds[source] -= seconds
            self.seconds[target] += seconds

    def beside(self, name: str, seconds: float) -> None:
        """Add time that another thread spent in a phase meanwhile."""
        if self._thread == threading.get_ident():
            self.meanwhile[name] = self.meanwhile.get(name, 0.0) + seconds

    def stop(self) -> str:
        """Stop, and return the table of all phases."""
        self._charge()
        self._thread = None
        lines = [f"{'phase':<12}{'wall s':>9}{'meanwhile s':>14}"]
        for name, seconds in self.seconds.items():
            parallel = self.meanwhile.get(name)
            if seconds or parallel:
                note = "" if parallel is None else f"{parallel:>14.3f}"
                lines.append(f"{name:<12}{seconds:>9.3f}{note}")
        lines.append(f"{'total':<12}{sum(self.seconds.values()):>9.3f}")
        return "\n".join(lines)

    def _charge(self) -> None:
        now = perf_counter()
        self.seconds[self._phases[-1]] += now - self._since
        self._since = now


#: The stopwatch of this process.
stopwatch = Stopwatch()
