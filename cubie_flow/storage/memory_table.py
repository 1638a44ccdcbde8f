"""The table ``/memory`` of a store: one row per buffer, and one row per solved shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cubie_flow.batches.store_names import MEMORY
from cubie_flow.storage.file_cache import cached_files
from cubie_flow.storage.groups import open_group, put_files
from cubie_flow.storage.zarr_adapter import arrays_of, dimension_names, sync

Rows = Sequence[Mapping[str, Any]]


def add_to_memory(root: zarr.Group, shards: Rows, attrs: Mapping[str, Any]) -> None:
    """Add the rows of shards and more attributes to ``/memory``.

    Parameters
    ----------
    root : zarr.Group
    shards : sequence of mapping
        One row per shard, with the run it starts at as ``start``; a row of the same start is
        replaced.
    attrs : mapping
    """
    import xarray as xr

    group, store = root[MEMORY], root.store
    prefix = f"{group.path}/"
    rows = {row["start"]: row for row in (*_stored_rows(group), *shards)}
    columns = table_columns([rows[start] for start in sorted(rows)], "shard")

    def make(empty: Any) -> None:
        xr.Dataset(columns).to_zarr(empty, mode="a", zarr_format=3, consolidated=False)

    kinds = repr(
        [(name, values.dtype.str, len(values)) for name, (_, values, _) in columns.items()]
    )
    files = dict(cached_files(("shards", kinds), make))
    table = open_group(zarr.storage.MemoryStore(files), "")
    for name, (_, values, _) in columns.items():
        table[name][:] = values
    for chunks in (False, True):
        part = {n: c for n, c in files.items() if "/" in n and chunks != n.endswith("zarr.json")}
        sync(put_files(store, {f"{prefix}{name}": content for name, content in part.items()}))
    group.update_attributes(attrs)


def _stored_rows(group: zarr.Group) -> list[dict[str, Any]]:
    """Return the rows of earlier shards and delete their columns, whose length will change."""
    if not sync(group.store.exists(f"{group.path}/start/zarr.json")):
        return []
    columns = {n: a[:] for n, a in arrays_of(group).items() if dimension_names(a) == ("shard",)}
    for name in columns:
        del group[name]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


#: Unit and meaning of the columns of ``/memory``; what ends in ``seconds`` is in seconds.
_COLUMNS = {
    "buffer": ("", "name of the buffer"),
    "owner": ("", "component that registered the buffer"),
    "location": ("", "where the buffer is"),
    "dtype": ("", "type of its elements"),
    "elements": ("1", "number of elements per run"),
    "bytes": ("byte", "size per run"),
    "offset": ("byte", "offset in its memory"),
    "persistent": ("1", "whether it is kept between steps"),
    "alias": ("", "buffer whose space it shares"),
    "start": ("1", "first run of the shard"),
    "runs": ("1", "number of runs of the shard"),
    "worker": ("", "worker that solved the shard"),
}


def _about(name: str) -> dict[str, str]:
    """Return unit and long name of a column of ``/memory``."""
    unit, text = _COLUMNS.get(name, ("", name.replace("_", " ")))
    unit = "s" if name.endswith("seconds") else unit
    return {"long_name": text, **({"units": unit} if unit else {})}


def table_columns(
    rows: Rows, dim: str = "buffer"
) -> dict[str, tuple[str, NDArray[Any], dict[str, str]]]:
    """Return the columns of rows as xarray variables along `dim`; a missing number is NaN."""
    columns: dict[str, tuple[str, NDArray[Any], dict[str, str]]] = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        known = [value for value in values if value is not None]
        if all(isinstance(value, bool | int | float | np.number) for value in known):
            numbers = [np.nan if value is None else value for value in values]
            columns[name] = (dim, np.asarray(numbers), _about(name))
        else:
            text = ["" if value is None else str(value) for value in values]
            columns[name] = (dim, np.asarray(text, dtype=object), _about(name))
    return columns
