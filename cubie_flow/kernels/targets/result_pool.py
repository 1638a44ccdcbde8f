"""A pool of memory for result arrays: the memory of a freed result serves the next one.

The operating system clears every page before it hands it out. For a light batch with saved
trajectories that takes as long as solving (docs/lab-book.md).
"""

from __future__ import annotations

from collections import deque
from ctypes import c_char
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np

Array = Any


class ResultPool:
    """Makes arrays and reuses the memory of arrays that were freed.

    Attributes
    ----------
    LEAST
        Size of the smallest pooled array in bytes; smaller arrays are ordinary ones.
    IDLE
        Upper bound of the bytes that are kept for later arrays.
    """

    LEAST = 1 << 20
    IDLE = 512 << 20

    def __init__(self) -> None:
        self._idle: dict[int, list[Any]] = {}
        self._lock = Lock()
        #: Blocks of freed arrays with their sizes, which nobody has taken back yet.
        self._returned: deque[tuple[Any, int]] = deque()

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """Return an array that is not initialised.

        Parameters
        ----------
        shape : int or tuple of int
        dtype : dtype-like
        """
        kind, count = np.dtype(dtype), int(np.prod(shape))
        need = count * kind.itemsize
        if need < self.LEAST:
            return np.empty(shape, kind)
        # Sizes are rounded up, so that an array often fits the memory of another.
        size = -(-need // self.LEAST) * self.LEAST
        self._collect()
        with self._lock:
            blocks = self._idle.get(size)
            block = blocks.pop() if blocks else None
        if block is None and (block := self._allocate(size)) is None:
            return np.empty(shape, kind)
        memory = self._view(block, size)
        finalize(memory, self._put_back, block, size).atexit = False
        return np.frombuffer(memory, kind, count).reshape(shape)

    def _put_back(self, block: Any, size: int) -> None:
        """Take the memory of a freed array back.

        A garbage collection may call this in any thread, also in one that holds the lock. So it
        must not wait for the lock.
        """
        self._returned.append((block, size))
        self._collect()

    def _collect(self) -> None:
        """Keep returned blocks for later arrays, unless another caller is just doing so."""
        while self._returned and self._lock.acquire(blocking=False):
            try:
                surplus = self._keep()
            finally:
                self._lock.release()
            for block in surplus:
                self._free(block)

    def _keep(self) -> list[Any]:
        """Move returned blocks to the idle ones; return those beyond the bound."""
        surplus = []
        idle = sum(size * len(blocks) for size, blocks in self._idle.items())
        while self._returned:
            block, size = self._returned.popleft()
            if idle + size <= self.IDLE:
                idle += size
                self._idle.setdefault(size, []).append(block)
            else:
                surplus.append(block)
        return surplus

    def _allocate(self, size: int) -> Any:
        """Return new memory, or None if none of this kind is left."""
        return np.empty(size, np.uint8)

    def _view(self, block: Any, size: int) -> Any:
        """Return a ctypes view of a block; the block returns to the pool once it is freed."""
        return (c_char * size).from_buffer(block)

    def _free(self, block: Any) -> None:
        """Return memory to the operating system."""
