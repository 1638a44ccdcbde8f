"""Memory of results that are gone serves those that follow, and only of those that are gone."""

from __future__ import annotations

import gc
from threading import Lock, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np

from cubie_flow.kernels.targets.result_pool import ResultPool

SHAPE = (3, 1000, 100)


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def test_an_array_that_nobody_holds_gives_its_memory_to_the_next() -> None:
    memory = ResultPool()
    first = memory.empty(SHAPE, "float32")
    assert first.shape == SHAPE
    assert first.dtype == np.float32
    assert first.flags.writeable
    place, view = address(first), first[1]
    del first
    other = memory.empty(SHAPE, "float32")
    assert address(other) != place, "a view of it is still held"
    view[:] = 1.0
    del view
    assert address(memory.empty(SHAPE, "float32")) == place


def test_no_more_is_kept_than_is_allowed() -> None:
    memory = ResultPool()
    memory.IDLE = 3 * ResultPool.LEAST
    held = [memory.empty(ResultPool.LEAST, "uint8") for _ in range(5)]
    assert len({address(array) for array in held}) == 5
    held.clear()
    assert sum(map(len, memory._idle.values())) == 3


def test_small_arrays_are_ordinary_ones() -> None:
    memory = ResultPool()
    assert memory.empty(10, "float64").base is None
    assert memory.empty((0, 5), "int32").shape == (0, 5)


class CollectingLock:
    """A lock under which a garbage collection frees an array in a cycle."""

    def __init__(self, pool: ResultPool) -> None:
        self.pool = pool
        self.lock = Lock()

    def acquire(self, *words: Any, **settings: Any) -> bool:
        taken = self.lock.acquire(*words, **settings)
        if taken:
            gc.collect()
        return taken

    def release(self) -> None:
        self.lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def test_a_collection_under_the_lock_waits_for_nothing() -> None:
    pool = ResultPool()
    pool._lock = CollectingLock(pool)  # type: ignore[assignment]

    def use() -> None:
        for _ in range(3):
            held = SimpleNamespace(array=pool.empty(SHAPE, "float32"))
            held.itself = held

    thread = Thread(target=use, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive(), "the pool waits for itself"
    gc.collect()
    pool.empty(SHAPE, "float32")
    assert not pool._returned
