"""Drivers: what acts on a model from outside as a function of time, given as series."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.systems.quantities import (
    Described,
    check_name,
    finite,
    is_expression,
    shortened,
    with_spares,
)

#: How values between two times are made, by the degree of the polynomial.
INTERPOLATIONS = {"step": 0, "linear": 1, "cubic": 3}
OUTSIDE = ("hold", "zero", "periodic")
KEYS = (
    "file", "time", "column", "columns", "times", "values", "interpolation", "outside", "series",
    "unit", "long_name",
)  # fmt: skip
#: Numbers that the drivers of a model may have.
MAX_NUMBERS = 1_000_000


@frozen
class Driver(Described):
    """One quantity given as a series over time, or as several series that runs choose from.

    Parameters
    ----------
    name, unit, long_name : str
    times : tuple of float, shape (n,)
        Increasing, in the model's unit of time.
    values : tuple of tuple of float, shape (series, n)
    interpolation : {"step", "linear", "cubic"}
        ``step`` holds each value until the next time; ``cubic`` is the spline with continuous
        second derivatives.
    outside : {"hold", "zero", "periodic"}
        Before the first time and after the last one.
    series : str
        Parameter that says which series a run has, counted from 0; empty if there is one.

    Raises
    ------
    FlowError
        If times do not increase, shapes differ, or a periodic series does not close.
    """

    name: str
    times: tuple[float, ...] = field(eq=False)
    values: tuple[tuple[float, ...], ...] = field(eq=False)
    interpolation: str = "linear"
    outside: str = "hold"
    series: str = ""
    unit: str = ""
    long_name: str = ""
    content_hash: str = field(init=False)

    @content_hash.default
    def _hash(self) -> str:
        digest = hashlib.sha256(repr((self.interpolation, self.outside)).encode())
        for row in (self.times, *self.values):
            digest.update(array("d", row).tobytes())
        return digest.hexdigest()

    def __attrs_post_init__(self) -> None:
        where = f"driver '{self.name}'"
        for key, value, allowed in (
            ("interpolation", self.interpolation, tuple(INTERPOLATIONS)),
            ("outside", self.outside, OUTSIDE),
        ):
            if value not in allowed:
                raise FlowError(
                    f"{where}: {key} is {shortened(value)}; it must be one of "
                    f"{', '.join(allowed)}{nearest(str(value), allowed)}"
                )
        if len(self.times) < 2:
            raise FlowError(f"{where} has {len(self.times)} times; it needs at least 2")
        if not self.values:
            raise FlowError(f"{where} has no values")
        if (1 + len(self.values)) * len(self.times) > MAX_NUMBERS:
            raise FlowError(f"{where} has more than {MAX_NUMBERS:,} numbers")
        for number, row in enumerate((self.times, *self.values)):
            what = f"{where}, {'times' if number == 0 else 'values'}"
            if len(row) != len(self.times):
                raise FlowError(f"{where} has {len(self.times)} times, but {len(row)} values")
            if not all(map(math.isfinite, row)):
                raise FlowError(f"{what}: every one must be a finite number")
        for i, (a, b) in enumerate(zip(self.times, self.times[1:], strict=False)):
            if not a < b:
                raise FlowError(
                    f"{where}: times must increase, but {a:g} is followed by {b:g} (number {i + 2})"
                )
        if len(self.values) > 1 and not self.series:
            raise FlowError(f"{where} has {len(self.values)} series, but no parameter chooses one")
        if self.outside == "periodic" and self.interpolation != "step":
            for row in self.values:
                if row[0] != row[-1]:
                    raise FlowError(
                        f"{where} is periodic, but begins with {row[0]:g} and ends with "
                        f"{row[-1]:g}; the last time closes the period, so both must be equal"
                    )

    @property
    def order(self) -> int:
        """Degree of the polynomials between two times."""
        return INTERPOLATIONS[self.interpolation]

    @property
    def jumps(self) -> bool:
        """Whether it is discontinuous somewhere."""
        ends = [row[i] for row in self.values for i in (0, -1)]
        return self.order == 0 or (self.outside == "zero" and any(ends))

    def check_series(self, chosen: Iterable[float]) -> None:
        """Refuse numbers that choose no series.

        Raises
        ------
        FlowError
            Naming the parameter and the first wrong value.
        """
        last = len(self.values) - 1
        for value in chosen:
            if not (0 <= value <= last and value == int(value)):
                raise FlowError(
                    f"{self.series} is {value:g}, but it chooses one of the series of driver "
                    f"'{self.name}': a whole number from 0 to {last}"
                )

    def segments(self, series: int) -> Any:
        """Return one series as polynomials, float64, shape (n, order + 3).

        A row is the time at which a segment begins, the origin of its polynomial and the
        coefficients, that of the lowest power first; the last row is where the segments end.
        """
        import numpy as np

        times, values, order = np.asarray(self.times), np.asarray(self.values[series]), self.order
        if order == 3:
            from scipy.interpolate import CubicSpline

            ends = "periodic" if self.outside == "periodic" else "not-a-knot"
            coefficients = CubicSpline(times, values, bc_type=ends).c[::-1].T
        elif order == 1:
            coefficients = np.column_stack([values[:-1], np.diff(values) / np.diff(times)])
        else:
            coefficients = values[:-1, None]
        inner = np.column_stack([times[:-1], times[:-1], coefficients])
        last = np.zeros((1, order + 3))
        if self.outside == "periodic":
            last[0, 0] = times[-1]
            return np.concatenate([inner, last])
        before, after = np.zeros((1, order + 3)), np.zeros((1, order + 3))
        before[0, :2] = -np.inf, times[0]
        after[0, :2] = times[-1]
        if self.outside == "hold":
            before[0, 2], after[0, 2] = values[0], values[-1]
        last[0, 0] = np.inf
        return np.concatenate([before, inner, after, last])

    def value_at(self, t: float, series: int = 0) -> float:
        """Return the value at a time."""
        import numpy as np

        rows = self.segments(series)
        if self.outside == "periodic":
            period = rows[-1, 0] - rows[0, 0]
            t -= period * np.floor((t - rows[0, 0]) / period)
        row = rows[np.searchsorted(rows[:-1, 0], t, side="right") - 1]
        return float(np.polynomial.polynomial.polyval(t - row[1], row[2:]))

    def to_mapping(self) -> dict[str, Any]:
        """Return the entry of a model that makes the same driver, its data written out."""
        values = [list(row) for row in self.values]
        entry = {
            "times": list(self.times),
            "values": values if self.series else values[0],
            "interpolation": self.interpolation,
            "outside": self.outside,
            "series": self.series,
            "unit": self.unit,
            "long_name": self.long_name,
        }
        return {key: value for key, value in entry.items() if value != ""}


def read_driver(name: object, given: Any, where: str) -> Driver:
    """Return the driver that an entry of a model describes.

    Raises
    ------
    FlowError
        For the first mistake, in one sentence that names it.
    """
    own = check_name(name, f"{where}: the driver")
    where = f"{where}, driver {own}"
    given = _plain(given)
    if not isinstance(given, Mapping):
        raise FlowError(
            f"{where} is {shortened(given)}; it must be a mapping, such as {{file: data.csv}} or "
            "{times: [0, 1], values: [0, 1]}"
        )
    for key in given:
        if key not in KEYS:
            raise FlowError(
                f"{where}: unknown key {shortened(key)} (known: {', '.join(KEYS)})"
                f"{nearest(str(key), KEYS)}"
            )
    entry = {key: value for key, value in given.items() if value is not None}
    from_file = [key for key in ("time", "column", "columns") if key in entry]
    inline = [key for key in ("times", "values") if key in entry]
    if ("file" in entry) == bool(inline):
        raise FlowError(f"{where} needs either 'file', or 'times' and 'values'")
    if inline:
        if from_file:
            raise FlowError(f"{where}: '{from_file[0]}' is only for data from a 'file'")
        if len(inline) < 2:
            raise FlowError(f"{where}: '{inline[0]}' is given, but not the other of times, values")
        times = _row(entry["times"], f"{where}, times")
        values = _rows(entry["values"], f"{where}, values")
        several = bool(entry["values"]) and _is_list(entry["values"][0])
    else:
        times, values, several = _from_file(entry, own, where)
    text = {key: entry.get(key, "") for key in ("series", "unit", "long_name")}
    for key, value in text.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise FlowError(f"{where}, {key} must be text, not {shortened(value)}")
    series = str(text["series"])
    if several:
        series = check_name(series or f"{own}_series", f"{where}: the series")
    elif series:
        raise FlowError(f"{where}: 'series' is '{series}', but there is one series only")
    return Driver(
        own,
        times,
        values,
        interpolation=entry.get("interpolation", "linear"),
        outside=entry.get("outside", "hold"),
        series=series,
        unit=str(text["unit"]),
        long_name=str(text["long_name"]),
    )


def _from_file(
    entry: Mapping[str, Any], name: str, where: str
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...], bool]:
    if "column" in entry and "columns" in entry:
        raise FlowError(f"{where}: 'column' and 'columns' exclude each other; give one")
    several = "columns" in entry
    columns = entry["columns"] if several else [entry.get("column", name)]
    time = entry.get("time", "time")
    if not _is_list(columns) or not columns:
        raise FlowError(f"{where}, columns is {shortened(columns)}; it must be a list of names")
    for key, value in (("file", entry["file"]), ("time", time), *(("column", c) for c in columns)):
        if not isinstance(value, str) or not value:
            raise FlowError(f"{where}, {key} is {shortened(value)}; it must be text")
    from cubie_flow.batches.tables import open_table  # needs numpy

    path = Path(entry["file"]).expanduser()
    series = open_table(path, f"{where}, file", [time, *columns]).to_columns()
    return series[time], tuple(series[column] for column in columns), several


def _is_list(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes)


def _row(given: Any, where: str) -> tuple[float, ...]:
    if not _is_list(given):
        raise FlowError(f"{where} must be a list of numbers, not {shortened(given)}")
    return tuple(finite(value, f"{where}[{i}]") for i, value in enumerate(given))


def _rows(given: Any, where: str) -> tuple[tuple[float, ...], ...]:
    if not _is_list(given) or not given or not _is_list(given[0]):
        return (_row(given, where),)
    return tuple(_row(row, f"{where}[{i}]") for i, row in enumerate(given))


#: Keys of an entry that say where the data comes from.
_SOURCES = ("file", "time", "column", "columns", "times", "values")


def driven(model: Mapping[str, Any], drivers: Any, where: str) -> dict[str, Any]:
    """Return a model as a mapping with entries of its drivers replaced.

    Parameters
    ----------
    model : mapping
    drivers : mapping
        Entries by the name of a driver, or of a parameter that becomes one.
    where : str
        Names the model in errors.

    Raises
    ------
    FlowError
        If there is no such driver or parameter.
    """
    if not isinstance(drivers, Mapping):
        raise FlowError(f"drivers must map names to series, not be {shortened(drivers)}")
    changed = dict(model)
    old = dict(changed.get("drivers") or {})
    parameters = dict(changed.get("parameters") or {})
    computed = any(is_expression(parameters.get(name)) for name in drivers)
    for name, given in drivers.items():
        if name not in old and name not in parameters:
            known = (*old, *parameters)
            raise FlowError(
                f"drivers.{name}: {where} has no driver or parameter of that name"
                f"{nearest(str(name), known)}"
            )
        given = _plain(given)
        if name in old and isinstance(given, Mapping):
            kept = dict(old[name])
            if any(key in given for key in _SOURCES):
                kept = {key: value for key, value in kept.items() if key not in _SOURCES}
                several = "columns" in given or ("values" in given and _several(given["values"]))
                if not several:
                    kept.pop("series", None)
            given = {**kept, **given}
        present = parameters.pop(name, None)
        if isinstance(present, Mapping) and isinstance(given, Mapping):
            given = {**{key: text for key, text in present.items() if key != "value"}, **given}
        old[name] = given
    if computed:
        changed = with_spares(changed)
    changed["drivers"] = old
    changed["parameters"] = parameters
    suggested = changed.get("suggested") or {}
    # What is no mapping is refused with the rest of the model.
    if isinstance(suggested, Mapping):
        left = {name: value for name, value in suggested.items() if name not in drivers}
        changed["suggested"] = left
    changed["unused"] = [name for name in changed.get("unused") or () if name not in drivers]
    return changed


def _several(values: Any) -> bool:
    return _is_list(values) and bool(values) and _is_list(values[0])


def _plain(given: Any) -> Any:
    """Return an entry with arrays of any kind as lists."""
    if isinstance(given, Mapping):
        return {key: _plain(value) for key, value in given.items()}
    return given.tolist() if hasattr(given, "tolist") else given
