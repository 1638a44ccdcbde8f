"""Where the repressilator oscillates: python analyse.py [results.zarr] [picture.png]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from xarray import DataArray, Dataset

from cubie_flow.analysis.attributes import model
from cubie_flow.analysis.experiments import analyse
from cubie_flow.analysis.pictures.style import RED, Picture, label, legend
from cubie_flow.analysis.pictures.sweeps import draw_field, field_over

#: A run oscillates if its relative amplitude is larger, see `amplitudes`.
SHARE = 0.1


def amplitudes(data: Dataset) -> DataArray:
    """Return the relative amplitude of the protein late in a run, from 0 at rest to 1."""
    late = data.p_cI.load()
    low, high = late.min("time"), late.max("time")
    amplitude: DataArray = (high - low) / (high + low)
    return amplitude.rename("amplitude").assign_attrs(
        long_name="(highest - lowest)/(highest + lowest) CI repressor", units="1"
    )


def margin(
    alpha: NDArray[np.float64], n: NDArray[np.float64], beta: float, leak: float
) -> NDArray[np.float64]:
    """Return the stability margin of the steady state, positive where it is unstable.

    M. B. Elowitz and S. Leibler, Nature 403 (2000) 335-338, box 1: with p = alpha/(1 + p^n) +
    alpha_0 and X = -alpha n p^(n-1)/(1 + p^n)^2, unstable where
    (beta + 1)^2/beta < 3 X^2/(4 + 2 X).

    Parameters
    ----------
    alpha, n : ndarray
        Strength of transcription and Hill coefficient, of equal shapes.
    beta, leak : float
        Ratio of the decay rates, and alpha_0.
    """
    low, high = np.zeros_like(alpha), alpha + leak + 1
    for _ in range(80):  # bisection: p - alpha/(1 + p^n) rises with p
        p = (low + high) / 2
        above = p - alpha / (1 + p**n) - leak > 0
        low, high = np.where(above, low, p), np.where(above, p, high)
    p = (low + high) / 2
    x = -alpha * n * p ** (n - 1) / (1 + p**n) ** 2
    # The steady state is also unstable where 4 + 2 X is not positive.
    gain = np.where(4 + 2 * x > 0, 3 * x**2 / np.where(4 + 2 * x > 0, 4 + 2 * x, 1), np.inf)
    return gain - (beta + 1) ** 2 / beta


def main(data: Dataset) -> Picture:
    """Print how well theory and integration agree, and return the picture."""
    parameters = model(data)["parameters"]
    beta, leak = float(parameters["beta"]), float(parameters["alpha_0"])
    amplitude = amplitudes(data)
    alpha, n = data.alpha.to_numpy(), data.n.to_numpy()
    unstable = margin(alpha, n, beta, leak) > 0
    moving = amplitude.to_numpy() > SHARE
    print(f"{data.sizes['run']:,} runs; {moving.mean():.1%} oscillate at the end")
    print(
        f"linear theory says {unstable.mean():.1%}, and agrees in {np.mean(unstable == moving):.1%}"
    )
    print(f"oscillating though the steady state is stable: {np.mean(moving & ~unstable):.2%}")
    print(f"at rest though it is unstable (not grown yet): {np.mean(~moving & unstable):.2%}")
    picture = Picture(7.8, 5.4)
    panel = picture.subplots()
    across, up, values = field_over(data.alpha, data.n, amplitude)
    draw_field(picture, panel, (across, up, values), amplitude)
    edge = margin(*np.meshgrid(across, up), beta, leak)
    if min(edge.shape) > 1:
        panel.contour(across, up, np.clip(edge, -1e3, 1e3), [0.0], colors=RED, linewidths=1.6)
    panel.plot([], [], color=RED, lw=1.6, label="theory: the steady state loses stability")
    panel.set_xscale("log")
    panel.set_xlabel(label(data.alpha, 60))
    panel.set_ylabel(label(data.n))
    legend(panel, loc="lower left", frameon=True)
    picture.headed(f"{data.attrs['title']}: oscillations in {data.sizes['run']:,} runs")
    picture.description = (
        f"Amplitude of the protein over alpha and n: {moving.mean():.0%} of the runs oscillate, "
        "at strong transcription and steep repression; the theoretical boundary follows the edge."
    )
    return picture


if __name__ == "__main__":
    analyse("repressilator", main)
