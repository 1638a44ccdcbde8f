"""The table of the jobs while a multirun goes on: what is told of them, and written in the end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cubie_flow.console.summary import shown
from cubie_flow.process.signals import Stopped
from cubie_flow.storage import Location, index

log = logging.getLogger("cubie_flow")


def place_of(root: Location) -> str:
    """Return where the store is, as short as it can be said."""
    return root.name if root.folder is None else shown(root.folder)


class Table:
    """The rows of a multirun, kept here and written to its store."""

    def __init__(
        self, root: Location, rows: list[index.Row], attrs: dict[str, Any], swept: Sequence[str]
    ) -> None:
        self.root, self.rows, self.attrs, self.swept = root, rows, attrs, swept

    def write(self, *, finished: bool = False) -> None:
        """Write all rows."""
        index.write_index(self.root, self.rows, self.attrs, self.swept, finished=finished)

    @contextmanager
    def finally_written(self, folder: Path) -> Iterator[None]:
        """Write the table whatever happens, and say how to go on where it was stopped."""
        try:
            yield
        except (KeyboardInterrupt, Stopped):
            self.write(finished=True)
            print(
                f"what was solved is kept in {place_of(self.root)}; python -m cubie_flow "
                f"resume={shown(folder)} does the rest",
                file=sys.stderr,
            )
            raise
        self.write(finished=True)

    def count(self, status: int) -> int:
        """Return how many jobs ended that way."""
        return sum(row["job_status"] == status for row in self.rows)

    def update(self, number: int, row: index.Row) -> None:
        """Note how a job ended, and say so."""
        self.rows[number].update(row)
        full = self.rows[number]
        name = f"job {number + 1}/{len(self.rows)}"
        told = full["overrides"] or "the only one"
        if full["job_status"] == index.SUCCESS:
            failed = f", {full['runs_failed']:,} failed" if full["runs_failed"] else ""
            speed = f"{full['runs_per_second'] or 0.0:,.0f} trajectories/s"
            seconds = f"{full['seconds_total']:.2f} s"
            line = f"{name} {told}: {full['runs']:,} runs{failed}, {seconds}, {speed}"
            print(line, flush=True)
        elif full["job_status"] == index.FAILED:
            line = f"{name} {told}: {full['error']}"
            print(f"cubie-flow: {line}", file=sys.stderr, flush=True)
        else:
            line = f"{name} {told}: {index.STATES[full['job_status']]}"
        log.info(line)
