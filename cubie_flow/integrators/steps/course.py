"""How states move within a step that has just been tried, where events are looked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import Node, const, load


class Course(Protocol):
    """Some states as functions of ``theta``, the part of the step that is over.

    ``pieces`` is in how many parts a step has to be looked at so that a state turns back at most
    once in each.
    """

    pieces: int

    def prepare(self, block: BlockBuilder) -> None:
        """Write what `values` and `rates` within the step need."""

    def middle(self) -> dict[int, Node]:
        """Return the states halfway, without `prepare`."""

    def values(self, theta: Node) -> dict[int, Node]:
        """Return the states by number."""

    def rates(self, theta: Node) -> dict[int, Node]:
        """Return their derivatives by `theta`."""


class Cubic:
    """The cubic through both ends of a step and their derivatives (Hermite), for any method.

    Parameters
    ----------
    h : Node
    states : sequence of int
    end : (str, int)
        Where the derivative at the end of the step is.
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
    """The Taylor polynomial of a step, whose terms are ``coefficients``.

    Parameters
    ----------
    states : sequence of int
    count : int
        States of the model.
    order : int
    share : Node
        The step as a part of the time that the terms are for.
    """

    # High orders take steps of more than half a period.
    pieces = 2

    def __init__(self, states: Sequence[int], count: int, order: int, share: Node) -> None:
        self.states, self.count, self.order, self.share = states, count, order, share

    def prepare(self, block: BlockBuilder) -> None:
        """Need nothing but the terms."""

    def middle(self) -> dict[int, Node]:
        return self.values(const(0.5))

    def _term(self, k: int, j: int) -> Node:
        return load("coefficients", (k - 1) * self.count + j)

    def values(self, theta: Node) -> dict[int, Node]:
        at, found = theta * self.share, {}
        for j in self.states:
            total = self._term(self.order, j)
            for k in reversed(range(1, self.order)):
                total = total * at + self._term(k, j)
            found[j] = total * at + load("state", j)
        return found

    def rates(self, theta: Node) -> dict[int, Node]:
        at, found = theta * self.share, {}
        for j in self.states:
            total = float(self.order) * self._term(self.order, j)
            for k in reversed(range(1, self.order)):
                total = total * at + float(k) * self._term(k, j)
            found[j] = total * self.share
        return found
