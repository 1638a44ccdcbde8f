"""The division of a machine's cores among the jobs of a launcher."""

from __future__ import annotations

from typing import Any

#: A number of concurrent jobs so large that it does not limit them.
UNLIMITED = 1 << 30


def divide_threads(hydra: Any, jobs: int) -> tuple[int | None, int]:
    """Return the threads of each job, and how many jobs the launcher gets at once.

    Parameters
    ----------
    hydra
        The node ``hydra`` of the composed config.
    jobs
        Number of jobs.

    Returns
    -------
    threads : int or None
        None if the process of the job counts its usable cores itself: the scheduler of a cluster
        decides them.
    at_once : int
    """
    from cubie_flow.process.machine import usable_cores

    launcher = str(hydra.runtime.choices["hydra/launcher"])
    usable = usable_cores(None)
    if launcher == "joblib":
        n_jobs = int(hydra.launcher.n_jobs or 1)
        # As joblib counts: -1 is all cores, -2 all but one.
        workers = n_jobs if n_jobs > 0 else max(1, usable + 1 + n_jobs)
        return max(1, usable // min(workers, jobs)), UNLIMITED
    if launcher == "submitit_local":
        # It starts all jobs that it gets, so it gets as many as there are cores for.
        threads = int(hydra.launcher.cpus_per_task or max(1, usable // jobs))
        return threads, max(1, usable // threads)
    if launcher == "submitit_slurm" and hydra.launcher.cpus_per_task:
        return int(hydra.launcher.cpus_per_task), UNLIMITED
    return None, UNLIMITED
