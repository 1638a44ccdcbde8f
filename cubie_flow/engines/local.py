"""The local engine: solvers in threads of this process, and one thread that writes."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import time

from attrs import evolve, frozen

from cubie_flow.engines.base import Engine, EngineOptions, Listener, Record, Work
from cubie_flow.engines.worker_resources import local_resources
from cubie_flow.errors import FlowError

#: Seconds between two looks at solvers in threads of their own.
INTERVAL = 0.1
Tick = Callable[[int], None]
#: Solves a shard with one of the solvers and submits it to the writer; returns the seconds it took.
Solve = Callable[[int, int, Tick], float]


@frozen
class LocalEngine:
    """Solves in this process.

    A single solver runs in the calling thread. Several, one per GPU, each run in a thread of their
    own, and the next free one takes the next shard.
    """

    @contextmanager
    def open(self) -> Iterator[LocalEngine]:
        """Yield this engine; it has no workers to keep."""
        yield self

    def run(self, work: Work, todo: Sequence[int], listener: Listener) -> None:
        """Solve and write the shards `todo`; see `Engine.run`."""
        from cubie_flow.storage import AsyncWriter

        solvers = [work.solver(resources) for resources in local_resources(work.devices)]
        pending: dict[int, Record] = {}

        def note_written(index: int) -> None:
            encode, write = writer.shards[index]
            record = pending.pop(index)
            row = {**record.row, "encode_seconds": encode, "write_seconds": write}
            row["write_began"] = time() - encode - write
            listener.add(evolve(record, row=row))

        def solve(index: int, number: int, tick: Tick) -> float:
            arrays, record = solvers[number].solve(index, tick)
            pending[index] = record
            writer.submit(index, arrays)
            return record.seconds

        writer = AsyncWriter(work.store(), on_written=note_written)
        try:
            with writer:
                if len(solvers) == 1:
                    _solve_serially(solve, todo, listener)
                else:
                    _Solvers(solve, len(solvers), todo, listener).run()
        finally:
            listener.note_waits(writer.blocked, writer.idle)


def make_local(options: EngineOptions) -> Engine:
    """Return the local engine.

    Raises
    ------
    FlowError
        If an option is given that it does not have.
    """
    for key in ("workers", "scheduler", "cluster"):
        if (value := getattr(options, key)) is not None:
            raise FlowError(
                f"engine.{key} is '{value}', which engine=local does not have; use engine=dask"
            )
    return LocalEngine()


def _solve_serially(solve: Solve, todo: Sequence[int], listener: Listener) -> None:
    """Solve one shard after the other in the calling thread."""
    for index in todo:
        took = solve(index, 0, lambda begun, index=index: listener.tick(index, begun))  # type: ignore[misc]
        if index != todo[-1]:
            listener.check(took)


class _Dropped(Exception):
    """Ends the shard in flight of a solver, whose arrays are no longer needed."""


class _Solvers:
    """Several solvers in threads of their own, which take shards from a common queue.

    Parameters
    ----------
    solve : callable
    count : int
        Number of solvers.
    todo : sequence of int
    listener : Listener
        Called from the thread that calls `run`.
    """

    def __init__(self, solve: Solve, count: int, todo: Sequence[int], listener: Listener) -> None:
        self._solve, self._listener = solve, listener
        self._waiting, self._begun = deque(todo), dict[int, int]()
        #: Seconds of a solved shard, an error, or None from a thread that ends.
        self._messages: queue.Queue[float | BaseException | None] = queue.Queue()
        self._stop, self._abort = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(i,), name=f"solver-{i}", daemon=True)
            for i in range(count)
        ]

    def run(self) -> None:
        """Solve all shards; after an error or a stop, complete those in flight."""
        for thread in self._threads:
            thread.start()
        try:
            reason = self._listen()
        except BaseException:
            self._stop.set()
            self._abort.set()
            for thread in self._threads:
                thread.join()
            raise
        if reason is not None:
            raise reason

    def _work(self, number: int) -> None:
        """Solve shards in one thread until there are none."""
        try:
            while not self._stop.is_set():
                try:
                    index = self._waiting.popleft()
                except IndexError:  # another solver took the last one
                    break

                def tick(count: int, index: int = index) -> None:
                    self._begun[index] = count
                    if self._abort.is_set():
                        raise _Dropped

                self._messages.put(self._solve(index, number, tick))
        except BaseException as error:
            self._messages.put(error)
        finally:
            self._messages.put(None)

    def _listen(self) -> BaseException | None:
        """Inform the listener until all threads end; return why they stopped early."""
        reason: BaseException | None = None
        running = len(self._threads)
        while running:
            try:
                message = self._messages.get(timeout=INTERVAL)
            except queue.Empty:
                message = 0.0
            for index in list(self._begun):
                self._listener.tick(index, self._begun.pop(index, 0))
            if message is None:
                running -= 1
            elif isinstance(message, BaseException):
                reason = reason or message
            elif message and self._waiting and reason is None:
                try:
                    self._listener.check(message)
                except Exception as error:  # shards in flight still complete
                    reason = error
            if reason is not None:
                self._stop.set()
        return reason
