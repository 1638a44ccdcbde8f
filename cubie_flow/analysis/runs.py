"""Choosing runs by a condition, reading only what it names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cubie_flow.analysis import attributes
from cubie_flow.analysis.numbering import numbering
from cubie_flow.batches.store_names import RUN, STATUS, TIME
from cubie_flow.errors import FlowError
from cubie_flow.integrators.status import WELL
from cubie_flow.study.conditions import Column, Condition, read_condition

#: Runs read at a time: 8 MB a column of doubles.
BLOCK = 1_000_000
#: The status of a run that no process has written yet.
NOT_WRITTEN = "not_written"


def flags(variable: xr.DataArray | xr.Variable) -> dict[str, int]:
    """Return the numbers of a CF flag variable by their words; empty for other variables."""
    values = np.atleast_1d(np.asarray(variable.attrs.get("flag_values", []))).tolist()
    words = str(variable.attrs.get("flag_meanings", "")).split()
    return dict(zip(words, values, strict=False))


def length(data: xr.Dataset) -> int:
    """Return the number of runs.

    Raises
    ------
    FlowError
        If the dataset has none.
    """
    if RUN not in data.sizes:
        dims = ", ".join(map(str, data.sizes)) or "none"
        raise FlowError(f"this dataset has no dimension 'run' (it has {dims})")
    return int(data.sizes[RUN])


def columns(data: xr.Dataset) -> dict[str, Column]:
    """Return the columns that a condition may name, and why it may not name the others."""
    known = {RUN: Column()}
    for key, variable in data.variables.items():
        name = str(key)
        if name == RUN:
            continue
        if variable.dims == (RUN,):
            known[name] = Column(flags(variable))
        elif RUN in variable.dims:
            own = [str(n) for n in data.variables if str(n).startswith(f"{name}_")]
            remedy = f"; use {' or '.join(own[:3])}" if own else ""
            known[name] = Column(problem=f"which has a value at every time{remedy}")
        elif name == TIME:
            known[name] = Column(problem="which is the same for all runs")
    return known


def swept(data: xr.Dataset) -> list[str]:
    """Return the names of the coordinates that vary between the runs."""
    return [str(name) for name, c in data.coords.items() if c.dims == (RUN,) and name != RUN]


def numbers(data: xr.Dataset, positions: Any = None) -> NDArray[np.int64]:
    """Return the numbers of runs in their study.

    Parameters
    ----------
    data : xarray.Dataset
    positions : array of int, optional
        Positions of the runs in the dataset; by default all runs.

    Raises
    ------
    FlowError
        If the runs may have moved, and the values that vary do not identify them.
    """
    every = numbering(data)
    every = np.arange(length(data)) if every is None else every
    return every if positions is None else every[positions]


def numbered(data: xr.Dataset) -> xr.Dataset:
    """Return a dataset whose coordinate ``run`` holds run numbers, unless they are positions."""
    every = numbering(data)
    return data if every is None else with_numbers(data, every)


def with_numbers(data: xr.Dataset, every: NDArray[np.int64]) -> xr.Dataset:
    """Return a dataset whose coordinate ``run`` holds the numbers of its runs."""
    runs = xr.Variable((RUN,), every, {"long_name": "number of the run in its study"})
    return data.assign_coords({RUN: runs})


def is_whole(data: xr.Dataset) -> bool:
    """Return whether a dataset holds every run of its study, each once and in order."""
    if length(data) != attributes.design(data).get("size", length(data)):
        return False
    try:
        every = numbering(data)
    except FlowError:
        return False
    return every is None or bool((every == np.arange(every.size)).all())


def blocks(data: xr.Dataset, runs: int | None = None) -> Iterator[slice]:
    """Yield slices of the runs, of whole shards where the size of a shard is known."""
    total = length(data)
    shard = 1
    if STATUS in data:
        encoding = data[STATUS].encoding
        shard = int((encoding.get("shards") or encoding.get("chunks") or (1,))[0])
    step = max((BLOCK if runs is None else runs) // shard, 1) * shard
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


def column(data: xr.Dataset, name: str, part: slice) -> NDArray[Any]:
    """Return one column of some runs, read from the store."""
    if name == RUN and RUN not in data.coords:
        # `numbered` adds the coordinate wherever numbers are not positions.
        return np.arange(part.start, part.stop)
    return np.asarray(data.variables[name][{RUN: part}].values)


def where(data: xr.Dataset, condition: str | Condition) -> NDArray[np.int64]:
    """Return the positions of the runs that satisfy a condition, in order.

    Raises
    ------
    FlowError
        If the condition cannot be read, or names something that the runs do not have.
    """
    length(data)
    if not isinstance(condition, Condition):
        condition = read_condition(condition, columns(data))
    if RUN in condition.names:
        data = numbered(data)
    names = condition.names
    parts = [
        part.start + np.flatnonzero(condition({name: column(data, name, part) for name in names}))
        for part in blocks(data)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def indexer(positions: NDArray[np.int64]) -> Any:
    """Return positions as an index; consecutive ones as a slice, which reads faster."""
    if positions.size and (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def take(data: xr.Dataset, positions: NDArray[np.int64]) -> xr.Dataset:
    """Return the runs at some positions, still lazy; ``run`` then holds their numbers."""
    chosen = numbers(data, positions)
    selected = data.drop_vars(RUN, errors="ignore").isel({RUN: indexer(positions)})
    return with_numbers(selected, chosen)


def positions_of(data: xr.Dataset, runs: int | Iterable[int]) -> NDArray[np.int64]:
    """Return the positions of runs by their numbers.

    Raises
    ------
    FlowError
        If a number is not an integer, or no run of the dataset has it.
    """
    given = np.atleast_1d(np.asarray(runs if not isinstance(runs, xr.DataArray) else runs.values))
    if given.size == 0:
        raise FlowError("no runs are named")
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise FlowError(f"runs are named by their numbers, such as [0, 7], not by {runs!r:.60}")
    given = given.astype(np.int64)
    total = length(data)
    every = numbering(data)
    if every is None:
        wrong = given[(given < 0) | (given >= total)]
        if wrong.size:
            known = f"the runs are 0 to {total - 1:,}" if total else "this dataset holds no runs"
            raise FlowError(f"there is no run {wrong[0]}; {known}")
        return given
    order = np.argsort(every, kind="stable")
    positions = np.searchsorted(every, given, sorter=order)
    positions = order[np.minimum(positions, total - 1)] if total else given
    wrong = given if not total else given[every[positions] != given]
    if wrong.size:
        raise FlowError(f"run {wrong[0]} is not among the {total:,} runs of this selection")
    return positions


def status_counts(data: xr.Dataset) -> dict[str, int]:
    """Return the number of runs per status, in the order of the status codes.

    Raises
    ------
    FlowError
        If the dataset has no status.
    """
    _check_status(data)
    words = {value: word for word, value in flags(data[STATUS]).items()}
    counts = np.zeros(256, np.int64)
    for part in blocks(data):
        counts += np.bincount(_status_codes(column(data, STATUS, part)), minlength=256)
    return {words.get(int(v), str(int(v))): int(counts[v]) for v in np.flatnonzero(counts)}


def _status_codes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return statuses as codes: xarray's ``where`` makes floats of them, and NaN of other runs."""
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise FlowError(
            "this dataset holds runs without a status, as where(...) makes them; choose runs by "
            "flow.sel_runs(...), or add drop=True"
        )
    return values.astype(np.uint8)


