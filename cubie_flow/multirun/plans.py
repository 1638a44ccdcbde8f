"""``dry_run=true`` and ``task=plan`` of a multirun: what every job would take, in one table."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cubie_flow.errors import FlowError
from cubie_flow.study.plan_text import refuse_disk, table
from cubie_flow.storage import Location
from cubie_flow.placement.resolve import resolve_placement
from cubie_flow.multirun.jobs import MISTAKES, Job, kernels, said, size, total
from cubie_flow.multirun.run import above


def plan_jobs(jobs: Sequence[Job], compiling: bool) -> None:
    """Print the plan of every job, and what all come to; nothing is solved or written.

    Parameters
    ----------
    jobs
    compiling
        Ask the CUDA compiler for its figures.

    Raises
    ------
    FlowError
        If a job cannot run, once all are told.
    """
    from cubie_flow.study.plan import plan_study

    plans, problems = [], []
    numbers = kernels(jobs)
    for job in jobs:
        error = job.error
        if job.settings is not None and job.study is not None:
            storage = job.settings.values["storage"]
            place = storage["url"] or storage["folder"]
            try:
                study = resolve_placement(job.settings, job.study)
                plan = plan_study(study, place, compiling=compiling)
            except MISTAKES as mistake:
                error = said(mistake)
            else:
                told = {"job": f"{job.number + 1}", "kernel": f"{numbers[job.number] + 1}"}
                plans.append(({**told, "overrides": " ".join(job.own)}, plan))
                error = "; and ".join(plan.problems)
        if error:
            problems.append(f"job {job.number + 1}/{len(jobs)} {' '.join(job.own)}: {error}")
    print(f"{'sweep':<8} {size(jobs)}")
    if plans:
        print(table(plans))
        print(f"{'total':<8} {total(jobs)}")
        settings = next(job.settings for job in jobs if job.settings is not None)
        storage = settings.values["storage"]
        if not settings.values["confirm"] and (words := above(jobs, settings)):
            print(f"{'note':<8} {words}; it starts with confirm=true")
        if not compiling:
            print(f"{'dry run':<8} nothing was solved or written")
        if not problems:
            refuse_disk(total(jobs).store_bytes, Location.of(storage["url"] or storage["folder"]))
    for problem in problems:
        print(f"cubie-flow: {problem}", file=sys.stderr)
    if problems:
        raise FlowError(f"{len(problems):,} of {len(jobs):,} jobs cannot run")
