"""Measured data that runs are compared with: columns of a file or lists of numbers."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.systems.quantities import shortened

KEY = "output.compare"
TIME, SIGMA = "time", "_sigma"


@frozen
class Series:
    """Measured values of one quantity.

    Parameters
    ----------
    name : str
        State or observable.
    values : tuple of float
        One value per row of the data; NaN where nothing was measured.
    sigmas : tuple of float
        Standard deviations of the values; empty if they are not known.
    """

    name: str
    values: tuple[float, ...] = field(eq=False)
    sigmas: tuple[float, ...] = field(default=(), eq=False)

    @property
    def count(self) -> int:
        """Number of values that are not missing."""
        return sum(not math.isnan(value) for value in self.values)


@frozen
class Measurements:
    """Measured series over common times.

    Parameters
    ----------
    times : tuple of float
        In the model's unit of time, one per row, in any order; a time may occur several times.
    series : tuple of Series
    """

    times: tuple[float, ...] = field(eq=False)
    series: tuple[Series, ...]
    content_hash: str = field(init=False)

    @content_hash.default
    def _hash(self) -> str:
        digest = hashlib.sha256(repr([one.name for one in self.series]).encode())
        for row in (self.times, *(r for one in self.series for r in (one.values, one.sigmas))):
            digest.update(array("d", row).tobytes() + b";")
        return digest.hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the measured quantities."""
        return tuple(one.name for one in self.series)

    def to_mapping(self) -> dict[str, list[float | None]]:
        """Return columns from which `read_measurements` makes equal measurements."""
        columns = {TIME: list(self.times)}
        for one in self.series:
            columns[one.name] = list(one.values)
            if one.sigmas:
                columns[one.name + SIGMA] = list(one.sigmas)
        return {k: [None if math.isnan(v) else v for v in row] for k, row in columns.items()}


def read_measurements(given: Any, known: Iterable[str]) -> Measurements:
    """Return the data that runs are compared with.

    Parameters
    ----------
    given : path or mapping
        A CSV or Parquet file, or columns by name: ``time``, states and observables, and for each
        of these, if known, ``<name>_sigma``. A missing value is empty or NaN.
    known : iterable of str
        States and observables of the model.

    Raises
    ------
    FlowError
        For the first mistake, in one sentence that names it.
    """
    known = tuple(known)
    where = KEY if isinstance(given, Mapping) else f"{KEY} '{given}'"
    columns = _read_columns(given)
    if TIME not in columns:
        raise FlowError(f"{where} has no column '{TIME}' (columns: {', '.join(columns)})")
    times = columns.pop(TIME)
    if not times or any(map(math.isnan, times)):
        raise FlowError(f"{where}: every row needs a time, and at least one row is needed")
    sigmas = {
        name: columns.pop(name)
        for name in list(columns)
        if name.endswith(SIGMA) and name.removesuffix(SIGMA) in columns and name not in known
    }
    if not columns:
        raise FlowError(f"{where} has no column in addition to '{TIME}'")
    for name, column in {**columns, **sigmas}.items():
        if name in columns and name not in known:
            raise FlowError(
                f"{where} has the column '{name}', which is not a state or observable (and not "
                f"'<name>{SIGMA}' of one){nearest(name, known)}"
            )
        if len(column) != len(times):
            raise FlowError(f"{where}: '{name}' and '{TIME}' differ in length")
    series = [Series(name, row, sigmas.get(name + SIGMA, ())) for name, row in columns.items()]
    for one in series:
        _check_series(one, where)
    return Measurements(times, tuple(series))


def _read_columns(given: Any) -> dict[str, tuple[float, ...]]:
    """Return the columns of a file or mapping as numbers, NaN where one is missing."""
    from cubie_flow.batches.tables import number_column, open_table  # needs numpy

    if isinstance(given, str | Path):
        return open_table(Path(given).expanduser(), KEY, missing=True).to_columns()
    if not isinstance(given, Mapping):
        raise FlowError(
            f"{KEY} is {shortened(given)}; it must name a .csv or .parquet file, or be a mapping "
            "such as {time: [0, 1], x: [2.0, 1.5]}"
        )
    columns = {}
    for name, values in given.items():
        values = values.tolist() if hasattr(values, "tolist") else values
        if not isinstance(values, Sequence) or isinstance(values, str | bytes):
            raise FlowError(f"{KEY}.{name} is {shortened(values)}; it must be a list of numbers")
        numbers = number_column(values, f"{KEY}.{name}", missing=True)
        columns[str(name)] = tuple(numbers.tolist())
    return columns


def _check_series(series: Series, where: str) -> None:
    """Refuse a standard deviation that is not positive, and a series without values."""
    for row, (value, sigma) in enumerate(zip(series.values, series.sigmas, strict=False), 1):
        if not math.isnan(value) and not sigma > 0:
            raise FlowError(
                f"{where}: {series.name}{SIGMA} is {sigma:g} in data row {row}; it must be "
                "positive where there is a value"
            )
    if not series.count:
        raise FlowError(f"{where}: '{series.name}' has no value at all")
