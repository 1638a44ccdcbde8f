"""Misfit of runs to measured data, accumulated while the runs are sampled.

A run is sampled at every time of the data, and a block of one lane adds to the sums of that run; no
trajectory is stored. Repeated measurements at one time are reduced to their number, mean, weight
and weighted mean. The sums of squares then lack a constant, which is added at the end.

The table of the data follows the initial values and the tables of drivers. It holds the number of
samples up to the last one of the data, then a row per sample: how many saved times come before it,
and ``number, mean, weight, weighted mean`` of every quantity. One more row, whose only entry is the
number of saved times, ends it. Only samples at saved times are stored.
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
#: Number of sums per quantity: of squares, and of squares divided by the variance.
SUMS = 2
_FIELDS = 4


class Comparison:
    """The statements that accumulate a misfit.

    Parameters
    ----------
    numbers : sequence of int
        Elements of ``sample`` that are compared.
    start : Node
        Element of ``initial`` where the table begins.
    """

    sums = SUMS

    def __init__(self, numbers: Sequence[int], start: Node) -> None:
        self.numbers = numbers
        self.table_start = start

    @property
    def size(self) -> int:
        """Number of elements of the buffer ``misfit``."""
        return SUMS * len(self.numbers)

    def _row(self, index: Node) -> Node:
        """Return the element of ``initial`` where the row of a sample begins."""
        return float(row_width(len(self.numbers))) * index + (self.table_start + 1.0)

    def passed(self, index: Node) -> Block:
        """Return the block that looks up how many saved times come before sample `index`."""
        count = to_int(fetch("initial", to_int(self._row(index))))
        return Block("passed", (), ("initial",), True, count)

    def reset(self, block: BlockBuilder) -> None:
        """Set the sums of a run to zero."""
        block.assign([("misfit", i) for i in range(self.size)], [const(0.0)] * self.size)

    def compare(self, index: Node) -> Block:
        """Return the block that adds the sample with number `index` to the sums of a run."""
        block = BlockBuilder()
        row = block.let("row", self._row(index))
        for position, number in enumerate(self.numbers):

            def field(item: int, position: int = position) -> Node:
                return fetch("initial", to_int(row + float(1 + _FIELDS * position + item)))

            value = load("sample", number)
            targets, sums = [], []
            for item in range(SUMS):
                weight, wanted = field(2 * item), field(2 * item + 1)
                element = SUMS * position + item
                error = value - wanted
                total = load("misfit", element)
                added = (weight * error) * error + total
                targets.append(("misfit", element))
                # Without a measurement the value may be NaN.
                sums.append(where(compare(">", weight, 0.0), added, total))
            block.assign(targets, sums)
        return block.build("compare", ("initial",), per_lane=True)

    def finish(self, block: BlockBuilder, good: Node, saved: Node, first: int) -> None:
        """Write the sums of a run to ``finals``; NaN if a sample of the data is missing.

        Parameters
        ----------
        block : BlockBuilder
        good : Node
            Whether the run succeeded.
        saved : Node
            Number of samples of the run.
        first : int
            First row of ``finals`` for the sums.
        """
        samples = fetch("initial", to_int(self.table_start))
        whole = where(good, compare(">=", saved, samples), compare(">", const(0.0), 1.0))
        whole = block.let("compared", whole)
        write_sums(block, whole, self.size, first)


# on the host ----------------------------------------------------------------------------------


def row_width(series: int) -> int:
    """Return the number of entries in the row of a sample."""
    return 1 + _FIELDS * series


def table(data: Measurements, times: Array, saved: Array) -> Array:
    """Return the table of the data, flat.

    Parameters
    ----------
    data : Measurements
    times : ndarray, shape (samples,)
        Times of the samples; they contain those of the data.
    saved : ndarray of bool, shape (samples,)
        Which samples are stored.

    Returns
    -------
    ndarray, shape (2 + samples*(1 + series*4),)
    """
    import numpy as np

    index = np.searchsorted(times, np.asarray(data.times))
    entries = np.zeros((len(times), len(data.series), _FIELDS))
    for position, one in enumerate(data.series):
        values = np.asarray(one.values)
        measured = ~np.isnan(values)
        weights = [measured.astype(float), _weights(one)]
        for item, weight in enumerate(weights):
            total = np.bincount(index[measured], weight[measured], len(times))
            product = np.bincount(index[measured], (weight * values)[measured], len(times))
            entries[:, position, 2 * item] = total
            entries[:, position, 2 * item + 1] = product / np.where(total > 0, total, 1.0)
    # No misfit depends on the samples after the last one of the data.
    before = np.cumsum([0, *saved])
    rows = np.column_stack([before[:-1], entries.reshape(len(times), -1)])
    return np.concatenate([[index.max() + 1], rows.ravel(), before[-1:]])


def _weights(one: Series) -> Array:
    """Return one over the variances, 0 without a measurement or a standard deviation."""
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
        The sums that the kernel wrote.

    Notes
    -----
    With standard deviations s the logarithm of the likelihood is ``-sum(((y - v)/s)**2 +
    log(2*pi*s**2))/2``. Without them s is its maximum likelihood estimate, ``sqrt(sse/n)``.
    """
    import numpy as np

    columns: dict[str, Array] = {}
    likelihood: Array = np.zeros(sums.shape[-1])
    for one, (squares, weighted) in zip(data.series, sums.astype(np.float64), strict=True):
        values = np.asarray(one.values)
        weights = [(~np.isnan(values)).astype(float), _weights(one)]
        spread = [_spread(data, values, weight) for weight in weights]
        sse = squares + spread[0]
        columns[f"{one.name}_sse"] = sse
        n = one.count
        if one.sigmas:
            wls = weighted + spread[1]
            columns[f"{one.name}_wls"] = wls
            sigma = np.asarray(one.sigmas)[~np.isnan(values)]
            likelihood -= 0.5 * (wls + np.log(2 * math.pi * sigma**2).sum())
        else:
            with np.errstate(divide="ignore"):
                likelihood -= 0.5 * n * (np.log(2 * math.pi * sse / n) + 1.0)
    columns[LOGLIK] = likelihood
    return columns


def _spread(data: Measurements, values: Array, weight: Array) -> float:
    """Return the weighted sum of squares of values about their mean at each time."""
    import numpy as np

    measured = ~np.isnan(values)
    _, index = np.unique(np.asarray(data.times)[measured], return_inverse=True)
    v, w = values[measured], weight[measured]
    total = np.bincount(index, w)
    mean = np.bincount(index, w * v) / np.where(total > 0, total, 1.0)
    return float((w * (v - mean[index]) ** 2).sum())


def write_sums(block: BlockBuilder, whole: Node, size: int, first: int) -> None:
    """Write the sums of a run to ``finals``; NaN where they are not whole.

    Parameters
    ----------
    block : BlockBuilder
    whole : Node
        Whether the sums count everything that was measured.
    size, first : int
        Number of sums, and the first row of ``finals`` for them.
    """
    nan = const(float("nan"))
    block.assign(
        [("finals", first + i) for i in range(size)],
        [where(whole, load("misfit", i), nan) for i in range(size)],
    )
