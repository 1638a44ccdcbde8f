"""Smooth pulses in explicit time: terms of the equations that may rise and fall within a step.

An error estimate only knows the equations at the stages of a step. A term that depends on time and
parameters alone can be bounded without integrating: interval arithmetic gives its range within a
step. A step is halved until the range of every such term within the step is at most half its range
over the run. A stage then falls into the pulse, and the error estimate controls the step.
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

#: Largest range of a pulse within one step, as a part of its range over the run.
SHARE = 0.5
#: Largest number of halvings of one step.
_HALVINGS = 64
# Stages of a step resolve polynomials up to this degree.
_PLAIN = 8
_T = symbol("t")


@frozen
class Pulse:
    """A term of the equations in ``t`` and parameters ``p``."""

    node: Node

    @property
    def content_hash(self) -> str:
        """SHA-256 digest of the expression."""
        return content_hash([self.node])


def find_pulses(nodes: Sequence[Node], switches: SwitchFinder) -> tuple[Pulse, ...]:
    """Return the terms of bound equations that could be narrow pulses.

    These are elementary functions of time other than ``sin`` and ``cos``, quotients with time in
    the denominator, and whole terms of a high degree in time.

    Parameters
    ----------
    nodes : sequence of Node
        Equations in ``u``, ``p`` and ``t``, their switches replaced by slots.
    switches : SwitchFinder
        Decides which expressions depend on time and parameters alone.
    """
    order = topological(nodes)
    timed = {node for node in order if node.kind == "float" and switches.is_timed(node)}
    inner = {arg for node in timed for arg in node.args}
    degree = degrees(order)
    pulses = []
    for node in order:
        if node not in timed:
            continue
        called = node.op == "call" and node.value not in ("sin", "cos")
        quotient = node.op == "div" and node.args[1] in timed
        high = node not in inner and _PLAIN < degree[node] < float("inf")
        if called or quotient or high:
            pulses.append(Pulse(node))
    return tuple(pulses)


def _read(pulse: Pulse) -> set[int]:
    """Return the indices in ``p`` that a pulse reads."""
    return {int(node.value[1]) for node in topological([pulse.node]) if node.op == "load"}


@frozen
class PulseBlocks:
    """The statements that shorten steps at pulses.

    The buffer ``pulse_range`` holds the range of every pulse over the run. A pulse that reads
    switches or drivers is known piece by piece only, so that its range grows during the run.

    Parameters
    ----------
    pulses : tuple of Pulse
    parameters : int
        Number of parameters of a run; the values of drivers and switches follow them in ``p``.
    changed : frozenset of int
        Numbers of the parameters that events change.
    """

    pulses: tuple[Pulse, ...]
    parameters: int
    changed: frozenset[int] = frozenset()

    @property
    def piecewise(self) -> list[int]:
        """Numbers of the pulses that read values of drivers or switches."""
        return [
            i for i, one in enumerate(self.pulses) if max(_read(one), default=-1) >= self.parameters
        ]

    @property
    def event_dependent(self) -> list[int]:
        """Numbers of the other pulses that read parameters that events change."""
        return [
            i
            for i, one in enumerate(self.pulses)
            if i not in self.piecewise and self.changed & _read(one)
        ]

    def _bounds(self, low: Node, high: Node, chosen: Sequence[int] | None = None) -> list[Node]:
        """Return the range of every pulse, or of the chosen ones, between two times."""
        nodes = [
            self.pulses[i].node for i in (range(len(self.pulses)) if chosen is None else chosen)
        ]
        mapping = {
            node: load("parameters", node.value[1])
            for node in topological(nodes)
            if node.op == "load"
        }
        intervals = bounds(substitute(nodes, mapping), _T, low, high)
        return [interval.high - interval.low for interval in intervals]

    def start(self, block: BlockBuilder, t_start: Node, t_end: Node) -> None:
        """Write the ranges of pulses for a run from `t_start` to `t_end`."""
        ranges = self._bounds(t_start, t_end)
        known = [ZERO if i in self.piecewise else move for i, move in enumerate(ranges)]
        block.assign([("pulse_range", i) for i in range(len(known))], known)

    def widen(self, block: BlockBuilder, chosen: Sequence[int], t: Node, until: Node) -> None:
        """Extend the ranges of some pulses by their ranges between two times.

        Parameters
        ----------
        block : BlockBuilder
        chosen : sequence of int
            Numbers of the pulses.
        t, until : Node
            The times.
        """
        if not chosen:
            return
        targets = [("pulse_range", i) for i in chosen]
        moves = self._bounds(t, until, chosen)
        moves = [block.let(f"pulse_move_{i}", move) for i, move in zip(chosen, moves, strict=True)]
        wider = [
            where(compare(">", move, load(*target)), move, load(*target))
            for move, target in zip(moves, targets, strict=True)
        ]
        block.assign(targets, wider)

    def shorten(
        self, block: BlockBuilder, dt: Node, t: Node, remaining: Node, smallest: Node, active: Node
    ) -> Node:
        """Write the halvings of a step, and return its length.

        Parameters
        ----------
        block : BlockBuilder
        dt : Node
            Largest length.
        t, remaining : Node
            Time at the start of the step, and the time until the step must end.
        smallest : Node
            Length below which a step is not halved.
        active : Node
            Lanes that integrate.
        """
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
