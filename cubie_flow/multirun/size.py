"""The size of a multirun, and its confirmation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cubie_flow.errors import FlowError
from cubie_flow.multirun.jobs import Job

if TYPE_CHECKING:
    from cubie_flow.config.schema import Settings
    from cubie_flow.study.plan_text import Amount


def count_text(number: int, noun: str) -> str:
    """Return a number of things, such as ``2 jobs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size_text(jobs: Sequence[Job]) -> str:
    """Return the size of a multirun, such as ``3 kernels x 10 shards, 1,000,000 runs``."""
    amounts = [amount for job in jobs if (amount := job.amount) is not None]
    different = len({*kernel_numbers(jobs).values()})
    kernels = count_text(different, "kernel")
    if different != len(jobs):
        kernels = f"{count_text(len(jobs), 'job')} of {kernels}"
    shards = [amount.shards for amount in amounts]
    low, high = min(shards, default=0), max(shards, default=0)
    per_job = count_text(high, "shard") if low == high else f"{low:,} to {high:,} shards"
    return f"{kernels} x {per_job}, {count_text(sum(amount.runs for amount in amounts), 'run')}"


def kernel_numbers(jobs: Sequence[Job]) -> dict[int, int]:
    """Return the number of the kernel of each job that can run; several jobs may share one."""
    from cubie_flow.study.kernel import kernel_settings

    kernels: list[Any] = []
    numbers = {}
    for job in jobs:
        if job.study is not None:
            kernel = (*kernel_settings(job.study), dict(job.study.locations))
            if kernel not in kernels:
                kernels.append(kernel)
            numbers[job.number] = kernels.index(kernel)
    return numbers


def total_amount(jobs: Sequence[Job]) -> Amount:
    """Return runs, shards and bytes of all jobs that can run."""
    from cubie_flow.study.plan_text import Amount

    return sum((job.amount for job in jobs if job.amount is not None), Amount())


def limits_text(jobs: Sequence[Job], settings: Settings) -> str:
    """Return which limits of ``engine`` the jobs exceed together; ``""`` if none."""
    amount = total_amount(jobs)
    limits = amount.above(settings.values["engine"])
    return f"the {len(jobs):,} jobs are {amount}, above {limits}" if limits else ""


def confirm(jobs: Sequence[Job], settings: Settings) -> None:
    """Refuse a multirun above the limits of ``engine`` unless ``confirm=true`` is given.

    Raises
    ------
    FlowError
        If the multirun is too large.
    """
    if not settings.values["confirm"] and (text := limits_text(jobs, settings)):
        raise FlowError(f"{text}; confirm=true starts them")
