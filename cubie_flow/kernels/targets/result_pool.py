"""Memory of results that are gone, kept for those that follow.

The system clears every page before a process has it, which takes as long as solving a light batch
whose trajectories are saved (docs/performance.md).
"""

from __future__ import annotations

from ctypes import c_char
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np

Array = Any


class KeptMemory:
    """Makes arrays; the memory of one that nobody holds any more is another one's.

    Attributes
    ----------
    LEAST
        Bytes from which memory is kept; smaller arrays are ordinary ones.
    IDLE
        Bytes that are kept for further arrays.
    """

    LEAST = 1 << 20
    IDLE = 512 << 20

    def __init__(self) -> None:
        self._idle: dict[int, list[Any]] = {}
        self._lock = Lock()

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """Return an array that is not initialised."""
        kind, count = np.dtype(dtype), int(np.prod(shape))
        need = count * kind.itemsize
        if need < self.LEAST:
            return np.empty(shape, kind)
        # Few sizes, so that an array fits where another was.
        size = -(-need // self.LEAST) * self.LEAST
        with self._lock:
            kept = self._idle.get(size)
            block = kept.pop() if kept else None
        if block is None and (block := self._take(size)) is None:
            return np.empty(shape, kind)
        memory = self._reach(block, size)
        finalize(memory, self._back, block, size).atexit = False
        return np.frombuffer(memory, kind, count).reshape(shape)

    def _back(self, block: Any, size: int) -> None:
        with self._lock:
            idle = sum(one * len(kept) for one, kept in self._idle.items())
            if idle + size <= self.IDLE:
                self._idle.setdefault(size, []).append(block)
                return
        self._free(block)

    def _take(self, size: int) -> Any:
        """Return new memory, or None where this kind of it is used up."""
        return np.empty(size, np.uint8)

    def _reach(self, block: Any, size: int) -> Any:
        """Return what memory is reached by; the block is back once this is gone."""
        return (c_char * size).from_buffer(block)

    def _free(self, block: Any) -> None:
        """Give memory back to the system."""
