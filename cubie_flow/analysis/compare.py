"""Comparison of two results: their configurations, numbers and times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cubie_flow.analysis import attributes, runs
from cubie_flow.batches.store_names import RUN, STATUS, TIME
from cubie_flow.config.identity import KERNEL, kind_of
from cubie_flow.errors import FlowError
from cubie_flow.study.tolerance_record import ATOL, recorded_atol

if TYPE_CHECKING:
    from xarray import Dataset

ABSENT = "(absent)"
#: Most values of one variable in memory at once.
BLOCK = 4_000_000


@frozen
class Numbers:
    """The differences of one variable.

    Attributes
    ----------
    variable
        Its name.
    same
        Number of runs with the same bits (NaN equals NaN).
    beyond
        Number of runs in which a value differs by more than the tolerance.
    largest, relative
        Largest difference; largest difference relative to the value in the first result.
    run
        The run, as the first result numbers it, that differs first by more than the tolerance;
        None if no run does.
    time
        The saved time at which it differs; None for a variable without times.
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
    """The differences between two results.

    Attributes
    ----------
    config
        Differences of the configurations by ``science``, ``kernel`` and ``policy``: key to both
        values.
    matched, runs
        Number of runs that both results have, and of the written runs of each.
    unwritten
        Number of runs of each that are not written yet; they are left out.
    how
        How runs were matched, or why none were.
    ended
        Number of runs with another status, by ``"success -> step_limit"``.
    numbers
        One entry per variable that both results have.
    rtol, atol
        The tolerance of `numbers`.
    seconds
        Phase to both times.
    """

    config: Mapping[str, Mapping[str, tuple[Any, Any]]]
    matched: int
    runs: tuple[int, int]
    unwritten: tuple[int, int]
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
        tolerance of the two studies.

    Raises
    ------
    FlowError
        If one of them holds no runs, or a tolerance is negative.

    Examples
    --------
    >>> from cubie_flow import OdeSystem, solve
    >>> from cubie_flow.analysis.compare import compare
    >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
    >>> first, second = (
    ...     solve(decay, parameters={"k": [0.5, 1.0]}, duration=1.0, algorithm=name)
    ...     for name in ("tsit5", "vern7")
    ... )
    >>> result = compare(first, second, rtol=1e-4)
    >>> result.matched, result.numbers[0].beyond
    (2, 0)
    """
    for key, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not value >= 0:
            raise FlowError(f"{key} is {value}; it must be at least 0")
    rtol = _looser(first, second, "rtol") if rtol is None else rtol
    atol = _looser(first, second, "atol") if atol is None else atol
    config = config_differences(first, second)
    whole = runs.length(first), runs.length(second)
    first, second = runs.written(runs.numbered(first)), runs.written(second)
    written = runs.length(first), runs.length(second)
    pairs, how = match(first, second)
    return Comparison(
        config=config,
        matched=len(pairs[0]),
        runs=written,
        unwritten=(whole[0] - written[0], whole[1] - written[1]),
        how=how,
        ended=_status_changes(first, second, pairs),
        numbers=tuple(numeric_differences(first, second, pairs, rtol, atol)),
        rtol=rtol,
        atol=atol,
        seconds=_seconds(first, second),
    )


# configurations -------------------------------------------------------------------------------


def config_differences(first: Dataset, second: Dataset) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Return the keys in which two configurations differ, by kind (see `kind_of`)."""
    one, two = _flat(first), _flat(second)
    differences: dict[str, dict[str, tuple[Any, Any]]] = {"science": {}, "kernel": {}, "policy": {}}
    for key in dict.fromkeys((*one, *two)):
        values = one.get(key, ABSENT), two.get(key, ABSENT)
        # A key that one version lacks and the other leaves unset is not a difference.
        if values[0] != values[1] and set(map(str, values)) != {ABSENT, "None"}:
            differences[kind_of(key)][key] = values
    return differences


