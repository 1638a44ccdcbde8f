"""Measured data that runs are compared with: columns of a file, or given as numbers."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.systems.quantities import shortened
from cubie_flow.systems.series import number_column, read_columns

KEY = "output.compare"
TIME, SIGMA = "time", "_sigma"


@frozen
class Series:
    """What was measured of one quantity.

    Parameters
    ----------
    name : str
        State or observable.
    values : tuple of float
        One a row of the data; NaN where nothing was measured.
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
        In the model's time, one a row, in any order; a time may stand several times.
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
        """Names of what was measured."""
        return tuple(one.name for one in self.series)

    def to_mapping(self) -> dict[str, list[float | None]]:
        """Return the columns from which `read_measurements` makes the same."""
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
        States and observables that there are.

    Raises
    ------
    FlowError
        For the first mistake, in one sentence that names it.
    """
    known = tuple(known)
    if isinstance(given, Mapping):
        columns = {
            str(name): number_column(values, f"{KEY}.{name}", missing=True)
            for name, values in given.items()
        }
        where = KEY
    elif isinstance(given, str | Path):
        columns = read_columns(Path(given).expanduser(), None, KEY, missing=True)
        where = f"{KEY} '{given}'"
    else:
        raise FlowError(
            f"{KEY} is {shortened(given)}; it must name a .csv or .parquet file, or be a mapping "
            "such as {time: [0, 1], x: [2.0, 1.5]}"
        )
    if TIME not in columns:
        raise FlowError(f"{where} has no column '{TIME}' (it has: {', '.join(columns)})")
    times = columns.pop(TIME)
    if not times or any(map(math.isnan, times)):
        raise FlowError(f"{where}: every row needs a time, and there must be one row at least")
    sigmas = {
        name: columns.pop(name)
        for name in list(columns)
        if name.endswith(SIGMA) and name.removesuffix(SIGMA) in columns and name not in known
    }
    if not columns:
        raise FlowError(f"{where} has no column beside '{TIME}'")
    series = []
    for name, values in columns.items():
        if name not in known:
            raise FlowError(
                f"{where} has the column '{name}', which is no state or observable (and no "
                f"'<name>{SIGMA}' of one){nearest(name, known)}"
            )
        own = sigmas.get(name + SIGMA, ())
        for column in (values, own):
            if column and len(column) != len(times):
                raise FlowError(f"{where}: '{name}' and '{TIME}' differ in length")
        for row, value in enumerate(values):
            if own and not math.isnan(value) and not own[row] > 0:
                raise FlowError(
                    f"{where}: {name}{SIGMA} is {own[row]:g} in data row {row + 1}; it must be "
                    "positive where there is a value"
                )
        if all(map(math.isnan, values)):
            raise FlowError(f"{where}: '{name}' has no value at all")
        series.append(Series(name, values, own))
    return Measurements(times, tuple(series))
