"""How the jobs of a launcher share the processors of a machine."""

from __future__ import annotations

from typing import Any

#: Jobs at once that no one bounds.
ALL = 1 << 30


def threads_of(hydra: Any, jobs: int) -> tuple[int | None, int]:
    """Return the threads of each job, and how many jobs are handed over at once.

    Parameters
    ----------
    hydra
        The node ``hydra`` of the composed config.
    jobs
        How many there are.

    Returns
    -------
    threads : int or None
        None leaves it to the process of the job, which counts the processors it may use: what a
        cluster's scheduler gave it.
    at_once : int
    """
    from cubie_flow.process.machine import usable_cores

    chosen = str(hydra.runtime.choices["hydra/launcher"])
    usable = usable_cores(None)
    if chosen == "joblib":
        wanted = int(hydra.launcher.n_jobs or 1)
        # As joblib counts: -1 is all processors, -2 all but one.
        workers = wanted if wanted > 0 else max(1, usable + 1 + wanted)
        return max(1, usable // min(workers, jobs)), ALL
    if chosen == "submitit_local":
        # It starts all it is given, so it is given no more than there is room for.
        threads = int(hydra.launcher.cpus_per_task or max(1, usable // jobs))
        return threads, max(1, usable // threads)
    if chosen == "submitit_slurm" and hydra.launcher.cpus_per_task:
        return int(hydra.launcher.cpus_per_task), ALL
    return None, ALL
