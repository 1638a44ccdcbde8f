"""The part of the Dask engine that runs in worker processes."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from time import perf_counter, time
from typing import Any

from attrs import evolve, frozen
from distributed import get_worker

from cubie_flow.engines.base import Record, Solver, Work, WorkerResources
from cubie_flow.engines.worker_resources import worker_resources
from cubie_flow.storage.writer import write_timed


@frozen
class ResourceRule:
    """How a worker finds its resources.

    Attributes
    ----------
    slots : mapping
        Concurrent tasks by host, which divide the host's cores.
    devices : tuple of int
        GPUs that numbered workers share; empty if each worker sees its own GPU first.
    limit : int, optional
        CPU threads of a task.
    """

    slots: Mapping[str, int]
    devices: tuple[int, ...] = ()
    limit: int | None = None

    def resources(self, name: Any, host: str) -> WorkerResources:
        """Return the resources of the worker of this name on this host."""
        number = name if isinstance(name, int) else 0
        share = self.slots.get(host, 1)
        return evolve(worker_resources(number, share, self.devices), limit=self.limit)


class _OpenStudy:
    """What a worker process keeps of a study: its store, and a solver per resources."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.store = work.store()
        self.solvers: dict[WorkerResources, Solver] = {}
        self.lock = threading.Lock()

    def solver(self, resources: WorkerResources) -> Solver:
        """Return a solver, whose kernel is built once."""
        with self.lock:
            if resources not in self.solvers:
                self.solvers[resources] = self.work.solver(resources)
            return self.solvers[resources]


_studies: dict[str, _OpenStudy] = {}
_studies_lock = threading.Lock()


def _open_study(work: Work) -> _OpenStudy:
    """Return the open study of this work; a worker that serves many keeps only the last one."""
    with _studies_lock:
        if work.token not in _studies:
            _studies.clear()
            _studies[work.token] = _OpenStudy(work)
        return _studies[work.token]


def send_work(work: Work) -> Work:
    """Return the work: the task that brings it to a worker."""
    return work


def solve_shard(work: Work, index: int, rule: ResourceRule) -> Record:
    """Solve and write one shard; return its record.

    Parameters
    ----------
    work : Work
    index : int
        Number of the shard.
    rule : ResourceRule
    """
    began = perf_counter()
    study, worker = _open_study(work), get_worker()
    host = str(worker.address).split("://")[-1].rsplit(":", 1)[0]
    arrays, record = study.solver(rule.resources(worker.name, host)).solve(index)
    encode, write = write_timed(study.store, index, arrays)
    row = {**record.row, "encode_seconds": encode, "write_seconds": write}
    row["write_began"] = time() - encode - write
    row["task_seconds"] = perf_counter() - began
    return evolve(record, row=row, worker=f"{socket.gethostname()}:{os.getpid()}")