def _flat(data: Dataset) -> dict[str, Any]:
    """Return the configuration, model and batch of a result, with dotted keys."""
    attrs = data.attrs
    flat: dict[str, Any] = {}

    def flatten(key: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for name, item in value.items():
                flatten(f"{key}.{name}" if key else str(name), item)
        else:
            flat[key] = value

    config = attributes.config_or_empty(data)
    # The model and the batch as they were used, not the files that they came from.
    flatten("", {k: v for k, v in config.items() if k not in ("system", "batch")})
    flatten("system", attributes.model(data))
    flatten("batch", attributes.design(data))
    if "algorithm" in attrs:
        flat["algorithm.name"] = attrs["algorithm"]
    flat.update({name: attrs[name] for name in KERNEL if name in attrs})
    return flat


def _looser(first: Dataset, second: Dataset, name: str) -> float:
    """Return the largest value of a tolerance, over all states of two studies."""
    values = []
    for data in (first, second):
        values += [
            float(value)
            for key, value in _flat(data).items()
            if (key == f"controller.{name}" or key.startswith(f"controller.{name}."))
            and isinstance(value, int | float)
        ]
        # The values of an automatic tolerance are stored apart from the configuration.
        values += recorded_atol(data.attrs).values() if name == ATOL else []
    return max(values, default=1e-6)


# numbers --------------------------------------------------------------------------------------

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def match(first: Dataset, second: Dataset) -> tuple[Pairs, str]:
    """Return the positions of the runs that both results have, and how they were matched."""
    sizes = runs.length(first), runs.length(second)
    names = [sorted(runs.swept(data)) for data in (first, second)]
    none = np.empty(0, np.int64)
    if set(names[0]) != set(names[1]):
        lists = [", ".join(n) or "nothing" for n in names]
        return (none, none), f"one varies {lists[0]}, the other {lists[1]}, so no run is in both"
    shorter = min(sizes)
    columns = [
        [np.asarray(data.variables[name].values) for name in names[0]] for data in (first, second)
    ]
    same = np.ones(shorter, bool)
    for a, b in zip(*columns, strict=True):
        same &= a[:shorter] == b[:shorter]
    if same.all():
        every = np.arange(shorter)
        return (every, every), "by their positions" if names[0] else "as the only ones"
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


def numeric_differences(
    first: Dataset, second: Dataset, pairs: Pairs, rtol: float, atol: float
) -> Iterator[Numbers]:
    """Yield the differences of each variable over the runs that both results have.

    Parameters
    ----------
    first, second : xarray.Dataset
    pairs : pair of ndarray of int64
        Positions of the matching runs in each result, see `match`.
    rtol, atol : float
        See `compare`.
    """
    if not len(pairs[0]):
        return
    for key, variable in first.data_vars.items():
        shared = key in second.data_vars and second[key].dims == variable.dims
        if shared and variable.dims[:1] == (RUN,):
            yield _difference(first, second, str(key), pairs, rtol, atol)


def _difference(
    first: Dataset, second: Dataset, name: str, pairs: Pairs, rtol: float, atol: float
) -> Numbers:
    picks: tuple[Any, Any] = (slice(None), slice(None))
    times = None
    if TIME in first[name].dims:
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
            # A value that only one result has differs by more than any tolerance.
            apart = ~equal & (missing | ~(gap <= atol + rtol * np.abs(a)))
        same += int(equal.all(axis=1).sum())
        beyond += int(apart.any(axis=1).sum())
        largest = max(largest, float(np.nanmax(gap, initial=0.0)))
        finite = part[np.isfinite(part)]
        relative = max(relative, float(finite.max(initial=0.0)))
        if apart.any():
            # The earliest saved time, and the first run that differs then.
            column = int(apart.any(axis=0).argmax())
            row = int(apart[:, column].argmax())
            where = min(where or (np.inf, 0), (float(column), start + row))
    run = None if where is None else int(runs.numbers(first, pairs[0][where[1]]))
    time = None if where is None or times is None else float(times[int(where[0])])
    return Numbers(name, same, beyond, largest, relative, run, time)


def _read(data: Dataset, name: str, positions: NDArray[np.int64], pick: Any) -> NDArray[Any]:
    """Return values as float64, shape (runs, times) or (runs, 1)."""
    values = data.variables[name][{RUN: runs.indexer(positions)}].values.astype(np.float64)
    values = values.reshape(len(positions), -1)
    return values if isinstance(pick, slice) else values[:, pick]


def _seconds(first: Dataset, second: Dataset) -> dict[str, tuple[float, float]]:
    one, two = attributes.seconds(first), attributes.seconds(second)
    return {name: (float(one[name]), float(two[name])) for name in one if name in two}


def _status_changes(first: Dataset, second: Dataset, pairs: Pairs) -> dict[str, int]:
    """Return the number of runs with another status, by ``"success -> step_limit"``."""
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
