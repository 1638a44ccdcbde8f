"""Maxima and periods of oscillations, interpolated between saved times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from xarray import DataArray

Array = NDArray[Any]
#: Most values in memory at once.
BLOCK = 20_000_000


def _parts(array: DataArray) -> range:
    runs, times = array.shape
    return range(0, runs, max(1, BLOCK // max(times, 1)))


def _read(array: DataArray, start: int, parts: range) -> Array:
    return np.asarray(array.isel(run=slice(start, start + parts.step)).to_numpy(), np.float64)


def maxima(array: DataArray, over: Array) -> tuple[Array, Array]:
    """Return every local maximum over time, with the value of a quantity of its run.

    A maximum is that of the parabola through three saved values.

    Parameters
    ----------
    array : DataArray
        Dimensions (run, time).
    over : ndarray, shape (runs,)
        The quantity.

    Returns
    -------
    across, peaks : ndarray
        The quantity and the maximum, of equal length. For a run that varies by less than one part
        in a thousand, its last value is the only maximum.
    """
    across, peaks = [], []
    parts = _parts(array)
    for start in parts:
        values = _read(array, start, parts)
        before, here, after = values[:, :-2], values[:, 1:-1], values[:, 2:]
        with np.errstate(invalid="ignore"):
            top = (here > before) & (here >= after)
            moving = np.ptp(values, axis=1) > 1e-3 * np.abs(values).max(axis=1)
        run, at = np.nonzero(top & moving[:, None])
        a, b, c = before[run, at], here[run, at], after[run, at]
        peaks.append(b - (c - a) ** 2 / (8 * (a - 2 * b + c)))
        across.append(over[start + run])
        still = ~moving & np.isfinite(values[:, -1])
        peaks.append(values[still, -1])
        across.append(over[start : start + parts.step][still])
    return np.concatenate(across), np.concatenate(peaks)


def period(array: DataArray, level: Array | float) -> Array:
    """Return the mean time between upward crossings of a level, for every run.

    A crossing is where the straight line between two saved values meets the level.

    Parameters
    ----------
    array : DataArray
        Dimensions (run, time), with the coordinate ``time``.
    level : float or ndarray, shape (runs,)

    Returns
    -------
    ndarray, shape (runs,)
        In the unit of time; NaN for a run with fewer than two crossings.
    """
    times = np.asarray(array["time"].to_numpy(), np.float64)
    levels = np.broadcast_to(np.asarray(level, np.float64), array.sizes["run"])
    periods = np.full(array.sizes["run"], np.nan)
    parts = _parts(array)
    for start in parts:
        values = _read(array, start, parts) - levels[start : start + parts.step, None]
        with np.errstate(invalid="ignore"):
            up = (values[:, :-1] < 0) & (values[:, 1:] >= 0)
        count = up.sum(axis=1)
        often = np.flatnonzero(count >= 2)
        first = up[often].argmax(axis=1)
        last = up.shape[1] - 1 - up[often, ::-1].argmax(axis=1)

        def at(i: Array, values: Array = values, often: Array = often) -> Array:
            low, high = values[often, i], values[often, i + 1]
            crossing: Array = times[i] - low / (high - low) * (times[i + 1] - times[i])
            return crossing

        periods[start + often] = (at(last) - at(first)) / (count[often] - 1)
    return periods
