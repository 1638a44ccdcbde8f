"""Running the jobs of a multirun into one store, here or through a launcher, and finishing them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from attrs import evolve
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import filter_overrides
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from cubie_flow import credentials
from cubie_flow.errors import FlowError
from cubie_flow.logs import logged
from cubie_flow.report import shown
from cubie_flow.stopping import Stopped, Watch
from cubie_flow.storage import Location, index, locked, new_location, note_location
from cubie_flow.storage.provenance import provenance
from cubie_flow.sweeps import jobs as running
from cubie_flow.sweeps.axes import Axes
from cubie_flow.sweeps.jobs import Job, Reader, config_yaml, run_job

if TYPE_CHECKING:
    from cubie_flow.config import Settings
    from cubie_flow.progress import Show
    from cubie_flow.study.running import Progress

CONFIG, LOG = "config.yaml", "run.log"
#: Pictures of so many jobs are drawn, one each.
PICTURES = 12
log = logging.getLogger("cubie_flow")


class Table:
    """The rows of a multirun, kept here and written to its store."""

    def __init__(
        self, root: Location, rows: list[index.Row], attrs: dict[str, Any], swept: Sequence[str]
    ) -> None:
        self.root, self.rows, self.attrs, self.swept = root, rows, attrs, swept

    def write(self, *, finished: bool = False) -> None:
        """Write all rows."""
        index.write_index(self.root, self.rows, self.attrs, self.swept, finished=finished)

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
        else:
            line = f"{name} {told}: {full['error']}"
            print(f"cubie-flow: {line}", file=sys.stderr, flush=True)
        log.info(line)


def run_multirun(
    jobs: Sequence[Job], axes: Axes, config: DictConfig, launching: HydraContext | None
) -> None:
    """Run every job into its group of one store.

    Parameters
    ----------
    jobs
    axes
        What is swept.
    config
        Hydra's config of the multirun.
    launching
        Hydra's context, where a launcher runs the jobs in other processes.

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
    _confirm(jobs, settings)
    folder = _folder(config, jobs)
    swept = [key for axis in axes.axes if axis.jobs for key in axis.keys]
    storage = settings.values["storage"]
    root = new_location(storage, folder)
    overrides = credentials.as_given(config.hydra.overrides.task)
    attrs = {**provenance(overrides), "sweep": axes.lines()}
    with locked(folder), logged(folder / LOG):
        if storage["overwrite"]:
            root.delete()
        root.refuse_what_is_there()
        credentials.hide(config)
        shared = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        (folder / CONFIG).write_text(config_yaml(shared), encoding="utf-8")
        log.info("%s", " ".join(overrides))
        table = Table(root, [job.row(swept) for job in jobs], attrs, swept)
        table.write()
        note_location(folder, root)
        with _finally_written(table, folder):
            if launching is None:
                _run_here(jobs, table)
            else:
                _launch(jobs, table, axes, config, launching, folder)
        _report(table, folder, jobs)


def _folder(config: DictConfig, jobs: Sequence[Job]) -> Path:
    """Return the new folder of the multirun, called after its study if there is only one."""
    names = {job.study.name for job in jobs if job.study is not None}
    OmegaConf.update(config, "study", names.pop() if len(names) == 1 else "multirun")
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _confirm(jobs: Sequence[Job], settings: Settings) -> None:
    """Refuse a multirun that is larger than one starts by mistake, unless it is confirmed."""
    from cubie_flow.study.plan import result_bytes

    studies = [job.study for job in jobs if job.study is not None]
    sizes = {
        "runs": sum(study.design.size for study in studies),
        "bytes": sum(result_bytes(study) for study in studies),
    }
    engine = settings.values["engine"]
    above = [
        f"engine.confirm_{name}={engine[f'confirm_{name}']:,}"
        for name, size in sizes.items()
        if size > engine[f"confirm_{name}"]
    ]
    if above and not settings.values["confirm"]:
        raise FlowError(
            f"the {len(jobs):,} jobs have {sizes['runs']:,} runs and up to "
            f"{sizes['bytes'] / 1e9:,.1f} GB of results, above {' and '.join(above)}; "
            "confirm=true starts them"
        )


def _place(root: Location) -> str:
    """Return where the store is, as short as it can be said."""
    return root.name if root.folder is None else shown(root.folder)


