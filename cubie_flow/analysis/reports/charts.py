"""The interactive charts of a report, as the plain values that its script draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cubie_flow.analysis.pictures.reading import (
    Array,
    as_float,
    metrics,
    points_over,
    quantiles,
    run_indices,
    run_labels,
    saved,
)
from cubie_flow.analysis.pictures.style import BLUE, COLOURS, RED, SKY, label, short
from cubie_flow.analysis.runs import swept

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

#: Most runs, variables and times of a chart over time.
RUNS, VARIABLES, TIMES = 7, 6, 400
#: Most points of a chart over a quantity, most metrics and most quantities.
POINTS, METRICS, QUANTITIES = 120, 12, 3
#: Label, share of the runs, colour and dashes of the lines of a chart over a quantity.
QUANTILES: tuple[tuple[str, float, str, list[int]], ...] = (
    ("95 % of runs below", 0.95, SKY, []),
    ("median", 0.5, RED, []),
    ("5 % of runs below", 0.05, BLUE, [6, 3]),
)
Chart = dict[str, Any]


def over_time(data: Dataset) -> list[Chart]:
    """Return a chart of a few runs over time for each of the first saved variables."""
    names = saved(data)[:VARIABLES]
    if not names or not data.sizes["run"]:
        return []
    picked = run_indices(data, RUNS)
    step = -(-data.sizes["time"] // TIMES)
    part = data[names].isel(run=picked, time=slice(None, None, step)).load()
    labels = run_labels(data, picked, swept(data)[:2])
    times = as_float(part["time"])
    return [
        _chart(
            name,
            part["time"],
            part[name],
            times,
            [
                _line(text, values, colour)
                for text, values, colour in zip(labels, as_float(part[name]), COLOURS, strict=False)
            ],
        )
        for name in names
    ]


def over_quantities(data: Dataset, sample: Array) -> list[Chart]:
    """Return a chart of quantiles of each metric over each swept quantity.

    A chart has at most `POINTS` points, whatever the number of runs; see `points_over`.

    Parameters
    ----------
    data : xarray.Dataset
    sample : ndarray of int
        Positions of the runs that the quantiles are taken of.
    """
    grids = {}
    for quantity in swept(data)[:QUANTITIES]:
        middle, parts = points_over(as_float(data[quantity])[sample], POINTS)
        if len(middle) >= 2:
            grids[quantity] = middle, parts
    charts: dict[tuple[str, str], Chart] = {}
    names = metrics(data)[:METRICS] if grids else []
    for name in names:
        values = as_float(data[name])[sample]
        for quantity, (middle, parts) in grids.items():
            if len(values) == len(middle):  # one run per point
                lines = [_line(name, values[np.concatenate(parts)], BLUE)]
            else:
                shares = [share for _, share, _, _ in QUANTILES]
                columns = np.array([quantiles(values[part], shares) for part in parts]).T
                lines = [
                    _line(text, column, colour, dash)
                    for (text, _, colour, dash), column in zip(QUANTILES, columns, strict=True)
                ]
            title = f"{name} over {quantity}"
            charts[quantity, name] = _chart(title, data[quantity], data[name], middle, lines)
    return [charts[quantity, name] for quantity in grids for name in names]


def _chart(
    title: str, x: DataArray, y: DataArray, along: Array, lines: Sequence[dict[str, Any]]
) -> Chart:
    return {
        "title": title,
        "name": short(y),
        "x": _plain(along),
        "xLabel": label(x, 200),
        "yLabel": label(y, 200),
        "lines": list(lines),
    }


def _line(text: str, values: Array, colour: str, dash: Sequence[int] = ()) -> dict[str, Any]:
    return {"label": text, "values": _plain(values), "colour": colour, "dash": list(dash)}


def _plain(values: Array) -> list[float | None]:
    """Return values to five digits, which is finer than a screen; None for NaN and infinity."""
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in values]
