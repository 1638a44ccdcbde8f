"""Maxima over the delay, compared with theory: python analyse.py [results.zarr] [picture.png]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from xarray import Dataset

from cubie_flow.analysis.experiments import analyse
from cubie_flow.analysis.oscillations import maxima
from cubie_flow.analysis.pictures.style import BLUE, GREY, RED, SMALL, Picture, label, tidy

#: Share of the times that is left out as transient.
START = 0.8
#: The equilibrium x = 1 has the linear equation u' = -0.4 u(t - tau) - 0.1 u.
ACT, DECAY = 0.4, 0.1
#: J. D. Farmer, Chaotic attractors of an infinite-dimensional dynamical system, Physica 4D (1982)
#: 366-393: the cycle doubles at 13.3, and chaos begins at 16.8.
DOUBLING, CHAOS = 13.3, 16.8
#: Difference below which two maxima are one, relative to the largest.
SAME = 0.01


def hopf() -> float:
    """Return the delay at which the equilibrium loses its stability, from the linear equation."""
    return float(np.arccos(-DECAY / ACT) / np.sqrt(ACT**2 - DECAY**2))


def levels(over: NDArray[np.float64], peaks: NDArray[np.float64]) -> dict[float, int]:
    """Return the number of different maxima for every delay."""
    counts = {}
    for tau in np.unique(over):
        own = np.sort(peaks[over == tau])
        counts[float(tau)] = 1 + int((np.diff(own) > SAME * own[-1]).sum())
    return counts


def main(data: Dataset) -> Picture:
    """Print where the motion changes, and return the map."""
    late = data.x.isel(time=slice(int(START * data.sizes["time"]), None))
    tau = data.tau.to_numpy()
    swing = np.ptp(late.to_numpy(), axis=1)
    over, peaks = maxima(late, tau)
    counts = levels(over, peaks)
    print(f"{data.sizes['run']:,} delays, {int((data.status == 0).sum()):,} runs successful")
    if (swing > 0.1).any():
        print(f"oscillates from tau = {tau[swing > 0.1].min():.2f} on; linear theory {hopf():.2f}")
    double = [one for one, count in counts.items() if one > 10 and count >= 2]
    if double:
        print(f"two maxima from tau = {min(double):.2f} on; Farmer {DOUBLING}")
    many = [one for one, count in counts.items() if one > 10 and count > 4]
    if many:
        print(f"more than four from tau = {min(many):.2f} on; Farmer: chaos from {CHAOS}")
    picture = Picture(8.0, 5.0)
    panel = picture.subplots()
    panel.plot(over, peaks, ".", ms=1.2, color=BLUE, rasterized=True)
    for at, text in ((hopf(), "Hopf"), (DOUBLING, "doubling"), (CHAOS, "chaos")):
        panel.axvline(at, color=RED if text == "Hopf" else GREY, lw=0.8, ls="--", zorder=0)
        panel.text(at, 0.03, f" {text} {at:.1f}", fontsize=SMALL,
                   transform=panel.get_xaxis_transform())  # fmt: skip
    panel.set_xlabel(label(data.tau, 60))
    panel.set_ylabel("maxima of x")
    tidy(panel)
    picture.headed(f"{data.attrs['title']}: maxima of {data.sizes['run']:,} runs")
    picture.description = (
        "Maxima of x over the delay: one until about 13.3, then two, four, and from 16.8 on bands "
        "with windows of few maxima."
    )
    return picture


if __name__ == "__main__":
    analyse("mackey_glass", main)
