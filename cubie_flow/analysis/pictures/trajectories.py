"""Pictures over time and of one variable over another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cubie_flow.analysis.pictures.reading import (
    Array,
    as_float,
    chosen,
    heading,
    quantiles,
    run_indices,
    run_labels,
    sampled,
)
from cubie_flow.analysis.pictures.style import (
    BLACK,
    BLUE,
    COLOURS,
    LINES,
    MAP,
    RED,
    SMALL,
    Picture,
    colour_map,
    label,
    short,
    tidy,
)
from cubie_flow.analysis.runs import swept
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import Dataset

#: Default number of panels, and default quantiles of the bands.
PANELS = 4
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


def trajectories(
    data: Dataset,
    variables: Sequence[str] | str | None = None,
    runs: int | Sequence[int] = 8,
) -> Picture:
    """Draw single runs over time, with one panel per variable.

    Parameters
    ----------
    data : xarray.Dataset
        A result with saved times.
    variables : sequence of str, optional
        By default the first four saved variables.
    runs : int or sequence of int
        How many runs, evenly over all of them, or their numbers.

    Raises
    ------
    FlowError
        If the result holds no trajectories, or a name or a run is unknown.
    """
    names, picked = chosen(data, variables, PANELS), run_indices(data, runs)
    picture = Picture(height=_height(len(names)))
    panels = _panels(picture, data, names)
    looks = _looks(data, picked)
    part = data[names].isel(run=picked).load()
    times = as_float(data["time"])
    for name, panel in zip(names, panels, strict=True):
        for values, look in zip(as_float(part[name]), looks, strict=True):
            panel.plot(times, values, lw=1.1, **look)
    panels[-1].set_xlim(times[0], times[-1])
    _explain(picture, panels, data, picked)
    picture.headed(heading(data))
    picture.description = f"{heading(data)}: {', '.join(names)} over time in {len(picked)} runs"
    return picture


def bands(
    data: Dataset,
    variables: Sequence[str] | str | None = None,
    quantiles: Sequence[float] = SHARES,
    log: bool = False,
) -> Picture:
    """Draw quantiles of the runs over time, with one panel per variable.

    Parameters
    ----------
    data : xarray.Dataset
        A result with saved times.
    variables : sequence of str, optional
        By default the first four saved variables.
    quantiles : sequence of float
        An odd number of increasing values from 0 to 1. The middle one is drawn as a line, the
        others in pairs as bands.
    log : bool
        Use a logarithmic time axis.

    Raises
    ------
    FlowError
        If the result holds no trajectories, a name is unknown, or the quantiles are not valid.
    """
    shares = tuple(float(share) for share in quantiles)
    rising = all(a < b for a, b in pairwise(shares))
    if len(shares) % 2 == 0 or not rising or shares[0] < 0 or shares[-1] > 1:
        raise FlowError(
            f"quantiles are {', '.join(f'{s:g}' for s in shares)}; give an odd number of them, "
            "increasing from 0 to 1, such as 0.05,0.5,0.95"
        )
    names = chosen(data, variables, PANELS)
    picture = Picture(height=_height(len(names)))
    draw_bands(picture, data, names, shares, log)
    picture.headed(heading(data))
    low, high = f"{100 * shares[0]:g}", f"{100 * shares[-1]:g}"
    picture.description = (
        f"{heading(data)}: {', '.join(names)} over time, the range from the {low} % to the "
        f"{high} % quantile of the runs and their median"
    )
    return picture


def draw_bands(
    picture: Picture, data: Dataset, names: list[str], shares: Sequence[float], log: bool = False
) -> None:
    """Draw quantiles of the runs over time, with one panel per variable.

    Parameters
    ----------
    picture : Picture
        An empty picture.
    data : xarray.Dataset
    names : list of str
        Saved variables.
    shares : sequence of float
        See `bands`.
    log : bool
        Use a logarithmic time axis.
    """
    times, half = as_float(data["time"]), len(shares) // 2
    panels = _panels(picture, data, names)
    part = sampled(data[names])
    for name, panel in zip(names, panels, strict=True):
        curves = np.array([quantiles(column, shares) for column in part[name].to_numpy().T])
        if part.sizes["run"] > 1:
            for i in range(half):
                text = f"{100 * shares[i]:g} to {100 * shares[-1 - i]:g} % of the runs"
                panel.fill_between(
                    times, curves[:, i], curves[:, -1 - i], color=BLUE, lw=0, label=text,
                    alpha=0.2 + 0.3 * i / max(half - 1, 1),
                )  # fmt: skip
            text = "median" if shares[half] == 0.5 else f"{100 * shares[half]:g} % quantile"
            panel.plot(times, curves[:, half], color=RED, lw=1.3, label=text)
        else:
            panel.plot(times, curves[:, half], color=BLUE, lw=1.3)
        if log:
            panel.set_xscale("log")
    if part.sizes["run"] > 1:
        picture.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center",
                       ncols=half + 1, frameon=False, fontsize=9)  # fmt: skip
    first = times[times > 0][0] if log and (times > 0).any() else times[0]
    panels[-1].set_xlim(first, times[-1])


def phase(
    data: Dataset,
    variables: Sequence[str] | None = None,
    runs: int | Sequence[int] = 8,
) -> Picture:
    """Draw a phase portrait: one variable over another, one line per run.

    A dot marks the start of a run, a square its end.

    Parameters
    ----------
    data : xarray.Dataset
        A result with saved times.
    variables : pair of str, optional
        The variables across and up; by default the first two saved variables.
    runs : int or sequence of int
        How many runs, evenly over all of them, or their numbers.

    Raises
    ------
    FlowError
        If the result holds no trajectories, or a name or a run is unknown.
    """
    names = chosen(data, variables, 2)
    if len(names) != 2:
        raise FlowError(
            f"a phase portrait needs two saved variables, and got {len(names)} ({', '.join(names)})"
        )
    picked = run_indices(data, runs)
    picture = Picture(7.0, 6.2)
    panel = picture.subplots()
    looks = _looks(data, picked)
    part = data[names].isel(run=picked).load()
    along, up = (as_float(part[name]) for name in names)
    for x, y, look in zip(along, up, looks, strict=True):
        panel.plot(x, y, lw=0.9, **look)
        finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if finite.size:
            for at, marker in ((finite[0], "o"), (finite[-1], "s")):
                panel.plot(x[at], y[at], marker, ms=4, mec=BLACK, mew=0.6, color=look["color"])
    panel.set_xlabel(label(data[names[0]], 70))
    panel.set_ylabel(label(data[names[1]]))
    tidy(panel)
    _explain(picture, [panel], data, picked)
    picture.headed(f"{heading(data)}\nround: start, square: end")
    picture.description = (
        f"{heading(data)}: {names[1]} over {names[0]} along {len(picked)} of its runs"
    )
    return picture


def _panels(picture: Picture, data: Dataset, names: Sequence[str]) -> list[Axes]:
    """Return one panel per variable, one below the other, over time."""
    panels = list(picture.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0])
    for name, panel in zip(names, panels, strict=True):
        panel.set_title(label(data[name], 100), loc="left", fontsize=9)
        panel.set_ylabel(short(data[name]))
        tidy(panel)
    panels[-1].set_xlabel(label(data["time"], 80))
    return panels


def _height(panels: int) -> float:
    return 1.6 + 1.7 * max(panels, 2)


def _looks(data: Dataset, picked: Array) -> list[dict[str, Any]]:
    """Return the line style of each run: a colour of a scale if many, distinct styles if few."""
    varied = swept(data)
    if len(picked) == 1:
        return [{"color": BLUE}]
    if len(varied) == 1 and len(picked) > len(COLOURS) * len(LINES):
        norm = _norm(as_float(data[varied[0]].isel(run=picked)))
        return [{"color": c} for c in colour_map(MAP)(norm)]
    looks = []
    for i, text in enumerate(run_labels(data, picked, varied[:3])):
        count = len(COLOURS)
        looks.append(
            {"color": COLOURS[i % count], "ls": LINES[i // count % len(LINES)], "label": text}
        )
    return looks


def _norm(values: Array) -> Array:
    low, high = np.nanmin(values), np.nanmax(values)
    shares: Array = (values - low) / (high - low if high > low else 1.0)
    return shares


def _explain(picture: Picture, panels: Sequence[Axes], data: Dataset, picked: Array) -> None:
    """Add a legend of the runs, or a colour bar if they are too many for one."""
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        columns = 1 if len(handles) == 1 else 2 if max(map(len, labels)) > 24 else 4
        picture.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False,
                       fontsize=SMALL)  # fmt: skip
    elif len(picked) > 1:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        name = swept(data)[0]
        values = as_float(data[name].isel(run=picked))
        shades = ScalarMappable(Normalize(values.min(), values.max()), colour_map(MAP))
        picture.colorbar(shades, ax=list(panels), label=label(data[name], 60))
