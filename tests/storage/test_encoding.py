"""Shards as we encode them are, byte for byte, what zarr makes of the same values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr

from cubie_flow.errors import FlowError
from cubie_flow.storage.encoding import Encoder, codecs, word

RUNS, SHARD, TIMES = 250, 100, 7


def array(dtype: str, times: int, chunk: int, shard: int, **more: Any) -> zarr.Array[Any]:
    """Return an empty array in memory, laid out as those of a store."""
    inner = (times,) if times else ()
    layout: dict[str, Any] = {
        "shape": (RUNS, *inner), "chunks": (chunk, *inner), "dtype": dtype,
        "shards": (shard, *inner) if chunk < shard else None, "compressors": codecs(),
        "fill_value": np.nan if dtype.startswith("float") else 0, **more,
    }  # fmt: skip
    return zarr.create_array(zarr.storage.MemoryStore(), name="x", **layout)


def values(dtype: str, times: int, kind: str) -> Any:
    """Return values that need storing everywhere, in some chunks, or nowhere."""
    rng = np.random.default_rng(1)
    shape = (RUNS, times) if times else (RUNS,)
    found = rng.integers(1, 100, shape).astype(dtype)
    nothing = np.nan if dtype.startswith("float") else 0
    if kind != "full":
        found[slice(None) if kind == "empty" else slice(20, 75)] = nothing
    return found


@pytest.mark.parametrize("kind", ["full", "gap", "empty"])
@pytest.mark.parametrize("chunk", [25, SHARD], ids=["sharded", "one chunk"])
@pytest.mark.parametrize(
    ("dtype", "times"), [("float32", TIMES), ("float64", 0), ("int32", 0), ("uint8", 0)]
)
def test_the_bytes_are_zarrs(dtype: str, times: int, chunk: int, kind: str) -> None:
    """In the last shard, which is not full, too; a chunk of fill values is left out."""
    target, given = array(dtype, times, chunk, SHARD), values(dtype, times, kind)
    target[:] = given
    stored = target.store._store_dict
    encoder = Encoder.of(target)
    for number in range(3):
        key = f"x/{target.metadata.encode_chunk_key((number, *(0 for _ in given.shape[1:])))}"
        content = encoder.encode(given[number * SHARD : (number + 1) * SHARD])
        if kind == "empty":
            assert content is None
            assert key not in stored
        else:
            assert content == stored[key].to_bytes()


def test_another_layout_is_refused() -> None:
    """A store that somebody laid out anew is not written in a mixture of layouts."""
    target = array("float32", TIMES, 25, SHARD, compressors=zarr.codecs.ZstdCodec())
    with pytest.raises(FlowError, match="'x' has a layout that cubie_flow did not make"):
        Encoder.of(target)


def test_settings_of_codecs_are_words_whatever_zarr_keeps_them_as() -> None:
    (blosc, _) = codecs()
    assert (word(blosc.cname), word(blosc.shuffle)) == ("lz4", "bitshuffle")
    assert (word("lz4"), word("bitshuffle")) == ("lz4", "bitshuffle")
