"""Running the jobs of a multirun into one store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from cubie_flow import credentials
from cubie_flow.console.progress import progress
from cubie_flow.console.session import session
from cubie_flow.console.tables import fact_lines
from cubie_flow.errors import FlowError
from cubie_flow.multirun.axes import Axes
from cubie_flow.multirun.hydra_private import config_yaml
from cubie_flow.multirun.job_run import run_job
from cubie_flow.multirun.job_task import JobTask
from cubie_flow.multirun.jobs import COMMON, Job, engine_settings, shared_settings
from cubie_flow.multirun.launcher import Launcher
from cubie_flow.multirun.launching import launch
from cubie_flow.multirun.overall_progress import OverallProgress
from cubie_flow.multirun.report import report
from cubie_flow.multirun.size import confirm, count_text, size_text, total_amount
from cubie_flow.multirun.table import Table
from cubie_flow.placement.resolve import engine_of
from cubie_flow.process.signals import Stopped, StopGuard
from cubie_flow.process.startup import keep_dask_out
from cubie_flow.storage import Location, index, new_location, note_location
from cubie_flow.storage.folders import CONFIG
from cubie_flow.storage.provenance import provenance
from cubie_flow.study.plan_text import refuse_disk

if TYPE_CHECKING:
    from cubie_flow.config.schema import Settings
    from cubie_flow.engines import Engine
    from cubie_flow.storage.lease import Lease

log = logging.getLogger("cubie_flow")


def run_multirun(
    jobs: Sequence[Job], axes: Axes, config: DictConfig, launcher: Launcher | None
) -> None:
    """Run every job into its group of one store.

    Parameters
    ----------
    jobs
        The jobs.
    axes
        The axes of the multirun.
    config
        Hydra's config of the multirun.
    launcher
        Runs the jobs in other processes; None to run them in this one.

    Raises
    ------
    FlowError
        If no job can start, the store cannot be written, or, once all have run, a job failed.
    Stopped, KeyboardInterrupt
        If the multirun was stopped; it can be resumed.
    """
    settings = shared_settings(jobs)
    if settings is None or all(job.study is None for job in jobs):
        raise FlowError(jobs[0].error)
    print(fact_lines([("sweep", size_text(jobs))]), flush=True)
    storage = settings.values["storage"]
    parent = Location.of(storage["url"] or storage["folder"])
    refuse_disk(total_amount(jobs).store_bytes, parent)
    confirm(jobs, settings)
    if launcher is not None:
        launcher.refuse_engine(settings)
    keep_dask_out()
    folder = _new_folder(config, jobs)
    root = new_location(storage, folder)
    if launcher is not None:
        launcher.refuse_store(root)
    overrides = credentials.as_given(config.hydra.overrides.task)
    # Resuming a job that has not begun needs all its overrides: the common ones are stored too.
    common = [credentials.redacted(word) for word in axes.common]
    attrs = {**provenance(overrides), "sweep": axes.lines(), COMMON: common}
    table = Table(root, [job.row(axes.job_keys) for job in jobs], attrs, axes.job_keys)
    with session(folder) as held:
        held.begin_writing(root, storage["lease"])
        if storage["overwrite"]:
            root.delete()
        root.refuse_what_is_there()
        (folder / CONFIG).write_text(_shared_yaml(config), encoding="utf-8")
        log.info("%s", " ".join(overrides))
        table.write()
        note_location(folder, root)
        with held.resumable(), table.written_at_end():
            if launcher is None:
                run_here(jobs, table, held.lease)
            else:
                launch(jobs, table, launcher, JobTask(folder))
        report(table, folder, jobs)


def _new_folder(config: DictConfig, jobs: Sequence[Job]) -> Path:
    """Return the new folder of the multirun, named after the study if the jobs have one."""
    names = {job.study.name for job in jobs if job.study is not None}
    OmegaConf.update(config, "study", names.pop() if len(names) == 1 else "multirun")
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _shared_yaml(config: DictConfig) -> str:
    """Return the config of the multirun as YAML, without Hydra's own part and credentials."""
    credentials.hide(config)
    return config_yaml(OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"]))


def run_here(
    jobs: Sequence[Job],
    table: Table,
    lease: Lease,
    run: Callable[..., index.Row] = run_job,
) -> None:
    """Run jobs one after the other in this process.

    Parameters
    ----------
    jobs
        The jobs to run.
    table
        The rows of all jobs, updated as jobs end.
    lease
        The right to write the store, checked between two shards.
    run
        Runs one job, as `cubie_flow.multirun.job_run.run_job` does.

    Raises
    ------
    Stopped, KeyboardInterrupt
        If the whole multirun is stopped.
    """
    engine = engine_settings(jobs)
    guard = StopGuard(engine["time_limit"])
    check = lease.between(guard.check)
    with (
        progress(count_text(len(jobs), "job"), engine["progress"]) as show,
        guard.listening(),
        _shared_engines() as engine_for,
    ):
        overall = OverallProgress(jobs, show)
        options = {"engine": engine_for, "on_progress": overall.show, "between_shards": check}
        for job in jobs:
            if job is not jobs[0]:
                check(0.0)
            try:
                row = run(job, table.root, **options)
            except (KeyboardInterrupt, Stopped) as error:
                table.rows[job.number].update(job_status=index.STOPPED, error=str(error))
                raise
            table.update(job.number, row)
            overall.end_job(job, table.rows[job.number])


@contextmanager
def _shared_engines() -> Iterator[Callable[[Settings], Engine]]:
    """Yield what returns the engine of a job; jobs that ask for the same workers share them."""
    with ExitStack() as stack:
        opened: dict[str, Engine] = {}

        def engine_for(settings: Settings) -> Engine:
            engine = engine_of(settings)
            if repr(engine) not in opened:
                opened[repr(engine)] = stack.enter_context(engine.open())
            return opened[repr(engine)]

        yield engine_for
