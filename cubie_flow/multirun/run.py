"""Running the jobs of a multirun into one store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from attrs import evolve
from omegaconf import DictConfig, OmegaConf

from cubie_flow import credentials
from cubie_flow.config.hydra_private import config_yaml
from cubie_flow.config.stored import words_of_new
from cubie_flow.console.paths import location_text, short_path
from cubie_flow.console.progress import Progress, Show, progress
from cubie_flow.console.session import open_session, print_and_log
from cubie_flow.console.tables import fact_lines
from cubie_flow.errors import FlowError
from cubie_flow.multirun.axes import Axes
from cubie_flow.multirun.job_task import JobTask
from cubie_flow.multirun.jobs import COMMON, Job, engine_settings, run_job, shared_settings
from cubie_flow.multirun.launcher import Launcher
from cubie_flow.multirun.launching import launch
from cubie_flow.multirun.size import confirm, count_text, size_text, total_amount
from cubie_flow.multirun.table import Table
from cubie_flow.placement.resolve import engine_of
from cubie_flow.process.safe_files import write_file
from cubie_flow.process.signals import StopGuard, Stopped
from cubie_flow.process.startup import keep_dask_out
from cubie_flow.storage import Location, index, new_location, note_location
from cubie_flow.storage.folders import CONFIG
from cubie_flow.storage.provenance import provenance
from cubie_flow.study.plan import refuse_disk

if TYPE_CHECKING:
    from cubie_flow.config.schema import Settings
    from cubie_flow.console.session import Session
    from cubie_flow.engines import Engine
    from cubie_flow.storage.lease import Lease

#: The largest number of jobs of which pictures are drawn, one per job.
PICTURES = 12
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
        launcher.require_shared_machine(settings)
    keep_dask_out()
    folder = _new_folder(config, jobs)
    root = new_location(storage, folder)
    if launcher is not None:
        launcher.require_shared_store(root)
    overrides = credentials.as_given(config.hydra.overrides.task)
    # Resuming a job that has not begun needs all its overrides: the common ones are stored too.
    common = [credentials.redacted(word) for word in axes.common]
    attrs = {**provenance(overrides), "sweep": axes.lines(), COMMON: common}
    table = Table(root, [job.row(axes.job_keys) for job in jobs], attrs, axes.job_keys)
    with open_session(folder) as session:
        credentials.hide(config)
        options: Any = OmegaConf.to_container(config.storage.options)
        again = words_of_new(settings.values["engine"], options, root, folder)
        session.begin_writing(root, storage["lease"], again)
        if storage["overwrite"]:
            root.delete()
        root.require_empty()
        log.info("%s", " ".join(overrides))
        # A folder with a config and no store is that of a study that is yet to begin.
        table.write()
        write_file(folder / CONFIG, _shared_yaml(config))
        note_location(folder, root)
        with session.resumable(), table.written_at_end():
            if launcher is None:
                run_here(jobs, table, session.lease)
            else:
                launch(jobs, table, launcher, JobTask(folder))
        report(table, session, jobs)


def _new_folder(config: DictConfig, jobs: Sequence[Job]) -> Path:
    """Return the folder of a new multirun, named after the study if all jobs have the same."""
    names = {job.study.name for job in jobs if job.study is not None}
    OmegaConf.update(config, "study", names.pop() if len(names) == 1 else "multirun")
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _shared_yaml(config: DictConfig) -> str:
    """Return the config of the multirun as YAML, without Hydra's own part."""
    return config_yaml(OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"]))


def run_here(
    jobs: Sequence[Job], table: Table, lease: Lease, run: Callable[..., index.Row] = run_job
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
        Runs one job, as `cubie_flow.multirun.jobs.run_job` does.

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
        overall = _OverallProgress(jobs, show)
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


class _OverallProgress:
    """Adds the progress of the current job to that of the jobs before it.

    Parameters
    ----------
    jobs
        All jobs, in order.
    show
        Shows the progress of all jobs.
    """

    def __init__(self, jobs: Sequence[Job], show: Show) -> None:
        self._jobs, self._show = len(jobs), show
        self._total = sum(job.size for job in jobs)
        self._done = self._failures = self._ended = self._failed_jobs = 0
        self._began = perf_counter()

    def show(self, state: Progress) -> None:
        """Show the progress of all jobs, given that of the current one."""
        failed = f", {self._failed_jobs:,} failed" if self._failed_jobs else ""
        self._show(
            evolve(
                state,
                done=self._done + state.done,
                total=self._total,
                failures=self._failures + state.failures,
                seconds=perf_counter() - self._began,
                detail=f"{self._ended:,} of {self._jobs:,} jobs done{failed}",
                compiling=state.compiling and not self._ended,
            )
        )

    def end_job(self, job: Job, row: index.Row) -> None:
        """Count a job that has ended."""
        self._ended += 1
        self._done += job.size
        self._failures += row.get("runs_failed") or 0
        self._failed_jobs += row["job_status"] == index.FAILED


def report(table: Table, session: Session, jobs: Sequence[Job]) -> None:
    """Print the summary of a multirun and draw the pictures of its jobs.

    Parameters
    ----------
    table
        The rows of all jobs.
    session
        The right to write the multirun.
    jobs
        All jobs.

    Raises
    ------
    FlowError
        If a job did not end well.
    """
    total, successful = len(table.rows), table.count(index.SUCCESS)
    notes = dict.fromkeys(note for job in jobs if job.settings for note in job.settings.notes)
    runs, failed = table.runs()
    facts = [
        ("jobs", f"{successful:,} of {total:,} completed"),
        ("runs", f"{runs:,}, of which {failed:,} did not end well"),
        *table.remedies(),
        ("result", location_text(table.root)),
        *_draw_pictures(table, session.folder, jobs),
        *(("note", note) for note in notes),
    ]
    print_and_log(fact_lines(facts))
    if unsuccessful := total - successful:
        raise FlowError(
            f"{unsuccessful:,} of {total:,} jobs did not end well; "
            f"{session.resume_command} tries them again"
        )


def _draw_pictures(table: Table, folder: Path, jobs: Sequence[Job]) -> list[tuple[str, str]]:
    """Draw the pictures that jobs ask for, and return what to report about them."""
    successful = {row["group"] for row in table.rows if row["job_status"] == index.SUCCESS}
    drawn = [
        job for job in jobs
        if job.settings and job.settings.values["storage"]["picture"] and job.group in successful
    ]  # fmt: skip
    if not drawn:
        return []
    if len(drawn) > PICTURES:
        return [("note", f"no pictures: they are drawn for at most {PICTURES} jobs")]
    from cubie_flow.analysis.pictures.overview import tried

    root = table.root
    store = root.store(read_only=True)
    tries = [tried(store, folder / f"{job.group}.png", job.group) for job in drawn]
    facts = [("note", why) for _, why in tries if why]
    if any(picture for picture, _ in tries):
        facts.insert(0, ("pictures", short_path(folder / "job_*.png")))
    return facts
