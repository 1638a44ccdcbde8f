"""Parts of zarr that it does not document as public; written for zarr 3.1."""

from __future__ import annotations

import warnings
from typing import Any

from zarr.core import sync as _threads
from zarr.core.buffer import cpu
from zarr.core.sync import sync

__all__ = [
    "arrays_of", "buffer", "chunk_key", "dimension_names", "shard_runs", "start_thread", "sync",
]  # fmt: skip


def start_thread() -> None:
    """Start the thread in which zarr reads and writes, so that a lack of memory shows here.

    Raises
    ------
    RuntimeError
        If the system starts no thread.
    """
    try:
        _threads._get_loop()
    except RuntimeError:
        # Zarr would wait for it at exit.
        _threads.iothread[0] = _threads.loop[0] = None
        raise


def buffer(content: bytes, prototype: Any = None) -> Any:
    """Return bytes as a store of zarr takes them, or as a prototype of buffers holds them."""
    kind = cpu.Buffer if prototype is None else prototype.buffer
    return kind.from_bytes(content)


def chunk_key(array: Any, index: int) -> str:
    """Return the key of an array's chunk that begins at chunk `index` of the first axis."""
    metadata = array.metadata
    key: str = metadata.encode_chunk_key((index, *(0 for _ in metadata.shape[1:])))
    return key


def arrays_of(group: Any) -> dict[str, Any]:
    """Return the arrays of a group by name.

    Zarr prints a warning for every other file, such as one that a killed process was writing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at .* is not recognized")
        return dict(group.arrays())


def dimension_names(array: Any) -> tuple[str, ...]:
    """Return the names of an array's axes; empty if it has none."""
    return tuple(array.metadata.dimension_names or ())


def shard_runs(array: Any) -> int:
    """Return the length of an array's shards, or of its chunks, along the first axis."""
    return int((array.shards or array.chunks)[0])
