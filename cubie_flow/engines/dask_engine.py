"""The Dask engine: clients, clusters, and their life from study to study."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import dask
from attrs import frozen
from distributed import Client, LocalCluster

from cubie_flow.engines.base import EngineOptions, Listener, Work
from cubie_flow.engines.clusters import LOOPBACK, make_cluster, temporary_security
from cubie_flow.engines.shard_dispatcher import ShardDispatcher
from cubie_flow.errors import FlowError
from cubie_flow.process.machine import usable_cores
from cubie_flow.process.python_path import safe_children
from cubie_flow.process.signals import signals_blocked


@frozen
class DaskEngine:
    """Solves shards on Dask workers; each worker writes its own shards.

    Parameters
    ----------
    settings : EngineOptions
    """

    settings: EngineOptions

    def run(self, work: Work, todo: Sequence[int], listener: Listener) -> None:
        """Solve and write the shards `todo`; see `Engine.run`."""
        with self.open() as engine:
            engine.run(work, todo, listener)

    @contextmanager
    def open(self) -> Iterator[_OpenEngine]:
        """Yield an engine whose workers serve several studies; they end with it."""
        with ExitStack() as stack:
            yield _OpenEngine(self.settings, stack)


class _OpenEngine:
    """An engine with its client, which is made for the first study and kept for the next."""

    def __init__(self, settings: EngineOptions, stack: ExitStack) -> None:
        self._settings, self._stack = settings, stack
        self._client: Client | None = None
        self._workers = 0

    @contextmanager
    def open(self) -> Iterator[_OpenEngine]:
        """Yield this engine; it is open already."""
        yield self

    def run(self, work: Work, todo: Sequence[int], listener: Listener) -> None:
        """Solve and write the shards `todo`; see `Engine.run`."""
        if work.alone:
            raise FlowError(
                f"'{work.where}' {work.alone}, so workers of engine=dask cannot; use engine=local, "
                "or another storage.client or URL"
            )
        if todo:
            ShardDispatcher(self._settings, self._client_for(work), work, todo, listener).run()

    def _client_for(self, work: Work) -> Client:
        """Return the client; another number of workers, or a lost connection, needs a new one."""
        workers = self._settings.workers or len(work.devices) or usable_cores()
        client = self._client
        if client is None or workers != self._workers or client.status != "running":
            self._stack.close()
            client = self._stack.enter_context(open_client(self._settings, workers))
            self._client, self._workers = client, workers
        return client


@contextmanager
def open_client(settings: EngineOptions, workers: int) -> Iterator[Client]:
    """Yield a client of the scheduler; a cluster that was started for it ends with it.

    Parameters
    ----------
    settings : EngineOptions
    workers : int
        Worker processes, if they are started on this machine.

    Raises
    ------
    FlowError
        If the scheduler does not answer, or the cluster cannot start.
    """
    # This package reports workers that come and go itself.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set({"distributed.scheduler.allowed-failures": settings.retries}):
        if settings.scheduler is not None:
            client = _connect(settings.scheduler)
            try:
                yield client
            finally:
                with suppress(Exception):
                    client.close(timeout=2)
            return
        if settings.cluster is not None:
            cluster = make_cluster(settings.cluster, settings.options, settings.workers)
        else:
            cluster = _local_cluster(workers)
        client = Client(cluster, set_as_default=False)
        try:
            yield client
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and settings.cluster is None:
                _kill_workers(cluster)
            raise
        finally:
            with suppress(Exception):
                client.close(timeout=2)
            with suppress(Exception):
                cluster.close(timeout=10)


def _connect(scheduler: str) -> Client:
    """Return a client of a running scheduler."""
    try:
        return Client(scheduler, timeout=5, set_as_default=False)
    except (OSError, ValueError, TypeError, TimeoutError) as error:
        raise FlowError(
            f"engine.scheduler is '{scheduler}': no Dask scheduler answers there "
            f"({' '.join(str(error).split()[:12])})"
        ) from None


def _local_cluster(workers: int) -> LocalCluster:
    """Start worker processes of one thread each on this machine."""
    security = temporary_security()
    # Other users of this machine reach its loopback; without the certificates they are refused.
    links = {} if security is None else {"security": security, "protocol": "tls"}
    # The threads that start workers, also later ones, are started here.
    with signals_blocked(), safe_children():
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host=LOOPBACK,
            dashboard_address=None,
            # Even without a dashboard it would take the dashboard's port.
            scheduler_kwargs={"dashboard_address": f"{LOOPBACK}:0"},
            # The plan of the study bounds memory; Dask's own limit would only kill workers.
            memory_limit=0,
            silence_logs=logging.CRITICAL,
            **links,
        )


def _kill_workers(cluster: Any) -> None:
    """Kill the workers: nobody needs their shards any more."""
    for nanny in list(cluster.workers.values()):
        pid = getattr(nanny, "pid", None)
        if pid:
            nanny.auto_restart = False
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