@contextmanager
def _finally_written(table: Table, folder: Path) -> Iterator[None]:
    """Write the table whatever happens, and say how to go on where it was stopped."""
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        table.write(finished=True)
        print(
            f"what was solved is kept in {_place(table.root)}; python -m cubie_flow "
            f"resume={shown(folder)} does the rest",
            file=sys.stderr,
        )
        raise
    table.write(finished=True)


def _run_here(
    jobs: Sequence[Job],
    table: Table,
    run: Callable[..., index.Row] = run_job,
) -> None:
    """Run the jobs one after the other in this process."""
    from cubie_flow.progress import progress

    given = [job.settings.values["engine"] for job in jobs if job.settings is not None]
    engine: dict[str, Any] = given[0] if given else {"time_limit": None, "progress": False}
    watch = Watch(engine["time_limit"])
    total = sum(job.study.design.size for job in jobs if job.study is not None)
    before = [0, 0]
    with progress(f"{len(jobs)} jobs", engine["progress"]) as show, watch.listening():
        whole = _whole(show, total, before)
        for place, job in enumerate(jobs):
            try:
                row = run(job, table.root, on_progress=whole, between_shards=watch.check)
            except (KeyboardInterrupt, Stopped) as error:
                table.rows[job.number].update(job_status=index.STOPPED, error=str(error))
                raise
            table.update(job.number, row)
            before[0] += job.study.design.size if job.study else 0
            before[1] += table.rows[job.number].get("runs_failed") or 0
            if place + 1 < len(jobs):
                watch.check()


def _whole(show: Show, total: int, before: Sequence[int]) -> Show:
    """Return what shows the progress of one job as that of all."""
    began = perf_counter()

    def one(state: Progress) -> None:
        done, failures = before[0] + state.done, before[1] + state.failures
        seconds = perf_counter() - began
        show(evolve(state, done=done, total=total, failures=failures, seconds=seconds))

    return one


# through a launcher ---------------------------------------------------------------------------


def _launch(
    jobs: Sequence[Job],
    table: Table,
    axes: Axes,
    config: DictConfig,
    context: HydraContext,
    folder: Path,
) -> None:
    """Hand the jobs to the launcher that the config names."""
    from cubie_flow.sweeps.shares import threads_of

    # The other processes compose anew, and must not make a folder of their own.
    fixed = [f"hydra.sweep.dir='{folder}'", "hydra.sweep.subdir=."]
    with open_dict(config.hydra):
        config.hydra.overrides.hydra.extend(fixed)
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(folder), "."
    threads, at_once = threads_of(config.hydra, len(jobs))
    given = any(word.startswith("target.threads=") for word in axes.fixed)
    share = [] if threads is None or given else [f"target.threads={threads}"]
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=launched, config=config
    )
    for first in range(0, len(jobs), at_once):
        part = jobs[first : first + at_once]
        words = [[*job.overrides, *share] for job in part]
        try:
            returned = launcher.launch(words, initial_job_idx=first)
            rows = [_returned(result) for result in returned]
        except (FlowError, KeyboardInterrupt):
            raise
        except Exception as error:
            # A process that was killed takes the records of the others with it, not their data.
            log.exception("the launcher")
            lost = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            rows = [_found(job, table.root, lost) for job in part]
        for job, row in zip(part, rows, strict=True):
            table.update(job.number, row)


def _returned(result: Any) -> index.Row:
    value = result._return_value
    if isinstance(value, dict):
        return value
    return {"job_status": index.FAILED, "error": f"{type(value).__name__}: {value}"}


def _found(job: Job, root: Location, why: str) -> index.Row:
    """Return the row of a job of which only its group tells."""
    row = running.stored_row(root.child(job.group))
    return row or {"job_status": index.FAILED, "error": why}


def launched(config: DictConfig) -> index.Row:
    """Run one job in a process that a launcher started."""
    composed = HydraConfig.get()
    folder = Path(composed.sweep.dir)
    overrides = filter_overrides(credentials.as_given(composed.overrides.task))
    job = Reader().job(int(composed.job.num), (), overrides, config)
    watch = Watch(job.settings.values["engine"]["time_limit"] if job.settings else None)
    if job.settings is None:
        return {"job_status": index.FAILED, "error": job.error}
    root = new_location(job.settings.values["storage"], folder)
    with logged(folder / LOG), watch.listening():
        try:
            return run_job(job, root, between_shards=watch.check)
        except (KeyboardInterrupt, Stopped) as error:
            return {"job_status": index.STOPPED, "error": str(error) or "interrupted"}


# afterwards -----------------------------------------------------------------------------------


