"""Jobs in the store of a multirun: whether they are complete and intact, and finishing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve

from cubie_flow.config.stored import location_of, plain_config, stored_settings, stored_study
from cubie_flow.console.paths import resume_command
from cubie_flow.errors import FlowError
from cubie_flow.integrators.status import ended_well
from cubie_flow.multirun.jobs import (
    COMMON,
    JOB_ERRORS,
    PHASES,
    Job,
    checked,
    error_sentence,
    run_job,
)
from cubie_flow.process.safe_files import LinkRefused
from cubie_flow.storage import Location, ResultStore, index

if TYPE_CHECKING:
    from cubie_flow.study.run import Start
    from cubie_flow.study.study import Study


def is_begun(group: Location) -> bool:
    """Return whether the group of a job holds a store that can be resumed."""
    if not group.holds_something():
        return False
    try:
        ResultStore.open(group)
    except LinkRefused:
        raise
    except FlowError:
        return False
    return True


def complete_row(group: Location, study: Study | None = None) -> index.Row | None:
    """Return the row of a job from its group, or None if the group is not complete.

    Parameters
    ----------
    group
        The group of the job.
    study
        The study it must hold; if this has more runs, the group is not complete.
    """
    try:
        store = ResultStore.open(group)
    except LinkRefused:
        raise
    except FlowError:
        return None
    attrs, runs = store.attrs, store.plan.runs
    if "completed" not in attrs or len(store.completed()) < len(store.plan.shards):
        return None
    if study is not None and study.design.size != runs:
        return None
    counts = store.status_counts()
    successful = sum(count for code, count in counts.items() if ended_well(code))
    seconds = {phase: float(attrs[f"seconds_{phase}"]) for phase in PHASES}
    return {
        "job_status": index.SUCCESS,
        "error": "",
        "runs": runs,
        "runs_failed": runs - successful,
        "mean_steps": float(np.mean(store.array("steps")[:])),
        "mean_rejected": float(np.mean(store.array("rejected")[:])),
        "runs_per_second": runs / seconds["kernel"] if seconds["kernel"] else None,
        "store_bytes": group.size(),
        **{f"seconds_{phase}": value for phase, value in seconds.items()},
    }


def read_stored_job(
    number: int, row: index.Row, root: Location, overrides: Sequence[str], common: Sequence[str]
) -> Job:
    """Return a job from its row and its group.

    Parameters
    ----------
    number
        Its position in the multirun, from 0.
    row
        Its row of the table.
    root
        The store of the multirun.
    overrides
        New values of keys that do not change the study, see `cubie_flow.config.stored`.
    common
        Overrides of every job, from the attributes of the root.

    Raises
    ------
    FlowError
        If an override would change the study of a job that has begun.
    """
    group = root.child(row["group"])
    own = tuple(row["overrides"].split())
    job = Job(number, own, (), row["config"])
    begun = is_begun(group)
    attrs: dict[str, Any] = {"overrides": [*common, *own]}
    if begun:
        store = ResultStore.open(group)
        store.refuse_gaps()
        attrs = store.attrs
    try:
        source = f"the table of jobs in '{root.name}'"
        config = plain_config(row["config"], source)
        settings = stored_settings(config, overrides, attrs, source)
        study = stored_study(settings, attrs) if begun else settings.study()
        all_overrides = tuple(attrs["overrides"])
        return checked(evolve(job, settings=settings, study=study, overrides=all_overrides))
    except JOB_ERRORS as error:
        if begun:
            raise
        return evolve(job, error=error_sentence(error))


def load_job(folder: Path, number: int, overrides: Sequence[str]) -> tuple[Job, Location]:
    """Return a job of the multirun in a folder, and the store of the multirun.

    Parameters
    ----------
    folder
        The folder of the multirun.
    number, overrides
        As `read_stored_job` takes them.

    Raises
    ------
    FlowError
        If the store cannot be read, or an override would change the study.
    """
    root = location_of(folder, overrides)
    rows, attrs = index.read_index(root)
    return read_stored_job(number, rows[number], root, overrides, attrs.get(COMMON, ())), root


def resume_job(job: Job, root: Location, recheck: bool, **options: Any) -> index.Row:
    """Solve the runs that a job lacks, and return its row.

    Parameters
    ----------
    job
        The job, as `read_stored_job` returns it.
    root
        The store of the multirun.
    recheck
        Whether complete shards are compared with their checksums.
    options
        Further arguments of `cubie_flow.multirun.jobs.run_job`.
    """
    group = root.child(job.group)
    begun = is_begun(group)
    if not begun and group.holds_something():
        group.delete()  # the rest of a store whose creation was interrupted
    start: Start = "new" if not begun else "recheck" if recheck else "resume"
    row = run_job(job, root, start=start, **options)
    # The group holds the numbers of the whole job; the row has those of the last part alone.
    complete = complete_row(group)
    return complete if begun and complete and row["job_status"] == index.SUCCESS else row


def verify_multirun(folder: Path, root: Location, again: Sequence[str] = ()) -> int:
    """Compare every complete shard of every job with its checksum; print a line per job.

    Parameters
    ----------
    folder
        Folder of the multirun.
    root
        Its store.
    again
        Words that a resume needs in addition.

    Returns
    -------
    int
        The exit code: 1 if jobs or shards are missing or damaged.
    """
    rows, _ = index.read_index(root)
    missing = damaged = unreadable = 0
    for group in (row["group"] for row in rows):
        location = root.child(group)
        if not location.holds_something():
            print(f"{group}: missing")
            missing += 1
            continue
        try:
            store = ResultStore.open(location)
            store.refuse_gaps()
        except FlowError as error:
            print(f"{group}: {error}")
            # A resume solves a job again whose store cannot be opened at all.
            if is_begun(location):
                unreadable += 1
            else:
                missing += 1
            continue
        complete, total = len(store.completed()), len(store.plan.shards)
        bad = len(store.damaged())
        missing += complete < total
        damaged += bad
        print(f"{group}: {complete:,} of {total:,} shards complete, {bad:,} damaged")
    if missing or damaged:
        recheck = ["recheck=true"] if damaged else []
        print(f"{resume_command(folder, [*recheck, *again])} does the rest")
    return 1 if missing or damaged or unreadable else 0
