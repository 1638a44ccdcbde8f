"""The picture of a placement study: the location of each buffer and its effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cubie_flow.analysis.pictures.style import BLUE, GREY, ORANGE, RED, SKY, Picture
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import Dataset

Array = Any
#: Most placements that are drawn.
MOST = 32
# Letters repeat what the colours say, for readers who cannot distinguish them.
COLOURS = {"register": "#FFFFFF", "local": SKY, "shared": ORANGE}


def placements(data: Dataset) -> Picture:
    """Draw the ranked placements of a placement study, one row per placement.

    The panels from left to right: the location of each buffer; the time of a batch or, if nothing
    was timed, bytes of stack and spills per thread; registers per thread; predicted occupancy.

    Parameters
    ----------
    data : xarray.Dataset
        The result of ``task=placement``.

    Raises
    ------
    FlowError
        If the result is not that of a placement study.
    """
    if "placement" not in data.dims:
        raise FlowError("this result is not a placement study; task=placement runs one")
    count = data.sizes["placement"]
    data = data.isel(placement=slice(MOST))
    rows = np.arange(data.sizes["placement"])
    buffers = [str(n).removeprefix("location_") for n in data if str(n).startswith("location_")]
    timed = bool(np.isfinite(data["time"].values).any())
    width = 0.5 * len(buffers)
    picture = Picture(8.0 + width, 2.4 + 0.26 * len(rows))
    panels = picture.subplots(1, 4, sharey=True, width_ratios=[width, 3.2, 2.0, 2.0])
    _locations(panels[0], data, buffers)
    if timed:
        _bars(panels[1], rows, 1e3 * data["time"].values, "time of a batch (ms)", BLUE, "{:.3g}")
    else:
        _memory(panels[1], rows, data)
    _bars(panels[2], rows, data["registers"].values, "registers per thread", GREY)
    full = 100 * data["occupancy"].values
    _bars(panels[3], rows, full, "occupancy (%, predicted)", GREY)
    for row in [row for row in rows if str(data["problem"].values[row])]:
        panels[1].text(0.02, row, "does not fit", va="center", fontsize=8, style="italic",
                       transform=panels[1].get_yaxis_transform())  # fmt: skip
    shown = f"the best {len(rows)} of {count}, " if count > len(rows) else ""
    order = "measured" if timed else "by the compiler's figures, nothing was timed"
    picture.suptitle(
        f"{data.attrs['title']}, {data.attrs['precision']}, {data.attrs['arch']}\n"
        f"{shown}best first ({order}); * the study's own placement",
        fontsize=10,
    )
    picture.description = f"{data.attrs['title']}: {count} placements, best first ({order})"
    return picture


def _locations(panel: Axes, data: Dataset, buffers: list[str]) -> None:
    """Draw a square per buffer and placement, with the first letter of the location."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    codes = np.stack([data[f"location_{name}"].values for name in buffers], axis=1)
    words = data[f"location_{buffers[0]}"].attrs["flag_meanings"].split()
    colours = ListedColormap([COLOURS[word] for word in words])
    edges = [np.arange(size + 1) - 0.5 for size in codes.shape]
    panel.pcolormesh(
        edges[1], edges[0], codes, cmap=colours, vmin=0, vmax=len(words) - 1,
        edgecolors=GREY, lw=0.5,
    )  # fmt: skip
    for (row, column), code in np.ndenumerate(codes):
        letter = words[code][0].upper()
        panel.text(column, row, letter, ha="center", va="center", fontsize=7)
    panel.set_xticks(np.arange(len(buffers)), buffers, rotation=40, ha="right", fontsize=8)
    own = [str(word) == data.attrs["baseline"] for word in data["placement"].values]
    ranks = [f"{i + 1}{' *' * mine}" for i, mine in enumerate(own)]
    panel.set_yticks(np.arange(len(ranks)), ranks, fontsize=8)
    panel.set_ylim(len(ranks) - 0.5, -0.5)  # the best on top
    panel.set_ylabel("rank")
    keys = [Patch(facecolor=c, edgecolor=GREY, label=name) for name, c in COLOURS.items()]
    panel.legend(handles=keys, fontsize=7, ncols=1, loc="lower left", bbox_to_anchor=(0.0, 1.0))


def _bars(panel: Axes, rows: Array, values: Array, text: str, colour: str,
          form: str = "{:.0f}") -> None:  # fmt: skip
    values = np.asarray(values, float)
    known = np.nan_to_num(values)
    panel.barh(rows, known, color=colour)
    for row, value in zip(rows, values, strict=True):
        if np.isfinite(value):
            panel.text(value, row, f" {form.format(value)}", va="center", fontsize=7)
    panel.set_xlim(0, 1.25 * max(known.max(), 1e-9))
    panel.set_xlabel(text, fontsize=9)
    panel.tick_params(axis="x", labelsize=8)


def _memory(panel: Axes, rows: Array, data: Dataset) -> None:
    """Draw bars of stack followed by spills, which are hatched."""
    stack = np.asarray(data["stack"].values, float)
    spills = np.asarray((data["spill_stores"] + data["spill_loads"]).values, float)
    panel.barh(rows, np.nan_to_num(stack), color=BLUE, label="stack")
    left = np.nan_to_num(stack)
    panel.barh(rows, np.nan_to_num(spills), left=left, color=RED, hatch="////", label="spills",
               edgecolor="white", lw=0)  # fmt: skip
    total = stack + spills
    for row, (whole, spilled) in enumerate(zip(total, spills, strict=True)):
        if np.isfinite(whole):
            text = f" {whole - spilled:.0f}" + (f" + {spilled:.0f}" if spilled else "")
            panel.text(whole, row, text, va="center", fontsize=7)
    panel.set_xlim(0, 1.4 * max(np.nan_to_num(total).max(), 100.0))
    panel.set_xlabel("stack and spills, bytes per thread", fontsize=9)
    panel.tick_params(axis="x", labelsize=8)
    panel.legend(fontsize=7, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0))
