"""A shard's arrays as the bytes that Zarr keeps, made in one go.

A shard has one writer and is written whole, so nothing of what zarr does for any selection is
needed: no shard is read before it is written, nothing is copied chunk by chunk, and no task is
made of a chunk. That is more than half of the processor time of writing (docs/performance.md).
What is written is what the specification says (https://zarr-specs.readthedocs.io, "Sharding
codec", version 1.0), and any reader of Zarr reads it.
"""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c
import numpy as np
import zarr
from attrs import frozen
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec

from cubie_flow.errors import FlowError

#: Offset and length of a chunk that holds nothing but the fill value, and is not stored.
MISSING = (2**64 - 1, 2**64 - 1)
#: Of the codecs as zarr names them, by numcodecs' numbers.
_SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}


def codecs() -> tuple[BloscCodec, Crc32cCodec]:
    """Return the compressors of every array along ``run``.

    The checksum makes every reader notice a chunk that was cut short: blosc would read on into
    whatever memory follows it.
    """
    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()


@frozen(eq=False)
class Encoder:
    """Makes the bytes of a shard of one array.

    Attributes
    ----------
    chunk_shape
        Of an inner chunk; only the runs are cut.
    shard_runs
        Runs of a whole shard: the last one is filled up with the fill value.
    sharded
        Whether the bytes are chunks with an index, or one chunk.
    dtype, fill
        As stored.
    """

    chunk_shape: tuple[int, ...]
    shard_runs: int
    sharded: bool
    dtype: np.dtype[Any]
    fill: Any
    _blosc: Blosc

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> Encoder:
        """Return the encoder of an array of a store.

        Raises
        ------
        FlowError
            Where the array is laid out as no version of this package does it.
        """
        pipeline = array.metadata.codecs
        sharded = isinstance(pipeline[0], ShardingCodec)
        inner = pipeline[0].codecs if sharded else pipeline
        chunk = tuple(array.chunks)
        known = [type(codec) for codec in inner] == [BytesCodec, BloscCodec, Crc32cCodec]
        at_end = not sharded or word(pipeline[0].index_location) == "end"
        if not (known and at_end and chunk[1:] == array.shape[1:]):
            raise FlowError(
                f"the array '{array.basename}' has another layout than cubie_flow gives it, so "
                "it can be read but not written; copy the store as it was made to resume it"
            )
        blosc = inner[1]
        return cls(
            chunk_shape=chunk,
            shard_runs=int((array.shards or array.chunks)[0]),
            sharded=sharded,
            dtype=array.dtype.newbyteorder("<"),
            fill=array.metadata.fill_value,
            blosc=Blosc(
                word(blosc.cname), blosc.clevel, _SHUFFLES[word(blosc.shuffle)], blosc.blocksize
            ),
        )

    def encode(self, values: NDArray[Any]) -> bytes | None:
        """Return the bytes of a shard, or None where they hold nothing but the fill value.

        Parameters
        ----------
        values
            Shape ``(runs, ...)`` with at most ``shard_runs`` runs.
        """
        if not self.sharded:
            found = self._chunk(values)
            return None if found is None else b"".join(found)
        parts: list[bytes] = []
        index: list[tuple[int, int]] = []
        offset = 0
        for start in range(0, self.shard_runs, self.chunk_shape[0]):
            found = self._chunk(values[start : start + self.chunk_shape[0]])
            if found is None:
                index.append(MISSING)
                continue
            length = sum(len(part) for part in found)
            index.append((offset, length))
            parts += found
            offset += length
        if not parts:
            return None
        table = np.asarray(index, "<u8").tobytes()
        return b"".join([*parts, table, _checksum(table)])

    def _chunk(self, values: NDArray[Any]) -> tuple[bytes, bytes] | None:
        """Return a compressed chunk and its checksum, or None where it need not be stored."""
        if _only(self.fill, values):
            return None
        if len(values) < self.chunk_shape[0]:
            whole = np.full(self.chunk_shape, self.fill, self.dtype)
            whole[: len(values)] = values
            values = whole
        compressed = self._blosc.encode(np.ascontiguousarray(values, self.dtype))
        return compressed, _checksum(compressed)


def word(given: Any) -> str:
    """Return a setting of a codec: a member of an enumeration, and from zarr 3.2 on its text."""
    return str(getattr(given, "value", given))


def _only(fill: Any, values: NDArray[Any]) -> bool:
    """Return whether all values are the fill value; NaN is NaN."""
    if not len(values):
        return True

    def missing(some: Any) -> Any:
        return np.isnan(some) if fill != fill else some == fill

    # Most chunks are told by their first value.
    return bool(missing(values.flat[0])) and bool(np.all(missing(values)))


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(content))
