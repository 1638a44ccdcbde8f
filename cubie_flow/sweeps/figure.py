"""The picture of a placement study, drawn from its dataset alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from xarray import Dataset

MOST = 32
BLUE, RED, GREY = "#0072B2", "#D55E00", "#999999"


def draw(data: Dataset, target: Path) -> Path:
    """Draw the ranked placements and return the PNG file.

    Left the time of a batch, or where nothing was timed the bytes of stack and spills a thread;
    right the predicted occupancy.

    Raises
    ------
    FlowError
        If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    data = data.isel(placement=slice(MOST))
    words = [str(word).replace(" ", "\n") for word in data["placement"].values]
    rows, lines = np.arange(len(words)), max(word.count("\n") + 1 for word in words)
    figure = Figure(figsize=(9.0, 1.6 + 0.17 * lines * len(words)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    time = data["time"].values
    if np.isfinite(time).any():
        left.barh(rows, 1e3 * time, color=BLUE)
        left.set_xlabel("time of a batch (ms)")
    else:
        stack = data["stack"].values
        spills = (data["spill_stores"] + data["spill_loads"]).values
        left.barh(rows, stack, color=BLUE, label="stack")
        left.barh(rows, spills, left=stack, color=RED, label="spills")
        left.set_xlabel("bytes a thread (compiler)")
        left.legend()
    right.barh(rows, 100 * data["occupancy"].values, color=GREY)
    for row, count in zip(rows, data["registers"].values, strict=True):
        right.text(1, row, f"{count} registers", va="center", fontsize=7)
    right.set_xlabel("predicted occupancy (%)")
    right.set_xlim(0, 100)
    left.set_yticks(rows, words, fontsize=7)
    left.invert_yaxis()
    figure.suptitle(f"{data.attrs['title']}, {data.attrs['precision']}, {data.attrs['arch']}")
    try:
        figure.savefig(target, dpi=120)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlowError(f"the picture '{target}' cannot be written: {reason}") from error
    return target