def failed(data: xr.Dataset) -> NDArray[np.int64]:
    """Return the positions of the runs that failed, in order.

    Raises
    ------
    FlowError
        If the dataset has no status.
    """
    _check_status(data)
    return with_status(data, (*WELL, NOT_WRITTEN), invert=True)


def with_status(data: xr.Dataset, words: Iterable[str], invert: bool = False) -> NDArray[np.int64]:
    """Return the positions of the runs whose status is one of `words`, in order.

    Parameters
    ----------
    data : xarray.Dataset
        Without ``status``, no run has any of them.
    words : iterable of str
        Statuses by their words; those that the result does not know are ignored.
    invert : bool
        Return the other runs instead.
    """
    known = flags(data[STATUS]) if STATUS in data.variables else {}
    codes = [known[word] for word in words if word in known]
    parts = [
        part.start + np.flatnonzero(np.isin(column(data, STATUS, part), codes, invert=invert))
        for part in (blocks(data) if known else ())
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def written(data: xr.Dataset) -> xr.Dataset:
    """Return the runs that are written; the dataset itself if all are, or if that is not known."""
    missing = with_status(data, (NOT_WRITTEN,))
    if not missing.size:
        return data
    return take(data, np.delete(np.arange(length(data)), missing))


def _check_status(data: xr.Dataset) -> None:
    if STATUS not in data.variables:
        raise FlowError("this dataset has no 'status': it holds no runs of a study")
