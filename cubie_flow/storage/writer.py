"""Writing in the background, so that solving and writing overlap."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from cubie_flow.errors import FlowError
from cubie_flow.storage.store import ResultStore

Shard = tuple[int, Mapping[str, NDArray[Any]]]


def write_timed(
    store: ResultStore, index: int, arrays: Mapping[str, NDArray[Any]]
) -> tuple[float, float]:
    """Write one shard and return the seconds of encoding and of writing files."""
    began, files = time.perf_counter(), store.file_seconds
    store.write_shard(index, arrays)
    files = store.file_seconds - files
    return time.perf_counter() - began - files, files


class AsyncWriter:
    """One thread that writes shards in the order they are submitted.

    At most `depth` shards wait and one is being written, so the memory held is bounded by
    ``depth + 1`` shards whatever the size of the study; `submit` blocks while the queue is full.
    The caller must not change the arrays it has submitted.

    Parameters
    ----------
    store
        Where to write.
    depth
        How many shards may wait, at least 1.
    on_written
        Called in the writing thread with each shard's index once it is complete: progress, or
        taking its arrays back into use.

    Attributes
    ----------
    seconds
        Time spent encoding and writing so far.
    written
        Shards completed so far.
    blocked
        Time `submit` and `close` waited for the writing.
    idle
        Time the writing waited for something to write.
    shards
        By index of a completed shard: seconds to encode and to write it.
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
        """Hand over one shard, waiting while the queue is full.

        Raises
        ------
        FlowError
            Where an earlier shard could not be written, or the writer is closed.
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
            Where a shard could not be written.
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
        # Shards already submitted are worth keeping, whatever stopped the solver; but its error
        # is the one to report.
        try:
            self.close()
        except Exception:
            if error is None:
                raise

    def _work(self) -> None:
        while (item := self._next()) is not None:
            # After an error the queue is only drained, so that `submit` never waits for ever.
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
            # Without this the last shard would stay in memory while the queue is empty.
            del item

    def _next(self) -> Shard | None:
        began = time.perf_counter()
        item = self._queue.get()
        self.idle += time.perf_counter() - began
        return item

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
