"""Running the jobs of a multirun into one store, here or through a launcher."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from attrs import evolve
from omegaconf import DictConfig, OmegaConf

from cubie_flow import credentials
from cubie_flow.errors import FlowError
from cubie_flow.console.logs import logged
from cubie_flow.study.plan_text import refuse_disk
from cubie_flow.console.summary import shown
from cubie_flow.process.startup import keep_dask_out
from cubie_flow.process.signals import Stopped, StopGuard
from cubie_flow.storage import Location, index, leased, locked, new_location, note_location
from cubie_flow.storage.folders import CONFIG, LOG
from cubie_flow.storage.provenance import provenance
from cubie_flow.multirun import jobs as running
from cubie_flow.multirun.axes import Axes
from cubie_flow.placement.resolve import engine_of
from cubie_flow.multirun.jobs import COMMON, Job, config_yaml, run_job
from cubie_flow.multirun.launching import Launcher, Task, launch
from cubie_flow.multirun.table import Table, place_of

if TYPE_CHECKING:
    from cubie_flow.config.schema import Settings
    from cubie_flow.engines import Engine
    from cubie_flow.console.progress import Show
    from cubie_flow.storage.lease import Lease
    from cubie_flow.study.run import Progress

#: Pictures of so many jobs are drawn, one each.
PICTURES = 12
log = logging.getLogger("cubie_flow")


def run_multirun(
    jobs: Sequence[Job], axes: Axes, config: DictConfig, launcher: Launcher | None
) -> None:
    """Run every job into its group of one store.

    Parameters
    ----------
    jobs
    axes
        What is swept.
    config
        Hydra's config of the multirun.
    launcher
        What runs the jobs in other processes; None: this process does.

    Raises
    ------
    FlowError
        If no job can start, the store cannot be written, or, once all have run, a job failed.
    Stopped, KeyboardInterrupt
        If the multirun was stopped; it can be resumed.
    """
    if all(job.study is None for job in jobs):
        raise FlowError(jobs[0].error)
    print(f"{'sweep':<8} {running.size(jobs)}", flush=True)
    settings = next(job.settings for job in jobs if job.settings is not None)
    storage = settings.values["storage"]
    refuse_disk(running.total(jobs).store_bytes, Location.of(storage["url"] or storage["folder"]))
    confirm(jobs, settings)
    if launcher is not None:
        launcher.refuse_engine(settings)
    keep_dask_out()
    folder = _folder(config, jobs)
    swept = [key for axis in axes.axes if axis.jobs for key in axis.keys]
    root = new_location(storage, folder)
    if launcher is not None:
        launcher.refuse_store(root)
    overrides = credentials.as_given(config.hydra.overrides.task)
    # A job that is resumed before it began is read again with what the command line gave it.
    common = [credentials.redacted(word) for word in axes.common]
    attrs = {**provenance(overrides), "sweep": axes.lines(), COMMON: common}
    with locked(folder), leased(root, storage["lease"]) as lock, logged(folder / LOG):
        if storage["overwrite"]:
            root.delete()
        root.require_empty()
        credentials.hide(config)
        shared = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        (folder / CONFIG).write_text(config_yaml(shared), encoding="utf-8")
        log.info("%s", " ".join(overrides))
        table = Table(root, [job.row(swept) for job in jobs], attrs, swept)
        table.write()
        note_location(folder, root)
        with table.finally_written(folder):
            if launcher is None:
                run_here(jobs, table, lock)
            else:
                launch(jobs, table, launcher, Task(folder))
        report(table, folder, jobs)


def _folder(config: DictConfig, jobs: Sequence[Job]) -> Path:
    """Return the new folder of the multirun, called after its study if there is only one."""
    names = {job.study.name for job in jobs if job.study is not None}
    OmegaConf.update(config, "study", names.pop() if len(names) == 1 else "multirun")
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def above(jobs: Sequence[Job], settings: Settings) -> str:
    """Return in words that the jobs together are above the limits of ``engine``, or nothing."""
    amount = running.total(jobs)
    limits = amount.above(settings.values["engine"])
    return f"the {len(jobs):,} jobs are {amount}, above {limits}" if limits else ""


def confirm(jobs: Sequence[Job], settings: Settings) -> None:
    """Refuse a multirun that is larger than one starts by mistake, unless it is confirmed.

    Raises
    ------
    FlowError
        Naming the limits.
    """
    if not settings.values["confirm"] and (words := above(jobs, settings)):
        raise FlowError(f"{words}; confirm=true starts them")


def run_here(
    jobs: Sequence[Job],
    table: Table,
    lock: Lease,
    run: Callable[..., index.Row] = run_job,
) -> None:
    """Run the jobs one after the other in this process.

    Raises
    ------
    Stopped, KeyboardInterrupt
        What stops the whole multirun.
    """
    from cubie_flow.console.progress import progress

    engine = running.engine_settings(jobs)
    watch = StopGuard(engine["time_limit"])
    check = lock.between(watch.check)
    whole = _OverallProgress(jobs)
    name = running.counted(len(jobs), "job")
    with (
        progress(name, engine["progress"]) as show,
        watch.listening(),
        _engines() as engine_for,
    ):
        for place, job in enumerate(jobs):
            how = {"on_progress": whole.shown(place, show), "between_shards": check}
            try:
                row = run(job, table.root, engine=engine_for, **how)
            except (KeyboardInterrupt, Stopped) as error:
                table.rows[job.number].update(job_status=index.STOPPED, error=str(error))
                raise
            table.update(job.number, row)
            whole.ended(job, table.rows[job.number])
            if place + 1 < len(jobs):
                check(0.0)


@contextmanager
def _engines() -> Iterator[Callable[[Settings], Engine]]:
    """Yield what returns who solves a job; jobs that ask for the same workers share them."""
    with ExitStack() as held:
        opened: dict[str, Engine] = {}

        def engine_for(settings: Settings) -> Engine:
            made = engine_of(settings)
            if repr(made) not in opened:
                opened[repr(made)] = held.enter_context(made.open())
            return opened[repr(made)]

        yield engine_for


class _OverallProgress:
    """Shows the progress of one job after the other as that of all."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = len(jobs)
        self._total = sum(job.study.design.size for job in jobs if job.study is not None)
        self._done = self._failures = self._failed_jobs = 0
        self._began = perf_counter()

    def ended(self, job: Job, row: index.Row) -> None:
        """Note that a job has ended."""
        self._done += job.study.design.size if job.study else 0
        self._failures += row.get("runs_failed") or 0
        self._failed_jobs += row["job_status"] == index.FAILED

    def shown(self, place: int, show: Show) -> Show:
        """Return what shows the progress of the job at this place."""
        told = f"job {place + 1:,} of {self._jobs:,}"
        if self._failed_jobs:
            told += f", {self._failed_jobs:,} failed"

        def one(state: Progress) -> None:
            show(
                evolve(
                    state,
                    done=self._done + state.done,
                    total=self._total,
                    failures=self._failures + state.failures,
                    seconds=perf_counter() - self._began,
                    told=told,
                )
            )

        return one


