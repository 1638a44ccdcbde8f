"""Firing rate over current: python analyse.py [results.zarr] [picture.png]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from xarray import Dataset

from cubie_flow.analysis.experiments import analyse
from cubie_flow.analysis.oscillations import period
from cubie_flow.analysis.pictures.style import BLUE, GREY, RED, Picture, label, legend, tidy

#: Share of the time that is left out as transient; a spike train varies by more than 1 mV.
START, SWING = 1 / 3, 1.0
#: Currents in uA cm-2 at which the resting state of an axon at 6.3 degC loses and regains its
#: stability: J. Rinzel and R. N. Miller, Math. Biosci. 49 (1980) 27-59.
HOPF = (9.78, 154.5)


def rates(data: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the firing rate (Hz), and the lowest and highest potential (mV), of every run."""
    late = data.V.isel(time=slice(int(START * data.sizes["time"]), None)).load()
    low, high = late.min("time").to_numpy(), late.max("time").to_numpy()
    rate = 1000 / period(late, (low + high) / 2)
    return np.where(high - low > SWING, np.nan_to_num(rate), 0.0), low, high


def main(data: Dataset) -> Picture:
    """Print the range of currents with firing, and return the picture."""
    current = data.I_ext.to_numpy()
    rate, low, high = rates(data)
    firing = current[rate > 0]
    print(f"{data.sizes['run']:,} currents; {firing.size:,} of them with sustained firing")
    if firing.size:
        first, last = firing.min(), firing.max()
        print(f"lowest   {first:6.2f} uA/cm2, at {rate[current == first][0]:.1f} Hz")
        print(f"highest  {last:6.2f} uA/cm2, at {rate[current == last][0]:.1f} Hz")
    picture = Picture(8.0, 6.0)
    upper, lower = picture.subplots(2, 1, sharex=True)
    upper.plot(current, rate, color=BLUE, lw=1.5)
    upper.set_ylabel("firing rate (Hz)")
    lower.fill_between(current, low, high, color=BLUE, alpha=0.3, lw=0)
    extremes = "highest and lowest V after the transient"
    lower.plot(current, high, color=BLUE, lw=1.2, label=extremes)
    lower.plot(current, low, color=BLUE, lw=1.2)
    lower.set_ylabel(label(data.V))
    lower.set_xlabel(label(data.I_ext, 60))
    for panel in (upper, lower):
        for value, text in zip(HOPF, ("stability of the resting state changes", None), strict=True):
            panel.axvline(value, color=RED, lw=1.0, ls="--", label=text)
        panel.axhline(0, color=GREY, lw=0.6)
        tidy(panel)
        legend(panel)
    lower.set_xlim(current.min(), current.max())
    picture.headed(f"{data.attrs['title']}: firing over {data.sizes['run']:,} currents")
    picture.description = (
        f"Above: the firing rate jumps from 0 to about {rate[rate > 0].min(initial=0):.0f} Hz, "
        "rises with the current and falls back to 0. Below: the amplitude of the potential shrinks."
    )
    return picture


if __name__ == "__main__":
    analyse("hodgkin_huxley", main)
