"""Maxima of z over rho: python analyse.py [results.zarr] [picture.png]."""

from __future__ import annotations

import numpy as np
from xarray import Dataset

from cubie_flow.analysis.experiments import analyse
from cubie_flow.analysis.pictures import drawer
from cubie_flow.analysis.pictures.style import GREY, RED, SMALL, Picture

#: Number of runs that are integrated again with denser saved times, as maxima need them.
RUNS, DURATION, SAVE_EVERY = 1500, 60.0, 0.02
#: C. Sparrow, The Lorenz Equations, Springer 1982, chapter 1 and 2, for sigma = 10, beta = 8/3.
EVENTS = {1.0: "pitchfork", 13.926: "homoclinic", 24.06: "attractor", 24.74: "Hopf"}


def table(data: Dataset) -> list[tuple[float, float, float, float]]:
    """Return ranges of rho, the final distance of z from the fixed point, and its late range."""
    good = (data.status == 0).to_numpy()
    rho, late = data.rho.to_numpy(), data.z.isel(time=slice(-11, None)).to_numpy()
    distance = np.abs(late[:, -1] - np.maximum(rho - 1, 0))
    width = late.max(axis=1) - late.min(axis=1)
    rows = []
    for low, high in ((0, 1), (1, 5), (5, 13.9), (13.9, 20), (20, 24.06), (24.74, 30), (30, 40)):
        chosen = good & (rho >= low) & (rho < high)
        if chosen.any():
            rows.append(
                (low, high, float(np.median(distance[chosen])), float(np.median(width[chosen])))
            )
    return rows


def rerun_denser(data: Dataset) -> Dataset:
    """Integrate evenly spaced runs of the sweep again, longer and with denser saved times."""
    which = np.unique(np.linspace(0, data.sizes["run"] - 1, RUNS).astype(int))
    return data.flow.rerun(  # type: ignore[no-any-return]
        which, duration=DURATION, save_every=SAVE_EVERY, variables=["z"], summaries=[]
    )


def main(data: Dataset) -> Picture:
    """Print where z settles, and return the bifurcation diagram."""
    print(f"{data.sizes['run']:,} runs, {int((data.status == 0).sum()):,} successful")
    print("rho            |final z - (rho - 1)|, median   range of z in the last 5 units, median")
    for low, high, distance, width in table(data):
        print(f"{low:5} to {high:5} {distance:31.4f} {width:40.4f}")
    again = rerun_denser(data)
    print(f"{again.sizes['run']:,} of them again, to time {DURATION:g}, saved every {SAVE_EVERY:g}")
    picture = drawer("bifurcation")(again, "z", over="rho")
    (panel,) = picture.axes
    for i, (rho, text) in enumerate(EVENTS.items()):
        panel.axvline(rho, color=RED if text == "Hopf" else GREY, lw=0.8, ls="--", zorder=0)
        panel.text(rho, 0.98 - 0.06 * (i % 2), f" {text} {rho:g}", fontsize=SMALL, va="top",
                   ha="left" if text != "attractor" else "right",
                   transform=panel.get_xaxis_transform())  # fmt: skip
    return picture


if __name__ == "__main__":
    analyse("lorenz_sweep", main)
