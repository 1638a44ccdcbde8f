"""Misfit of runs to measured data, summed up while they are sampled.

At every time of the data a run is sampled, and a block of one lane adds to the sums of that run;
no trajectory is stored. Values measured several times at one time are folded into their number,
mean, weight and weighted mean, which leaves sums of squares as they are but for a constant that
is added at the end.

The table is behind the initial values and the tables of drivers: the number of samples up to the
last one of the data, then for every sample and quantity ``number, mean, weight, weighted mean``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cubie_flow.batches.store_names import LOGLIK
from cubie_flow.expressions.bit_operations import fetch, to_int
from cubie_flow.expressions.block import Block, BlockBuilder
from cubie_flow.expressions.graph import Node, compare, const, load, where
from cubie_flow.systems.measurements import Measurements, Series

Array = Any
#: Sums kept of every quantity: squares, and squares by variance.
SUMS = 2
_FIELDS = 4


class Comparison:
    """The statements that sum up a misfit.

    Parameters
    ----------
    numbers : sequence of int
        Elements of ``sample`` that are compared.
    place : Node
        Element of ``initial`` that holds the index of the table.
    """

    def __init__(self, numbers: Sequence[int], place: Node) -> None:
        self.numbers = numbers
        self.place = place

    @property
    def size(self) -> int:
        """Elements of the buffer ``misfit``."""
        return SUMS * len(self.numbers)

    def start(self, block: BlockBuilder) -> None:
        """Set the sums of a run to zero."""
        block.assign([("misfit", i) for i in range(self.size)], [const(0.0)] * self.size)

    def compare(self, index: Node) -> Block:
        """Return the block that adds sample number `index` to the sums of a run."""
        block = BlockBuilder()
        row = block.let("row", float(_FIELDS * len(self.numbers)) * index + (self.place + 1.0))
        for position, number in enumerate(self.numbers):

            def field(item: int, position: int = position) -> Node:
                return fetch("initial", to_int(row + float(_FIELDS * position + item)))

            value = load("sample", number)
            targets, sums = [], []
            for item in range(SUMS):
                weight, wanted = field(2 * item), field(2 * item + 1)
                place = SUMS * position + item
                error = value - wanted
                total = load("misfit", place)
                added = (weight * error) * error + total
                targets.append(("misfit", place))
                # Where nothing was measured the value need not even be a number.
                sums.append(where(compare(">", weight, 0.0), added, total))
            block.assign(targets, sums)
        return block.build("compare", ("initial",), per_lane=True)

    def finish(self, block: BlockBuilder, good: Node, saved: Node, first: int) -> None:
        """Write the sums of a run to ``finals``; NaN unless every sample of the data was taken."""
        samples = fetch("initial", to_int(self.place))
        whole = where(good, compare(">=", saved, samples), compare(">", const(0.0), 1.0))
        whole = block.let("compared", whole)
        nan = const(float("nan"))
        block.assign(
            [("finals", first + i) for i in range(self.size)],
            [where(whole, load("misfit", i), nan) for i in range(self.size)],
        )


# on the host ----------------------------------------------------------------------------------


def table(data: Measurements, times: Array) -> Array:
    """Return the table for samples at `times`, which hold those of the data; shape (n,)."""
    import numpy as np

    index = np.searchsorted(times, np.asarray(data.times))
    found = np.zeros((len(times), len(data.series), _FIELDS))
    for position, one in enumerate(data.series):
        values = np.asarray(one.values)
        there = ~np.isnan(values)
        weights = [there.astype(float), _weights(one)]
        for item, weight in enumerate(weights):
            total = np.bincount(index[there], weight[there], len(times))
            product = np.bincount(index[there], (weight * values)[there], len(times))
            found[:, position, 2 * item] = total
            found[:, position, 2 * item + 1] = product / np.where(total > 0, total, 1.0)
    # Later samples belong to other quantities; no misfit depends on them.
    return np.concatenate([[index.max() + 1], found.ravel()])


def _weights(one: Series) -> Array:
    import numpy as np

    if not one.sigmas:
        return np.zeros(len(one.values))
    return np.where(np.isnan(one.values), 0.0, 1.0 / np.square(one.sigmas))


def residuals(data: Measurements, sums: Array) -> dict[str, Array]:
    """Return sums of squares, weighted sums and the log-likelihood of runs by name.

    Parameters
    ----------
    data : Measurements
    sums : ndarray, shape (series, 2, runs)
        As the kernel leaves them.

    Notes
    -----
    With standard deviations s the logarithm of the likelihood is ``-sum(((y - v)/s)**2 +
    log(2*pi*s**2))/2``. Without, s is that which makes it largest, ``sqrt(sse/n)``.
    """
    import numpy as np

    found: dict[str, Array] = {}
    likelihood: Array = np.zeros(sums.shape[-1])
    for one, (squares, weighted) in zip(data.series, sums.astype(np.float64), strict=True):
        values = np.asarray(one.values)
        weights = [(~np.isnan(values)).astype(float), _weights(one)]
        spread = [_spread(data, values, weight) for weight in weights]
        sse = squares + spread[0]
        found[f"{one.name}_sse"] = sse
        n = one.count
        if one.sigmas:
            wls = weighted + spread[1]
            found[f"{one.name}_wls"] = wls
            sigma = np.asarray(one.sigmas)[~np.isnan(values)]
            likelihood -= 0.5 * (wls + np.log(2 * math.pi * sigma**2).sum())
        else:
            with np.errstate(divide="ignore"):
                likelihood -= 0.5 * n * (np.log(2 * math.pi * sse / n) + 1.0)
    found[LOGLIK] = likelihood
    return found


def _spread(data: Measurements, values: Array, weight: Array) -> float:
    """Return the weighted squares of values about their mean at each time."""
    import numpy as np

    there = ~np.isnan(values)
    _, index = np.unique(np.asarray(data.times)[there], return_inverse=True)
    v, w = values[there], weight[there]
    total = np.bincount(index, w)
    mean = np.bincount(index, w * v) / np.where(total > 0, total, 1.0)
    return float((w * (v - mean[index]) ** 2).sum())
