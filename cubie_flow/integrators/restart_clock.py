"""Clocks of runs that land on times: the next of them, and whether the run restarts there."""

from __future__ import annotations

from typing import ClassVar

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import ZERO, Node, compare, load


class RestartClock:
    """A buffer of a lane with the next time to land on, and a mark that the run restarts.

    Attributes
    ----------
    buffer : str
        Name of the buffer; set by subclasses.
    places : tuple of (int, int)
        Elements of the next time and of the mark.
    """

    buffer: ClassVar[str]
    places: ClassVar[tuple[int, int]]

    @classmethod
    def next_time(cls) -> Node:
        """Return the next time that a step of a run must not pass."""
        return load(cls.buffer, cls.places[0])

    @classmethod
    def restarting(cls) -> Node:
        """Return whether a run has to restart."""
        return compare("!=", load(cls.buffer, cls.places[1]), 0.0)

    @classmethod
    def restarted(cls, block: BlockBuilder) -> None:
        """Note that a run has restarted."""
        block.assign([(cls.buffer, cls.places[1])], [ZERO])
