"""What pictures ask of a result: its variables, its runs and what varies between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cubie_flow.analysis.runs import numbers, positions_of
from cubie_flow.errors import FlowError, nearest

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

Array = NDArray[Any]
#: Runs that are drawn where there are more, and the places where they are: no picture reads more
#: chunks of a variable than there are places, whatever the size of the study.
SAMPLED, PLACES = 20_000, 600


def swept(data: Dataset) -> list[str]:
    """Return the names of what varies between the runs."""
    return [str(name) for name, c in data.coords.items() if c.dims == ("run",) and name != "run"]


def in_order(data: Dataset, suffix: str = "") -> list[str]:
    """Return the variables of a suffix, states first and in the order of the model."""
    model = json.loads(data.attrs.get("system", "{}"))
    known = [name + suffix for name in (*model.get("states", ()), *model.get("observables", ()))]
    return [name for name in known if name in data]


def saved(data: Dataset) -> list[str]:
    """Return the variables that were saved over time."""
    known = in_order(data)
    others = [str(name) for name in data.data_vars if name not in known]
    return [name for name in (*known, *others) if data[name].dims == ("run", "time")]


#: What counts the work of a run, after what describes it.
_COUNTERS, _OWN = ("steps", "rejected"), ("status", "attempt")


def metrics(data: Dataset) -> list[str]:
    """Return the numbers there is one of a run: those of the model in its order, counters last."""
    there = [
        str(name)
        for name, array in data.data_vars.items()
        if array.dims == ("run",) and array.dtype.kind in "fiu" and name not in _OWN
    ]
    model = json.loads(data.attrs.get("system", "{}"))
    order = [*model.get("states", ()), *model.get("observables", ())]
    owner = {name: next((k for k in order if name.startswith(f"{k}_")), "") for name in there}
    place = {name: i for i, name in enumerate([*order, "", *_COUNTERS])}
    return sorted(there, key=lambda name: place.get(name, place[owner[name]]))


def chosen(data: Dataset, variables: Sequence[str] | str | None, most: int) -> list[str]:
    """Return the saved variables to draw.

    Raises
    ------
    FlowError
        If nothing was saved over time, or a name is not among what was.
    """
    there = saved(data)
    if not there:
        raise FlowError(
            "this result keeps no trajectories, only one number a run; integrate it with "
            "output.save_every=... to draw over time"
        )
    if variables is None:
        return there[:most]
    wanted = [variables] if isinstance(variables, str) else list(variables)
    return [named(name, there, "saved variable") for name in wanted]


def named(name: str, known: Sequence[str], kind: str) -> str:
    """Return a name that is known.

    Raises
    ------
    FlowError
        Naming what there is, and the nearest.
    """
    if name not in known:
        raise FlowError(
            f"'{name}' is no {kind} of this result (there are {', '.join(known) or 'none'})"
            f"{nearest(name, known)}"
        )
    return name


def quantity(data: Dataset, name: str | None, instead_of: Sequence[str] = ()) -> str:
    """Return the quantity over which to draw: the one named, or the first that varies.

    Raises
    ------
    FlowError
        If nothing varies, or the name is not of what does.
    """
    there = swept(data)
    if name is not None:
        return named(name, there, "swept quantity")
    left = [other for other in there if other not in instead_of]
    if not left:
        raise FlowError(
            "this picture is drawn over what varies between the runs, and here "
            + (f"only {', '.join(there)} does" if there else "nothing does")
        )
    return left[0]


def sampled(data: Dataset) -> Dataset:
    """Return a result with at most `SAMPLED` of its runs: neighbours in evenly spaced places.

    Nothing is read by this.
    """
    total, each = data.sizes["run"], SAMPLED // PLACES
    if total <= SAMPLED:
        return data
    starts = np.linspace(0, total - each, PLACES).astype(int)
    return data.isel(run=(starts[:, None] + np.arange(each)).ravel())


def run_indices(data: Dataset, runs: int | Sequence[int]) -> Array:
    """Return the positions of the runs to draw: this many, evenly, or those of these numbers.

    Raises
    ------
    FlowError
        If a run is not there.
    """
    total = data.sizes["run"]
    if isinstance(runs, int):
        if runs < 1:
            raise FlowError(f"runs is {runs}; at least one must be drawn")
        return np.unique(np.linspace(0, total - 1, min(runs, total)).astype(int))
    return positions_of(data, runs)


def run_labels(data: Dataset, picked: Array, varied: Sequence[str]) -> list[str]:
    """Return what to call some runs: their numbers in the study, and values of what varied."""
    labels = []
    for position, number in zip(picked, numbers(data, picked), strict=True):
        values = [f"{name}={float(data[name][position]):.4g}" for name in varied]
        labels.append(f"run {number:,}{': ' if values else ''}{', '.join(values)}")
    return labels


def heading(data: Dataset, name: str = "") -> str:
    """Return the title of a picture: the model, how many runs, the method."""
    title = str(data.attrs.get("title", name or "result"))
    runs = data.sizes["run"]
    counted = f"{runs:,} runs" if runs > 1 else "one run"
    return f"{title}: {counted}, {data.attrs.get('algorithm', '')}".rstrip(", ")


def quantiles(values: Array, at: Sequence[float]) -> Array:
    """Return quantiles of what is finite; NaN where nothing is."""
    finite = np.sort(values[np.isfinite(values)])
    if not finite.size:
        return np.full(len(at), np.nan)
    # As numpy.quantile, which takes three times as long where there are few values.
    place = np.asarray(at) * (finite.size - 1)
    below = place.astype(int)
    low, high = finite[below], finite[np.minimum(below + 1, finite.size - 1)]
    return np.asarray(low + (place - below) * (high - low))


def bins(values: Array, most: int) -> list[Array]:
    """Return the runs of each bin: equally many runs, in the order of a quantity."""
    order = np.argsort(values, kind="stable")
    return [part for part in np.array_split(order, min(most, len(order))) if len(part)]


def as_float(array: DataArray) -> Array:
    """Return the values in double precision."""
    return np.asarray(array.to_numpy(), np.float64)
