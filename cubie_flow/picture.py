"""One picture of a result, drawn from its store alone."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import DataArray, Dataset

Array = NDArray[Any]
#: Columns of a picture over one quantity, and runs that a picture over many quantities samples.
COLUMNS, SAMPLED, PANELS = 600, 20_000, 4
# Blue and vermilion of M. Okabe and K. Ito's palette, and a map of even lightness, can be told
# apart with any colour vision.
BLUE, RED, MAP = "#0072B2", "#D55E00", "cividis"


def draw(store: Any, target: Path, group: str | None = None) -> Path:
    """Draw a result and return the PNG file.

    A sweep of one quantity is drawn over that quantity: a variable over time as a map, and its
    range. Anything else is drawn as the spread of its runs, over time or in the final state.

    Parameters
    ----------
    store : Path or zarr store
        ``results.zarr``.
    target : Path
        The ``.png`` file to write.
    group : str, optional
        Of the store; its root by default.

    Raises
    ------
    FlowError
        If the file cannot be written.
    """
    import xarray
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    how: dict[str, Any] = {"engine": "zarr", "chunks": None, "decode_times": False}
    if group is not None:
        how |= {"group": group, "consolidated": False}
    with xarray.open_dataset(store, **how) as data:
        figure = Figure(figsize=(8.0, 6.0), layout="constrained")
        FigureCanvasAgg(figure)
        swept = [name for name, c in data.coords.items() if c.dims == ("run",)]
        if len(swept) == 1 and data.sizes["run"] >= 20:
            _over_quantity(figure, data, data[swept[0]])
        elif "time" in data.sizes:
            _over_time(figure, data)
        else:
            _finals(figure, data)
        title, runs = data.attrs.get("title", target.stem), data.sizes["run"]
        counted = f"{runs:,} runs" if runs > 1 else "one run"
        figure.suptitle(f"{title}: {counted}, {data.attrs.get('algorithm', '')}", fontsize=11)
        try:
            figure.savefig(target, dpi=120)
        except OSError as error:
            reason = error.strerror or str(error)
            raise FlowError(f"the picture '{target}' cannot be written: {reason}") from error
    return target


def _label(array: DataArray, width: int = 32) -> str:
    """Return name, meaning and unit, in lines that fit beside a panel."""
    name, text = str(array.name), str(array.attrs.get("long_name", ""))
    unit = array.attrs.get("units", "")
    label = f"{name}: {text}" if text not in ("", name) else name
    return fill(f"{label} ({unit})" if unit not in ("", "1") else label, width)


def _summarised(data: Dataset) -> list[str]:
    return [name.removesuffix("_mean") for name in _in_order(data, "_mean")]


def _in_order(data: Dataset, suffix: str = "") -> list[str]:
    """Return the variables of this suffix, states first and in the order of the model."""
    model = json.loads(data.attrs.get("system", "{}"))
    known = [name + suffix for name in (*model.get("states", ()), *model.get("observables", ()))]
    return [name for name in known if name in data]


def _over_time_names(data: Dataset) -> list[str]:
    return [name for name in _in_order(data) if data[name].dims == ("run", "time")]


def _over_quantity(figure: Figure, data: Dataset, quantity: DataArray) -> None:
    """Draw a variable over time and one quantity, and its range over the quantity."""
    values = quantity.to_numpy()
    order = np.argsort(values, kind="stable")
    summarised, saved = _summarised(data), _over_time_names(data)
    panels = figure.subplots(1 + bool(saved), 1, sharex=True, squeeze=False)[:, 0]
    if saved:
        name = next((name for name in summarised if name in saved), saved[0])
        _map(figure, panels[0], data, name, values, order)
    if summarised:
        _range(panels[-1], data, summarised[0], values, order)
    else:
        _spread(panels[-1], data, _final_names(data)[0], values, order)
    panels[-1].set_xlabel(_label(quantity, 80))
    panels[-1].set_xlim(values.min(), values.max())


def _map(
    figure: Figure, panel: Axes, data: Dataset, name: str, values: Array, order: Array
) -> None:
    chosen = order[np.linspace(0, len(order) - 1, min(COLUMNS, len(order))).astype(int)]
    # One slice with a step reads each chunk once; picking runs one by one would not.
    if np.array_equal(order, np.arange(len(order))):
        step = max(1, len(order) // COLUMNS)
        chosen = np.arange(0, len(order), step)
        field = data[name].isel(run=slice(None, None, step)).to_numpy()
    else:
        field = data[name].to_numpy()[chosen]
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
    panel.set_ylabel(_label(data["time"]))
    figure.colorbar(mesh, ax=panel, label=_label(data[name]), extend="both")


def _bins(values: Array, order: Array) -> list[Array]:
    """Return the runs of each bin: equally many runs, in the order of the quantity."""
    return [part for part in np.array_split(order, min(COLUMNS, len(order))) if len(part)]


def _range(panel: Axes, data: Dataset, name: str, values: Array, order: Array) -> None:
    """Draw the lowest, mean and highest value of a run, each as the median of a bin.

    Where the variable was saved, the shade is where it is in the last quarter of the saved times:
    what remains when the start is forgotten.
    """
    bins = _bins(values, order)
    middle = np.array([np.median(values[part]) for part in bins])
    curves = {}
    for metric in ("min", "mean", "max"):
        found = data[f"{name}_{metric}"].to_numpy()
        curves[metric] = np.array([_quantiles(found[part], (0.5,))[0] for part in bins])
    panel.plot(middle, curves["min"], color=BLUE, lw=0.8, label="minimum and maximum over the run")
    panel.plot(middle, curves["max"], color=BLUE, lw=0.8)
    panel.plot(middle, curves["mean"], color=RED, lw=1.2, label="mean over the run")
    if name in data:
        late = data[name].isel(time=slice(-(-3 * data.sizes["time"] // 4), None)).to_numpy()
        low, high = np.array([_quantiles(late[part], (0.01, 0.99)) for part in bins]).T
        shade = "98 % of the last quarter of the times"
        panel.fill_between(middle, low, high, color=BLUE, alpha=0.25, lw=0, label=shade)
    source = data[name] if name in data else data[f"{name}_mean"]
    panel.set_ylabel(_label(source))
    panel.legend(frameon=False, fontsize=8, loc="upper left")


def _spread(panel: Axes, data: Dataset, name: str, values: Array, order: Array) -> None:
    """Draw the quantiles of a final value in bins of the quantity."""
    bins = _bins(values, order)
    middle = np.array([np.median(values[part]) for part in bins])
    found = data[name].to_numpy()
    low, median, high = np.array([_quantiles(found[part], (0.05, 0.5, 0.95)) for part in bins]).T
    panel.fill_between(middle, low, high, color=BLUE, alpha=0.25, lw=0, label="5 to 95 %")
    panel.plot(middle, median, color=BLUE, lw=1.2, label="median")
    panel.set_ylabel(_label(data[name]))
    panel.legend(frameon=False, fontsize=8)


def _over_time(figure: Figure, data: Dataset) -> None:
    """Draw the spread of the runs over time, for the first few variables."""
    names = _over_time_names(data)[:PANELS]
    times = data["time"].to_numpy()
    # Whole stretches of runs, so that few chunks are read.
    runs = data.sizes["run"]
    step = max(1, runs // SAMPLED)
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for name, panel in zip(names, panels, strict=True):
        field = data[name].isel(run=slice(None, None, step)).to_numpy()
        spread = np.array([_quantiles(column, (0.05, 0.25, 0.5, 0.75, 0.95)) for column in field.T])
        if len(field) > 1:
            panel.fill_between(
                times, spread[:, 0], spread[:, 4], color=BLUE, alpha=0.2, lw=0, label="5 to 95 %"
            )
            panel.fill_between(
                times, spread[:, 1], spread[:, 3], color=BLUE, alpha=0.35, lw=0, label="25 to 75 %"
            )
        panel.plot(times, spread[:, 2], color=RED, lw=1.2, label="median")
        panel.set_title(_label(data[name], 100), loc="left", fontsize=9)
    if runs > 1:
        panels[0].legend(frameon=False, fontsize=8, ncols=3, loc="upper right")
    panels[-1].set_xlabel(_label(data["time"]))


def _final_names(data: Dataset) -> list[str]:
    return _in_order(data, "_final")


def _finals(figure: Figure, data: Dataset) -> None:
    """Draw how the final values are distributed, for the first few states."""
    names = _final_names(data)[:PANELS]
    panels = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for name, panel in zip(names, panels, strict=True):
        found = data[name].to_numpy()
        found = found[np.isfinite(found)]
        if found.size:
            low, high = np.quantile(found, [0.001, 0.999])
            if low == high:
                low, high = low - 0.5, high + 0.5
            panel.hist(found, bins=100, range=(low, high), color=BLUE)
        panel.set_xlabel(_label(data[name], 80))
        panel.set_ylabel("runs")


def _quantiles(values: Array, at: tuple[float, ...]) -> Array:
    """Return quantiles of what is finite; NaN where nothing is."""
    finite = values[np.isfinite(values)]
    return np.quantile(finite, at) if finite.size else np.full(len(at), np.nan)
