"""The groups of a store as xarray objects."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from attrs import evolve

from cubie_flow.analysis.attributes import with_flags
from cubie_flow.analysis.opened import mark_as_opened
from cubie_flow.batches.store_names import MEMORY
from cubie_flow.documents import parse_json
from cubie_flow.errors import FlowError
from cubie_flow.storage.groups import open_group as open_stored_group
from cubie_flow.storage.inspection import METADATA, read_metadata
from cubie_flow.storage.location import Location
from cubie_flow.storage.zarr_adapter import sync

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset


def open_group(location: Location, group: str, chunks: Any = None, store: Any = None) -> Dataset:
    """Open one group of a store, lazily.

    Parameters
    ----------
    location : Location
        The store.
    group : str
        Path of the group in the store; empty for its root.
    chunks : optional
        As of `xarray.open_zarr`.
    store : zarr store, optional
        The store of the location, if it is open already.

    Raises
    ------
    FlowError
        If the group does not exist or cannot be read.
    """
    import xarray

    try:
        store = location.store(read_only=True) if store is None else store
        if location.folder is not None and group:
            read_metadata(location.folder / group)
        with warnings.catch_warnings():
            # A store that is still being written has no consolidated metadata: nothing to report.
            warnings.filterwarnings("ignore", message=".*consolidated.*", category=RuntimeWarning)
            # Times of an ODE are numbers, whatever their unit is called.
            data: Dataset = xarray.open_zarr(
                store,
                group=group or None,
                chunks=chunks,
                decode_times=False,
                zarr_format=3,
                # Only the root lists what is below it, which for a group would be read in vain.
                consolidated=False if group else None,
            )
    except FlowError:
        raise
    except Exception as error:
        # Clients of object stores raise their own errors, whose messages may hold secrets.
        if not _is_local(location):
            raise location.error(error, "opened") from None
        where = f"the group '{group}' of '{location.name}'" if group else f"'{location.name}'"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FlowError(f"{where} cannot be opened: {reason}") from error
    for variable in data.variables.values():
        with_flags(variable)
    data.encoding["source"] = location.name
    # Other groups of the store are opened from here; it knows the options of a URL.
    data.encoding["location"] = location.child(group) if group else location
    mark_as_opened(data)
    return data


def nodes(location: Location) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the attributes of a store, and the metadata of its arrays and groups by path.

    From a finished store at a URL this reads a single object.

    Raises
    ------
    FlowError
        If it cannot be read.
    """
    from zarr.core.buffer import default_buffer_prototype

    try:
        store = location.store(read_only=True)
        content = sync(store.get(METADATA, default_buffer_prototype()))
        if content is None:
            raise FlowError(f"'{location.name}' cannot be opened: it holds no Zarr store")
        root = parse_json(content.to_bytes().decode("utf-8"), location.name)
        listed = (root.get("consolidated_metadata") or {}).get("metadata")
        if not listed:
            members = open_stored_group(store, "", "r").members(max_depth=2)
            listed = {name: dict(member.metadata.to_dict()) for name, member in members}
        return dict(root.get("attributes", {})), listed
    except FlowError:
        raise
    except Exception as error:
        raise location.error(error, "opened") from None


def _is_local(location: Location) -> bool:
    return location.folder is not None


def group(data: Dataset, name: str) -> Dataset:
    """Open a group of the store that a dataset comes from.

    Raises
    ------
    FlowError
        If the dataset comes from no store, or its store has no such group.
    """
    store = location(data)
    if store is None:
        raise FlowError(f"this dataset was not opened from a store, so it has no group '/{name}'")
    path = f"{store.group}/{name}".strip("/")
    if store.folder is not None and not (store.folder / path).is_dir():
        raise FlowError(f"'{store.name}' has no group '/{path}'; it holds no runs of a study")
    return open_group(evolve(store, group=""), path)


def memory(data: Dataset) -> Dataset:
    """Open the group ``/memory``: buffers along ``buffer``, solved shards along ``shard``.

    Raises
    ------
    FlowError
        If the dataset comes from no store.
    """
    return group(data, MEMORY)


def memory_table(data: Dataset, dim: str) -> DataFrame:
    """Return what the group ``/memory`` holds along one dimension, as a table.

    `xarray.Dataset.to_dataframe` of the whole group would cross all buffers with all shards.

    Parameters
    ----------
    data : xarray.Dataset
        A result opened from its store.
    dim : str
        ``buffer`` or ``shard``.

    Returns
    -------
    pandas.DataFrame
        One row per buffer or shard.

    Raises
    ------
    FlowError
        If the dataset comes from no store.
    """
    import pandas as pd

    columns = {
        str(name): values.to_numpy()
        for name, values in memory(data).variables.items()
        if values.dims == (dim,)
    }
    table = pd.DataFrame(columns)
    return table.set_index(dim) if dim in table else table.rename_axis(dim)


def location(data: Dataset) -> Location | None:
    """Return the group of a store that a dataset was opened from, or None."""
    store = data.encoding.get("location")
    if isinstance(store, Location):
        return store
    # A dataset that xarray itself opened has a path, and no group.
    source = data.encoding.get("source")
    return None if source is None else Location(str(source))
