"""The task of a process that a launcher started: one job, and the files of its status."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from attrs import field, frozen
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import filter_overrides
from omegaconf import DictConfig

from cubie_flow import credentials
from cubie_flow.console.logs import logged
from cubie_flow.multirun.jobs import JOB_ERRORS, JobReader, error_sentence, failed_row, run_job
from cubie_flow.multirun.stored_jobs import load_job, resume_job
from cubie_flow.process.safe_files import refuse_link
from cubie_flow.process.signals import StopGuard, Stopped
from cubie_flow.storage import index, new_location
from cubie_flow.storage.folders import LOG

if TYPE_CHECKING:
    from cubie_flow.console.progress import Progress, Show

#: Seconds between two updates of the status of a job.
INTERVAL = 0.5
#: ``done``, ``failures`` and ``seconds`` of a job that runs, or the ``row`` of one that ended.
Status = dict[str, Any]


class JobStatusFiles:
    """The last status of each job, and the request to stop, in a folder of the multirun.

    Parameters
    ----------
    folder
        The folder of the multirun, which every process can read and write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / ".jobs"
        self._stop = self.folder / "stop"
        self._known: dict[str, tuple[int, Status]] = {}

    def create(self) -> None:
        """Create an empty folder in place of that of an earlier command."""
        for name in (self.folder.name, ".submitit"):
            refuse_link(self.folder.parent / name)
        self.delete()
        self.folder.mkdir(parents=True)

    def delete(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, number: int, status: Status) -> None:
        """Replace the status of a job."""
        # On a full disk the job ends by its next write of results, not by its status.
        with suppress(OSError):
            partial = self.folder / f"{number}.partial"
            partial.write_text(json.dumps(status, default=float), encoding="utf-8")
            os.replace(partial, self.folder / f"{number}.json")

    def read(self) -> dict[int, Status]:
        """Return the last status of each job that has written one."""
        with suppress(OSError):
            for entry in os.scandir(self.folder):
                if entry.name.endswith(".json"):
                    with suppress(OSError, ValueError):
                        changed = entry.stat().st_mtime_ns
                        if self._known.get(entry.name, (0,))[0] != changed:
                            text = Path(entry.path).read_text(encoding="utf-8")
                            self._known[entry.name] = changed, json.loads(text)
        return {int(name.partition(".")[0]): status for name, (_, status) in self._known.items()}

    def request_stop(self) -> None:
        """Ask every job to stop."""
        with suppress(OSError):
            self._stop.touch()

    def check_stop(self) -> None:
        """Stop this job if that was requested.

        Raises
        ------
        Stopped
            If it was.
        """
        if self._stop.exists():
            raise Stopped("stopped by the command that started it", 1)


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


@frozen
class JobTask:
    """Runs one job in a process that a launcher started; it is pickled on its way there.

    Attributes
    ----------
    folder
        Folder of the multirun.
    numbers
        Position of each job in the multirun, by Hydra's number.
    deadline
        When all jobs must have stopped, in seconds of the system's clock; None for no limit.
    resume_overrides
        Overrides of a ``resume=``; None for a new multirun, whose jobs Hydra composes.
    recheck
        Whether a resume compares complete shards with their checksums.
    command
        Host and process of the command, which handles signals itself.
    """

    folder: Path
    numbers: tuple[int, ...] = ()
    deadline: float | None = None
    resume_overrides: tuple[str, ...] | None = None
    recheck: bool = False
    command: tuple[str, int] = field(factory=_this_process)

    def __call__(self, config: DictConfig) -> index.Row:
        """Run the job and return its row."""
        number = self.numbers[int(HydraConfig.get().job.num)]
        files = JobStatusFiles(self.folder)
        guard = StopGuard(None if self.deadline is None else self.deadline - time())

        def check(seconds: float = 0.0) -> None:
            files.check_stop()
            guard.check(seconds)

        # Some launchers use the process of the command, which has signal handlers already.
        is_command = self.command == _this_process()
        signals = nullcontext() if is_command else guard.listening(verbose=False)
        with logged(self.folder / LOG), signals:
            try:
                check()
            except (KeyboardInterrupt, Stopped):
                return {"job_status": index.PENDING}
            files.write(number, {"done": 0, "failures": 0, "seconds": 0.0})
            try:
                row = self._run(number, config, _status_writer(files, number), check)
            except (KeyboardInterrupt, Stopped) as error:
                row = {"job_status": index.STOPPED, "error": str(error) or "interrupted"}
        files.write(number, {"row": row})
        return row

    def _run(
        self, number: int, config: DictConfig, show: Show, check: Callable[[float], None]
    ) -> index.Row:
        if self.resume_overrides is None:
            overrides = filter_overrides(credentials.as_given(HydraConfig.get().overrides.task))
            job = JobReader().read(number, (), overrides, config)
            if job.settings is None:
                return failed_row(job.error)
            root = new_location(job.settings.values["storage"], self.folder)
            return run_job(job, root, on_progress=show, between_shards=check)
        try:
            job, root = load_job(self.folder, number, self.resume_overrides)
        except JOB_ERRORS as error:
            return failed_row(error_sentence(error))
        return resume_job(job, root, self.recheck, on_progress=show, between_shards=check)


def _status_writer(files: JobStatusFiles, number: int) -> Show:
    last = monotonic()

    def show(state: Progress) -> None:
        nonlocal last
        if monotonic() - last > INTERVAL:
            last = monotonic()
            status = {"done": state.done, "failures": state.failures, "seconds": state.seconds}
            files.write(number, status)

    return show
