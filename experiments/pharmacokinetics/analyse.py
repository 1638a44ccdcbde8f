"""Parameters recovered by the sweep: python analyse.py [results.zarr] [picture.png].

With ``--data`` it prints the synthetic data of experiment.yaml instead.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from cubie_flow.analysis.experiments import newest

#: The true parameters, in L/h, L, L/h and L.
TRUTH = {"CL": 4.7, "V1": 18.0, "Q": 2.9, "V2": 31.0}
DOSE, INFUSION = 100.0, 1.0
TIMES = np.array([0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 18.0, 24.0, 36.0])
NOISE, SEED = 0.06, 1
Array = Any


def concentration(t: Array, cl: Array, v1: Array, q: Array, v2: Array) -> Array:
    """Return the closed form of the concentration in mg/L, independently of the solver.

    It is a sum of two exponentials, during and after the infusion, whose rates are the eigenvalues
    of the two linear equations.

    Parameters
    ----------
    t : float or ndarray
        Time in h.
    cl, v1, q, v2 : float or ndarray
        The parameters; they broadcast with `t`.
    """
    k10, k12, k21 = cl / v1, q / v1, q / v2
    half = (k10 + k12 + k21) / 2
    root = np.sqrt(half**2 - k10 * k21)
    fast, slow = half + root, half - root
    running, after = np.minimum(t, INFUSION), np.maximum(t - INFUSION, 0.0)

    def part(rate: Array, other: Array) -> Array:
        weight = (k21 - rate) / (other - rate) / rate
        return weight * (1 - np.exp(-rate * running)) * np.exp(-rate * after)

    return DOSE / INFUSION / v1 * (part(fast, slow) + part(slow, fast))


def synthetic() -> tuple[Array, Array]:
    """Return noisy concentrations and their standard deviations at `TIMES`; one is missing."""
    exact = concentration(TIMES, *TRUTH.values())
    sigma = NOISE * exact
    noisy = exact + sigma * np.random.default_rng(SEED).standard_normal(len(TIMES))
    noisy[8] = np.nan
    return noisy.round(4), sigma.round(4)


def main() -> None:
    """Print how well the sweep recovers the parameters, and draw the result."""
    if "--data" in sys.argv:
        noisy, sigma = synthetic()
        values = [None if np.isnan(value) else value for value in noisy.tolist()]
        print(json.dumps({"time": TIMES.tolist(), "c": values, "c_sigma": sigma.tolist()}))
        return
    arguments = [Path(word) for word in sys.argv[1:]]
    path = arguments[0] if arguments else newest("pharmacokinetics")
    data = xarray.open_zarr(path, chunks=None)[["loglik", "c_wls", "status", *TRUTH]].load()
    measured = json.loads(data.attrs["compare"])
    print(f"{path}: {data.sizes['run']:,} runs, {int((data.status == 0).sum()):,} successful")
    best = int(data.loglik.values.argmax())
    count = sum(value is not None for value in measured["c"])
    print(f"best run {best}: loglik {float(data.loglik[best]):.2f}, chi2 "
          f"{float(data.c_wls[best]):.1f} of {count} values")  # fmt: skip
    # The design is uniform in the logarithms, so likelihoods are the weights of a posterior.
    weight = np.exp(data.loglik - data.loglik.max())
    weight = (weight / weight.sum()).values
    print(f"weights of {1 / (weight**2).sum():.0f} runs out of all")
    print("parameter  truth   best   posterior mean and sd   off by")
    for name, truth in TRUTH.items():
        values = data[name].values
        mean = float((weight * values).sum())
        spread = float(np.sqrt((weight * (values - mean) ** 2).sum()))
        print(f"{name:9} {truth:6.2f} {values[best]:6.2f} {mean:10.2f} +- {spread:5.2f} "
              f"{(mean - truth) / spread:12.1f} sd")  # fmt: skip
    draw(
        data,
        measured,
        weight,
        arguments[1] if len(arguments) > 1 else path.parent / "recovered.png",
    )


def draw(data: xarray.Dataset, measured: dict[str, list[float]], weight: Array, to: Path) -> None:
    """Draw the data with the fits, and the likelihood profile of every parameter.

    Parameters
    ----------
    data : xarray.Dataset
        The loaded result.
    measured : dict
        The data by column.
    weight : ndarray, shape (runs,)
        Posterior weights of the runs.
    to : Path
        The picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(11, 5.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.15])
    axes = left.subplots()
    t = np.concatenate([np.linspace(0, 4, 161), np.linspace(4, 36, 129)[1:]])
    chosen = np.random.default_rng(0).choice(len(weight), 400, p=weight)
    curves = concentration(t, *(data[name].values[chosen, None] for name in TRUTH))
    low, high = np.quantile(curves, [0.05, 0.95], axis=0)
    axes.fill_between(t, low, high, color="#2a6f97", alpha=0.3, lw=0, label="90 % of the fits")
    axes.plot(t, concentration(t, *TRUTH.values()), color="black", lw=1, label="truth")
    sigma = measured["c_sigma"]
    values = np.array(measured["c"], float)
    axes.errorbar(measured["time"], values, sigma, fmt="o", ms=4, color="#c1121f", label="data")
    axes.set(yscale="log", xlabel="time [h]", ylabel="concentration [mg/L]", ylim=(0.05, 8))
    axes.legend(frameon=False)
    units = {"CL": "L/h", "V1": "L", "Q": "L/h", "V2": "L"}
    for panel, (name, truth) in zip(right.subplots(2, 2).ravel(), TRUTH.items(), strict=True):
        x = data[name].values
        edges = np.geomspace(x.min(), x.max(), 81)
        cell = np.digitize(x, edges[1:-1])
        profile = np.full(80, -np.inf)
        np.maximum.at(profile, cell, data.loglik.values)
        panel.plot(np.sqrt(edges[1:] * edges[:-1]), profile - profile.max(), color="#2a6f97")
        panel.axvline(truth, color="black", lw=1)
        # Half the 95 % quantile of chi-squared with one degree of freedom.
        panel.axhline(-1.92, color="gray", lw=0.8, ls=":")
        panel.set(xlabel=f"{name} [{units[name]}]", ylim=(-8, 0.5), xscale="log")
        near = np.sqrt(edges[1:] * edges[:-1])[profile - profile.max() > -8]
        panel.set_xlim(near.min() / 1.03, near.max() * 1.03)
        panel.xaxis.set_major_locator(plt.MaxNLocator(4))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
    right.supylabel("loglik, best run = 0", fontsize=10)
    figure.savefig(to, dpi=130)
    print(f"picture {to}")


if __name__ == "__main__":
    main()
