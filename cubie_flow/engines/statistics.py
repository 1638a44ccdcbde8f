"""What a study has come to so far, added up from the records of its shards."""

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
        Runs by status code that the store had before.
    show : callable, optional
        Called several times a second with runs done and runs failed so far.
    check : callable, optional
        Called between two shards with the seconds the last one took; what it raises stops the
        study.
    well : collection of int
        Status codes of runs that have not failed.

    Attributes
    ----------
    statuses : dict
        Runs in the store by status code.
    records : dict
        By shard.
    solver_waited, writer_waited : float
        Seconds.
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

    def ticked(self, index: int | None = None, begun: int = 0) -> None:
        """Note how far a shard in flight is."""
        if index is not None and index not in self.records:
            self._begun[index] = begun
        if self._show is not None:
            ended = sum(self.statuses.values())
            self._show(ended + sum(list(self._begun.values())), self._failed(self.statuses))

    def finished(self, record: Record) -> None:
        """Add a shard that is in the store."""
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

    def between(self, seconds: float) -> None:
        """Ask whether to go on."""
        if self._check is not None:
            self._check(seconds)

    def waited(self, solver: float, writer: float) -> None:
        """Note who waited for whom."""
        self.solver_waited, self.writer_waited = solver, writer

    def total(self, name: str) -> float:
        """Return the sum of an attribute or of a column of the rows over all records."""
        found = [getattr(r, name, r.row.get(name, 0.0)) for r in self.records.values()]
        return float(sum(found))

    def rescued(self, attempts: int) -> list[int]:
        """Return the runs that each of `attempts` rescue attempts solved."""
        found = [0] * (attempts + 1)
        for record in self.records.values():
            for number, count in enumerate(record.rescued):
                found[number] += count
        return found[1:]

    @property
    def parts(self) -> tuple[Part, ...]:
        """What each worker has done, where they are told apart."""
        return tuple(self._parts.values())

    @property
    def workers(self) -> int:
        """How many solved the shards."""
        return max(1, len({record.worker for record in self.records.values()}))

    def measured(self) -> dict[str, float]:
        """Return the largest of everything that was measured."""
        found: dict[str, float] = {}
        for record in self.records.values():
            for name, value in record.measured.items():
                found[name] = max(value, found.get(name, 0.0))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for every shard, in order."""
        records = [self.records[index] for index in sorted(self.records)]
        return [{**r.row, "worker": r.worker} if r.worker else r.row for r in records]
