"""An order in which runs of similar cost are solved together; stored results keep their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = Any
#: One run in this many belongs to the pilot, and at most the second number.
SPACING, PILOT = 32, 2048
#: Runs of the pilot whose mean is the estimate of a run.
NEIGHBOURS = 4
#: Fewer runs are not worth a pilot.
LEAST = 512


def cost_order(
    columns: Mapping[str, Array], count: int, attempts: Callable[[Array], Array]
) -> Array | None:
    """Return an order of runs, most expensive first, or None if there is nothing to order.

    A pilot of runs, spread evenly over the batch, is integrated. The estimated cost of another
    run is the mean over the nearest runs of the pilot, with each varied quantity scaled to its
    spread. The most expensive runs come first, so that none of them is left for the end.

    Parameters
    ----------
    columns : mapping
        Values of every varied quantity, each of shape (count,).
    count : int
    attempts : callable
        Maps numbers of runs, shape (n,), to the steps they attempt, shape (n,).

    Returns
    -------
    ndarray of int, shape (count,)
    """
    points = _scaled(columns)
    if count < LEAST or points is None:
        return None
    from scipy.spatial import cKDTree

    pilot = np.unique(np.linspace(0, count - 1, min(PILOT, count // SPACING)).astype(np.int64))
    cost = np.asarray(attempts(pilot), np.float64)
    _, near = cKDTree(points[pilot]).query(points, k=min(NEIGHBOURS, len(pilot)))
    estimate = cost[near].mean(axis=1)
    # Stable, so that the order is the same everywhere.
    return np.argsort(-estimate, kind="stable")


def _scaled(columns: Mapping[str, Array]) -> Array | None:
    """Return the runs as points, shape (runs, varied quantities), scaled to unit deviation."""
    axes = []
    for values in columns.values():
        axis = np.asarray(values, np.float64)
        spread = float(axis.std())
        if spread > 0.0 and np.isfinite(spread):
            axes.append(axis / spread)
    return np.stack(axes, axis=1) if axes else None
