"""The files of a new store: everything but its bulk.

Xarray writes the schema, so its conventions are xarray's own. The Dataset is written with no runs
and its arrays are then lengthened, which changes one number of their metadata. Nothing of the size
of the study is made, and no dask is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cubie_flow.batches.store_names import CHECKSUMS, CONFIG, MEMORY, RUN, STATUS, TIME
from cubie_flow.storage.encoding import codecs
from cubie_flow.storage.file_cache import cached_files
from cubie_flow.storage.groups import consolidate, open_group, put_files
from cubie_flow.storage.layout import ShardPlan
from cubie_flow.storage.location import Location
from cubie_flow.storage.memory_table import table_columns
from cubie_flow.storage.schema import (
    CONVENTIONS,
    PER_RUN,
    PER_RUN_AND_TIME,
    UNWRITTEN,
    StoreSchema,
    Variable,
    attributes_of,
)
from cubie_flow.storage.zarr_adapter import arrays_of, dimension_names, sync


def write_schema(location: Location, store: Any, schema: StoreSchema, plan: ShardPlan) -> None:
    """Write everything but the bulk.

    The files are made in memory and written together. Jobs of a multirun with the same arrays
    share the making, and an object store gets one batch of requests.

    Parameters
    ----------
    location : Location
    store : zarr store
    schema : StoreSchema
    plan : ShardPlan
    """
    files = _schema_files(schema, plan)
    if location.group and not sync(store.exists("zarr.json")):
        zarr.create_group(store, zarr_format=3)  # the root that all jobs share
    prefix = f"{location.group}/" if location.group else ""
    # A store without its status is not a store, so a half-written one is not mistaken for a
    # complete one. Icechunk needs the metadata of an array before its chunks.
    last = f"{STATUS}/zarr.json"
    metadata = {name for name in files if name.endswith("zarr.json")}
    for names in (metadata - {last}, files.keys() - metadata, {last}):
        sync(put_files(store, {f"{prefix}{name}": files[name] for name in sorted(names)}))
    if not location.group:
        consolidate(store)


def _schema_files(schema: StoreSchema, plan: ShardPlan) -> dict[str, Any]:
    """Return the files of a schema by name; those of the arrays are cached."""
    layout = repr((schema.runs, schema.variables, schema.coordinates, schema.counters,
                   dict(schema.status_flags), schema.time_unit, plan))  # fmt: skip
    times = b"" if schema.time is None else schema.time.tobytes()
    files = {**cached_files(("arrays", layout, times), lambda s: _make_arrays(s, schema, plan))}
    table = cached_files((MEMORY, repr(schema.memory)), lambda s: _make_memory(s, schema))
    files |= {f"{MEMORY}/{name}": content for name, content in table.items()}
    attributes = (
        ("", {"Conventions": CONVENTIONS, **schema.attrs}),
        (f"{MEMORY}/", schema.plan),
        (f"{CONFIG}/", schema.config),
    )
    for group, attrs in attributes:
        files[f"{group}zarr.json"] = _with_attributes(files[f"{group}zarr.json"], attrs)
    return files


def _with_attributes(content: Any, attrs: Mapping[str, Any]) -> Any:
    """Return the metadata of a group with other attributes."""
    document = {**json.loads(content.to_bytes()), "attributes": attributes_of(attrs)}
    return type(content).from_bytes(json.dumps(document, indent=2).encode())


def _make_memory(store: Any, schema: StoreSchema) -> None:
    import xarray as xr

    table = xr.Dataset(table_columns(schema.memory))
    table.to_zarr(store, mode="a", zarr_format=3, consolidated=False)


def _make_arrays(store: Any, schema: StoreSchema, plan: ShardPlan) -> None:
    """Write the root with arrays of the full length and no chunks, and the other groups."""
    import xarray as xr

    bulk = (*schema.variables, *schema.counters, *schema.coordinates)
    encoding = {variable.name: _encoding(variable, schema, plan) for variable in bulk}
    coordinates = {one.name: _empty(one, schema) for one in schema.coordinates}
    if schema.time is not None:
        attributes = Variable(TIME, unit=schema.time_unit or "1", long_name="time").attributes
        coordinates[TIME] = ((TIME,), schema.time, attributes)
        # A coordinate has no missing values (CF 2.5.1).
        encoding[TIME] = {"_FillValue": None, "compressors": codecs()}
    # A status chunk is a whole shard, so completing a shard writes one file.
    encoding[STATUS] = {
        "chunks": (plan.shard_runs,), "compressors": codecs(), "fill_value": UNWRITTEN,
    }  # fmt: skip
    variables = (*schema.variables, *schema.counters, _status(schema))
    root = xr.Dataset({one.name: _empty(one, schema) for one in variables}, coordinates)
    root.to_zarr(store, mode="a", zarr_format=3, consolidated=False, encoding=encoding)
    group = open_group(store, "")
    group.create_group(CONFIG)
    for array in arrays_of(group).values():
        if dimension_names(array)[0] == RUN:
            array.resize((schema.runs, *array.shape[1:]))
    # One chunk per shard: writers never share one, and it is written with its shard.
    group.create_group(CHECKSUMS).create_array(
        "crc32", shape=(len(plan.shards),), chunks=(1,), dtype="uint32", fill_value=0,
        dimension_names=("shard",), compressors=None,
        attributes={"long_name": "CRC-32 of a shard's arrays in order of their names"},
    )  # fmt: skip


def _inner_shape(variable: Variable, schema: StoreSchema) -> tuple[int, ...]:
    """Return the shape of a variable's values of one run."""
    if variable.dims == PER_RUN_AND_TIME:
        return (0 if schema.time is None else schema.time.size,)
    return () if variable.dims == PER_RUN else (variable.length,)


def _empty(
    variable: Variable, schema: StoreSchema
) -> tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]:
    """Return a variable of xarray without runs."""
    values = np.empty((0, *_inner_shape(variable, schema)), variable.dtype)
    return variable.dims, values, variable.attributes


def _encoding(variable: Variable, schema: StoreSchema, plan: ShardPlan) -> dict[str, Any]:
    """Return chunks, shards, codecs and fill value of a variable."""
    inner = _inner_shape(variable, schema)
    chunk_bytes = plan.chunk_runs * schema.bytes_per_run_largest_variable
    chunk_runs = plan.chunk_runs_for(schema.bytes_per_run(variable), chunk_bytes)
    encoding: dict[str, Any] = {"chunks": (chunk_runs, *inner), "compressors": codecs()}
    if chunk_runs < plan.shard_runs:
        encoding["shards"] = (plan.shard_runs, *inner)
    if variable.dtype.kind == "f":
        encoding["_FillValue"] = variable.dtype.type("nan")
    return encoding


def _status(schema: StoreSchema) -> Variable:
    """Return the variable ``status`` with the meaning of its values."""
    flags = {**schema.status_flags, UNWRITTEN: "not_written"}
    meanings = " ".join("_".join(meaning.split()) for meaning in flags.values())
    return Variable(
        STATUS, (RUN,), "uint8", long_name="how the run ended",
        attrs={"flag_values": list(flags), "flag_meanings": meanings},
    )  # fmt: skip
