"""The dispatch of one study's shards to Dask workers.

Only small objects are sent: the study once to every worker, and a record of every shard back. As
many shards are in flight as the workers have threads, and none of them waits on a worker. A worker
that dies loses its shard in flight and nothing else; the scheduler gives that shard to another.
"""

from __future__ import annotations

import logging
import queue
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic

from distributed import Client, Future, KilledWorker

from cubie_flow.engines.base import EngineOptions, Listener, Record, Work
from cubie_flow.engines.clusters import CUDA
from cubie_flow.engines.dask_worker import ResourceRule, send_work, solve_shard
from cubie_flow.errors import FlowError

#: Seconds between two looks at signals and progress while no shard ends.
INTERVAL = 0.2
#: Seconds within which a running scheduler must have a worker.
PATIENCE = 60.0
#: Seconds to wait for a record before other shards are looked at.
ANSWER = 1.0
#: Seconds for which the number of workers is not asked again.
FRESH = 1.0
log = logging.getLogger("cubie_flow")


class ShardDispatcher:
    """Submits the shards of one study to workers and collects their records.

    Parameters
    ----------
    engine : EngineOptions
    client : distributed.Client
    work : Work
    todo : sequence of int
        Numbers of the shards.
    listener : Listener
    """

    def __init__(
        self,
        engine: EngineOptions,
        client: Client,
        work: Work,
        todo: Sequence[int],
        listener: Listener,
    ) -> None:
        self.engine, self.client, self.work, self.listener = engine, client, work, listener
        self.waiting = deque(todo)
        self.in_flight: dict[Future, int] = {}
        self.ended: queue.Queue[Future] = queue.Queue()
        self.reason: BaseException | None = None
        self.solving = self.writing = self.took = self._slots_age = 0.0
        self._slots_known: dict[str, int] = {}
        # A task, not scattered data: the scheduler can repeat a task whose worker is gone.
        self.sent_work = client.submit(send_work, work, key=f"study-{work.token}", pure=False)

    def run(self) -> None:
        """Submit shards until none is left or an error stops them; wait for those in flight."""
        self._wait_for_workers()
        self._submit()
        try:
            while self.in_flight:
                futures = self._next_ended()
                # Other shards are submitted first, so that no worker waits while a record is sent.
                for future in futures:
                    if self.waiting and self.reason is None and future.status == "finished":
                        try:
                            self.listener.check(self.took)
                        except Exception as error:  # shards in flight still complete
                            self.reason = error
                self._submit()
                for future in futures:
                    self._collect(future)
                # Releasing a future sends a message too, and the client sends one every 10 ms.
                futures.clear()
                self._submit()
        finally:
            self.listener.note_waits(self.writing, self.solving)
        if self.reason is not None:
            raise self.reason

    def _next_ended(self) -> list[Future]:
        """Return the futures that have ended, none after `INTERVAL` seconds."""
        try:
            futures = [self.ended.get(timeout=INTERVAL)]
        except queue.Empty:
            self.listener.tick()
            return []
        with suppress(queue.Empty):
            while True:
                futures.append(self.ended.get_nowait())
        return futures

    def _wait_for_workers(self) -> None:
        """Wait until the scheduler has at least one worker."""
        began = monotonic()
        while not self._slots():
            self.listener.tick()
            self.listener.check(0.0)
            if self.engine.scheduler is not None and monotonic() - began > PATIENCE:
                raise FlowError(
                    f"the scheduler {self.engine.scheduler} has had no worker for {PATIENCE:.0f} "
                    "s; start some with: dask worker ADDRESS"
                )
            with suppress(TimeoutError):
                self.client.wait_for_workers(1, timeout=INTERVAL)

    def _slots(self) -> dict[str, int]:
        """Return the number of concurrent tasks of the workers, by host."""
        if self._slots_known and monotonic() - self._slots_age < FRESH:
            return self._slots_known
        slots: dict[str, int] = {}
        for worker in self.client.scheduler_info(n_workers=-1)["workers"].values():
            slots[worker["host"]] = slots.get(worker["host"], 0) + worker["nthreads"]
        self._slots_known, self._slots_age = slots, monotonic()
        return slots

    def _submit(self) -> None:
        """Submit as many shards as the workers can solve at once."""
        if not self.waiting or self.reason is not None:
            return
        slots = self._slots()
        done = sum(future.done() for future in self.in_flight)
        while self.waiting and len(self.in_flight) - done < max(1, sum(slots.values())):
            index = self.waiting.popleft()
            future = self.client.submit(
                solve_shard,
                self.sent_work,
                index,
                self._rule(slots),
                key=f"shard-{self.work.token}-{index}",
                pure=False,
                retries=self.engine.retries,
            )
            self.in_flight[future] = index
            future.add_done_callback(self.ended.put)

    def _rule(self, slots: Mapping[str, int]) -> ResourceRule:
        """Return the rule by which workers find their resources."""
        engine = self.engine
        if engine.scheduler is None and engine.cluster is None:
            return ResourceRule(slots, self.work.devices)
        if engine.cluster is not None and engine.cluster != CUDA:
            # A job has cores of its own, and may share the machine with other jobs.
            cores = int(engine.options.get("cores", 1))
            own = int(engine.options.get("job_cpu", cores))
            return ResourceRule({}, (), max(1, own // cores))
        return ResourceRule(slots)

    def _collect(self, future: Future) -> None:
        """Collect the record of a shard, or the reason why it has none."""
        index = self.in_flight.pop(future)
        try:
            record = self._record(future)
        except Exception as error:
            self.reason = self.reason or self._failure(index, error)
            return
        if record is None:
            self.in_flight[future] = index
            future.add_done_callback(self.ended.put)
            self.listener.tick()
            return
        self.solving += record.seconds
        self.writing += record.row["encode_seconds"] + record.row["write_seconds"]
        self.listener.add(record)
        self.listener.tick()
        self.took = record.row["task_seconds"]

    def _failure(self, index: int, error: Exception) -> FlowError:
        """Return the error of a shard as one sentence."""
        if isinstance(error, FlowError):
            return error
        start, stop = self.work.runs(index)
        shard = f"shard {index} (runs {start:,} to {stop - 1:,})"
        attempts, kept = self.engine.retries + 1, "complete shards are kept, so it can be resumed"
        if isinstance(error, KilledWorker):
            # After a death two shards may share a worker for a while, and Dask blames both.
            return FlowError(
                f"{shard} lost its worker process {attempts} times and is given up; it, or another "
                f"shard on the same worker, may have ended the process; is there enough memory for "
                f"one shard per worker? {kept}"
            )
        log.error("a worker reported an error", exc_info=error)
        words = " ".join(str(error).split())[:300]
        return FlowError(
            f"{shard} failed {attempts} times on workers and is given up: "
            f"{type(error).__name__}: {words}; {kept}"
        )

    def _record(self, future: Future) -> Record | None:
        """Return the record of a shard, None if the worker that has it does not answer.

        A dead worker takes the record with it. Once the scheduler notices, another worker solves
        the shard; meanwhile the others go on.
        """
        try:
            record: Record = future.result(timeout=ANSWER)
            return record
        except TimeoutError:
            if future.status == "error":
                raise  # the error of the shard
            return None
