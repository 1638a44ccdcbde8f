"""A writer in a thread of its own, so that solving and writing overlap."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from cubie_flow.errors import FlowError
from cubie_flow.process.machine import return_memory
from cubie_flow.storage.store import ResultStore

Shard = tuple[int, Mapping[str, NDArray[Any]]]


def write_timed(
    store: ResultStore, index: int, arrays: Mapping[str, NDArray[Any]]
) -> tuple[float, float]:
    """Write one shard; return the seconds of encoding and of writing files.

    Parameters
    ----------
    store
    index
        Number of the shard.
    arrays
        See `ResultStore.write_shard`.
    """
    began, files = time.perf_counter(), store.file_seconds
    store.write_shard(index, arrays)
    files = store.file_seconds - files
    return time.perf_counter() - began - files, files


class AsyncWriter:
    """Writes shards in a thread, in the order of submission.

    At most `depth` shards wait while one is being written, so memory holds at most ``depth + 1``
    shards. `submit` blocks while the queue is full.
    The caller must not change the arrays it has submitted.

    Parameters
    ----------
    store
        Where to write.
    depth
        Number of shards that may wait, at least 1.
    on_written
        Called in the writing thread with the index of each complete shard.

    Attributes
    ----------
    seconds
        Seconds spent on encoding and writing so far.
    written
        Number of shards completed so far.
    blocked
        Seconds that `submit` and `close` waited for the writer.
    idle
        Seconds that the writer waited for shards.
    shards
        Seconds to encode and to write, by index of the completed shard.
    """

    def __init__(
        self,
        store: ResultStore,
        depth: int = 2,
        on_written: Callable[[int], None] | None = None,
    ) -> None:
        if depth < 1:
            raise FlowError(f"the depth of a writer must be at least 1, not {depth}")
        self.seconds = 0.0
        self.written = 0
        self.blocked = 0.0
        self.idle = 0.0
        self.shards: dict[int, tuple[float, float]] = {}
        self._store = store
        self._on_written = on_written
        self._error: Exception | None = None
        self._closed = False
        self._queue: queue.Queue[Shard | None] = queue.Queue(depth)
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, index: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Add a shard to the queue; wait while the queue is full.

        Raises
        ------
        FlowError
            If an earlier shard could not be written, or the writer is closed.
        """
        self._raise()
        if self._closed:
            raise FlowError("the writer is closed")
        began = time.perf_counter()
        self._queue.put((index, arrays))
        self.blocked += time.perf_counter() - began

    def close(self) -> None:
        """Wait for every submitted shard; may be called twice.

        Raises
        ------
        FlowError
            If a shard could not be written.
        """
        if not self._closed:
            self._closed = True
            began = time.perf_counter()
            self._queue.put(None)
            self._thread.join()
            self.blocked += time.perf_counter() - began
        self._raise()

    def __enter__(self) -> AsyncWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Submitted shards are written even after an error of the solver, which is the one to
        # report.
        try:
            self.close()
        except Exception:
            if error is None:
                raise

    def _work(self) -> None:
        while (item := self._next()) is not None:
            # After an error the queue is only drained, so that `submit` does not block for ever.
            if self._error is not None:
                continue
            try:
                encode, write = write_timed(self._store, *item)
                self.shards[item[0]] = (encode, write)
                self.seconds += encode + write
                self.written += 1
                if self._on_written is not None:
                    self._on_written(item[0])
            except Exception as error:
                self._error = error
            # Otherwise the last shard would stay in memory while the queue is empty.
            del item
            # Every thread that encodes would keep the memory of its largest array.
            return_memory()

    def _next(self) -> Shard | None:
        began = time.perf_counter()
        item = self._queue.get()
        self.idle += time.perf_counter() - began
        return item

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
