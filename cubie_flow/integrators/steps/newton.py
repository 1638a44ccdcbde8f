"""Simplified Newton iterations inside a lane, each lane with its own convergence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import (
    FALSE,
    Node,
    compare,
    const,
    load,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    sqrt,
    where,
)
from cubie_flow.integrators.controllers import EPSILON, SETTINGS
from cubie_flow.memory import CUDAFactory, buffer_registry

#: Iterations are stopped when the next change is estimated below this part of the tolerance.
_ENOUGH = 0.01


class Newton:
    """Convergence of the Newton iterations of one attempt, as statements of its block.

    Source: Hairer and Wanner, Solving ODEs II, section IV.8. The rate of convergence ``theta`` is
    the ratio of successive changes. The iteration ends when ``theta/(1 - theta)*change`` is small
    compared with the tolerance. All stages share the Jacobian, so each one starts with the rate
    of the stage before.

    Parameters
    ----------
    block : BlockBuilder
    active : Node
        Lanes that integrate.
    limit : int
        Iterations per stage.
    precision : {"float32", "float64"}
    """

    def __init__(self, block: BlockBuilder, active: Node, limit: int, precision: str) -> None:
        self.block = block
        self.limit = limit
        self.rounding = 16.0 * EPSILON[precision]
        self.active = active
        block.assign([("newton_failed", 0), ("newton_rate", 0)], [FALSE, const(1.0)])

    @property
    def going(self) -> Node:
        """Lanes that still iterate."""
        return load("newton_going", 0, kind="bool")

    @property
    def failed(self) -> Node:
        """Lanes in which some iteration of this attempt did not converge."""
        return load("newton_failed", 0, kind="bool")

    @contextmanager
    def iterate(self) -> Iterator[None]:
        """Collect the statements of one iteration; they end with `judge`."""
        going = logical_and(self.active, logical_not(self.failed))
        self.block.assign([("newton_going", 0), ("newton_change", 0)], [going, const(-1.0)])
        with self.block.repeat(lambda: self.going, self.limit):
            yield
        self.block.assign([("newton_failed", 0)], [logical_or(self.failed, self.going)])

    def judge(self, mean_square: Node) -> None:
        """Decide from the change of this iteration, a squared norm, which lanes go on."""
        block = self.block
        change = block.let("newton_now", sqrt(mean_square))
        before = load("newton_change", 0)
        first = block.let("newton_first", compare("<", before, 0.0))
        rate = where(first, minimum(load("newton_rate", 0), const(0.9)), change / before)
        rate = block.let("newton_theta", rate)
        small = compare("<=", rate * change, _ENOUGH * (1.0 - rate))
        # Changes at the level of rounding have no rate.
        floor = maximum(self.rounding / load("settings", SETTINGS), const(1e-4 * _ENOUGH))
        done = block.let("newton_done", logical_or(small, compare("<=", change, floor)))
        worse = logical_and(logical_not(first), logical_not(compare("<", rate, 1.0)))
        lost = logical_or(worse, logical_not(compare("<", change, 1e30)))
        lost = block.let("newton_lost", logical_and(lost, logical_not(done)))
        ends = logical_or(done, lost)
        block.assign(
            [
                ("newton_failed", 0), ("newton_rate", 0), ("newton_change", 0),
                ("newton_going", 0), ("iterations", 0),
            ],
            [
                logical_or(self.failed, logical_and(self.going, lost)),
                where(logical_and(self.going, logical_not(first)), rate, load("newton_rate", 0)),
                change,
                logical_and(self.going, logical_not(ends)),
                where(self.going, load("iterations", 0) + 1.0, load("iterations", 0)),
            ],
        )  # fmt: skip


def keep_count(owner: CUDAFactory[Any], precision: str) -> None:
    """Register the buffer ``iterations``, a run's count of Newton iterations."""
    buffer_registry.register("iterations", owner, 1, "local", precision, persistent=True)


def reset_count(block: BlockBuilder) -> None:
    """Start counting."""
    block.assign([("iterations", 0)], [const(0.0)])