def report(table: Table, folder: Path, jobs: Sequence[Job]) -> None:
    """Say what came of the jobs and draw their pictures.

    Raises
    ------
    FlowError
        If a job did not end well.
    """
    well = table.count(index.SUCCESS)
    rows = [("jobs", f"{well:,} of {len(table.rows):,} ended well")]
    rows.append(("result", place_of(table.root)))
    wanted = [job for job in jobs if job.settings and job.settings.values["storage"]["picture"]]
    done = {row["group"] for row in table.rows if row["job_status"] == index.SUCCESS}
    drawn = [job for job in wanted if job.group in done]
    if len(drawn) > PICTURES:
        rows.append(("note", f"no pictures: they are drawn of at most {PICTURES} jobs"))
    elif drawn:
        from cubie_flow.analysis.pictures.overview import tried

        root = table.root
        source = root.store(read_only=True) if root.folder is None else root.folder
        tries = [tried(source, folder / f"{job.group}.png", job.group) for job in drawn]
        if any(picture for picture, _ in tries):
            rows.append(("pictures", shown(folder / "job_*.png")))
        rows += [("note", why) for _, why in tries if why]
    notes = dict.fromkeys(note for job in jobs if job.settings for note in job.settings.notes)
    rows += [("note", note) for note in notes]
    text = "\n".join(f"{name:<8} {told}" for name, told in rows)
    log.info("finished\n%s", text)
    print(text, flush=True)
    if bad := len(table.rows) - well:
        raise FlowError(
            f"{bad:,} of {len(table.rows):,} jobs did not end well; "
            f"python -m cubie_flow resume={shown(folder)} tries them again"
        )
