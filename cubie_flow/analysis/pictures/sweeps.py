"""Pictures over quantities that vary between the runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cubie_flow.analysis.oscillations import maxima
from cubie_flow.analysis.pictures.reading import (
    Array,
    as_float,
    check_name,
    chosen,
    heading,
    metrics,
    quantity,
)
from cubie_flow.analysis.pictures.style import BLUE, Picture, colour_map, label, tidy
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray, Dataset

#: Mean number of runs per cell for runs that are not on a grid, and most cells along an axis.
RUNS_PER_CELL, MOST_CELLS = 12, 200
#: Most points that are drawn.
POINTS = 300_000


def heatmap(
    data: Dataset,
    metric: str | None = None,
    x: str | None = None,
    y: str | None = None,
    log: bool = False,
) -> Picture:
    """Draw a metric as colour over two quantities that vary.

    A cell shows the mean of its runs: one run of a grid over two quantities, several runs if
    further quantities vary or the runs are not on a grid. A cell without a value is grey.

    Parameters
    ----------
    data : xarray.Dataset
        A result in which at least two quantities vary.
    metric : str, optional
        A variable with one number per run; by default the first maximum or final value.
    x, y : str, optional
        The quantities along the axes; by default the first two that vary.
    log : bool
        Use a logarithmic colour scale.

    Raises
    ------
    FlowError
        If fewer than two quantities vary, or a name is unknown.
    """
    known = metrics(data)
    if metric is None:
        usual = [n for n in known if n.endswith(("_max", "_final"))] or known
        metric = next(iter(usual), "")
    metric = check_name(metric, known, "metric")
    x = quantity(data, x, [y] if y else [])
    y = quantity(data, y, [x])
    if x == y:
        raise FlowError(f"x and y are both '{x}'; a heatmap is drawn over two quantities")
    across, up, field = field_over(data[x], data[y], data[metric])
    picture = Picture(7.6, 5.4)
    panel = picture.subplots()
    draw_field(picture, panel, (across, up, field), data[metric], log)
    _axes(panel, data[x], data[y])
    picture.headed(heading(data))
    picture.description = (
        f"{heading(data)}: {metric} as colour over {x} (across) and {y} (up), from "
        f"{np.nanmin(field):.4g} to {np.nanmax(field):.4g}"
        if np.isfinite(field).any()
        else f"{heading(data)}: no run has a value of {metric}"
    )
    return picture


def draw_field(
    picture: Picture,
    panel: Axes,
    field: tuple[Array, Array, Array],
    metric: DataArray,
    log: bool = False,
) -> None:
    """Draw a field as colours, with a colour bar.

    Parameters
    ----------
    picture : Picture
    panel : matplotlib.axes.Axes
        The panel of `picture` to draw in.
    field : tuple of ndarray
        Centres of the cells across, shape (columns,), and up, shape (rows,), and the values,
        shape (rows, columns).
    metric : DataArray
        Name and unit of the colour bar.
    log : bool
        Use a logarithmic colour scale.
    """
    from matplotlib.colors import LogNorm, Normalize

    across, up, values = field
    finite = values[np.isfinite(values) & ((values > 0) | (not log))]
    low, high = (finite.min(), finite.max()) if finite.size else (0.1, 1.0)
    norm = LogNorm(low, high) if log else Normalize(low, high)
    mesh = panel.pcolormesh(
        across, up, values, cmap=colour_map(), norm=norm, shading="nearest", rasterized=True
    )
    picture.colorbar(mesh, ax=panel, label=label(metric, 44))


def field_over(x: DataArray, y: DataArray, metric: DataArray) -> tuple[Array, Array, Array]:
    """Return the centres of the cells across and up, and the mean of the metric in each cell.

    Parameters
    ----------
    x, y, metric : DataArray
        One value per run.

    Returns
    -------
    tuple of ndarray
        Shapes (columns,), (rows,), (rows, columns); NaN in cells without a value.
    """
    values = as_float(metric)
    across, columns = _cells(as_float(x))
    up, rows = _cells(as_float(y))
    good = np.isfinite(values)
    at = rows[good] * len(across) + columns[good]
    size = len(across) * len(up)
    counts = np.bincount(at, minlength=size)
    sums = np.bincount(at, values[good], minlength=size)
    with np.errstate(invalid="ignore"):
        return across, up, (sums / counts).reshape(len(up), len(across))


def _cells(values: Array) -> tuple[Array, Array]:
    """Return the centres of cells along an axis, and the cell of every run."""
    points = np.unique(values)
    # If several runs share each value, the values are the points of a grid.
    if len(points) <= max(len(values) / 2, 1):
        return points, np.searchsorted(points, values)
    most = int(np.clip(np.sqrt(len(values) / RUNS_PER_CELL), 2, MOST_CELLS))
    logarithmic = _geometric(points)
    scale = np.log(values) if logarithmic else values
    edges = np.linspace(scale.min(), scale.max(), most + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    place = (scale - edges[0]) * (most / (edges[-1] - edges[0]))
    where = np.clip(place.astype(np.int64), 0, most - 1)
    return (np.exp(centres) if logarithmic else centres), where


def _geometric(points: Array) -> bool:
    """Return whether sorted values are spaced logarithmically.

    The median of such values is closer to the geometric than to the arithmetic mean of their ends.
    """
    if points[0] <= 0 or points[-1] / points[0] < 20:
        return False
    middle = float(np.median(points))
    geometric, arithmetic = np.sqrt(points[0] * points[-1]), (points[0] + points[-1]) / 2
    return bool(abs(np.log(middle / geometric)) < abs(np.log(middle / arithmetic)))


def _axes(panel: Axes, x: DataArray, y: DataArray) -> None:
    if _geometric(np.unique(as_float(x))):
        panel.set_xscale("log")
    if _geometric(np.unique(as_float(y))):
        panel.set_yscale("log")
    panel.set_xlabel(label(x, 70))
    panel.set_ylabel(label(y))


def bifurcation(
    data: Dataset,
    variable: str | None = None,
    over: str | None = None,
    after: float = 0.5,
) -> Picture:
    """Draw the local maxima of a variable after the transient, over a quantity that varies.

    Each maximum is that of a parabola through three saved values, so the interval between saved
    times should be at most a tenth of a period. A run at rest is drawn at its last value.

    Parameters
    ----------
    data : xarray.Dataset
        A result with saved times.
    variable : str, optional
        By default the first saved variable.
    over : str, optional
        The quantity across; by default the first that varies.
    after : float
        Share of the saved times that is left out as transient, from 0 to below 1.

    Raises
    ------
    FlowError
        If fewer than three saved times remain, nothing varies, or a name is unknown.
    """
    (name,) = chosen(data, variable, 1)
    over = quantity(data, over)
    if not 0 <= after < 1:
        raise FlowError(f"after is {after:g}; it must be a share, from 0 to below 1")
    late = slice(int(after * data.sizes["time"]), None)
    if data["time"][late].size < 3:
        raise FlowError(
            f"only {data['time'][late].size} saved times remain after the first {after:.0%}; "
            "maxima need three: integrate with a smaller output.save_every"
        )
    across, peaks = maxima(data[name].isel(time=late), as_float(data[over]))
    step = max(1, -(-len(across) // POINTS))
    picture = Picture(8.0, 5.0)
    panel = picture.subplots()
    panel.scatter(
        across[::step], peaks[::step], s=_dot(len(across[::step])), color=BLUE, lw=0,
        alpha=0.5 if len(across) > 20_000 else 0.7, rasterized=True,
    )  # fmt: skip
    low, high = float(data[over].min()), float(data[over].max())
    panel.set_xlim(low, high)
    if _geometric(np.unique(as_float(data[over]))):
        panel.set_xscale("log")
    panel.set_xlabel(label(data[over], 70))
    panel.set_ylabel(f"maxima of {label(data[name], 30)}")
    tidy(panel)
    since = as_float(data["time"])[late][0]
    picture.headed(f"{heading(data)}\nlocal maxima of {name} from time {since:g} on")
    picture.description = (
        f"{heading(data)}: {len(across):,} local maxima of {name} over {over} from time {since:g}"
    )
    return picture


def _dot(points: int) -> float:
    """Return the area of a dot in square points: smaller for more points."""
    return float(np.clip(1.2e5 / max(points, 1), 0.5, 8.0))
