"""On Dask: one shard is one task, and worker processes on any machine write their own shards.

Only small things travel: the study to every worker once, and a record of every shard back. As many
shards are under way as the workers have threads, and none waits on a worker, so a worker that dies
takes its shard in flight with it and nothing else; the scheduler gives that shard to another.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic, perf_counter, time
from typing import Any

import dask
from attrs import evolve, field, frozen
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker

from cubie_flow.engines.base import Listener, Record, Solver, Work, WorkerResources
from cubie_flow.engines.clusters import CUDA, make_cluster
from cubie_flow.engines.worker_resources import worker_seat
from cubie_flow.errors import FlowError
from cubie_flow.process.machine import usable_cores
from cubie_flow.process.signals import signals_blocked
from cubie_flow.storage.writer import write_timed

#: Seconds between two looks at signals and progress while nothing comes in.
INTERVAL = 0.2
#: Seconds after which a scheduler that somebody else started must have a worker.
PATIENCE = 60.0
#: Seconds to wait for a record before other news is heard.
ANSWER = 1.0
#: Seconds for which the number of workers is taken as known.
FRESH = 1.0
log = logging.getLogger("cubie_flow")


@frozen
class DaskEngine:
    """Has shards solved by Dask workers.

    Parameters
    ----------
    workers : int, optional
        Worker processes on this machine, or jobs of a batch system; None: one a GPU or one a core
        on this machine, one job.
    scheduler : str, optional
        Address of a scheduler that runs already, such as ``tcp://host:8786``.
    cluster : str, optional
        Name of a batch system or ``cuda``, see `cubie_flow.engines.clusters`.
    options : mapping
        Keywords of that cluster.
    retries : int
        How often a shard is given to a worker again after it failed or killed its worker.
    """

    workers: int | None = None
    scheduler: str | None = None
    cluster: str | None = None
    options: Mapping[str, Any] = field(factory=dict)
    retries: int = 3

    def run(self, work: Work, todo: Sequence[int], listener: Listener) -> None:
        """Solve and write the shards `todo`; see `Engine.run`."""
        with self.open() as engine:
            engine.run(work, todo, listener)

    @contextmanager
    def open(self) -> Iterator[_Open]:
        """Yield an engine whose workers stay from study to study, and end with this."""
        with ExitStack() as held:
            yield _Open(self, held)

    @contextmanager
    def client(self, workers: int) -> Iterator[Client]:
        """Yield a client of the scheduler; what was started for it ends with it.

        Parameters
        ----------
        workers : int
            Worker processes, where they are started on this machine.
        """
        # Dask's own lines about workers that come and go say nothing that is not said here.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        allowed = {"distributed.scheduler.allowed-failures": self.retries}
        with dask.config.set(allowed):
            if self.scheduler is not None:
                try:
                    client = Client(self.scheduler, timeout=5, set_as_default=False)
                except (OSError, ValueError, TimeoutError) as error:
                    raise FlowError(
                        f"engine.scheduler is '{self.scheduler}': no Dask scheduler answers there "
                        f"({' '.join(str(error).split()[:12])})"
                    ) from None
                try:
                    yield client
                finally:
                    with suppress(Exception):
                        client.close(timeout=2)
                return
            if self.cluster is not None:
                cluster = make_cluster(self.cluster, self.options, self.workers)
            else:
                # The threads that start workers, also later ones, are made here.
                with signals_blocked():
                    cluster = LocalCluster(
                        n_workers=workers,
                        threads_per_worker=1,
                        host="127.0.0.1",
                        dashboard_address=None,
                        # Without a dashboard too, it would take the dashboard's port.
                        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                        # The plan of the study bounds memory; Dask's guess would only kill.
                        memory_limit=0,
                        silence_logs=logging.CRITICAL,
                    )
            client = Client(cluster, set_as_default=False)
            try:
                yield client
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) and self.cluster is None:
                    _kill(cluster)
                raise
            finally:
                with suppress(Exception):
                    client.close(timeout=2)
                with suppress(Exception):
                    cluster.close(timeout=10)


class _Open:
    """The engine with its client, which is made for the first study and kept for the next."""

    def __init__(self, engine: DaskEngine, held: ExitStack) -> None:
        self._engine, self._held = engine, held
        self._client: Client | None = None
        self._workers = 0

    @contextmanager
    def open(self) -> Iterator[_Open]:
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
            _ShardDispatcher(self._engine, self._client_for(work), work, todo, listener).hold()

    def _client_for(self, work: Work) -> Client:
        workers = self._engine.workers or len(work.devices) or usable_cores()
        client = self._client
        if client is None or workers != self._workers or client.status != "running":
            self._held.close()
            client = self._held.enter_context(self._engine.client(workers))
            self._client, self._workers = client, workers
        return client


def _kill(cluster: Any) -> None:
    """End the workers at once: nobody waits for their shards any more."""
    for nanny in list(cluster.workers.values()):
        pid = getattr(nanny, "pid", None)
        if pid:
            nanny.auto_restart = False
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


class _ShardDispatcher:
    """The shards of one study, given out and taken in."""

    def __init__(
        self,
        engine: DaskEngine,
        client: Client,
        work: Work,
        todo: Sequence[int],
        listener: Listener,
    ) -> None:
        self.engine, self.client, self.work, self.listener = engine, client, work, listener
        self.left = deque(todo)
        self.under_way: dict[Future, int] = {}
        self.news: queue.Queue[Future] = queue.Queue()
        self.reason: BaseException | None = None
        self.solving = self.writing = self.took = self._asked = 0.0
        self._known: dict[str, int] = {}
        # A task and not scattered data: the scheduler can have it made again.
        self.sent = client.submit(_same, work, key=f"study-{work.token}", pure=False)

    def hold(self) -> None:
        """Give out shards until none is left or something says stop, and wait for those out."""
        self._wait_for_workers()
        self._give_out()
        try:
            while self.under_way:
                futures = self._ended()
                # First other shards go out, so that no worker waits while a record comes in.
                for future in futures:
                    if self.left and self.reason is None and future.status == "finished":
                        try:
                            self.listener.between(self.took)
                        except Exception as error:  # shards in flight are still finished
                            self.reason = error
                self._give_out()
                for future in futures:
                    self._take_in(future)
                # Letting go is a message too, and the client sends one every 10 ms.
                futures.clear()
                self._give_out()
        finally:
            self.listener.waited(self.writing, self.solving)
        if self.reason is not None:
            raise self.reason

    def _ended(self) -> list[Future]:
        """Return the shards that have ended, none if that takes long."""
        try:
            found = [self.news.get(timeout=INTERVAL)]
        except queue.Empty:
            self.listener.ticked()
            return []
        with suppress(queue.Empty):
            while True:
                found.append(self.news.get_nowait())
        return found

    def _wait_for_workers(self) -> None:
        began = monotonic()
        while not self._slots():
            self.listener.ticked()
            self.listener.between(0.0)
            if self.engine.scheduler is not None and monotonic() - began > PATIENCE:
                raise FlowError(
                    f"the scheduler {self.engine.scheduler} has had no worker for {PATIENCE:.0f} "
                    "s; start some with: dask worker ADDRESS"
                )
            with suppress(TimeoutError):
                self.client.wait_for_workers(1, timeout=INTERVAL)

    def _slots(self) -> dict[str, int]:
        """Return the tasks that the workers can run at once, by host."""
        if self._known and monotonic() - self._asked < FRESH:
            return self._known
        found: dict[str, int] = {}
        for one in self.client.scheduler_info(n_workers=-1)["workers"].values():
            found[one["host"]] = found.get(one["host"], 0) + one["nthreads"]
        self._known, self._asked = found, monotonic()
        return found

    def _give_out(self) -> None:
        """Give out as many shards as workers can solve at once."""
        if not self.left or self.reason is not None:
            return
        slots = self._slots()
        done = sum(future.done() for future in self.under_way)
        while self.left and len(self.under_way) - done < max(1, sum(slots.values())):
            index = self.left.popleft()
            future = self.client.submit(
                _solve_shard,
                self.sent,
                index,
                self._rule(slots),
                key=f"shard-{self.work.token}-{index}",
                pure=False,
                retries=self.engine.retries,
            )
            self.under_way[future] = index
            future.add_done_callback(self.news.put)

    def _rule(self, slots: Mapping[str, int]) -> _WorkerAssignment:
        engine = self.engine
        if engine.scheduler is None and engine.cluster is None:
            return _WorkerAssignment(slots, self.work.devices)
        if engine.cluster is not None and engine.cluster != CUDA:
            # A job has its own cores, and may share its machine with other jobs.
            cores = int(engine.options.get("cores", 1))
            own = int(engine.options.get("job_cpu", cores))
            return _WorkerAssignment({}, (), max(1, own // cores))
        return _WorkerAssignment(slots)

    def _take_in(self, future: Future) -> None:
        """Take in the record of a shard, or the reason why there is none."""
        index = self.under_way.pop(future)
        start, stop = self.work.runs(index)
        shard = f"shard {index} (runs {start:,} to {stop - 1:,})"
        kept = "what is complete is kept and can be resumed"
        try:
            record = self._record(future)
        except KilledWorker:
            # After a death there are fewer workers than shards out: two may share one meanwhile,
            # and Dask blames both.
            times = self.engine.retries + 1
            error: Exception = FlowError(
                f"{shard} was with a worker process that ended, {times} times over, and is given "
                f"up; it ended them, or a shard that waited beside it did; is there enough "
                f"memory for a shard a worker? {kept}"
            )
        except FlowError as given:
            error = given
        except Exception as given:
            log.exception("a worker said")
            words = " ".join(str(given).split())[:300]
            error = FlowError(
                f"{shard} failed {self.engine.retries + 1} times on workers and is given up: "
                f"{type(given).__name__}: {words}; {kept}"
            )
        else:
            if record is None:
                self.under_way[future] = index
                future.add_done_callback(self.news.put)
                self.listener.ticked()
                return
            self.solving += record.seconds
            self.writing += record.row["encode_seconds"] + record.row["write_seconds"]
            self.listener.finished(record)
            self.listener.ticked()
            self.took = record.row["task_seconds"]
            return
        self.reason = self.reason or error

    def _record(self, future: Future) -> Record | None:
        """Return the record of a shard, or None if the worker that has it does not answer.

        Others go on meanwhile. A worker that is dead has taken the record with it, and another one
        solves the shard once its scheduler has found out.
        """
        try:
            found: Record = future.result(timeout=ANSWER)
            return found
        except TimeoutError:
            if future.status == "error":
                raise  # the shard's own
            return None


# in the workers -------------------------------------------------------------------------------


@frozen
class _WorkerAssignment:
    """How a worker finds its seat.

    Attributes
    ----------
    slots : mapping
        Tasks at once by host, which divide the host's cores.
    devices : tuple of int
        GPUs that numbered workers share; empty where each worker sees its own GPU first.
    limit : int, optional
        CPU threads of a task.
    """

    slots: Mapping[str, int]
    devices: tuple[int, ...] = ()
    limit: int | None = None

    def seat(self, name: Any, host: str) -> WorkerResources:
        """Return the seat of the worker of this name."""
        number = name if isinstance(name, int) else 0
        share = self.slots.get(host, 1)
        return evolve(worker_seat(number, share, self.devices), limit=self.limit)


class _Held:
    """What a worker process keeps of a study: its solvers by seat, and the store."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.store = work.store()
        self.solvers: dict[WorkerResources, Solver] = {}
        self.lock = threading.Lock()

    def solver(self, seat: WorkerResources) -> Solver:
        """Return the solver of a seat; its kernel is built once."""
        with self.lock:
            if seat not in self.solvers:
                self.solvers[seat] = self.work.solver(seat)
            return self.solvers[seat]


_held: dict[str, _Held] = {}
_held_lock = threading.Lock()


def _same(work: Work) -> Work:
    return work


def _solve_shard(work: Work, index: int, rule: _WorkerAssignment) -> Record:
    """Solve and write one shard; runs in a worker process."""
    began = perf_counter()
    with _held_lock:
        if work.token not in _held:
            # A worker that serves many studies keeps the last one only.
            _held.clear()
            _held[work.token] = _Held(work)
        held = _held[work.token]
    worker = get_worker()
    host = str(worker.address).split("://")[-1].rsplit(":", 1)[0]
    arrays, record = held.solver(rule.seat(worker.name, host)).solve(index)
    encode, write = write_timed(held.store, index, arrays)
    row = {**record.row, "encode_seconds": encode, "write_seconds": write}
    row["write_began"] = time() - encode - write
    row["task_seconds"] = perf_counter() - began
    return evolve(record, row=row, worker=f"{socket.gethostname()}:{os.getpid()}")
