"""A full-factorial grid, or a sweep, on its own dimensions, still lazy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from attrs import frozen
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from cubie_flow.analysis import runs
from cubie_flow.analysis.numbering import coordinate, numbering
from cubie_flow.batches.store_names import RUN
from cubie_flow.errors import FlowError

#: Axis of a batch that is no grid, inside a sweep.
DRAW = "draw"


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


@frozen(eq=False)
class Axis:
    """One dimension of an unfolded batch.

    Attributes
    ----------
    name
        Of the dimension.
    size
        Its length.
    values
        What varies along it alone, by the name of the coordinate.
    """

    name: str
    size: int
    values: Mapping[str, NDArray[Any]]


def axes_of(data: xr.Dataset) -> list[Axis]:
    """Return the axes of the batch that made the runs, the last varying fastest.

    A sweep has an axis for each of its quantities (one for quantities that advance together)
    and then those of its batch: of a grid its own, of any other batch the axis ``draw``.

    Raises
    ------
    FlowError
        If the runs are no grid and no sweep.
    """
    from cubie_flow.batches import make_design

    text = data.attrs.get("design")
    if text is None:
        raise FlowError(
            "this dataset does not say how its runs were made, so it cannot be unfolded"
        )
    described = json.loads(text)
    sweep, kind = described.get("sweep") or [], described["kind"]
    if kind != "grid" and not sweep:
        told = str(kind).replace("_", " ")
        raise FlowError(f"only a grid has dimensions of its own; these runs are a {told} design")
    axes = []
    for group in sweep:
        lists = make_design("zip", group)
        columns = lists.columns(0, lists.size)
        held = {coordinate(data, name): values for name, values in columns.items()}
        axes.append(Axis(next(iter(held)), lists.size, held))
    outer = math.prod(axis.size for axis in axes)
    if kind == "grid":
        grid = make_design("grid", described["values"])
        for name, values in grid.axis_values.items():
            held = {coordinate(data, name): values}
            axes.append(Axis(next(iter(held)), len(values), held))
    elif outer < described["size"]:
        taken = DRAW in data.variables or any(DRAW in axis.values for axis in axes)
        axes.append(Axis(f"{DRAW}_" if taken else DRAW, described["size"] // outer, {}))
    return axes


def in_order(data: xr.Dataset, whole: int) -> xr.Dataset:
    """Return a dataset with its runs in the order of their study, lazily.

    Raises
    ------
    FlowError
        Unless it holds each of `whole` runs once.
    """
    numbers = numbering(data)
    total = runs.length(data)
    every = np.arange(total) if numbers is None else numbers
    order = np.argsort(every, kind="stable")
    if total != whole or (every[order] != np.arange(whole)).any():
        raise FlowError(
            f"unfold needs all {whole:,} runs of the batch, each of them once, and these "
            f"{total:,} are others; unfold first and select then"
        )
    if numbers is None:
        return data
    return data.drop_vars(RUN, errors="ignore").isel({RUN: order})


def unfold(data: xr.Dataset) -> xr.Dataset:
    """Return a grid or a sweep with one dimension for each of its axes instead of ``run``.

    Every run goes to the place of its values, wherever it lies. Nothing is read of a dataset that
    is as it was opened, of another one only what varied; an index reads only the runs it asks for.

    Raises
    ------
    FlowError
        If the runs are no grid, or only some of one.
    """
    axes = axes_of(data)
    data = in_order(data, math.prod(axis.size for axis in axes))
    grid, dims = tuple(axis.size for axis in axes), tuple(axis.name for axis in axes)
    coords: dict[str, Any] = {
        name: ((axis.name,), values, data.variables[name].attrs)
        for axis in axes
        for name, values in axis.values.items()
    }
    found: dict[str, Any] = {}
    for key, variable in data.variables.items():
        name = str(key)
        if name in coords:
            continue
        if not variable.dims or variable.dims[0] != RUN:
            (coords if name in data.coords else found)[name] = variable
            continue
        lazy = indexing.LazilyIndexedArray(_Unfolded(variable, grid))
        made = xr.Variable((*dims, *variable.dims[1:]), lazy, variable.attrs)
        (coords if name in data.coords else found)[name] = made
    unfolded = xr.Dataset(found, coords, data.attrs)
    unfolded.encoding = dict(data.encoding)
    return unfolded
