"""The picture of a placement study, drawn from its dataset alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cubie_flow.errors import FlowError
from cubie_flow.memory import LOCATIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import Dataset

Array = Any
MOST = 32
# Of M. Okabe and K. Ito's palette, which can be told apart with any colour vision; the letters
# and the hatching say the same without colour.
BLUE, RED, GREY = "#0072B2", "#D55E00", "#999999"
COLOURS = {"register": "#FFFFFF", "local": "#56B4E9", "shared": "#E69F00"}


def draw(data: Dataset, target: Path) -> Path:
    """Draw the ranked placements, one line each, and return the PNG file.

    From left to right: where each buffer lies; the time of a batch, or where nothing was timed
    the bytes of stack and spills a thread; registers a thread; predicted occupancy.

    Raises
    ------
    FlowError
        If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = data.sizes["placement"]
    data = data.isel(placement=slice(MOST))
    rows = np.arange(data.sizes["placement"])
    buffers = [str(n).removeprefix("location_") for n in data if str(n).startswith("location_")]
    timed = bool(np.isfinite(data["time"].values).any())
    width = 0.5 * len(buffers)
    figure = Figure(figsize=(8.0 + width, 2.4 + 0.26 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4, sharey=True, width_ratios=[width, 3.2, 2.0, 2.0])
    _places(panels[0], data, buffers)
    if timed:
        _bars(panels[1], rows, 1e3 * data["time"].values, "time of a batch (ms)", BLUE, "{:.3g}")
    else:
        _memory(panels[1], rows, data)
    _bars(panels[2], rows, data["registers"].values, "registers a thread", GREY)
    full = 100 * data["occupancy"].values
    _bars(panels[3], rows, full, "occupancy (%, predicted)", GREY)
    for row in [row for row in rows if str(data["problem"].values[row])]:
        panels[1].text(0.02, row, "does not fit", va="center", fontsize=8, style="italic",
                       transform=panels[1].get_yaxis_transform())  # fmt: skip
    shown = f"the best {len(rows)} of {count}, " if count > len(rows) else ""
    order = "measured" if timed else "judged by the compiler, nothing was timed"
    figure.suptitle(
        f"{data.attrs['title']}, {data.attrs['precision']}, {data.attrs['arch']}\n"
        f"{shown}best first ({order}); * the study's own placement",
        fontsize=10,
    )
    try:
        figure.savefig(target, dpi=120)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlowError(f"the picture '{target}' cannot be written: {reason}") from error
    return target


def _places(panel: Axes, data: Dataset, buffers: list[str]) -> None:
    """Draw a square a buffer and placement, with the letter of its location."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    codes = np.stack([data[f"location_{name}"].values for name in buffers], axis=1)
    colours = ListedColormap([COLOURS[place] for place in LOCATIONS])
    edges = [np.arange(size + 1) - 0.5 for size in codes.shape]
    panel.pcolormesh(
        edges[1], edges[0], codes, cmap=colours, vmin=0, vmax=len(LOCATIONS) - 1,
        edgecolors=GREY, lw=0.5,
    )  # fmt: skip
    for (row, column), code in np.ndenumerate(codes):
        letter = LOCATIONS[code][0].upper()
        panel.text(column, row, letter, ha="center", va="center", fontsize=7)
    panel.set_xticks(np.arange(len(buffers)), buffers, rotation=40, ha="right", fontsize=8)
    words = [str(word) for word in data["placement"].values]
    ranks = [f"{i + 1}{' *' * (word == data.attrs['baseline'])}" for i, word in enumerate(words)]
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
    """Draw stack and, hatched after it, spills."""
    stack = np.asarray(data["stack"].values, float)
    spills = np.asarray((data["spill_stores"] + data["spill_loads"]).values, float)
    panel.barh(rows, np.nan_to_num(stack), color=BLUE, label="stack")
    left = np.nan_to_num(stack)
    panel.barh(rows, np.nan_to_num(spills), left=left, color=RED, hatch="////", label="spills",
               edgecolor="white", lw=0)  # fmt: skip
    total = stack + spills
    for row, (whole, spilled) in enumerate(zip(total, spills, strict=True)):
        if np.isfinite(whole):
            said = f" {whole - spilled:.0f}" + (f" + {spilled:.0f}" if spilled else "")
            panel.text(whole, row, said, va="center", fontsize=7)
    panel.set_xlim(0, 1.4 * max(np.nan_to_num(total).max(), 100.0))
    panel.set_xlabel("stack and spills, bytes a thread", fontsize=9)
    panel.tick_params(axis="x", labelsize=8)
    panel.legend(fontsize=7, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0))
