"""The picture that every study saves with its result; it suits any kind of result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cubie_flow.analysis.pictures import drawer
from cubie_flow.analysis.pictures.reading import (
    Array,
    as_float,
    heading,
    in_order,
    points_over,
    quantiles,
    sampled,
    saved,
)
from cubie_flow.analysis.pictures.style import (
    BLUE,
    DPI,
    MAP,
    RED,
    Picture,
    label,
    legend,
    tidy,
)
from cubie_flow.analysis.pictures.trajectories import PANELS, SHARES, draw_bands
from cubie_flow.analysis.runs import swept
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import DataArray, Dataset

#: Most columns of a picture over one quantity.
COLUMNS = 600


def draw(store: Any, target: Path, group: str | None = None) -> Path:
    """Draw the overview of a store, or of a group of it, and return the PNG file.

    Parameters
    ----------
    store : Path or zarr store
    target : Path
        The PNG file.
    group : str, optional
        Path of the group in the store.

    Raises
    ------
    FlowError
        If the file cannot be written.
    """
    import xarray

    options: dict[str, Any] = {"engine": "zarr", "chunks": None, "decode_times": False}
    if group is not None:
        options |= {"group": group, "consolidated": False}
    with xarray.open_dataset(store, **options) as data:
        return drawer("overview")(data).save(target, DPI)


def tried(store: Any, target: Path, group: str | None = None) -> tuple[Path | None, str]:
    """Draw like `draw`; return the file, or None and the reason why it could not be drawn.

    A finished study must not fail because of its picture.

    Parameters
    ----------
    store, target, group
        See `draw`.
    """
    try:
        return draw(store, target, group), ""
    except FlowError as error:
        return None, str(error)
    except Exception as error:
        reason = " ".join(str(error).split())
        return None, f"'{target}' could not be drawn ({type(error).__name__}: {reason})"


def overview(data: Dataset) -> Picture:
    """Draw what a result holds.

    A sweep of one quantity is drawn over that quantity: a variable over time as colours, and its
    range. Of any other result the distribution of the runs is drawn, over time or in the final
    state. Of a large study only some runs are read, see `sampled`.
    """
    picture, title, data = Picture(), heading(data), sampled(data)
    varied = swept(data)
    if len(varied) == 1 and data.sizes["run"] >= 20:
        _over_quantity(picture, data, data[varied[0]])
        picture.description = f"{title}: over {varied[0]}"
    elif saved(data):
        draw_bands(picture, data, saved(data)[:PANELS], SHARES)
        picture.description = f"{title}: the distribution of the runs over time"
    else:
        _finals(picture, data)
        picture.description = f"{title}: the distribution of the final values"
    picture.headed(title)
    return picture


def _over_quantity(figure: Picture, data: Dataset, quantity: DataArray) -> None:
    """Draw a variable over time and one quantity, and its range over the quantity."""
    values = quantity.to_numpy()
    order = np.argsort(values, kind="stable")
    summarised, timed = _summarised(data), saved(data)
    panels = figure.subplots(1 + bool(timed), 1, sharex=True, squeeze=False)[:, 0]
    if timed:
        name = next((name for name in summarised if name in timed), timed[0])
        _map(figure, panels[0], data, name, values, order)
    if summarised:
        _range(panels[-1], data, summarised[0], values, order)
    else:
        _spread(panels[-1], data, _final_names(data)[0], values, order)
    panels[-1].set_xlabel(label(quantity, 80))
    panels[-1].set_xlim(values.min(), values.max())


def _map(
    figure: Picture, panel: Axes, data: Dataset, name: str, values: Array, order: Array
) -> None:
    chosen = order[np.linspace(0, len(order) - 1, min(COLUMNS, len(order))).astype(int)]
    # Read in the order of the store, so that each chunk is read once.
    by_position = np.argsort(chosen)
    field = np.empty((len(chosen), data.sizes["time"]), data[name].dtype)
    field[by_position] = data[name].isel(run=chosen[by_position]).to_numpy()
    low, high = np.nanquantile(field, [0.005, 0.995]) if np.isfinite(field).any() else (0.0, 1.0)
    mesh = panel.pcolormesh(
        values[chosen],
        data["time"].to_numpy(),
        field.T,
        cmap=MAP,
        vmin=low,
        vmax=high,
        shading="nearest",
        rasterized=True,
    )
    panel.set_ylabel(label(data["time"]))
    figure.colorbar(mesh, ax=panel, label=label(data[name]), extend="both")


def _range(panel: Axes, data: Dataset, name: str, values: Array, order: Array) -> None:
    """Draw minimum, mean and maximum over a run, each as the median of the runs of a point.

    If the variable was saved over time, the shaded area is its range in the last quarter of the
    saved times, after the transient.
    """
    middle, parts = points_over(values, COLUMNS)
    curves = {}
    for metric in ("min", "mean", "max"):
        column = data[f"{name}_{metric}"].to_numpy()
        curves[metric] = np.array([quantiles(column[part], (0.5,))[0] for part in parts])
    panel.plot(middle, curves["min"], color=BLUE, lw=0.8, label="minimum and maximum over the run")
    panel.plot(middle, curves["max"], color=BLUE, lw=0.8)
    panel.plot(middle, curves["mean"], color=RED, lw=1.2, label="mean over the run")
    if name in data:
        late = data[name].isel(time=slice(-(-3 * data.sizes["time"] // 4), None)).to_numpy()
        low, high = np.array([quantiles(late[part], (0.01, 0.99)) for part in parts]).T
        shade = "98 % of the last quarter of the times"
        panel.fill_between(middle, low, high, color=BLUE, alpha=0.25, lw=0, label=shade)
    source = data[name] if name in data else data[f"{name}_mean"]
    panel.set_ylabel(label(source))
    tidy(panel)
    legend(panel, loc="upper left")


def _spread(panel: Axes, data: Dataset, name: str, values: Array, order: Array) -> None:
    """Draw quantiles of a final value over the quantity."""
    middle, parts = points_over(values, COLUMNS)
    finals = data[name].to_numpy()
    low, median, high = np.array([quantiles(finals[part], (0.05, 0.5, 0.95)) for part in parts]).T
    panel.fill_between(middle, low, high, color=BLUE, alpha=0.25, lw=0, label="5 to 95 %")
    panel.plot(middle, median, color=BLUE, lw=1.2, label="median")
    panel.set_ylabel(label(data[name]))
    tidy(panel)
    legend(panel)


def _summarised(data: Dataset) -> list[str]:
    return [name.removesuffix("_mean") for name in in_order(data, "_mean")]


def _final_names(data: Dataset) -> list[str]:
    return in_order(data, "_final")


def _finals(figure: Picture, data: Dataset) -> None:
    """Draw histograms of the final values of the first few states."""
    names = _final_names(data)[:PANELS]
    if not names:
        raise FlowError("this result holds neither trajectories nor final values: nothing to draw")
    panels = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for name, panel in zip(names, panels, strict=True):
        values = as_float(data[name])
        values = values[np.isfinite(values)]
        if values.size:
            low, high = np.quantile(values, [0.001, 0.999])
            # Widen a range that is too narrow for a hundred bins.
            least = 1e-6 * max(abs(low), abs(high)) or 1.0
            if high - low < least:
                low, high = low - least / 2, high + least / 2
            panel.hist(values, bins=100, range=(low, high), color=BLUE)
        panel.set_xlabel(label(data[name], 80))
        panel.set_ylabel("runs")
