"""The interactive charts of a report, as the plain values that its script draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cubie_flow.analysis.pictures.reading import (
    Array,
    as_float,
    bins,
    metrics,
    quantiles,
    run_indices,
    run_labels,
    saved,
    swept,
)
from cubie_flow.analysis.pictures.style import BLUE, COLOURS, RED, SKY, label

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

#: Most runs, variables and times of trajectories; bins, numbers and quantities of the other.
RUNS, VARIABLES, TIMES = 7, 6, 400
BINS, NUMBERS, QUANTITIES = 120, 12, 3
Chart = dict[str, Any]


def over_time(data: Dataset) -> list[Chart]:
    """Return a chart of single runs for each saved variable, the first few."""
    names = saved(data)[:VARIABLES]
    if not names:
        return []
    picked = run_indices(data, RUNS)
    step = max(1, data.sizes["time"] // TIMES)
    part = data[names].isel(run=picked, time=slice(None, None, step)).load()
    labels = run_labels(data, picked, swept(data)[:2])
    return [
        _chart(
            name,
            part["time"],
            part[name],
            as_float(part["time"]),
            [
                {"label": text, "values": _plain(values), "colour": colour, "dash": []}
                for text, values, colour in zip(labels, as_float(part[name]), COLOURS, strict=False)
            ],
        )
        for name in names
    ]


def over_quantities(data: Dataset) -> list[Chart]:
    """Return a chart of quantiles over each swept quantity for each number of a run."""
    charts = []
    numbers = {name: as_float(data[name]) for name in metrics(data)[:NUMBERS]}
    for quantity in swept(data)[:QUANTITIES]:
        values = as_float(data[quantity])
        parts = bins(values, BINS)
        middle = np.array([np.median(values[part]) for part in parts])
        # Runs of equal value share a place; the bins of a coarse grid would otherwise repeat it.
        if np.unique(middle).size < len(middle):
            points, index = np.unique(values, return_inverse=True)
            middle, parts = points, [np.flatnonzero(index == i) for i in range(len(points))]
        if len(middle) < 2:
            continue
        for name, found in numbers.items():
            low, median, high = np.array([quantiles(found[p], (0.05, 0.5, 0.95)) for p in parts]).T
            lines = [
                {"label": "95 % of runs below", "values": _plain(high), "colour": SKY, "dash": []},
                {"label": "median", "values": _plain(median), "colour": RED, "dash": []},
                {"label": "5 % of runs below", "values": _plain(low), "colour": BLUE,
                 "dash": [6, 3]},
            ]  # fmt: skip
            if len(values) == len(middle):  # one run a point
                lines = [{**lines[1], "label": name, "colour": BLUE}]
            title = f"{name} over {quantity}"
            charts.append(_chart(title, data[quantity], data[name], middle, lines))
    return charts


def _chart(
    title: str, x: DataArray, y: DataArray, along: Array, lines: Sequence[dict[str, Any]]
) -> Chart:
    return {
        "title": title,
        "x": _plain(along),
        "xLabel": label(x, 200),
        "yLabel": label(y, 200),
        "lines": list(lines),
    }


def _plain(values: Array) -> list[float | None]:
    """Return values in five digits, which is finer than a screen; None where there is none."""
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in values]
