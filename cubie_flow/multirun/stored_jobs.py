"""Jobs as the store of a multirun has them: how far they are, and finishing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve
from omegaconf import OmegaConf

from cubie_flow.errors import FlowError
from cubie_flow.storage import Location, index
from cubie_flow.multirun.jobs import COMMON, MISTAKES, PHASES, Job, run_job, said

if TYPE_CHECKING:
    from cubie_flow.study.study import Study
    from cubie_flow.study.run import Start


def is_begun(place: Location) -> bool:
    """Return whether a job's group can be resumed."""
    from cubie_flow.storage import ResultStore

    if not place.holds_something():
        return False
    try:
        ResultStore.open(place)
    except FlowError:
        return False
    return True


def stored_row(place: Location, study: Study | None = None) -> index.Row | None:
    """Return the row of a job as its group tells it, or None unless the group is complete.

    Parameters
    ----------
    place
        The group.
    study
        What it must hold; one with more runs is not complete.
    """
    import numpy as np

    from cubie_flow.integrators.status import ended_well
    from cubie_flow.storage import ResultStore

    try:
        store = ResultStore.open(place)
    except FlowError:
        return None
    attrs, runs = store.attrs, store.plan.runs
    if "completed" not in attrs or len(store.completed()) < len(store.plan.shards):
        return None
    if study is not None and study.design.size != runs:
        return None
    codes = store.status_counts()
    well = sum(count for code, count in codes.items() if ended_well(code))
    kernel = float(attrs["seconds_kernel"])
    return {
        "job_status": index.SUCCESS,
        "error": "",
        "runs": runs,
        "runs_failed": runs - well,
        "mean_steps": float(np.mean(store.array("steps")[:])),
        "mean_rejected": float(np.mean(store.array("rejected")[:])),
        "runs_per_second": runs / kernel if kernel else None,
        "store_bytes": place.size(),
        **{f"seconds_{phase}": float(attrs[f"seconds_{phase}"]) for phase in PHASES},
    }


def read_again(
    number: int, row: index.Row, root: Location, overrides: Sequence[str], common: Sequence[str]
) -> Job:
    """Return a job as its row and its group have it.

    Parameters
    ----------
    number
        Its place in the multirun.
    row
        Of the table.
    root
        The store of the multirun.
    overrides
        What may differ from then, see `cubie_flow.resume`.
    common
        Overrides of every job, as the root has them.

    Raises
    ------
    FlowError
        If an override changes the science of what is there.
    """
    from cubie_flow.config.stored import stored_settings, stored_study
    from cubie_flow.storage import ResultStore

    place = root.child(row["group"])
    own = tuple(row["overrides"].split())
    job = Job(number, own, (), row["config"])
    begun = is_begun(place)
    attrs: dict[str, Any] = {"overrides": [*common, *own]}
    if begun:
        store = ResultStore.open(place)
        store.refuse_gaps()
        attrs = store.attrs
    try:
        settings = stored_settings(OmegaConf.create(row["config"]), overrides, attrs)
        study = stored_study(settings, attrs) if begun else settings.study()
        read = evolve(job, settings=settings, study=study, overrides=tuple(attrs["overrides"]))
        _ = read.amount  # what is wrong with its output is said of the job too
        return read
    except MISTAKES as error:
        if begun:
            raise
        return evolve(job, error=said(error))


def stored_job(folder: Path, number: int, overrides: Sequence[str]) -> tuple[Job, Location]:
    """Return a job of the multirun in a folder, and the store; see `read_again`."""
    from cubie_flow.config.stored import location_of

    root = location_of(folder, overrides)
    rows, attrs = index.read_index(root)
    return read_again(number, rows[number], root, overrides, attrs.get(COMMON, ())), root


def finish(job: Job, root: Location, recheck: bool, **how: Any) -> index.Row:
    """Solve what a job lacks and return its row; see `cubie_flow.multirun.jobs.run_job`."""
    place = root.child(job.group)
    begun = is_begun(place)
    if not begun and place.holds_something():
        place.delete()  # left while it was made
    start: Start = "new" if not begun else "recheck" if recheck else "resume"
    row = run_job(job, root, start=start, **how)
    stored = stored_row(place)
    # What was measured of the last part alone says little of the whole.
    return stored if begun and stored and row["job_status"] == index.SUCCESS else row
