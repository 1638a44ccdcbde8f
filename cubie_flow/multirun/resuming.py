"""``resume=`` of a multirun: solve the jobs and runs that it lacks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cubie_flow.config.stored import missing_runs, words_again
from cubie_flow.console.session import open_session
from cubie_flow.console.tables import fact_lines
from cubie_flow.multirun.job_task import JobTask
from cubie_flow.multirun.jobs import COMMON, Job, shared_settings
from cubie_flow.multirun.launcher import compose_launcher
from cubie_flow.multirun.launching import launch
from cubie_flow.multirun.run import report, run_here
from cubie_flow.multirun.size import confirm, count_text, limits_text
from cubie_flow.multirun.stored_jobs import complete_row, is_begun, read_stored_job, resume_job
from cubie_flow.multirun.table import Table
from cubie_flow.process.startup import keep_dask_out
from cubie_flow.storage import Location, ResultStore, index
from cubie_flow.storage.lease import LEASE
from cubie_flow.storage.provenance import provenance
from cubie_flow.study.plan_text import Amount

log = logging.getLogger("cubie_flow")


def resume_multirun(
    folder: Path,
    root: Location,
    overrides: Sequence[str],
    recheck: bool,
    launcher_words: Sequence[str] = (),
) -> None:
    """Finish the jobs that a multirun lacks; with ``dry_run=true`` print which they are.

    Parameters
    ----------
    folder
        Folder of the multirun.
    root
        Its store.
    overrides
        New values of keys that do not change a study, see `cubie_flow.config.stored`.
    recheck
        Whether complete shards are compared with their checksums.
    launcher_words
        Words of the command line that choose a launcher of Hydra.

    Raises
    ------
    FlowError
        If an override changes the study of a job, or, once all have run, a job failed.
    Stopped, KeyboardInterrupt
        If the multirun was stopped; it can be resumed again.
    """
    with open_session(folder) as session:
        rows, attrs = index.read_index(root)
        common = attrs.get(COMMON, ())
        jobs = [
            read_stored_job(number, row, root, overrides, common)
            for number, row in enumerate(rows)
        ]  # fmt: skip
        settings = shared_settings(jobs)
        if settings is not None and settings.values["dry_run"]:
            _print_missing(jobs, root, recheck)
            return
        incomplete = _incomplete_jobs(jobs, rows, root, recheck)
        launcher = compose_launcher(folder, launcher_words)
        if launcher is not None:
            launcher.require_shared_store(root)
        if settings is not None:
            confirm(incomplete, settings)
            if launcher is not None:
                launcher.require_shared_machine(settings)
        keep_dask_out()
        table = Table(root, rows, {**attrs, "resumed_by": provenance(overrides)}, attrs["swept"])
        lease = settings.values["storage"]["lease"] if settings else LEASE
        session.begin_writing(root, lease, words_again(overrides))
        log.info("resumed %s", " ".join(overrides))
        complete = len(rows) - len(incomplete)
        print(f"{complete:,} of {len(rows):,} jobs were complete", flush=True)
        with session.resumable(), table.written_at_end():
            if incomplete and launcher is not None:
                task = JobTask(
                    folder.absolute(), resume_overrides=tuple(overrides), recheck=recheck
                )
                launch(incomplete, table, launcher, task)
            elif incomplete:
                run_here(incomplete, table, session.lease, partial(resume_job, recheck=recheck))
        report(table, session, jobs)


def _incomplete_jobs(
    jobs: Sequence[Job], rows: list[index.Row], root: Location, recheck: bool
) -> list[Job]:
    """Return the jobs to solve; enter the rows of complete ones that have none."""
    if recheck:
        return list(jobs)
    incomplete = []
    for job in jobs:
        row = complete_row(root.child(job.group), job.study)
        if row is None:
            incomplete.append(job)
        elif rows[job.number]["job_status"] != index.SUCCESS:
            rows[job.number].update(row)
    return incomplete


def _print_missing(jobs: Sequence[Job], root: Location, recheck: bool) -> None:
    """Print what each job lacks; nothing is solved or written."""
    total = Amount()
    incomplete = 0
    facts = []
    for job in jobs:
        name = job.name or "the only one"
        if job.study is None or job.amount is None:
            facts.append((job.group, f"{name}: cannot run: {job.error}"))
            continue
        missing, text = _missing(job, root.child(job.group), recheck)
        facts.append((job.group, f"{name}: {text}"))
        total += missing
        incomplete += text != "complete"
    facts.append(("total", f"{total}, of {count_text(incomplete, 'job')}"))
    runnable = [job for job in jobs if job.study is not None]
    settings = shared_settings(jobs)
    if settings is not None and (text := limits_text(runnable, settings)):
        facts.append(("note", text))
    facts.append(("dry run", "nothing was solved or written"))
    print(fact_lines(facts))


def _missing(job: Job, group: Location, recheck: bool) -> tuple[Amount, str]:
    """Return how much a job that can run lacks, and a text about it."""
    assert job.study is not None
    assert job.amount is not None
    runs = job.size
    if not is_begun(group):
        return job.amount, f"not begun, {count_text(runs, 'run')}"
    missing, shards = missing_runs(ResultStore.open(group), job.study, recheck)
    amount = Amount(missing, shards, job.amount.store_bytes * missing // runs)
    if missing:
        return amount, f"{missing:,} of {count_text(runs, 'run')} are missing"
    if complete_row(group, job.study) is None:
        return amount, "all runs exist, their summary is missing"
    return amount, "complete"
