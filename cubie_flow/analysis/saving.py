"""Keeping a dataset of results that is in memory, or that was selected from a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cubie_flow.errors import FlowError
from cubie_flow.storage.schema import attributes_of

if TYPE_CHECKING:
    from xarray import Dataset


def save(data: Dataset, path: str | Path) -> Path:
    """Write a dataset as a Zarr store; see `FlowAccessor.save`.

    Parameters
    ----------
    data : xarray.Dataset
    path : path

    Raises
    ------
    FlowError
        If the folder exists, its name does not end in ``.zarr``, or it cannot be written.
    """
    target = Path(path).expanduser()
    if target.suffix != ".zarr":
        raise FlowError(f"the store is '{path}'; its name must end in .zarr")
    if target.exists():
        raise FlowError(f"'{path}' exists already; choose another name, or delete it")
    # Chunks and codecs are those of the store that the data came from, and need not fit.
    plain = data.drop_encoding()
    plain.attrs = attributes_of(data.attrs)
    try:
        plain.to_zarr(target, mode="w-", zarr_format=3, consolidated=False)
    except OSError as error:
        raise FlowError(f"'{path}' cannot be written: {error.strerror or error}") from error
    return target
