"""What pictures read from a result: its variables, its runs and what varies between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cubie_flow.analysis.attributes import design, model
from cubie_flow.analysis.runs import numbers, positions_of, swept
from cubie_flow.errors import FlowError, nearest

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

Array = NDArray[Any]
#: Most runs that a picture draws, and the number of places from which they are taken: a picture
#: reads at most two chunks of a variable per place, whatever the size of the study.
SAMPLED, PLACES = 20_000, 600


def in_order(data: Dataset, suffix: str = "") -> list[str]:
    """Return the variables with a suffix: states first, in the order of the model."""
    return [name + suffix for name in _quantities(data) if name + suffix in data]


def _quantities(data: Dataset) -> list[str]:
    """Return the states and observables of the model in its order."""
    system = model(data)
    return [*system.get("states", ()), *system.get("observables", ())]


def saved(data: Dataset) -> list[str]:
    """Return the variables that were saved over time."""
    known = in_order(data)
    others = [str(name) for name in data.data_vars if name not in known]
    return [name for name in (*known, *others) if data[name].dims == ("run", "time")]


#: Variables that count the work of a run, and variables that are not metrics.
_COUNTERS, _OWN = ("steps", "rejected"), ("status", "attempt")


def metrics(data: Dataset) -> list[str]:
    """Return the variables with one number per run, in the order of the model, counters last."""
    known = [
        str(name)
        for name, array in data.data_vars.items()
        if array.dims == ("run",) and array.dtype.kind in "fiu" and name not in _OWN
    ]
    order = _quantities(data)
    owner = {name: next((k for k in order if name.startswith(f"{k}_")), "") for name in known}
    rank = {name: i for i, name in enumerate([*order, "", *_COUNTERS])}
    return sorted(known, key=lambda name: rank.get(name, rank[owner[name]]))


def chosen(data: Dataset, variables: Sequence[str] | str | None, most: int) -> list[str]:
    """Return the saved variables to draw.

    Parameters
    ----------
    data : xarray.Dataset
    variables : str or sequence of str, optional
        Their names; by default the first `most` saved variables.
    most : int

    Raises
    ------
    FlowError
        If nothing was saved over time, or a name is not that of a saved variable.
    """
    known = saved(data)
    if not known:
        raise FlowError(
            "this result holds no trajectories, only one number per run; integrate it with "
            "output.save_every=... to draw over time"
        )
    if variables is None:
        return known[:most]
    wanted = [variables] if isinstance(variables, str) else list(variables)
    return [check_name(name, known, "saved variable") for name in wanted]


def check_name(name: str, known: Sequence[str], kind: str) -> str:
    """Return a name if it is known.

    Parameters
    ----------
    name : str
    known : sequence of str
    kind : str
        What the name stands for, for the message.

    Raises
    ------
    FlowError
        If it is not; the message lists the known names and the nearest one.
    """
    if name not in known:
        raise FlowError(
            f"'{name}' is not a {kind} of this result (it has {', '.join(known) or 'none'})"
            f"{nearest(name, known)}"
        )
    return name


def quantity(data: Dataset, name: str | None, instead_of: Sequence[str] = ()) -> str:
    """Return the quantity over which to draw: the one named, or the first that varies.

    Parameters
    ----------
    data : xarray.Dataset
    name : str, optional
    instead_of : sequence of str
        Quantities that are taken already.

    Raises
    ------
    FlowError
        If nothing varies, or the named quantity does not.
    """
    varied = swept(data)
    if name is not None:
        return check_name(name, varied, "swept quantity")
    free = [other for other in varied if other not in instead_of]
    if not free:
        raise FlowError(
            "this picture is drawn over what varies between the runs, and here "
            + (f"only {', '.join(varied)} does" if varied else "nothing does")
        )
    return free[0]


def sampled(data: Dataset) -> Dataset:
    """Return a result with at most `SAMPLED` of its runs: consecutive ones at evenly spaced places.

    No values are read.
    """
    if data.sizes["run"] <= SAMPLED:
        return data
    return data.isel(run=even_sample(data.sizes["run"], SAMPLED, PLACES))


def even_sample(total: int, most: int, places: int) -> Array:
    """Return positions of at most `most` runs: all, or consecutive ones at evenly spaced places.

    Parameters
    ----------
    total : int
        Number of runs.
    most, places : int
        Most runs, and the number of places from which they are taken.
    """
    if total <= most:
        return np.arange(total)
    each = most // places
    starts = np.linspace(0, total - each, places).astype(int)
    return (starts[:, None] + np.arange(each)).ravel()


def run_indices(data: Dataset, runs: int | Sequence[int]) -> Array:
    """Return the positions of the runs to draw.

    Parameters
    ----------
    data : xarray.Dataset
    runs : int or sequence of int
        How many runs, evenly over all of them, or their numbers.

    Raises
    ------
    FlowError
        If a run does not exist.
    """
    total = data.sizes["run"]
    if isinstance(runs, int):
        if runs < 1:
            raise FlowError(f"runs is {runs}; at least one must be drawn")
        return np.unique(np.linspace(0, total - 1, min(runs, total)).astype(int))
    return positions_of(data, runs)


def run_labels(data: Dataset, picked: Array, varied: Sequence[str]) -> list[str]:
    """Return the labels of runs: their numbers in the study, and the values that varied.

    Parameters
    ----------
    data : xarray.Dataset
    picked : ndarray of int
        Positions of the runs.
    varied : sequence of str
        Coordinates whose values are in the label.
    """
    labels = []
    for position, number in zip(picked, numbers(data, picked), strict=True):
        values = [f"{name}={float(data[name][position]):.4g}" for name in varied]
        labels.append(f"run {number:,}{': ' if values else ''}{', '.join(values)}")
    return labels


def heading(data: Dataset, name: str = "") -> str:
    """Return the title of a picture: model, number of runs, method."""
    title = str(data.attrs.get("title", name or "result"))
    runs = data.sizes["run"]
    counted = f"{runs:,} runs" if runs > 1 else "one run"
    whole = design(data).get("size", runs)
    if whole > runs:
        counted = f"{runs:,} of {whole:,} runs"
    return f"{title}: {counted}, {data.attrs.get('algorithm', '')}".rstrip(", ")


def quantiles(values: Array, at: Sequence[float]) -> Array:
    """Return quantiles of the finite values; NaN if there are none."""
    finite = np.sort(values[np.isfinite(values)])
    if not finite.size:
        return np.full(len(at), np.nan)
    # The same values as numpy.quantile, which takes three times as long for few values.
    place = np.asarray(at) * (finite.size - 1)
    below = place.astype(int)
    low, high = finite[below], finite[np.minimum(below + 1, finite.size - 1)]
    return np.asarray(low + (place - below) * (high - low))


def points_over(values: Array, most: int) -> tuple[Array, list[Array]]:
    """Return the points of a chart over a quantity, and the runs of each point.

    Parameters
    ----------
    values : ndarray of float, shape (runs,)
        The quantity.
    most : int
        Most points.

    Returns
    -------
    points : ndarray, shape (n,)
        In ascending order without repetition, ``n <= most``. One per distinct value if these
        are few enough; otherwise the medians of bins of equally many runs, where bins with the
        same median are one point.
    parts : list of ndarray
        The positions of the runs of each point.
    """
    if not values.size:
        return values, []
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    if len(starts) <= most:
        return ranked[starts], np.split(order, starts[1:])
    parts = np.array_split(order, most)
    medians = np.array([np.median(values[part]) for part in parts])
    points, firsts = np.unique(medians, return_index=True)
    ends = [*firsts[1:], len(parts)]
    return points, [np.concatenate(parts[a:b]) for a, b in zip(firsts, ends, strict=True)]


def as_float(array: DataArray) -> Array:
    """Return the values in double precision."""
    return np.asarray(array.to_numpy(), np.float64)
