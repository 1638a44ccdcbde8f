"""Jobs in other processes, started by one of Hydra's launchers.

A launcher tells nothing before all its jobs have ended, and hands no signal on. So each process
leaves a note of how far its job is in the folder of the multirun, which all of them see anyway,
and looks there between two shards whether it is to stop.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from time import monotonic, perf_counter, time
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import filter_overrides
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from cubie_flow import credentials
from cubie_flow.engines import Part
from cubie_flow.errors import FlowError
from cubie_flow.console.logs import logged
from cubie_flow.process.signals import TIMED_OUT, Stopped, StopGuard, signals_blocked
from cubie_flow.storage import Location, index, new_location
from cubie_flow.storage.folders import LOG
from cubie_flow.multirun.jobs import MISTAKES, Job, Reader, counted, engine_settings, run_job, said
from cubie_flow.multirun.threads import threads_of
from cubie_flow.multirun.stored_jobs import finish, stored_job, stored_row
from cubie_flow.multirun.table import Table

if TYPE_CHECKING:
    from cubie_flow.config.schema import Settings
    from cubie_flow.console.progress import Show
    from cubie_flow.study.run import Progress

#: Launchers whose jobs are on this machine.
HERE = ("joblib", "submitit_local")
#: Seconds between two looks at the notes, and between two notes of a job.
INTERVAL = 0.5
log = logging.getLogger("cubie_flow")


@frozen
class Launcher:
    """A launcher that the command line names.

    Attributes
    ----------
    name
        As in ``hydra/launcher=NAME``.
    config
        Hydra's config of the multirun.
    context
        Hydra's.
    """

    name: str
    config: DictConfig
    context: HydraContext

    def refuse_store(self, root: Location) -> None:
        """Refuse a store that its processes cannot write.

        Raises
        ------
        FlowError
            Saying why.
        """
        if root.alone:
            raise FlowError(
                f"'{root.name}' {root.alone}, so jobs of hydra/launcher={self.name} cannot; leave "
                "the launcher out, or use another storage.client or URL"
            )

    def refuse_engine(self, settings: Settings) -> None:
        """Refuse workers of one machine that each of its jobs would start as well.

        Raises
        ------
        FlowError
            Naming both keys.
        """
        engine = settings.values["engine"]
        if self.name in HERE and (engine["kind"], engine["scheduler"]) == ("dask", None):
            raise FlowError(
                f"hydra/launcher={self.name} and engine=dask would both divide this machine; "
                "leave one of them out, or give jobs one engine.scheduler"
            )

    def start(self, task: Task, words: list[list[str]], first: int) -> list[index.Row]:
        """Have jobs run, wait for them and return their rows.

        Parameters
        ----------
        task
            What each process does.
        words
            The overrides of each job.
        first
            Hydra's number of the first.
        """
        made = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=task, config=self.config
        )
        return [_returned(result) for result in made.launch(words, initial_job_idx=first)]


def _returned(result: Any) -> index.Row:
    value = result._return_value
    if isinstance(value, dict):
        return value
    return {"job_status": index.FAILED, "error": f"{type(value).__name__}: {value}"}


class JobStatusFiles:
    """What the processes of a multirun tell each other, in files of its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / ".jobs"
        self._stop = self.folder / "stop"
        self._known: dict[str, tuple[int, dict[str, Any]]] = {}

    def begin(self) -> None:
        """Forget what an earlier command left."""
        self.end()
        self.folder.mkdir(parents=True)

    def end(self) -> None:
        """Delete all notes."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, number: int, note: dict[str, Any]) -> None:
        """Leave the note of a job in place of its last one."""
        # A disk that is full ends the job by what it writes next, and not by its note.
        with suppress(OSError):
            partial = self.folder / f"{number}.partial"
            partial.write_text(json.dumps(note, default=float), encoding="utf-8")
            os.replace(partial, self.folder / f"{number}.json")

    def read(self) -> dict[int, dict[str, Any]]:
        """Return the last note of each job that has left one."""
        with suppress(OSError):
            for entry in os.scandir(self.folder):
                if entry.name.endswith(".json"):
                    with suppress(OSError, ValueError):
                        changed = entry.stat().st_mtime_ns
                        if self._known.get(entry.name, (0,))[0] != changed:
                            text = Path(entry.path).read_text(encoding="utf-8")
                            self._known[entry.name] = changed, json.loads(text)
        return {int(name.partition(".")[0]): note for name, (_, note) in self._known.items()}

    def stop(self) -> None:
        """Ask every job to stop."""
        with suppress(OSError):
            self._stop.touch()

    def check(self) -> None:
        """Stop if that was asked for, or if the folder is no longer that of a command.

        Raises
        ------
        Stopped
        """
        if self._stop.exists():
            raise Stopped("stopped by the command that started it", 1)


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


@frozen
class Task:
    """What a process that a launcher started does: one job. It is pickled on its way.

    Attributes
    ----------
    folder
        Of the multirun.
    numbers
        Of the jobs in it, by Hydra's number.
    deadline
        When all is to have stopped, in seconds of the system's clock.
    words
        Overrides of ``resume=``; None for a new multirun, whose jobs Hydra composes.
    recheck
        Whether complete shards are compared with their checksums.
    command
        Machine and process of the command, which answers signals itself.
    """

    folder: Path
    numbers: tuple[int, ...] = ()
    deadline: float | None = None
    words: tuple[str, ...] | None = None
    recheck: bool = False
    command: tuple[str, int] = field(factory=_this_process)

    def __call__(self, config: DictConfig) -> index.Row:
        """Run one job and return what its row says then."""
        number = self.numbers[int(HydraConfig.get().job.num)]
        notes = JobStatusFiles(self.folder)
        watch = StopGuard(None if self.deadline is None else self.deadline - time())

        def check(seconds: float = 0.0) -> None:
            notes.check()
            watch.check(seconds)

        # A launcher may run a job in the process of the command.
        apart = self.command != _this_process()
        heard = watch.listening(verbose=False) if apart else nullcontext()
        with logged(self.folder / LOG), heard:
            try:
                check()
            except (KeyboardInterrupt, Stopped):
                return {"job_status": index.PENDING}
            notes.write(number, {"done": 0, "failures": 0, "seconds": 0.0})
            try:
                row = self._run(number, config, _noting(notes, number), check)
            except (KeyboardInterrupt, Stopped) as error:
                row = {"job_status": index.STOPPED, "error": str(error) or "interrupted"}
        notes.write(number, {"row": row})
        return row

    def _run(
        self,
        number: int,
        config: DictConfig,
        show: Show,
        check: Callable[[float], None],
    ) -> index.Row:
        if self.words is None:
            overrides = filter_overrides(credentials.as_given(HydraConfig.get().overrides.task))
            job = Reader().job(number, (), overrides, config)
            if job.settings is None:
                return {"job_status": index.FAILED, "error": job.error}
            root = new_location(job.settings.values["storage"], self.folder)
            return run_job(job, root, on_progress=show, between_shards=check)
        try:
            job, root = stored_job(self.folder, number, self.words)
        except MISTAKES as error:
            return {"job_status": index.FAILED, "error": said(error)}
        return finish(job, root, self.recheck, on_progress=show, between_shards=check)


def _noting(notes: JobStatusFiles, number: int) -> Show:
    last = monotonic()

    def show(state: Progress) -> None:
        nonlocal last
        if monotonic() - last > INTERVAL:
            last = monotonic()
            told = {"done": state.done, "failures": state.failures, "seconds": state.seconds}
            notes.write(number, told)

    return show


def launch(jobs: Sequence[Job], table: Table, launcher: Launcher, task: Task) -> None:
    """Have the jobs run by a launcher, each into its group.

    Parameters
    ----------
    jobs
    table
        Their rows, which are kept up.
    launcher
    task
        What each process does; numbers, deadline and threads are added here.

    Raises
    ------
    Stopped, KeyboardInterrupt
        If the jobs were stopped; those that a cluster has still stop after the shard in flight.
    """
    from cubie_flow.console.progress import progress

    engine = engine_settings(jobs)
    limit = engine["time_limit"]
    watch, notes = StopGuard(limit), JobStatusFiles(task.folder)
    task = evolve(
        task,
        numbers=tuple(job.number for job in jobs),
        deadline=None if limit is None else time() + limit,
    )
    task, words, at_once = _shared(jobs, launcher, task)
    following = _Following(notes, jobs, table, watch)
    notes.begin()
    name = counted(len(jobs), "job")
    try:
        with (
            progress(name, engine["progress"]) as show,
            watch.listening(),
            following.begun(show),
        ):
            for first in range(0, len(jobs), at_once):
                part = slice(first, first + at_once)
                if watch.signal is None:
                    following.returned(jobs[part], _started(launcher, task, words[part], first))
    except KeyboardInterrupt:
        # Whoever still runs a job finds it here, so the notes stay.
        notes.stop()
        following.settle(index.STOPPED, "interrupted")
        raise
    following.settle(index.FAILED, "its process ended without a word")
    notes.end()
    if any(table.rows[job.number]["job_status"] in (index.STOPPED, index.PENDING) for job in jobs):
        if watch.signal is not None:
            watch.check()
        if task.deadline is not None:
            raise Stopped(f"stopped before engine.time_limit ({limit:g} s)", TIMED_OUT)


def _shared(
    jobs: Sequence[Job], launcher: Launcher, task: Task
) -> tuple[Task, list[list[str]], int]:
    """Return the task and overrides of jobs that share the processors, and how many go at once."""
    hydra = launcher.config.hydra
    # The other processes compose anew, and must not make a folder of their own.
    with open_dict(hydra):
        hydra.overrides.hydra.extend([f"hydra.sweep.dir='{task.folder}'", "hydra.sweep.subdir=."])
        hydra.sweep.dir, hydra.sweep.subdir = str(task.folder), "."
    threads, at_once = threads_of(hydra, len(jobs))
    share = [] if threads is None else [f"target.threads={threads}"]
    if task.words is not None:
        words = (*share, *task.words)  # of two the last one holds
        return evolve(task, words=words), [[] for _ in jobs], at_once
    return task, [[*job.overrides, *_unless_given(share, job.overrides)] for job in jobs], at_once


def _unless_given(share: list[str], overrides: Sequence[str]) -> list[str]:
    given = any(word.startswith("target.threads=") for word in overrides)
    return [] if given else share


def _started(
    launcher: Launcher, task: Task, words: list[list[str]], first: int
) -> list[index.Row] | str:
    """Return the rows of some jobs, or why they are lost."""
    try:
        # The thread that follows the jobs hears what this one does not.
        with signals_blocked():
            return launcher.start(task, words, first)
    except FlowError:
        raise
    except Exception as error:
        # A process that was killed takes the records of the others with it, not their data.
        log.exception("the launcher")
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


class _Following:
    """Follows the notes of jobs: tells of those that have ended, and shows how far all are."""

    def __init__(self, notes: JobStatusFiles, jobs: Sequence[Job], table: Table, watch: StopGuard) -> None:
        self._notes, self._jobs, self._table, self._watch = notes, jobs, table, watch
        self._sizes = {job.number: job.study.design.size if job.study else 0 for job in jobs}
        self._told: set[int] = set()
        self._began = perf_counter()

    @contextmanager
    def begun(self, show: Show) -> Iterator[None]:
        """Follow in a thread of its own until this ends."""
        enough = threading.Event()

        def follow() -> None:
            while not enough.wait(INTERVAL):
                if self._watch.signal is not None:
                    self._notes.stop()
                self._look(show)

        thread = threading.Thread(target=follow, name="jobs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            enough.set()
            thread.join()

    def returned(self, jobs: Sequence[Job], rows: list[index.Row] | str) -> None:
        """Take the rows of jobs as the launcher gave them, where no note told of them before."""
        self._look()
        for place, job in enumerate(jobs):
            if isinstance(rows, str):
                row = stored_row(self._table.root.child(job.group))
                self._end(job.number, row or {"job_status": index.FAILED, "error": rows})
            else:
                self._end(job.number, rows[place])

    def settle(self, status: int, why: str) -> None:
        """Say of jobs that began and never ended how they did."""
        for number in self._look():
            self._end(number, {"job_status": status, "error": why})

    def _end(self, number: int, row: index.Row) -> None:
        if number not in self._told:
            self._told.add(number)
            self._table.update(number, row)

    def _look(self, show: Show | None = None) -> dict[int, dict[str, Any]]:
        """Tell of jobs that have ended and return the notes of those that go on."""
        notes = self._notes.read()
        for number, note in notes.items():
            if "row" in note:
                self._end(number, note["row"])
        going = {number: note for number, note in notes.items() if number not in self._told}
        if show is not None:
            show(self._progress(going))
        return going

    def _progress(self, going: dict[int, dict[str, Any]]) -> Progress:
        from cubie_flow.study.run import Progress

        rows = {number: self._table.rows[number] for number in self._told}
        failed = sum(row["job_status"] == index.FAILED for row in rows.values())
        told = f"jobs: {len(rows) - failed:,} done, {failed:,} failed, {len(going):,} running"
        parts = [
            Part(
                f"job {number + 1} {self._table.rows[number]['overrides']}".rstrip(),
                note["done"],
                note["failures"],
                note["seconds"],
                total=self._sizes[number],
            )
            for number, note in sorted(going.items())
        ]
        ended = sum(self._sizes[number] for number in rows)
        failures = sum(row.get("runs_failed") or 0 for row in rows.values())
        return Progress(
            done=ended + sum(part.runs for part in parts),
            total=sum(self._sizes.values()),
            failures=failures + sum(part.failures for part in parts),
            seconds=perf_counter() - self._began,
            parts=tuple(parts),
            told=told,
        )
