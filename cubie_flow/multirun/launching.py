"""Running the jobs of a multirun through a launcher, and following them.

A launcher returns nothing before all its jobs have ended, and forwards no signals. So each process
writes the status of its job into the folder of the multirun, and checks there between two shards
whether to stop.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, time
from typing import TYPE_CHECKING

from attrs import evolve
from omegaconf import open_dict

from cubie_flow.console.progress import Progress, progress
from cubie_flow.engines import Part
from cubie_flow.errors import FlowError
from cubie_flow.multirun.job_task import INTERVAL, JobStatusFiles, JobTask, Status
from cubie_flow.multirun.jobs import Job, engine_settings, failed_row
from cubie_flow.multirun.launcher import Launcher
from cubie_flow.multirun.size import count_text
from cubie_flow.multirun.stored_jobs import complete_row
from cubie_flow.multirun.table import Table
from cubie_flow.multirun.threads import divide_threads
from cubie_flow.process.signals import TIMED_OUT, StopGuard, Stopped, signals_blocked
from cubie_flow.storage import index

if TYPE_CHECKING:
    from cubie_flow.console.progress import Show

log = logging.getLogger("cubie_flow")


def launch(jobs: Sequence[Job], table: Table, launcher: Launcher, task: JobTask) -> None:
    """Run jobs through a launcher, each into its group.

    Parameters
    ----------
    jobs
        The jobs to run.
    table
        The rows of all jobs, updated as jobs end.
    launcher
        The launcher of Hydra.
    task
        What each process does. Numbers, deadline and threads are added here.

    Raises
    ------
    Stopped, KeyboardInterrupt
        If the jobs were stopped; jobs on a cluster stop after their current shard.
    """
    engine = engine_settings(jobs)
    limit = engine["time_limit"]
    guard, files = StopGuard(limit), JobStatusFiles(task.folder)
    numbers = tuple(job.number for job in jobs)
    task = evolve(task, numbers=numbers, deadline=None if limit is None else time() + limit)
    task, overrides, at_once = _divide_machine(jobs, launcher, task)
    follower = JobFollower(files, jobs, table, guard)
    files.create()
    try:
        with (
            progress(count_text(len(jobs), "job"), engine["progress"]) as show,
            guard.listening(),
            follower.following(show),
        ):
            for first in range(0, len(jobs), at_once):
                part = slice(first, first + at_once)
                if guard.signal is None:
                    rows = _run_jobs(launcher, task, overrides[part], first)
                    follower.enter_rows(jobs[part], rows)
    except KeyboardInterrupt:
        # Jobs that still run find the request in the files, which therefore stay.
        files.request_stop()
        follower.settle({"job_status": index.STOPPED, "error": "interrupted"})
        raise
    follower.settle(failed_row("its process exited without reporting a result"))
    files.delete()
    if any(
        table.rows[number]["job_status"] in (index.STOPPED, index.PENDING) for number in numbers
    ):
        if guard.signal is not None:
            guard.check()
        if limit is not None:
            raise Stopped(f"stopped before engine.time_limit ({limit:g} s)", TIMED_OUT)


def _divide_machine(
    jobs: Sequence[Job], launcher: Launcher, task: JobTask
) -> tuple[JobTask, list[list[str]], int]:
    """Give each job its share of the cores.

    Returns
    -------
    task : JobTask
        With the threads of a resumed job among its overrides.
    overrides : list
        The overrides of each job; empty for resumed ones.
    at_once : int
        How many jobs the launcher gets at once.
    """
    hydra = launcher.config.hydra
    # The other processes compose their config again and must not make folders of their own.
    with open_dict(hydra):
        hydra.overrides.hydra.extend([f"hydra.sweep.dir='{task.folder}'", "hydra.sweep.subdir=."])
        hydra.sweep.dir, hydra.sweep.subdir = str(task.folder), "."
    threads, at_once = divide_threads(hydra, len(jobs))
    share = [] if threads is None else [f"target.threads={threads}"]
    if task.resume_overrides is not None:
        # The last of two overrides applies: those of the command line come last.
        resume_overrides = (*share, *task.resume_overrides)
        return evolve(task, resume_overrides=resume_overrides), [[] for _ in jobs], at_once
    return task, [[*job.overrides, *_unless_given(share, job.overrides)] for job in jobs], at_once


def _unless_given(share: list[str], overrides: Sequence[str]) -> list[str]:
    is_given = any(word.startswith("target.threads=") for word in overrides)
    return [] if is_given else share


def _run_jobs(
    launcher: Launcher, task: JobTask, overrides: list[list[str]], first: int
) -> list[index.Row] | str:
    """Return the rows of jobs, or the error of the launcher that lost them."""
    try:
        # Signals reach the thread that follows the jobs.
        with signals_blocked():
            return launcher.run(task, overrides, first)
    except FlowError:
        raise
    except Exception as error:
        # A killed process takes the results of the others with it, but not their data.
        log.exception("the launcher")
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


class JobFollower:
    """Follows jobs by their status files: enters those that ended, and shows the progress.

    Parameters
    ----------
    files
        Where the jobs write their status.
    jobs
        The jobs that are run.
    table
        The rows of all jobs.
    guard
        Asks the jobs to stop once it got a signal.
    """

    def __init__(
        self, files: JobStatusFiles, jobs: Sequence[Job], table: Table, guard: StopGuard
    ) -> None:
        self._files, self._table, self._guard = files, table, guard
        self._sizes = {job.number: job.size for job in jobs}
        self._ended: set[int] = set()
        self._began = perf_counter()

    @contextmanager
    def following(self, show: Show) -> Iterator[None]:
        """Follow the jobs in a thread until the block ends."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(INTERVAL):
                if self._guard.signal is not None:
                    self._files.request_stop()
                show(self._progress(self._update()))

        thread = threading.Thread(target=follow, name="jobs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def enter_rows(self, jobs: Sequence[Job], rows: list[index.Row] | str) -> None:
        """Enter how jobs ended that have no status file about it.

        Parameters
        ----------
        jobs
            The jobs.
        rows
            Their rows from the launcher, or its error.
        """
        self._update()
        for position, job in enumerate(jobs):
            if isinstance(rows, str):
                row = complete_row(self._table.root.child(job.group)) or failed_row(rows)
            else:
                row = rows[position]
            self._enter(job.number, row)

    def settle(self, row: index.Row) -> None:
        """Enter a row for every job that began and did not end."""
        for number in self._update():
            self._enter(number, row)

    def _enter(self, number: int, row: index.Row) -> None:
        if number not in self._ended:
            self._ended.add(number)
            self._table.update(number, row)

    def _update(self) -> dict[int, Status]:
        """Enter the jobs that have ended, and return the status of those that run."""
        statuses = self._files.read()
        for number, status in statuses.items():
            if "row" in status:
                self._enter(number, status["row"])
        return {n: status for n, status in statuses.items() if n not in self._ended}

    def _progress(self, running: dict[int, Status]) -> Progress:
        rows = {number: self._table.rows[number] for number in self._ended}
        failed = sum(row["job_status"] == index.FAILED for row in rows.values())
        done = len(rows) - failed
        parts = [
            Part(
                f"{index.group_name(number)} {self._table.rows[number]['overrides']}".rstrip(),
                status["done"],
                status["failures"],
                status["seconds"],
                total=self._sizes[number],
            )
            for number, status in sorted(running.items())
        ]
        ended = sum(self._sizes[number] for number in rows)
        failures = sum(row.get("runs_failed") or 0 for row in rows.values())
        return Progress(
            done=ended + sum(part.runs for part in parts),
            total=sum(self._sizes.values()),
            failures=failures + sum(part.failures for part in parts),
            seconds=perf_counter() - self._began,
            parts=tuple(parts),
            detail=f"jobs: {done:,} done, {failed:,} failed, {len(running):,} running",
        )
