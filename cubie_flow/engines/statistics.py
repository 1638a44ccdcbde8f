"""Statistics of a study so far, added up from the records of its shards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from attrs import evolve

from cubie_flow.engines.base import Part, Record


class RunStatistics:
    """Adds up records; a `Listener`.

    Parameters
    ----------
    statuses : mapping
        Number of runs by status code that the store had before.
    show : callable, optional
        Called several times per second with the numbers of finished and failed runs.
    check : callable, optional
        Called between two shards with the seconds the last one took; an exception stops the
        study.
    well : collection of int
        Status codes of runs that have not failed.

    Attributes
    ----------
    statuses : dict
        Number of runs in the store by status code.
    records : dict
        Record of every finished shard by its number.
    solver_waited, writer_waited : float
        Seconds that solving and writing waited for each other.
    """

    def __init__(
        self,
        statuses: Mapping[int, int],
        show: Callable[[int, int], None] | None = None,
        check: Callable[[float], None] | None = None,
        well: Collection[int] = (0,),
    ) -> None:
        self.statuses = dict(statuses)
        self.records: dict[int, Record] = {}
        self.solver_waited = self.writer_waited = 0.0
        self._begun: dict[int, int] = {}
        self._parts: dict[str, Part] = {}
        self._show, self._check, self._well = show, check, well

    def tick(self, index: int | None = None, begun: int = 0) -> None:
        """Note the progress of a shard in flight, and show that of the study."""
        if index is not None and index not in self.records:
            self._begun[index] = begun
        if self._show is not None:
            ended = sum(self.statuses.values())
            self._show(ended + sum(list(self._begun.values())), self._failed(self.statuses))

    def add(self, record: Record) -> None:
        """Add the record of a shard that is in the store."""
        self.records[record.index] = record
        self._begun.pop(record.index, None)
        for code, count in record.statuses.items():
            self.statuses[code] = self.statuses.get(code, 0) + count
        if record.worker:
            part = self._parts.get(record.worker, Part(record.worker, 0, 0, 0.0, 0))
            self._parts[record.worker] = evolve(
                part,
                runs=part.runs + record.runs,
                failures=part.failures + self._failed(record.statuses),
                seconds=part.seconds + record.row.get("task_seconds", record.seconds),
                shards=(part.shards or 0) + 1,
            )

    def _failed(self, statuses: Mapping[int, int]) -> int:
        return sum(count for code, count in statuses.items() if code not in self._well)

    def check(self, seconds: float) -> None:
        """Call the check between two shards."""
        if self._check is not None:
            self._check(seconds)

    def note_waits(self, solver: float, writer: float) -> None:
        """Note the seconds that solving and writing waited for each other."""
        self.solver_waited, self.writer_waited = solver, writer

    def total(self, name: str) -> float:
        """Return the sum of an attribute or of a column of the rows over all records."""
        values = [getattr(r, name, r.row.get(name, 0.0)) for r in self.records.values()]
        return float(sum(values))

    def rescued(self, attempts: int) -> list[int]:
        """Return the number of runs that each of `attempts` rescue attempts solved."""
        solved = [0] * (attempts + 1)
        for record in self.records.values():
            for number, count in enumerate(record.rescued):
                solved[number] += count
        return solved[1:]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Progress of each worker, if the engine names them."""
        return tuple(self._parts.values())

    @property
    def workers(self) -> int:
        """Number of workers that solved shards."""
        return max(1, len({record.worker for record in self.records.values()}))

    def measured(self) -> dict[str, float]:
        """Return the largest value of every measurement."""
        largest: dict[str, float] = {}
        for record in self.records.values():
            for name, value in record.measured.items():
                largest[name] = max(value, largest.get(name, 0.0))
        return largest

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of all shards, in order."""
        records = [self.records[index] for index in sorted(self.records)]
        return [{**r.row, "worker": r.worker} if r.worker else r.row for r in records]
