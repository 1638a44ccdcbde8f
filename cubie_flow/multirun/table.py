"""The table of the jobs while a multirun goes on."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import define

from cubie_flow.console.paths import location_text
from cubie_flow.process.signals import Stopped
from cubie_flow.storage import Location, index
from cubie_flow.storage.identity import FolderIdentity

log = logging.getLogger("cubie_flow")


@define
class Table:
    """The rows of the jobs. They are printed as jobs end and written to the store at the end.

    Attributes
    ----------
    root
        The store of the multirun.
    rows
        One row per job, in order.
    attrs
        Attributes of the root.
    swept
        Keys in which the jobs differ; each is a column.
    """

    root: Location
    rows: list[index.Row]
    attrs: dict[str, Any]
    swept: Sequence[str]

    def write(self, *, finished: bool = False) -> None:
        """Write all rows; `finished` if no job writes to the store any more."""
        index.write_index(self.root, self.rows, self.attrs, self.swept, finished=finished)

    @contextmanager
    def written_at_end(self) -> Iterator[None]:
        """Write the table at the end of the block, also if the multirun is stopped there."""
        folder = self.root.folder
        identity = FolderIdentity.of(folder) if folder is not None and folder.is_dir() else None
        try:
            yield
        except (KeyboardInterrupt, Stopped):
            self._write_in_place(identity)
            raise
        self._write_in_place(identity)

    def _write_in_place(self, identity: FolderIdentity | None) -> None:
        """Write all rows, unless the folder of the store was moved."""
        if identity is not None:
            identity.check()
        self.write(finished=True)

    def count(self, status: int) -> int:
        """Return how many jobs have a status."""
        return sum(row["job_status"] == status for row in self.rows)

    def runs(self) -> tuple[int, int]:
        """Return the number of runs of the completed jobs, and how many did not end well."""
        done = [row for row in self.rows if row["job_status"] == index.SUCCESS]
        return sum(row["runs"] for row in done), sum(row["runs_failed"] or 0 for row in done)

    def remedies(self) -> list[tuple[str, str]]:
        """Return the command that shows the job with the most failed runs, if there are any."""
        worst = max(self.rows, key=lambda row: row.get("runs_failed") or 0)
        if not worst.get("runs_failed"):
            return []
        path = shlex.quote(f"{location_text(self.root)}::{worst['group'].removeprefix('job_')}")
        return [("note", f"cubie-results show {path} says what failed in {worst['group']}")]

    def update(self, number: int, columns: index.Row) -> None:
        """Enter how a job ended, print it and log it.

        Parameters
        ----------
        number
            The position of the job in the multirun, from 0.
        columns
            The columns to change.
        """
        row = self.rows[number]
        row.update(columns)
        words = f" {row['overrides']}" if row["overrides"] else ""
        line = f"{index.group_name(number)}{words}: {_outcome(row)}"
        if row["job_status"] == index.SUCCESS:
            print(line, flush=True)
        elif row["job_status"] == index.FAILED:
            print(f"cubie-flow: {line}", file=sys.stderr, flush=True)
        log.info(line)


def _outcome(row: index.Row) -> str:
    if row["job_status"] == index.FAILED:
        return str(row["error"])
    if row["job_status"] != index.SUCCESS:
        return index.STATES[row["job_status"]]
    failed = f", {row['runs_failed']:,} failed" if row["runs_failed"] else ""
    speed = f"{row['runs_per_second'] or 0.0:,.0f} trajectories/s"
    return f"{row['runs']:,} runs{failed}, {row['seconds_total']:.2f} s, {speed}"
