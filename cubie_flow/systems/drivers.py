"""Drivers: external inputs of a model, given as series over time."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable
from typing import Any

from attrs import field, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.systems.quantities import Described, shortened

#: Degree of the polynomial between two times.
INTERPOLATIONS = {"step": 0, "linear": 1, "cubic": 3}
OUTSIDE = ("hold", "zero", "periodic")
#: Numbers that the drivers of a model may have.
MAX_NUMBERS = 1_000_000


@frozen
class Driver(Described):
    """One external input, given as a series over time or as several series to choose from.

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
        Values before the first time and after the last one.
    series : str
        Parameter whose value is the number of a run's series, from 0; empty if there is one.

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
        self._check_options(where)
        self._check_numbers(where)
        if len(self.values) > 1 and not self.series:
            raise FlowError(f"{where} has {len(self.values)} series, but no parameter chooses one")
        if self.outside == "periodic" and self.interpolation != "step":
            for row in self.values:
                if row[0] != row[-1]:
                    raise FlowError(
                        f"{where} is periodic, but begins with {row[0]:g} and ends with "
                        f"{row[-1]:g}; the last time closes the period, so both must be equal"
                    )

    def _check_options(self, where: str) -> None:
        for key, value, allowed in (
            ("interpolation", self.interpolation, tuple(INTERPOLATIONS)),
            ("outside", self.outside, OUTSIDE),
        ):
            if value not in allowed:
                raise FlowError(
                    f"{where}: {key} is {shortened(value)}; it must be one of "
                    f"{', '.join(allowed)}{nearest(str(value), allowed)}"
                )

    def _check_numbers(self, where: str) -> None:
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

    @property
    def order(self) -> int:
        """Degree of the polynomials between two times."""
        return INTERPOLATIONS[self.interpolation]

    @property
    def jumps(self) -> bool:
        """Whether it has a discontinuity."""
        ends = [row[i] for row in self.values for i in (0, -1)]
        return self.order == 0 or (self.outside == "zero" and any(ends))

    def check_series(self, chosen: Iterable[float]) -> None:
        """Refuse numbers without a series.

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

        A row has the start time of a segment, the origin of its polynomial and the coefficients,
        lowest power first. The last row has the end of the last segment.
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
        """Return an entry of a model, with the data in it, that makes an equal driver."""
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
