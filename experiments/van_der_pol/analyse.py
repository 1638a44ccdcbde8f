"""Period over mu, compared with theory: python analyse.py [results.zarr] [picture.png]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from xarray import Dataset

from cubie_flow.analysis.experiments import analyse
from cubie_flow.analysis.oscillations import period
from cubie_flow.analysis.pictures.style import BLUE, GREEN, RED, Picture, label, legend, tidy

#: Share of the times that is left out as transient; then every run is on its limit cycle.
START = 1 / 3


def periods(data: Dataset) -> NDArray[np.float64]:
    """Return the period of every run, from upward zeros of x."""
    return period(data.x.isel(time=slice(int(START * data.sizes["time"]), None)), 0.0)


def weak(mu: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the period for small mu, to fourth order.

    C. M. Andersen and J. F. Geer, SIAM J. Appl. Math. 42 (1982) 678-693.
    """
    return 2 * np.pi * (1 + mu**2 / 16 - 5 * mu**4 / 3072)


def strong(mu: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the first two terms of the period for large mu.

    A. A. Dorodnicyn, Prikl. Mat. Mekh. 11 (1947) 313-328; 2.33811 is the first zero of Ai(-x).
    """
    period: NDArray[np.float64] = (3 - 2 * np.log(2)) * mu + 3 * 2.33811 * mu ** (-1 / 3)
    return period


def main(data: Dataset) -> Picture:
    """Print how far the periods are from theory, and return the picture."""
    mu = data.mu.to_numpy()
    integrated = periods(data)
    print(f"{data.sizes['run']:,} values of mu; relative distance of the period from theory")
    for text, chosen, theory in (
        ("mu below 0.5, series", mu < 0.5, weak),
        ("mu above 10, asymptotic", mu > 10, strong),
    ):
        if chosen.any():
            distance = np.nanmax(np.abs(integrated[chosen] / theory(mu[chosen]) - 1))
            print(f"{text:<24} at most {distance:.1e}")
    picture = Picture(8.0, 5.0)
    panel = picture.subplots()
    panel.loglog(mu, integrated, color=BLUE, lw=2.4, label="integrated")
    small, large = mu[mu < 2], mu[mu > 1]
    panel.loglog(small, weak(small), color=RED, lw=1.4, ls="--", label="theory, small mu")
    panel.loglog(large, strong(large), color=GREEN, lw=1.4, ls=":", label="theory, large mu")
    panel.set_xlabel(label(data.mu, 60))
    panel.set_ylabel("period")
    panel.set_yticks([6, 10, 20, 30, 50], ["6", "10", "20", "30", "50"])
    panel.minorticks_off()
    panel.set_xticks([0.1, 0.3, 1, 3, 10, 30], ["0.1", "0.3", "1", "3", "10", "30"])
    tidy(panel)
    legend(panel, fontsize=9)
    picture.headed(f"{data.attrs['title']}: period of {data.sizes['run']:,} limit cycles")
    picture.description = (
        "The period over mu, both logarithmic: close to 2 pi up to mu = 1, then rising in "
        "proportion to mu; the two theoretical curves coincide with it at either end."
    )
    return picture


if __name__ == "__main__":
    analyse("van_der_pol", main)
