"""How fast a study goes, and how long it will take, from what was seen of it."""

from __future__ import annotations

from collections import deque

#: Seconds of observation before a pace is a number, and seconds that are remembered.
LEAST, WINDOW = 2.0, 120.0


class Pace:
    """The pace of a study over the last minutes.

    It begins with the first runs that are finished while it looks: what was there before, and the
    time until then, in which kernels are compiled, say nothing about the time that is left.
    """

    def __init__(self) -> None:
        self._first: int | None = None
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, seconds: float, done: int) -> None:
        """Note that `done` runs are finished at a time in seconds."""
        if self._first is None:
            self._first = done
        if done > (self._seen[-1][1] if self._seen else self._first):
            self._seen.append((seconds, done))
        # Shards may take longer than the window: two of them are always remembered.
        while len(self._seen) > 2 and self._seen[1][0] < seconds - WINDOW:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Runs per second; None before enough was seen."""
        if len(self._seen) < 2:
            return None
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - began) if ended - began >= LEAST else None

    def remaining(self, total: int) -> float | None:
        """Return the seconds to go until `total` runs are finished; None if that is not known."""
        rate = self.rate
        return None if rate is None else (total - self._seen[-1][1]) / rate


def duration_text(seconds: float) -> str:
    """Return a time as one reads it: ``8 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = round(seconds)
    for unit, size, smaller, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}{f' {rest} {smaller}' if rest else ''}"
    return f"{whole} s"
