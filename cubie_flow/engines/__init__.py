"""Who solves the shards of a study: this process, or worker processes on any machine.

An engine knows no kernel. It is given work that makes a solver for a seat and opens the store,
and it tells a listener of every shard that is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cubie_flow.engines.base import Engine, Listener, Part, Record, Solver, Work, WorkerResources
from cubie_flow.engines.clusters import check_options
from cubie_flow.engines.local import LocalEngine
from cubie_flow.engines.statistics import RunStatistics
from cubie_flow.engines.worker_resources import pick_devices
from cubie_flow.errors import FlowError

__all__ = [
    "Engine",
    "Listener",
    "LocalEngine",
    "Part",
    "Record",
    "RunStatistics",
    "Solver",
    "Work",
    "WorkerResources",
    "make_engine",
    "pick_devices",
]


def make_engine(
    kind: str,
    workers: int | None = None,
    scheduler: str | None = None,
    cluster: str | None = None,
    options: Mapping[str, Any] | None = None,
    retries: int = 3,
) -> Engine:
    """Return an engine.

    Parameters
    ----------
    kind : {"local", "dask"}
    workers, scheduler, cluster, options, retries
        See `cubie_flow.engines.dask.DaskEngine`.

    Raises
    ------
    FlowError
        If the settings contradict each other, or Dask is missing.
    """
    if kind == "local":
        for key, value in (("workers", workers), ("scheduler", scheduler), ("cluster", cluster)):
            if value is not None:
                raise FlowError(
                    f"engine.{key} is '{value}', which engine=local does not have; use engine=dask"
                )
        return LocalEngine()
    check_options(cluster, options or {}, "engine.options")
    if scheduler is not None and (cluster is not None or workers is not None):
        raise FlowError(
            f"engine.scheduler is '{scheduler}', which has workers of its own; leave "
            "engine.workers and engine.cluster null"
        )
    try:
        from cubie_flow.engines.dask import DaskEngine
    except ImportError as error:
        raise FlowError("engine=dask needs Dask: pip install 'cubie-flow[dask]'") from error
    return DaskEngine(workers, scheduler, cluster, dict(options or {}), retries)
