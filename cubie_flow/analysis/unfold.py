"""A full-factorial grid, or a sweep, on its own dimensions, still lazy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from attrs import frozen
from numpy.typing import NDArray

from cubie_flow.analysis import attributes, runs
from cubie_flow.analysis.numbering import coordinate, numbering
from cubie_flow.analysis.xarray_private import lazy_variable
from cubie_flow.batches.store_names import RUN
from cubie_flow.errors import FlowError

#: Axis of a batch inside a sweep, where the batch is not a grid.
DRAW = "draw"


@frozen(eq=False)
class _GridReader:
    """Reads a variable along ``run`` as if it had one dimension per axis of the grid.

    Attributes
    ----------
    variable
        Its first dimension is ``run``.
    dims, grid
        Name and length of every axis, the last varying fastest.
    """

    variable: xr.Variable
    dims: tuple[str, ...]
    grid: tuple[int, ...]

    def __call__(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """Return the values at an outer index; only the runs that it selects are read."""
        axes, grid = len(self.grid), self.grid
        chosen = [np.arange(size)[part] for size, part in zip(grid, key[:axes], strict=True)]
        shape = [size for part in chosen for size in part.shape]
        mesh = np.ix_(*(np.atleast_1d(part) for part in chosen))
        flat = np.ravel_multi_index(mesh, grid).ravel()
        others = dict(zip(self.variable.dims[1:], key[axes:], strict=True))
        values = np.asarray(self.variable.isel({RUN: runs.indexer(flat), **others}).values)
        return values.reshape((*shape, *values.shape[1:]))

    def unfolded(self) -> xr.Variable:
        """Return the variable on the dimensions of the grid, still lazy."""
        others, attrs = self.variable.dims[1:], self.variable.attrs
        shape = (*self.grid, *self.variable.shape[1:])
        return lazy_variable((*self.dims, *others), shape, self.variable.dtype, self, attrs)


@frozen(eq=False)
class Axis:
    """One dimension of an unfolded batch.

    Attributes
    ----------
    name, size
        Of the dimension.
    values
        Values of the coordinates that vary along this dimension alone, by name.
    """

    name: str
    size: int
    values: Mapping[str, NDArray[Any]]


def axes_of(data: xr.Dataset) -> list[Axis]:
    """Return the axes of the batch that made the runs, the last varying fastest.

    A sweep has an axis for each of its quantities (one for quantities that advance together)
    followed by those of its batch: the axes of a grid, or the axis ``draw`` of any other batch.

    Raises
    ------
    FlowError
        If the runs are neither a grid nor a sweep.
    """
    from cubie_flow.batches import make_design

    design = attributes.design(data)
    if not design:
        raise FlowError(
            "this dataset does not say how its runs were made, so it cannot be unfolded"
        )
    sweep, kind = design.get("sweep") or [], design["kind"]
    if kind != "grid" and not sweep:
        name = str(kind).replace("_", " ")
        raise FlowError(f"only a grid has dimensions of its own; these runs are a {name} design")
    axes = []
    for group in sweep:
        lists = make_design("zip", group)
        axes.append(_axis(data, lists.size, lists.columns(0, lists.size)))
    outer = math.prod(axis.size for axis in axes)
    if kind == "grid":
        grid = make_design("grid", design["values"])
        axes += [_axis(data, len(v), {name: v}) for name, v in grid.axis_values.items()]
    elif outer < design["size"]:
        taken = DRAW in data.variables or any(DRAW in axis.values for axis in axes)
        axes.append(Axis(f"{DRAW}_" if taken else DRAW, design["size"] // outer, {}))
    return axes


def _axis(data: xr.Dataset, size: int, columns: Mapping[str, NDArray[Any]]) -> Axis:
    """Return the axis of quantities that advance together, named after the first of them."""
    values = {coordinate(data, quantity): column for quantity, column in columns.items()}
    return Axis(next(iter(values)), size, values)


def in_order(data: xr.Dataset, total: int) -> xr.Dataset:
    """Return a dataset with its runs in the order of their study, lazily.

    Raises
    ------
    FlowError
        Unless it holds each of the `total` runs of the study once.
    """
    numbers = numbering(data)
    count = runs.length(data)
    every = np.arange(count) if numbers is None else numbers
    order = np.argsort(every, kind="stable")
    if count != total or (every[order] != np.arange(total)).any():
        raise FlowError(
            f"unfold needs all {total:,} runs of the batch, each of them once, and this dataset "
            f"holds {count:,} runs that are not those; unfold first, then select"
        )
    if numbers is None:
        return data
    return data.drop_vars(RUN, errors="ignore").isel({RUN: order})


def unfold(data: xr.Dataset) -> xr.Dataset:
    """Return a grid or a sweep with one dimension for each of its axes instead of ``run``.

    Every run goes to the position of its values on the grid, whatever its position in `data`. Of a
    dataset that is as it was opened nothing is read, of any other dataset only what varied. An
    index of the result reads only the runs that it selects.

    Raises
    ------
    FlowError
        If the runs are not a grid or a sweep, or only some of one.
    """
    axes = axes_of(data)
    grid, dims = tuple(axis.size for axis in axes), tuple(axis.name for axis in axes)
    data = in_order(data, math.prod(grid))
    coords: dict[str, Any] = {
        name: ((axis.name,), values, data.variables[name].attrs)
        for axis in axes
        for name, values in axis.values.items()
    }
    variables: dict[str, Any] = {}
    for key, variable in data.variables.items():
        name = str(key)
        if name in coords:
            continue
        if variable.dims[:1] == (RUN,):
            variable = _GridReader(variable, dims, grid).unfolded()
        (coords if name in data.coords else variables)[name] = variable
    unfolded = xr.Dataset(variables, coords, data.attrs)
    unfolded.encoding = dict(data.encoding)
    return unfolded
