"""Smooth pulses in explicit time: parts of the equations that may rise and fall within a step.

An error estimate sees only what the stages of a step see. But a part that depends on time and
parameters alone can be looked at without integrating: bounds say how far it moves within a step.
A step is halved until no such part moves further than half its range over the whole run, so that
the stages meet the pulse, and from there on the error estimate decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import (
    ZERO,
    Node,
    compare,
    const,
    load,
    logical_and,
    minimum,
    symbol,
    where,
)
from cubie_flow.expressions.intervals import bounds
from cubie_flow.expressions.taylor import degrees
from cubie_flow.expressions.traversal import content_hash, substitute, topological
from cubie_flow.integrators.steps.base import any_of
from cubie_flow.integrators.switches import SwitchFinder

#: Part of its range over the run that a pulse may move in one step.
SHARE = 0.5
#: Halvings of one step at most.
_HALVINGS = 64
# Up to this degree the stages of a step meet whatever polynomials and waves do.
_PLAIN = 8
_T = symbol("t")


@frozen
class Pulse:
    """A part of the equations in ``t`` and parameters ``p``."""

    node: Node

    @property
    def content_hash(self) -> str:
        """SHA-256 digest of the expression."""
        return content_hash([self.node])


def find_pulses(nodes: Sequence[Node], switches: SwitchFinder) -> tuple[Pulse, ...]:
    """Return the parts of bound equations that could be narrow pulses.

    Elementary functions and quotients of time, apart from plain waves, and whole terms of time
    whose degree is high.

    Parameters
    ----------
    nodes : sequence of Node
        Equations in ``u``, ``p`` and ``t``, their switches replaced by slots.
    switches : SwitchFinder
        Tells what depends on time alone.
    """
    order = topological(nodes)
    timed = {node for node in order if node.kind == "float" and switches.is_timed(node)}
    inner = {arg for node in timed for arg in node.args}
    degree = degrees(order)
    found = []
    for node in order:
        if node not in timed:
            continue
        called = node.op == "call" and node.value not in ("sin", "cos")
        quotient = node.op == "div" and node.args[1] in timed
        high = node not in inner and _PLAIN < degree[node] < float("inf")
        if called or quotient or high:
            found.append(Pulse(node))
    return tuple(found)


def _read(pulse: Pulse) -> set[int]:
    """Return the indices in ``p`` that a pulse reads."""
    return {int(node.value[1]) for node in topological([pulse.node]) if node.op == "load"}


@frozen
class PulseBlocks:
    """The statements that shorten steps before pulses.

    Buffer ``pulse_range``: the range of every pulse over the run. That of a pulse which reads
    switches or drivers is known from piece to piece only, and grows.

    Parameters
    ----------
    pulses : tuple of Pulse
    parameters : int
        Parameters of a run; what drivers and switches hold is behind them.
    changed : frozenset of int
        Parameters that events change.
    """

    pulses: tuple[Pulse, ...]
    parameters: int
    changed: frozenset[int] = frozenset()

    @property
    def piecewise(self) -> list[int]:
        """Numbers of the pulses that read what drivers and switches hold."""
        return [
            i for i, one in enumerate(self.pulses) if max(_read(one), default=-1) >= self.parameters
        ]

    @property
    def set_again(self) -> list[int]:
        """Numbers of the other pulses that read what events change."""
        return [
            i
            for i, one in enumerate(self.pulses)
            if i not in self.piecewise and self.changed & _read(one)
        ]

    def _bounds(self, low: Node, high: Node, chosen: Sequence[int] | None = None) -> list[Node]:
        """Return how far every pulse moves between two times, or some of them."""
        nodes = [
            self.pulses[i].node for i in (range(len(self.pulses)) if chosen is None else chosen)
        ]
        mapping = {
            node: load("parameters", node.value[1])
            for node in topological(nodes)
            if node.op == "load"
        }
        found = bounds(substitute(nodes, mapping), _T, low, high)
        return [interval.high - interval.low for interval in found]

    def start(self, block: BlockBuilder, t_start: Node, t_end: Node) -> None:
        """Write the ranges of a run that starts."""
        found = self._bounds(t_start, t_end)
        known = [ZERO if i in self.piecewise else move for i, move in enumerate(found)]
        block.assign([("pulse_range", i) for i in range(len(known))], known)

    def widen(self, block: BlockBuilder, chosen: Sequence[int], t: Node, until: Node) -> None:
        """Let the ranges of some pulses hold what these do between two times."""
        if not chosen:
            return
        places = [("pulse_range", i) for i in chosen]
        moves = self._bounds(t, until, chosen)
        moves = [block.let(f"pulse_move_{i}", move) for i, move in zip(chosen, moves, strict=True)]
        wider = [
            where(compare(">", move, load(*place)), move, load(*place))
            for move, place in zip(moves, places, strict=True)
        ]
        block.assign(places, wider)

    def shorten(
        self, block: BlockBuilder, dt: Node, t: Node, remaining: Node, smallest: Node, active: Node
    ) -> Node:
        """Return a step that is short enough, at most `dt`."""
        block.let("pulse_dt", dt)
        length = load("pulse_dt", 0)
        hidden = load("pulse_hidden", 0, kind="bool")
        with block.repeat(lambda: hidden, _HALVINGS):
            ahead = minimum(1.01 * length, remaining)
            moves = self._bounds(t, t + ahead)
            far = [
                compare(">", move, SHARE * load("pulse_range", i)) for i, move in enumerate(moves)
            ]
            long = compare(">", length, smallest)
            block.let("pulse_hidden", logical_and(logical_and(active, long), any_of(far)))
            shorter = where(hidden, const(0.5) * minimum(length, remaining), length)
            block.assign([("pulse_dt", 0)], [shorter])
        return length
