"""A full-factorial grid on its own dimensions, still lazy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from cubie_flow.analysis import runs
from cubie_flow.errors import FlowError
from cubie_flow.storage.schema import RUN


class _Unfolded(BackendArray):  # type: ignore[misc]
    """An array along ``run`` seen with one axis for each axis of the grid.

    Only the runs that an index asks for are read.
    """

    def __init__(self, variable: xr.Variable, grid: tuple[int, ...]) -> None:
        self._variable = variable
        self._grid = grid
        self.shape = (*grid, *variable.shape[1:])
        self.dtype = variable.dtype

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        axes = len(self._grid)
        chosen = [np.arange(size)[part] for size, part in zip(self._grid, key[:axes], strict=True)]
        kept = [part.shape for part in chosen]
        mesh = np.ix_(*(np.atleast_1d(part) for part in chosen))
        flat = np.ravel_multi_index(mesh, self._grid).ravel()
        runs_key: Any = flat
        if flat.size and flat[-1] - flat[0] + 1 == flat.size and (np.diff(flat) == 1).all():
            runs_key = slice(int(flat[0]), int(flat[-1]) + 1)
        others = dict(zip(self._variable.dims[1:], key[axes:], strict=True))
        values = np.asarray(self._variable.isel({RUN: runs_key, **others}).values)
        # Axes that a whole number chose are gone.
        shape = [size for part in kept for size in part]
        return values.reshape((*shape, *values.shape[1:]))


def axes_of(data: xr.Dataset) -> dict[str, NDArray[Any]]:
    """Return the axes of the grid that made the runs: values by the name of the coordinate.

    Raises
    ------
    FlowError
        If the runs are no grid, or only some of one.
    """
    from cubie_flow.batches import make_design

    text = data.attrs.get("design")
    if text is None:
        raise FlowError(
            "this dataset does not say how its runs were made, so it cannot be unfolded"
        )
    described = json.loads(text)
    if described["kind"] != "grid":
        kind = str(described["kind"]).replace("_", " ")
        raise FlowError(f"only a grid has dimensions of its own; these runs are a {kind} design")
    design = make_design("grid", described["values"])
    total = runs.length(data)
    if total != design.size or RUN in data.coords:
        raise FlowError(
            f"unfold needs all {design.size:,} runs of the grid and here are {total:,} selected "
            "ones; unfold first and select then"
        )
    return {coordinate(data, name): values for name, values in design.axis_values.items()}


def coordinate(data: xr.Dataset, quantity: str) -> str:
    """Return the coordinate of a quantity that a design varies.

    Raises
    ------
    FlowError
        If the dataset has none.
    """
    for name in (quantity, f"{quantity}_initial"):
        if name in data.variables and data.variables[name].dims == (RUN,):
            return name
    raise FlowError(f"the design varies '{quantity}', which the dataset does not hold")


def unfold(data: xr.Dataset) -> xr.Dataset:
    """Return a grid of runs with one dimension for each quantity instead of ``run``.

    Nothing is read; an index reads only the runs it asks for.

    Raises
    ------
    FlowError
        If the runs are no grid, or only some of one.
    """
    axes = axes_of(data)
    grid = tuple(len(values) for values in axes.values())
    coords: dict[str, Any] = {
        name: ((name,), values, data.variables[name].attrs) for name, values in axes.items()
    }
    found: dict[str, Any] = {}
    for key, variable in data.variables.items():
        name = str(key)
        if name in axes:
            continue
        if not variable.dims or variable.dims[0] != RUN:
            (coords if name in data.coords else found)[name] = variable
            continue
        lazy = indexing.LazilyIndexedArray(_Unfolded(variable, grid))
        made = xr.Variable((*axes, *variable.dims[1:]), lazy, variable.attrs)
        (coords if name in data.coords else found)[name] = made
    unfolded = xr.Dataset(found, coords, data.attrs)
    unfolded.encoding = dict(data.encoding)
    return unfolded
