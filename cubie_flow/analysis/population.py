"""Misfit and likelihood of all subjects of a table together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cubie_flow.analysis import attributes
from cubie_flow.analysis.numbering import coordinate
from cubie_flow.batches.store_names import LOGLIK, RUN, SUBJECT
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from xarray import Dataset

_COUNT = "_observations"


def population(data: Dataset) -> Dataset:
    """Return the sums over subjects; see `FlowAccessor.population`."""
    import xarray as xr

    if SUBJECT not in data.coords:
        raise FlowError("population() sums over the subjects of batch=subjects; this has none")
    observed = [str(name).removesuffix(_COUNT) for name in data.data_vars if _is_count(name)]
    parts = [f"{name}{kind}" for name in observed for kind in (_COUNT, "_sse", "_wls")]
    names = [name for name in (*parts, LOGLIK) if name in data.data_vars]
    axes = attributes.design(data).get("sweep") or []
    swept = [coordinate(data, name) for axis in axes for name in axis]
    columns = [np.asarray(data[name].values, np.float64) for name in swept]
    keys = np.column_stack([np.zeros(data.sizes[RUN]), *columns])
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    # Points in the order of their first runs.
    order = np.argsort(first)
    place = np.argsort(order)[np.ravel(which)]
    size = len(first)
    found = {
        # A run that failed has no misfit, and so the sum has none.
        name: ("point", _sums(place, data[name].values, size), data[name].attrs)
        for name in names
    }
    coords: dict[str, Any] = {
        name: ("point", values[first[order]], data[name].attrs)
        for name, values in zip(swept, columns, strict=True)
    }
    coords["subjects"] = ("point", np.bincount(place, minlength=size), {})
    return xr.Dataset(found, coords)


def _is_count(name: object) -> bool:
    return str(name).endswith(_COUNT)


def _sums(place: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:  # type: ignore[type-arg]
    """Return the sums of `values` by place; NaN if one is missing."""
    kind = values.dtype if values.dtype.kind == "i" else np.float64
    total = np.zeros(size, kind)
    np.add.at(total, place, values)
    return total
