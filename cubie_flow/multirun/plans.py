"""``dry_run=true`` and ``task=plan`` of a multirun: the plans of all jobs in one table."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cubie_flow.config.schema import Settings
from cubie_flow.console.tables import fact_lines
from cubie_flow.errors import FlowError
from cubie_flow.multirun.jobs import JOB_ERRORS, Job, error_sentence, shared_settings
from cubie_flow.multirun.size import kernel_numbers, limits_text, size_text, total_amount
from cubie_flow.placement.resolve import resolve_placement
from cubie_flow.storage import Location
from cubie_flow.study.plan import Plan, plan_study, refuse_disk
from cubie_flow.study.plan_text import table


def plan_jobs(jobs: Sequence[Job], compiling: bool) -> None:
    """Print the plan of every job and their total; nothing is solved or written.

    Parameters
    ----------
    jobs
        The jobs of the multirun.
    compiling
        Whether to ask the CUDA compiler for its figures.

    Raises
    ------
    FlowError
        If a job cannot run, after all plans are printed.
    """
    plans, problems = [], []
    settings = shared_settings(jobs)
    kernels = kernel_numbers(jobs)
    for job in jobs:
        error = job.error
        if job.study is not None:
            try:
                plan = _plan(job, compiling)
            except JOB_ERRORS as mistake:
                error = error_sentence(mistake)
            else:
                columns = {"job": job.group, "kernel": f"{kernels[job.number] + 1}"}
                plans.append(({**columns, "overrides": job.name}, plan))
                error = "; and ".join(plan.problems)
        if error:
            problems.append(f"{job.group} of {len(jobs):,} jobs, {job.name}: {error}")
    print(fact_lines([("sweep", size_text(jobs))]))
    if plans and settings is not None:
        print(table(plans))
        _print_total(jobs, settings, compiling)
        if not problems:
            storage = settings.values["storage"]
            location = Location.of(storage["url"] or storage["folder"])
            refuse_disk(total_amount(jobs).store_bytes, location)
    for problem in problems:
        print(f"cubie-flow: {problem}", file=sys.stderr)
    if problems:
        raise FlowError(f"{len(problems):,} of {len(jobs):,} jobs cannot run")


def _plan(job: Job, compiling: bool) -> Plan:
    assert job.settings is not None
    storage = job.settings.values["storage"]
    study = resolve_placement(job.settings, job.study)
    return plan_study(study, storage["url"] or storage["folder"], compiling=compiling)


def _print_total(jobs: Sequence[Job], settings: Settings, compiling: bool) -> None:
    facts = [("total", str(total_amount(jobs)))]
    if not settings.values["confirm"] and (text := limits_text(jobs, settings)):
        facts.append(("note", f"{text}; it starts with confirm=true"))
    if not compiling:
        facts.append(("dry run", "nothing was solved or written"))
    print(fact_lines(facts))
