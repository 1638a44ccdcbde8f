"""Interpolants of the step just tried, for the search for events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import Node, const, load


class Course(Protocol):
    """Some states as functions of ``theta``, which runs from 0 to 1 over the step.

    ``pieces`` is the number of parts of a step such that a state has at most one extremum in each.
    """

    pieces: int

    def prepare(self, block: BlockBuilder) -> None:
        """Write the coefficients that `values` and `rates` read."""

    def middle(self) -> dict[int, Node]:
        """Return the states in the middle of the step; needs no `prepare`."""

    def values(self, theta: Node) -> dict[int, Node]:
        """Return the states by number."""

    def rates(self, theta: Node) -> dict[int, Node]:
        """Return their derivatives by `theta`."""


class Cubic:
    """The cubic through both ends of a step and their derivatives (Hermite), for any method.

    Parameters
    ----------
    h : Node
        Length of the step.
    states : sequence of int
        Numbers of the states.
    end : (str, int)
        Buffer and first element of the derivative at the end of the step.
    """

    pieces = 1

    def __init__(self, h: Node, states: Sequence[int], end: tuple[str, int]) -> None:
        self.h, self.states, self.end = h, states, end

    def _derivative_at_end(self, j: int) -> Node:
        return load(self.end[0], self.end[1] + j)

    def prepare(self, block: BlockBuilder) -> None:
        # y = y0 + theta*(a + theta*(b + theta*c))
        for j in self.states:
            a = block.let(f"bend_a_{j}", self.h * load("derivative", j))
            d = block.let(f"bend_d_{j}", load("proposed_state", j) - load("state", j))
            f = block.let(f"bend_f_{j}", self.h * self._derivative_at_end(j))
            block.let(f"bend_b_{j}", 3.0 * d - (2.0 * a + f))
            block.let(f"bend_c_{j}", (a + f) - 2.0 * d)

    def middle(self) -> dict[int, Node]:
        eighth = 0.125 * self.h
        return {
            j: eighth * (load("derivative", j) - self._derivative_at_end(j))
            + 0.5 * (load("state", j) + load("proposed_state", j))
            for j in self.states
        }

    def values(self, theta: Node) -> dict[int, Node]:
        return {
            j: theta
            * (
                theta * (theta * load(f"bend_c_{j}", 0) + load(f"bend_b_{j}", 0))
                + load(f"bend_a_{j}", 0)
            )
            + load("state", j)
            for j in self.states
        }

    def rates(self, theta: Node) -> dict[int, Node]:
        return {
            j: theta * (3.0 * (theta * load(f"bend_c_{j}", 0)) + 2.0 * load(f"bend_b_{j}", 0))
            + load(f"bend_a_{j}", 0)
            for j in self.states
        }


class Polynomial:
    """The Taylor polynomial of a step, with the terms in the buffer ``coefficients``.

    Parameters
    ----------
    states : sequence of int
        Numbers of the states.
    count : int
        Number of states of the model.
    order : int
    share : Node
        Length of the step divided by the length for which the terms were computed.
    """

    # High orders take steps of more than half a period.
    pieces = 2

    def __init__(self, states: Sequence[int], count: int, order: int, share: Node) -> None:
        self.states, self.count, self.order, self.share = states, count, order, share

    def prepare(self, block: BlockBuilder) -> None:
        """Do nothing: the terms are the coefficients."""

    def middle(self) -> dict[int, Node]:
        return self.values(const(0.5))

    def _term(self, k: int, j: int) -> Node:
        return load("coefficients", (k - 1) * self.count + j)

    def values(self, theta: Node) -> dict[int, Node]:
        at, values = theta * self.share, {}
        for j in self.states:
            total = self._term(self.order, j)
            for k in reversed(range(1, self.order)):
                total = total * at + self._term(k, j)
            values[j] = total * at + load("state", j)
        return values

    def rates(self, theta: Node) -> dict[int, Node]:
        at, rates = theta * self.share, {}
        for j in self.states:
            total = float(self.order) * self._term(self.order, j)
            for k in reversed(range(1, self.order)):
                total = total * at + float(k) * self._term(k, j)
            rates[j] = total * self.share
        return rates
