"""Two results side by side: what was asked, what came out, how long it took."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cubie_flow.analysis import describe, runs
from cubie_flow.batches.store_names import RUN, STATUS, TIME
from cubie_flow.config.identity import KERNEL, kind_of
from cubie_flow.errors import FlowError
from cubie_flow.study.tolerance_record import ATOL, recorded_atol

if TYPE_CHECKING:
    from xarray import Dataset

ABSENT = "(absent)"
#: Values of one variable held at once.
BLOCK = 4_000_000


@frozen
class Numbers:
    """How one variable differs.

    Attributes
    ----------
    variable
        Its name.
    same
        Runs with the same bits (NaN equals NaN).
    beyond
        Runs in which a value differs by more than the tolerance.
    largest, relative
        Largest difference, and largest beside the value in the first result.
    run
        The run, as the first result numbers it, where they part first; None if nowhere.
    time
        The saved time at which; None for a variable that has no times.
    """

    variable: str
    same: int
    beyond: int
    largest: float
    relative: float
    run: int | None
    time: float | None


@frozen
class Comparison:
    """Two results side by side.

    Attributes
    ----------
    config
        Differences by ``science``, ``kernel`` and ``policy``: key to both values.
    matched, runs
        Runs that both results have, and how many each has.
    how
        How runs were matched, or why none were.
    ended
        Runs that ended differently, by ``"success -> step_limit"``.
    numbers
        One entry a variable that both have.
    rtol, atol
        The tolerance of `numbers`.
    seconds
        Phase to both times.
    """

    config: Mapping[str, Mapping[str, tuple[Any, Any]]]
    matched: int
    runs: tuple[int, int]
    how: str
    ended: Mapping[str, int]
    numbers: tuple[Numbers, ...]
    rtol: float
    atol: float
    seconds: Mapping[str, tuple[float, float]]


def compare(
    first: Dataset, second: Dataset, rtol: float | None = None, atol: float | None = None
) -> Comparison:
    """Compare two results.

    Parameters
    ----------
    first, second : xarray.Dataset
    rtol, atol : float, optional
        Values ``a`` and ``b`` agree where ``|a - b| <= atol + rtol*|a|``. By default the looser
        of what the two studies asked of their integration.

    Raises
    ------
    FlowError
        If one of them holds no runs, or a tolerance is negative.
    """
    for key, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not value >= 0:
            raise FlowError(f"{key} is {value}; it must be at least 0")
    rtol = _asked(first, second, "rtol") if rtol is None else rtol
    atol = _asked(first, second, "atol") if atol is None else atol
    pairs, how = match(first, second)
    first = runs.numbered(first)
    return Comparison(
        config=config_differences(first, second),
        matched=len(pairs[0]),
        runs=(runs.length(first), runs.length(second)),
        how=how,
        ended=_status_changes(first, second, pairs),
        numbers=tuple(numeric_differences(first, second, pairs, rtol, atol)),
        rtol=rtol,
        atol=atol,
        seconds=_seconds(first, second),
    )


# what was asked -------------------------------------------------------------------------------


def config_differences(first: Dataset, second: Dataset) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Return the keys in which two configurations differ, sorted into their three kinds."""
    one, two = _flat(first), _flat(second)
    found: dict[str, dict[str, tuple[Any, Any]]] = {"science": {}, "kernel": {}, "policy": {}}
    for key in dict.fromkeys((*one, *two)):
        values = one.get(key, ABSENT), two.get(key, ABSENT)
        # A key of a later version, at rest, is no difference.
        if values[0] != values[1] and set(map(str, values)) != {ABSENT, "None"}:
            found[kind_of(key)][key] = values
    return found


