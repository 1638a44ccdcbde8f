"""A prediction with uncertain rates: python analyse.py [results.zarr] [picture.png]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from xarray import Dataset

from cubie_flow.analysis.experiments import analyse
from cubie_flow.analysis.pictures import drawer
from cubie_flow.analysis.pictures.style import Picture

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


def quantiles(data: Dataset, name: str, time: float) -> NDArray[np.float64]:
    """Return the quantiles of a fraction over the runs, at the saved time nearest to `time`."""
    values = data[name].sel(time=time, method="nearest")
    return np.asarray(values.quantile(SHARES).to_numpy())


def main(data: Dataset) -> Picture:
    """Print quantiles and the effect of each rate, and return the picture."""
    print(f"{data.sizes['run']:,} samples of k1, k2, k3; fraction of C over time")
    print("time (s)" + "".join(f"{share:>10.0%}" for share in SHARES))
    for time in (1.0, 100.0, 1.0e4, float(data.time[-1])):
        print(f"{time:8g}" + "".join(f"{value:10.4f}" for value in quantiles(data, "y3", time)))
    print("rank correlation with the fraction of C at the end")
    for name in ("k1", "k2", "k3"):
        print(f"{name:>8} {spearmanr(data[name], data.y3_final).statistic:+.2f}")
    picture = drawer("bands")(data, quantiles=SHARES, log=True)
    picture.headed(f"{data.attrs['title']}: {data.sizes['run']:,} samples of uncertain rates")
    return picture


if __name__ == "__main__":
    analyse("robertson", main)
