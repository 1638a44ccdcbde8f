"""Period and orbits over initial numbers: python analyse.py [results.zarr] [picture.png]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from xarray import DataArray, Dataset

from cubie_flow.analysis.attributes import model
from cubie_flow.analysis.experiments import analyse
from cubie_flow.analysis.oscillations import period
from cubie_flow.analysis.pictures.style import RED, Picture, label, legend
from cubie_flow.analysis.pictures.sweeps import draw_field, field_over


def parameters(data: Dataset) -> dict[str, float]:
    """Return the parameters, which are the same in all runs."""
    return {name: float(value) for name, value in model(data)["parameters"].items()}


def periods(data: Dataset) -> DataArray:
    """Return the period of every run, in years.

    The logarithm of the prey is nearly a sine, so its crossings of the equilibrium are interpolated
    accurately between saved times.
    """
    p = parameters(data)
    values = period(np.log(data.prey.load()), np.log(p["gamma"] / p["delta"]))
    attrs = {"long_name": "years from one cycle to the next", "units": "year"}
    return DataArray(values, dims="run", name="period", attrs=attrs)


def invariant(data: Dataset, p: dict[str, float]) -> NDArray[np.float64]:
    """Return the invariant of the model, which is constant along an orbit, for every run."""
    prey, predator = data.prey_initial.to_numpy(), data.predator_initial.to_numpy()
    return np.asarray(
        p["delta"] * prey - p["gamma"] * np.log(prey)
        + p["beta"] * predator - p["alpha"] * np.log(predator)
    )  # fmt: skip


def main(data: Dataset) -> Picture:
    """Print how the period depends on the size of the orbit and return the picture."""
    p, years = parameters(data), periods(data)
    small = 2 * np.pi / np.sqrt(p["alpha"] * p["gamma"])
    print(f"{data.sizes['run']:,} initial states; periods from {float(years.min()):.2f} years")
    print(f"the limit of small orbits is {small:.2f} years")
    orbit = invariant(data, p)
    order = np.argsort(orbit)
    print("share of the orbits, from the inside   period (years)")
    for share in (0.01, 0.25, 0.5, 0.75, 0.99):
        run = order[int(share * (len(order) - 1))]
        print(f"{share:>37.0%}   {float(years[run]):14.2f}")
    picture = Picture(7.6, 5.6)
    panel = picture.subplots()
    across, up, values = field_over(data.prey_initial, data.predator_initial, years)
    draw_field(picture, panel, (across, up, values), years)
    _, _, levels = field_over(
        data.prey_initial, data.predator_initial, DataArray(orbit, dims="run")
    )
    at = np.quantile(levels, [0.02, 0.1, 0.3, 0.6, 0.85])
    if levels.shape[0] > 2 and levels.shape[1] > 2:
        panel.contour(across, up, levels, at, colors="white", linewidths=1.0, linestyles="solid")
    panel.plot(p["gamma"] / p["delta"], p["alpha"] / p["beta"], "o", color=RED, mec="white",
               label="equilibrium; white: orbits")  # fmt: skip
    panel.set_xlabel(label(data.prey_initial, 60))
    panel.set_ylabel(label(data.predator_initial, 40))
    legend(panel, labelcolor="black", frameon=True, loc="upper right")
    picture.headed(f"{data.attrs['title']}: period over {data.sizes['run']:,} initial states")
    picture.description = (
        f"The period as colour over the initial numbers: {small:.1f} years near the equilibrium, "
        "longer farther away; lines of equal period are the closed orbits."
    )
    return picture


if __name__ == "__main__":
    analyse("lotka_volterra", main)