def _flat(data: Dataset) -> dict[str, Any]:
    attrs = data.attrs
    found: dict[str, Any] = {}

    def flatten(key: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for name, item in value.items():
                flatten(f"{key}.{name}" if key else str(name), item)
        else:
            found[key] = value

    stored = describe.config(data) if attrs.get("config") else {}
    # The model and the batch as they were used, and not as a file once named them.
    flatten("", {k: v for k, v in stored.items() if k not in ("system", "batch")})
    flatten("system", json.loads(attrs.get("system", "{}")))
    flatten("batch", json.loads(attrs.get("design", "{}")))
    if "algorithm" in attrs:
        found["algorithm.name"] = attrs["algorithm"]
    found.update({name: attrs[name] for name in KERNEL if name in attrs})
    return found


def _asked(first: Dataset, second: Dataset, name: str) -> float:
    """Return the looser tolerance of two studies; of several, the loosest."""
    values = []
    for data in (first, second):
        given = _flat(data)
        values += [
            float(value)
            for key, value in given.items()
            if (key == f"controller.{name}" or key.startswith(f"controller.{name}."))
            and isinstance(value, int | float)
        ]
        # What an automatic tolerance came to is kept beside the configuration.
        values += recorded_atol(data.attrs).values() if name == ATOL else []
    return max(values, default=1e-6)


# what came out --------------------------------------------------------------------------------

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def match(first: Dataset, second: Dataset) -> tuple[Pairs, str]:
    """Return the positions of runs that both results have, and how they were found."""
    sizes = runs.length(first), runs.length(second)
    names = [_swept(data) for data in (first, second)]
    none = np.empty(0, np.int64)
    if set(names[0]) != set(names[1]):
        told = [", ".join(n) or "nothing" for n in names]
        return (none, none), f"one varies {told[0]}, the other {told[1]}, so no run is in both"
    shorter = min(sizes)
    columns = [
        [np.asarray(data.variables[name].values) for name in names[0]] for data in (first, second)
    ]
    same = np.ones(shorter, bool)
    for a, b in zip(*columns, strict=True):
        same &= a[:shorter] == b[:shorter]
    if same.all():
        every = np.arange(shorter)
        return (every, every), "by their place" if names[0] else "as the only ones"
    import pandas as pd

    frames = [
        pd.DataFrame(
            {**dict(zip(names[0], c, strict=True)), side: np.arange(size)}
        ).drop_duplicates(names[0])
        for side, c, size in zip(("a", "b"), columns, sizes, strict=True)
    ]
    merged = frames[0].merge(frames[1], on=names[0]).sort_values("a")
    pairs = merged["a"].to_numpy(np.int64), merged["b"].to_numpy(np.int64)
    return pairs, f"by their {', '.join(names[0])}"


def _swept(data: Dataset) -> list[str]:
    return sorted(str(n) for n, v in data.coords.items() if v.dims == (RUN,) and n != RUN)


def numeric_differences(
    first: Dataset, second: Dataset, pairs: Pairs, rtol: float, atol: float
) -> Iterator[Numbers]:
    """Yield how each variable that both results have differs over the runs in both."""
    if not len(pairs[0]):
        return
    for key, variable in first.data_vars.items():
        if key not in second.data_vars or not variable.dims or variable.dims[0] != RUN:
            continue
        if second[key].dims == variable.dims:
            yield _difference(first, second, str(key), pairs, rtol, atol)


def _difference(
    first: Dataset, second: Dataset, name: str, pairs: Pairs, rtol: float, atol: float
) -> Numbers:
    timed = TIME in first[name].dims
    picks: tuple[Any, Any] = (slice(None), slice(None))
    times = None
    if timed:
        times, *picks = np.intersect1d(  # type: ignore[assignment]
            first[TIME].values, second[TIME].values, return_indices=True
        )
    width = len(times) if times is not None else 1
    step = max(1, BLOCK // max(width, 1))
    same = beyond = 0
    largest = relative = 0.0
    where: tuple[float, int] | None = None
    for start in range(0, len(pairs[0]), step):
        a, b = (
            _read(data, name, positions[start : start + step], pick)
            for data, positions, pick in zip((first, second), pairs, picks, strict=True)
        )
        missing = np.isnan(a) != np.isnan(b)
        with np.errstate(all="ignore"):
            equal = (a == b) | (np.isnan(a) & np.isnan(b))
            gap = np.where(equal, 0.0, np.abs(a - b))
            part = np.where(gap == 0, 0.0, gap / np.abs(a))
            # A value that only one of them has is beyond every tolerance.
            apart = ~equal & (missing | ~(gap <= atol + rtol * np.abs(a)))
        same += int(equal.all(axis=1).sum())
        beyond += int(apart.any(axis=1).sum())
        largest = max(largest, float(np.nanmax(gap, initial=0.0)))
        finite = part[np.isfinite(part)]
        relative = max(relative, float(finite.max(initial=0.0)))
        if apart.any():
            # The earliest saved time, and of several runs the first.
            column = int(apart.any(axis=0).argmax())
            row = int(apart[:, column].argmax())
            found = (float(column), start + row)
            where = found if where is None else min(where, found)
    run = None if where is None else int(runs.numbers(first, pairs[0][where[1]]))
    time = None if where is None or times is None else float(times[int(where[0])])
    return Numbers(name, same, beyond, largest, relative, run, time)


def _read(data: Dataset, name: str, positions: NDArray[np.int64], pick: Any) -> NDArray[Any]:
    """Return values as float64, shape (runs, times) or (runs, 1)."""
    indexer: Any = positions
    if len(positions) and positions[-1] - positions[0] + 1 == len(positions):
        indexer = slice(int(positions[0]), int(positions[-1]) + 1)
    values = np.asarray(data.variables[name][{RUN: indexer}].values, np.float64)
    values = values.reshape(len(positions), -1)
    return values if isinstance(pick, slice) else values[:, pick]


def _seconds(first: Dataset, second: Dataset) -> dict[str, tuple[float, float]]:
    found = {}
    for key in first.attrs:
        if key.startswith("seconds_") and key in second.attrs:
            name = key.removeprefix("seconds_")
            found[name] = float(first.attrs[key]), float(second.attrs[key])
    return found


def _status_changes(first: Dataset, second: Dataset, pairs: Pairs) -> dict[str, int]:
    """Return how many runs ended differently, by ``"success -> step_limit"``."""
    if STATUS not in first or STATUS not in second or not len(pairs[0]):
        return {}
    words = [
        {value: word for word, value in runs.flags(data[STATUS]).items()}
        for data in (first, second)
    ]
    a, b = (
        np.asarray(data[STATUS].values)[positions]
        for data, positions in zip((first, second), pairs, strict=True)
    )
    kinds, counts = np.unique(np.stack([a, b])[:, a != b], axis=1, return_counts=True)
    return {
        f"{words[0].get(int(x), x)} -> {words[1].get(int(y), y)}": int(n)
        for (x, y), n in zip(kinds.T, counts, strict=True)
    }
