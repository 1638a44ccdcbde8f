"""The only module that uses parts of xarray that its documentation does not promise.

Written for xarray 2025.1 to 2026.9. A new version of xarray is checked here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing


def data_object(data: xr.Dataset, name: str) -> Any:
    """Return the object that holds the values of a variable, without reading the values."""
    return data.variables[name]._data


class _LazyArray(BackendArray):  # type: ignore[misc]
    """An array whose values a function reads, for one index per axis."""

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[..., NDArray[Any]]
    ) -> None:
        self.shape, self.dtype, self._read = shape, dtype, read

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )


def lazy_variable(
    dims: tuple[Any, ...],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    read: Callable[[tuple[Any, ...]], NDArray[Any]],
    attrs: Any,
) -> xr.Variable:
    """Return a variable whose values are read when an index asks for them.

    Parameters
    ----------
    dims, shape : tuple
        Name and length of every dimension.
    dtype : numpy.dtype
    read : callable
        Takes one integer, slice or array of positions per dimension (an outer index) and returns
        the values. A dimension that an integer selects is dropped.
    attrs : mapping
        Attributes of the variable.
    """
    array = _LazyArray(shape, dtype, read)
    return xr.Variable(dims, indexing.LazilyIndexedArray(array), attrs)
