"""Misfit and likelihood of a run to its own observations, with models of the residual error.

A run is sampled at every observation, and a block of one lane adds to the sums of that run: of
squared residuals; and with a model of the residual error, of squares divided by the variance and of
logarithms of the variance. The logarithm of the likelihood follows from them.

Source: M. Lavielle, Mixed Effects Models for the Population Approach, CRC Press, 2014, section 3.1;
additive and proportional errors together have the variance ``a**2 + (b*f)**2``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from attrs import evolve, field, frozen

from cubie_flow.expressions.bit_operations import iadd, to_int
from cubie_flow.expressions.block import Block, BlockBuilder
from cubie_flow.expressions.graph import Node, call, compare, const, load, logical_and
from cubie_flow.expressions.traversal import content_hash, substitute, topological
from cubie_flow.integrators.comparison import write_sums
from cubie_flow.integrators.lane import T_NEXT, clock
from cubie_flow.integrators.records import RecordBlocks

Array = Any
#: Sums of every quantity.
SQUARES, WEIGHTED, LOGARITHMS, SUMS = range(4)


@frozen
class ResidualError:
    """How the measured value of a quantity differs from the computed one.

    Parameters
    ----------
    additive, proportional, lognormal : Node or None
        Standard deviations, in symbols of parameters: of the value, as a part of the value, and of
        its logarithm. The last excludes the others; all None for an unknown error.
    """

    additive: Node | None = field(default=None, eq=id)
    proportional: Node | None = field(default=None, eq=id)
    lognormal: Node | None = field(default=None, eq=id)

    @property
    def content_hash(self) -> str:
        """SHA-256 digest of the model."""
        parts = [self.additive, self.proportional, self.lognormal]
        return content_hash([one for one in parts if one is not None]) + repr(
            [one is None for one in parts]
        )

    @property
    def nodes(self) -> list[Node]:
        """The standard deviations that are given."""
        parts = (self.additive, self.proportional, self.lognormal)
        return [one for one in parts if one is not None]

    @property
    def known(self) -> bool:
        """Whether there is a model of the error."""
        return bool(self.nodes)

    def bound(self, nodes: Sequence[Node]) -> ResidualError:
        """Return the model with other expressions in place of `nodes`."""
        new = iter(nodes)
        names = ("additive", "proportional", "lognormal")
        return evolve(
            self, **{name: next(new) for name in names if getattr(self, name) is not None}
        )

    def variance(self, value: Node) -> Node:
        """Return the variance of a residual where the computed value is `value`."""
        if self.lognormal is not None:
            return self.lognormal * self.lognormal
        total: Node = const(0.0)
        if self.additive is not None:
            total = self.additive * self.additive
        if self.proportional is not None:
            part = self.proportional * value
            total = part * part + total
        return total

    def residual(self, value: Node, wanted: Node) -> Node:
        """Return the difference of a computed and a measured value, or of their logarithms."""
        if self.lognormal is not None:
            return call("log", value) - call("log", wanted)
        return value - wanted


class ObservationComparison:
    """The statements that compare a run with its own observations.

    Parameters
    ----------
    numbers : sequence of int
        Elements of ``sample`` that are compared.
    errors : sequence of ResidualError
        Bound to ``p``.
    records : RecordBlocks
    """

    sums = SUMS

    def __init__(
        self, numbers: Sequence[int], errors: Sequence[ResidualError], records: RecordBlocks
    ) -> None:
        self.numbers, self.errors, self.records = numbers, errors, records

    @property
    def size(self) -> int:
        """Number of elements of the buffer ``misfit``."""
        return SUMS * len(self.numbers)

    def reset(self, block: BlockBuilder) -> None:
        """Set the sums of a run to zero."""
        block.assign([("misfit", i) for i in range(self.size)], [const(0.0)] * self.size)

    def compare(self, index: Node) -> Block:
        """Return the block that adds the sample with number `index` of a run to its sums."""
        block = BlockBuilder()
        index = iadd(to_int(index), to_int(RecordBlocks.first_sample()))
        chosen = block.let("observed_number", self.records.sample_field(index, 0))
        wanted = block.let("observed_value", self.records.sample_field(index, 1))
        for position, (number, error) in enumerate(zip(self.numbers, self.errors, strict=True)):
            with block.when(compare("==", chosen, float(position))):
                value = load("sample", number)
                residual = block.let("residual", error.residual(value, wanted))
                added = {SQUARES: residual * residual}
                if error.known:
                    variance = block.let("variance", _in_lane(error.variance(value)))
                    added[WEIGHTED] = residual * residual / variance
                    added[LOGARITHMS] = call("log", variance)
                targets = [("misfit", SUMS * position + item) for item in added]
                sums = [
                    load(*target) + node
                    for target, node in zip(targets, added.values(), strict=True)
                ]
                block.assign(targets, sums)
        return block.build("compare", ("initial",), per_lane=True)

    def finish(self, block: BlockBuilder, good: Node, saved: Node, first: int) -> None:
        """Write the sums of a run to ``finals``; NaN if an observation was not reached.

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
        every = compare("==", clock(T_NEXT), math.inf)
        whole = block.let("compared", logical_and(good, every))
        write_sums(block, whole, self.size, first)


def _in_lane(node: Node) -> Node:
    """Return an expression that reads the parameters of a lane."""
    mapping = {
        one: load("parameters", one.value[1])
        for one in topological([node])
        if one.op == "load" and one.value[0] == "p"
    }
    return substitute([node], mapping)[0]


def likelihood(sums: Array, errors: Sequence[ResidualError], counts: Array, logs: Array) -> Array:
    """Return the logarithm of the likelihood of the observations of runs.

    Parameters
    ----------
    sums : ndarray, shape (quantities, 3, runs)
        The sums that the kernel wrote.
    errors : sequence of ResidualError
    counts : ndarray, shape (quantities, runs)
        Number of observations.
    logs : ndarray, shape (quantities, runs)
        Sums of the logarithms of the observations.

    Notes
    -----
    It is ``-(weighted + logarithms + n*log(2*pi))/2``. With a log-normal error the density is that
    of the measured value itself, so the sum of the logarithms of the values is subtracted.
    """
    import numpy as np

    total: Array = np.zeros(sums.shape[-1])
    for error, one, n, log in zip(errors, sums.astype(np.float64), counts, logs, strict=True):
        total -= 0.5 * (one[WEIGHTED] + one[LOGARITHMS] + n * math.log(2.0 * math.pi))
        if error.lognormal is not None:
            total -= log
    return total