def _report(table: Table, folder: Path, jobs: Sequence[Job]) -> None:
    """Say what came of the jobs and draw their pictures.

    Raises
    ------
    FlowError
        If a job did not end well.
    """
    well = table.count(index.SUCCESS)
    rows = [("jobs", f"{well:,} of {len(table.rows):,} ended well")]
    rows.append(("result", _place(table.root)))
    wanted = [job for job in jobs if job.settings and job.settings.values["storage"]["picture"]]
    done = {row["group"] for row in table.rows if row["job_status"] == index.SUCCESS}
    drawn = [job for job in wanted if job.group in done]
    if len(drawn) > PICTURES:
        rows.append(("note", f"no pictures: they are drawn of at most {PICTURES} jobs"))
    elif drawn:
        from cubie_flow.analysis.pictures.overview import draw

        root = table.root
        source = root.store(read_only=True) if root.folder is None else root.folder
        for job in drawn:
            draw(source, folder / f"{job.group}.png", job.group)
        rows.append(("pictures", shown(folder / "job_*.png")))
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


def resume_multirun(folder: Path, root: Location, overrides: Sequence[str], recheck: bool) -> None:
    """Finish the jobs that a multirun lacks.

    Parameters
    ----------
    folder
        Of the multirun.
    root
        Its store.
    overrides
        What may differ from then, see `cubie_flow.resume`.
    recheck
        Whether complete shards are compared with their checksums.

    Raises
    ------
    FlowError
        If an override changes the science of a job, or, once all have run, a job failed.
    """
    with locked(folder), logged(folder / LOG):
        rows, attrs = index.read_index(root)
        log.info("resumed %s", " ".join(overrides))
        jobs = [_again(number, row, root, overrides) for number, row in enumerate(rows)]
        table = Table(root, rows, {**attrs, "resumed_by": provenance(overrides)}, attrs["swept"])
        todo = []
        for job in jobs:
            kept = None if recheck else running.stored_row(root.child(job.group), job.study)
            if kept is None:
                todo.append(job)
            elif rows[job.number]["job_status"] != index.SUCCESS:
                rows[job.number].update(kept)
        print(f"{len(rows) - len(todo):,} of {len(rows):,} jobs were complete", flush=True)

        def run(job: Job, place: Location, **how: Any) -> index.Row:
            there = running.is_begun(place.child(job.group))
            row = run_job(job, place, resume=there, recheck=recheck and there, **how)
            stored = running.stored_row(place.child(job.group))
            # What was measured of the last part alone says little of the whole.
            return stored if there and stored and row["job_status"] == index.SUCCESS else row

        with _finally_written(table, folder):
            if todo:
                _run_here(todo, table, run)
        _report(table, folder, jobs)


def _again(number: int, row: index.Row, root: Location, overrides: Sequence[str]) -> Job:
    """Return a job as its row and its group have it."""
    from cubie_flow.resume import stored_settings, stored_study
    from cubie_flow.storage import ResultStore

    place = root.child(row["group"])
    job = Job(number, tuple(row["overrides"].split()), (), row["config"])
    begun = running.is_begun(place)
    attrs: dict[str, Any] = ResultStore.open(place).attrs if begun else {"overrides": []}
    try:
        settings = stored_settings(OmegaConf.create(row["config"]), overrides, attrs)
        study = stored_study(settings, attrs) if begun else settings.study()
    except running.MISTAKES as error:
        if begun:
            raise
        return evolve(job, error=running.said(error))
    return evolve(job, settings=settings, study=study, overrides=tuple(attrs["overrides"]))


def verify_multirun(folder: Path, root: Location) -> int:
    """Compare every complete shard of every job with its checksum and return the exit code."""
    from cubie_flow.storage import ResultStore

    rows, _ = index.read_index(root)
    missing = damaged = 0
    for row in rows:
        place = root.child(row["group"])
        if not running.is_begun(place):
            print(f"{row['group']}: not there")
            missing += 1
            continue
        store = ResultStore.open(place)
        bad, total = store.damaged(), len(store.plan.shards)
        complete = len(store.completed())
        missing += complete < total
        damaged += len(bad)
        print(f"{row['group']}: {complete:,} of {total:,} shards complete, {len(bad):,} damaged")
    if missing or damaged:
        again = " recheck=true" if damaged else ""
        print(f"python -m cubie_flow resume={folder}{again} does the rest")
    return 1 if missing or damaged else 0
