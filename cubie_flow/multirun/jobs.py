"""The jobs of a multirun: each is a study of its own, written into a group of one store."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cubie_flow import credentials
from cubie_flow.config import overrides
from cubie_flow.config.hydra_private import config_yaml
from cubie_flow.config.schema import Settings
from cubie_flow.errors import FlowError
from cubie_flow.process.safe_files import refuse_link
from cubie_flow.storage import Location, index, leased, locked

if TYPE_CHECKING:
    from cubie_flow.console.progress import Show
    from cubie_flow.engines import Engine
    from cubie_flow.study.plan_text import Amount
    from cubie_flow.study.run import RunReport, Start
    from cubie_flow.study.study import Study
    from cubie_flow.systems import OdeSystem

log = logging.getLogger("cubie_flow")
#: Attribute of the root of a multirun's store: the overrides of every job.
COMMON = "common"
#: Phases whose seconds are columns of a job's row.
PHASES = ("total", "build", "kernel", "write")
#: Errors that end one job and not the multirun.
JOB_ERRORS = (FlowError, OmegaConfBaseException, OSError, ValueError, ArithmeticError, MemoryError)


@frozen(eq=False)
class Job:
    """One job, read and checked before anything starts.

    Attributes
    ----------
    number
        Its position in the multirun, from 0.
    own
        The overrides in which it differs from the other jobs.
    overrides
        All its overrides.
    config
        Its config as YAML, interpolations unresolved.
    settings, study
        The checked config and its study; None if the config is wrong.
    error
        What is wrong with the config.
    """

    number: int
    own: tuple[str, ...]
    overrides: tuple[str, ...]
    config: str
    settings: Settings | None = None
    study: Study | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """The overrides in which it differs from the other jobs, as a text."""
        return " ".join(self.own)

    @property
    def group(self) -> str:
        """Its group in the store."""
        return index.group_name(self.number)

    @property
    def size(self) -> int:
        """Its runs; 0 if it cannot run."""
        return self.study.design.size if self.study else 0

    @cached_property
    def amount(self) -> Amount | None:
        """Its runs, shards and bytes; None if it cannot run."""
        from cubie_flow.study.plan import amount_of

        return None if self.study is None else amount_of(self.study)

    def row(self, swept: Sequence[str]) -> index.Row:
        """Return its row before it has run; `swept` are the keys in which jobs differ."""
        values = dict(override.lstrip("+").split("=", 1) for override in self.own)
        return {
            "overrides": self.name,
            "group": self.group,
            "job_status": index.PENDING,
            "config": self.config,
            "runs": self.size,
            **{key: values.get(key, "") for key in swept},
        }


class JobReader:
    """Reads the configs of jobs; a model that several jobs share is built once."""

    def __init__(self) -> None:
        self._systems: dict[str, OdeSystem] = {}

    def read(
        self, number: int, own: Sequence[str], overrides: Sequence[str], config: DictConfig
    ) -> Job:
        """Return a job; an error in its config becomes its `Job.error`.

        Parameters
        ----------
        number
            Its position in the multirun, from 0.
        own
            The overrides in which it differs from the other jobs.
        overrides
            All its overrides.
        config
            Its composed config; credentials in it are hidden.
        """
        credentials.hide(config)
        job = Job(number, tuple(own), tuple(overrides), config_yaml(config))
        try:
            container = OmegaConf.to_container(config, resolve=True)
            settings = Settings.from_container(container, job.overrides)
            return checked(evolve(job, settings=settings, study=self._study(settings)))
        except JOB_ERRORS as error:
            return evolve(job, error=error_sentence(error))

    def _study(self, settings: Settings) -> Study:
        key = json.dumps(settings.values["system"], default=str)
        if key not in self._systems:
            self._systems[key] = settings.system()
        return settings.study(self._systems[key])


def checked(job: Job) -> Job:
    """Return a job once its output is known to be possible.

    Raises
    ------
    FlowError
        If its output is not possible.
    """
    _ = job.amount
    return job


def shared_settings(jobs: Sequence[Job]) -> Settings | None:
    """Return the config of the first job that can run, for keys that all jobs share."""
    return next((job.settings for job in jobs if job.settings is not None), None)


def engine_settings(jobs: Sequence[Job]) -> Mapping[str, Any]:
    """Return the settings of ``engine`` that jobs share; defaults if none of them can run."""
    settings = shared_settings(jobs)
    return settings.values["engine"] if settings else {"time_limit": None, "progress": False}


def error_sentence(error: BaseException) -> str:
    """Return an error as one sentence without credentials."""
    text = str(error)
    if isinstance(error, ArithmeticError | MemoryError):
        text = f"{type(error).__name__}: {text}"
    elif isinstance(error, Exception) and not isinstance(error, FlowError):
        text = overrides.sentence(error, [])
    return credentials.redacted(text)


def run_job(
    job: Job,
    root: Location,
    *,
    on_progress: Show | None = None,
    between_shards: Callable[[float], None] | None = None,
    engine: Callable[[Settings], Engine] | None = None,
    start: Start = "new",
) -> index.Row:
    """Run one job into its group and return its row; an error of the job is part of the row.

    Parameters
    ----------
    job
        The job to run.
    root
        The store of the multirun.
    on_progress, between_shards, start
        As `cubie_flow.study.run.run_study` takes them.
    engine
        Returns the engine for the config of a job; None for an engine of its own.

    Raises
    ------
    Stopped, KeyboardInterrupt
        If the whole multirun is stopped.
    """
    from cubie_flow.placement.resolve import engine_of, resolve_placement
    from cubie_flow.study.run import run_study

    if job.settings is None or job.study is None:
        return failed_row(job.error)
    location = root.child(job.group)
    folder = None if location.folder is None else location.folder / location.group
    try:
        study = resolve_placement(job.settings, job.study) if start == "new" else job.study
        if folder is not None:
            refuse_link(folder)
            folder.mkdir(parents=True, exist_ok=True)
        # Jobs of a launcher may outlive the process that waits for them: each holds its group.
        with (
            nullcontext() if folder is None else locked(folder),
            leased(location, job.settings.values["storage"]["lease"]) as lease,
        ):
            report = run_study(
                study,
                location,
                config_yaml=job.config,
                overrides=job.overrides,
                on_progress=on_progress,
                before_creation=lease.check,
                between_shards=lease.between(between_shards),
                engine=(engine or engine_of)(job.settings),
                start=start,
            )
    except JOB_ERRORS as error:
        if not isinstance(error, FlowError):
            log.exception("job %d", job.number)
        if folder is not None:
            with suppress(OSError):
                folder.rmdir()  # it is empty if the job has no store
        return failed_row(error_sentence(error))
    return _successful_row(report)


def failed_row(error: str) -> index.Row:
    """Return the columns of a job that failed."""
    return {"job_status": index.FAILED, "error": error}


def _successful_row(report: RunReport) -> index.Row:
    return {
        "job_status": index.SUCCESS,
        "error": "",
        "runs": report.runs,
        "runs_failed": report.failed,
        "mean_steps": report.mean_steps,
        "mean_rejected": report.mean_rejected,
        "runs_per_second": report.runs_per_second,
        "store_bytes": report.store_bytes,
        **{f"seconds_{phase}": report.seconds[phase] for phase in PHASES},
    }
