"""In this process: seats solve, and one thread writes meanwhile."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import time

from attrs import evolve, frozen

from cubie_flow.engines.base import Listener, Record, Work
from cubie_flow.engines.worker_resources import local_seats

#: Seconds between two looks at seats that work in threads of their own.
INTERVAL = 0.1
Tick = Callable[[int], None]
#: Solves a shard in a seat, hands it to the writer and returns the seconds it took.
Solve = Callable[[int, int, Tick], float]


@frozen
class LocalEngine:
    """Solves in this process.

    Parameters
    ----------
    seats : sequence of WorkerResources
        One solves in the calling thread; several, one a GPU, each in a thread of its own, and
        whichever is free takes the next shard.
    """

    @contextmanager
    def open(self) -> Iterator[LocalEngine]:
        """Yield this engine: it starts nothing that could be kept."""
        yield self

    def run(self, work: Work, todo: Sequence[int], listener: Listener) -> None:
        """Solve and write the shards `todo`; see `Engine.run`."""
        from cubie_flow.storage import AsyncWriter

        solvers = [work.solver(seat) for seat in local_seats(work.devices)]
        pending: dict[int, Record] = {}

        def written(index: int) -> None:
            encode, write = writer.shards[index]
            record = pending.pop(index)
            row = {**record.row, "encode_seconds": encode, "write_seconds": write}
            row["write_began"] = time() - encode - write
            listener.finished(evolve(record, row=row))

        def solve(index: int, seat: int, tick: Tick) -> float:
            arrays, record = solvers[seat].solve(index, tick)
            pending[index] = record
            writer.submit(index, arrays)
            return record.seconds

        writer = AsyncWriter(work.store(), on_written=written)
        try:
            with writer:
                (_alone if len(solvers) == 1 else _together)(solve, len(solvers), todo, listener)
        finally:
            listener.waited(writer.blocked, writer.idle)


def _alone(solve: Solve, _: int, todo: Sequence[int], listener: Listener) -> None:
    """Solve one shard after the other in the calling thread."""
    for index in todo:
        took = solve(index, 0, lambda begun, index=index: listener.ticked(index, begun))  # type: ignore[misc]
        if index != todo[-1]:
            listener.between(took)


class _Dropped(Exception):
    """Ends a seat's shard in flight, whose arrays nobody wants any more."""


def _together(solve: Solve, seats: int, todo: Sequence[int], listener: Listener) -> None:
    """Let several seats take shards; the calling thread only listens."""
    left, begun = deque(todo), dict[int, int]()
    news: queue.Queue[float | BaseException | None] = queue.Queue()
    enough, now = threading.Event(), threading.Event()

    def work(seat: int) -> None:
        try:
            while not enough.is_set():
                try:
                    index = left.popleft()
                except IndexError:  # another seat took the last one
                    break

                def tick(count: int, index: int = index) -> None:
                    begun[index] = count
                    if now.is_set():
                        raise _Dropped

                news.put(solve(index, seat, tick))
        except BaseException as error:
            news.put(error)
        finally:
            news.put(None)

    threads = [
        threading.Thread(target=work, args=(i,), name=f"seat-{i}", daemon=True)
        for i in range(seats)
    ]
    for thread in threads:
        thread.start()
    reason: BaseException | None = None
    try:
        while seats:
            try:
                item = news.get(timeout=INTERVAL)
            except queue.Empty:
                item = 0.0
            for index in list(begun):
                listener.ticked(index, begun.pop(index, 0))
            if item is None:
                seats -= 1
            elif isinstance(item, BaseException):
                reason = reason or item
            elif item and left and reason is None:
                try:
                    listener.between(item)
                except Exception as error:  # shards in flight are still finished
                    reason = error
            if reason is not None:
                enough.set()
    except BaseException:
        enough.set()
        now.set()
        for thread in threads:
            thread.join()
        raise
    if reason is not None:
        raise reason
