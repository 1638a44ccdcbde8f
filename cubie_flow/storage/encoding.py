"""The encoding of a shard: the bytes of its arrays, made at once.

Zarr writes any selection of an array, so it reads a shard before it writes it, copies chunk by
chunk and starts a task per chunk. A shard here has one writer and is written whole, which saves
more than half of the processor time of writing (docs/lab-book.md). The bytes follow the
specification (https://zarr-specs.readthedocs.io, "Sharding codec", version 1.0), so any reader of
Zarr reads them.
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
from cubie_flow.storage.zarr_adapter import shard_runs

#: Offset and length of a chunk that holds only the fill value and is not stored.
MISSING = (2**64 - 1, 2**64 - 1)
#: Numbers of numcodecs for the shuffles that zarr names.
_SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}


def codecs() -> tuple[BloscCodec, Crc32cCodec]:
    """Return the compressors of every array along ``run``.

    The checksum lets every reader notice a truncated chunk, at whose end blosc would read on into
    unrelated memory.
    """
    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()


@frozen(eq=False)
class Encoder:
    """Encodes the shards of one array.

    Attributes
    ----------
    chunk_shape
        Shape of an inner chunk; only the axis of runs is divided.
    shard_runs
        Runs of a full shard; the last shard is padded with the fill value.
    sharded
        Whether the bytes are chunks with an index; else they are one chunk.
    dtype, fill
        Type and fill value as stored.
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
            If this package has not made the layout of the array.
        """
        pipeline = array.metadata.codecs
        sharded = isinstance(pipeline[0], ShardingCodec)
        inner = pipeline[0].codecs if sharded else pipeline
        chunk = tuple(array.chunks)
        known = [type(codec) for codec in inner] == [BytesCodec, BloscCodec, Crc32cCodec]
        at_end = not sharded or word(pipeline[0].index_location) == "end"
        if not (known and at_end and chunk[1:] == array.shape[1:]):
            raise FlowError(
                f"the array '{array.basename}' has a layout that cubie_flow did not make, so "
                "it can be read but not written; to resume, copy the store without changing it"
            )
        blosc = inner[1]
        return cls(
            chunk_shape=chunk,
            shard_runs=shard_runs(array),
            sharded=sharded,
            dtype=array.dtype.newbyteorder("<"),
            fill=array.metadata.fill_value,
            blosc=Blosc(
                word(blosc.cname), blosc.clevel, _SHUFFLES[word(blosc.shuffle)], blosc.blocksize
            ),
        )

    def encode(self, values: NDArray[Any]) -> bytes | None:
        """Return the bytes of a shard, None if all values are the fill value.

        Parameters
        ----------
        values
            Shape ``(runs, ...)`` with at most ``shard_runs`` runs.
        """
        if not self.sharded:
            chunk = self._chunk(values)
            return None if chunk is None else b"".join(chunk)
        parts: list[bytes] = []
        index: list[tuple[int, int]] = []
        offset = 0
        for start in range(0, self.shard_runs, self.chunk_shape[0]):
            chunk = self._chunk(values[start : start + self.chunk_shape[0]])
            if chunk is None:
                index.append(MISSING)
                continue
            length = sum(len(part) for part in chunk)
            index.append((offset, length))
            parts += chunk
            offset += length
        if not parts:
            return None
        table = np.asarray(index, "<u8").tobytes()
        return b"".join([*parts, table, _checksum(table)])

    def _chunk(self, values: NDArray[Any]) -> tuple[bytes, bytes] | None:
        """Return a compressed chunk and its checksum, None if all values are the fill value."""
        if _only(self.fill, values):
            return None
        if len(values) < self.chunk_shape[0]:
            whole = np.full(self.chunk_shape, self.fill, self.dtype)
            whole[: len(values)] = values
            values = whole
        compressed = self._blosc.encode(np.ascontiguousarray(values, self.dtype))
        return compressed, _checksum(compressed)


def word(given: Any) -> str:
    """Return a setting of a codec as text: zarr before 3.2 has enumerations."""
    return str(getattr(given, "value", given))


def _only(fill: Any, values: NDArray[Any]) -> bool:
    """Return whether all values are the fill value; NaN equals NaN here."""
    if not len(values):
        return True

    def missing(some: Any) -> Any:
        return np.isnan(some) if fill != fill else some == fill

    # In most chunks the first value decides.
    return bool(missing(values.flat[0])) and bool(np.all(missing(values)))


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(content))
