"""Switches in time: where equations change form at times that parameters alone decide.

A comparison, ``floor``, ``abs``, ``min`` or ``max`` of time and parameters has one value between
two neighbouring switching times. It becomes a slot: a number that follows the parameters of a run
and is constant within a step. So the equations of a step are smooth, a step ends exactly where
they change, and no step passes over a pulse. At a switching time the run restarts with the new
value of the slot. That value is taken from the middle of the piece that follows, so rounding
cannot decide it.

The next switching time has a closed form if the condition is affine in time. Otherwise it is
searched for in time alone, with bounds of the condition over whole intervals. The search therefore
misses no crossing, however narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from attrs import field, frozen

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.derivatives import differentiate
from cubie_flow.expressions.graph import (
    ONE,
    ZERO,
    Node,
    call,
    compare,
    const,
    fabs,
    floor,
    load,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    neg,
    symbol,
    where,
)
from cubie_flow.expressions.intervals import bounds
from cubie_flow.expressions.traversal import content_hash, substitute, topological, transform
from cubie_flow.integrators.controllers import EPSILON
from cubie_flow.integrators.restart_clock import RestartClock

# Elements of the buffer `switch_clock`: the next switching time of any slot, whether the run has
# to restart, whether all slots must be updated, and the next time of every slot.
NEXT, RESTART, FORCED, FIRST = range(4)
# Why all slots must be updated: parameters have changed, or the run starts.
_CHANGED, _STARTED = 1.0, 2.0
#: Switching times that differ by less than this many roundings are equal.
NEAR = 4.0
# Constants of the search: roundings of the operands within which the sign is unknown, smallest
# width as a part of the run and in roundings of time, largest number of passes before the search
# continues at a later time, and halvings that locate a crossing.
_ROUNDINGS, _LEAST, _GRAINS, _PASSES, _HALVINGS = 8.0, 1e-9, 64.0, 400, 1100
_NEVER = const(math.inf)
_T = symbol("t")


@frozen
class Switch:
    """One slot.

    Parameters
    ----------
    node : Node
        A comparison or ``floor`` of ``t``, parameters ``p`` and earlier slots.
    after : tuple of int
        Earlier slots that it reads.
    driven : bool
        Whether it reads a driver, whose numbers change at its knots.
    """

    node: Node
    after: tuple[int, ...] = ()
    driven: bool = False

    @property
    def content_hash(self) -> str:
        """SHA-256 digest of everything that decides when the slot changes."""
        return content_hash([self.node]) + repr((self.after, self.driven))

    @property
    def difference(self) -> Node:
        """Number whose sign (comparison) or integer part (``floor``) the slot follows."""
        a = self.node.args
        return a[0] - a[1] if self.node.op == "compare" else a[0]

    @property
    def value(self) -> Node:
        """Number that the slot holds."""
        return where(self.node, 1.0, 0.0) if self.node.op == "compare" else self.node


class SwitchFinder:
    """Finds switches in bound expressions and replaces them by slots.

    Parameters
    ----------
    first : int
        Index in ``p`` of the first slot.
    drivers : range
        Indices in ``p`` of the numbers of drivers.
    """

    def __init__(self, first: int, drivers: range) -> None:
        self.first = first
        self.drivers = drivers
        self.switches: list[Switch] = []
        self._slots: dict[Node, Node] = {}
        #: Whether a node reads time, and whether it reads a state.
        self._reads: dict[Node, tuple[bool, bool]] = {}

    def replace(self, nodes: Sequence[Node]) -> list[Node]:
        """Return expressions of ``u``, ``p`` and ``t`` that read slots."""
        return transform(nodes, self._replaced)

    def _replaced(self, node: Node) -> Node:
        if node.op not in ("compare", "floor", "fabs", "min", "max") or not self.is_timed(node):
            return node
        a = node.args
        match node.op:
            case "fabs":
                return where(self._replaced(compare(">=", a[0], 0.0)), a[0], neg(a[0]))
            case "min":
                return where(self._replaced(compare("<", a[0], a[1])), a[0], a[1])
            case "max":
                return where(self._replaced(compare(">", a[0], a[1])), a[0], a[1])
        if node not in self._slots:
            self._slots[node] = self._slot(node)
        slot = self._slots[node]
        return compare(">", slot, 0.5) if node.op == "compare" else slot

    def is_timed(self, node: Node) -> bool:
        """Return whether an expression depends on time but not on states."""
        for one in topological([node]) if node not in self._reads else ():
            if one not in self._reads:
                own = one is _T, one.op == "load" and one.value[0] != "p"
                for arg in one.args:
                    own = own[0] or self._reads[arg][0], own[1] or self._reads[arg][1]
                self._reads[one] = own
        timed, stated = self._reads[node]
        return timed and not stated

    def _slot(self, node: Node) -> Node:
        read = {one.value[1] for one in topological([node]) if one.op == "load"}
        after = tuple(sorted(i - self.first for i in read if i >= self.first))
        self.switches.append(Switch(node, after, any(i in self.drivers for i in read)))
        return load("p", self.first + len(self.switches) - 1)


def parameters_read(switches: Iterable[Switch]) -> set[int]:
    """Return the indices in ``p`` that decide when switches change."""
    nodes = topological([switch.node for switch in switches])
    return {node.value[1] for node in nodes if node.op == "load"}


@frozen
class SwitchBlocks(RestartClock):
    """The statements that keep the slots of a run.

    Buffer ``switch_clock``; the slots themselves are in ``parameters``.

    Parameters
    ----------
    switches : tuple of Switch
    first : int
        Index in ``parameters`` of the first slot.
    precision : str
    """

    buffer, places = "switch_clock", (NEXT, RESTART)

    switches: tuple[Switch, ...]
    first: int
    precision: str = field(default="float64")

    @property
    def size(self) -> int:
        """Elements of the buffer ``switch_clock``."""
        return FIRST + len(self.switches)

    @staticmethod
    def recheck(block: BlockBuilder, wanted: Node) -> None:
        """Request an update of all slots in lanes in which an event has changed parameters."""
        places = [("switch_clock", NEXT), ("switch_clock", FORCED)]
        new = (-_NEVER, const(_CHANGED))
        block.assign(
            places,
            [where(wanted, value, load(*place)) for place, value in zip(places, new, strict=True)],
        )

    def start(self, block: BlockBuilder) -> None:
        """Reset the slots of a run that is about to start; `update` then computes them."""
        slots = [("parameters", self.first + i) for i in range(len(self.switches))]
        clock = {NEXT: -_NEVER, RESTART: ZERO, FORCED: const(_STARTED)}
        block.assign(
            [*slots, *(("switch_clock", place) for place in clock)],
            [*([ZERO] * len(slots)), *clock.values()],
        )

    def _place(self, i: int) -> tuple[str, int]:
        return "switch_clock", FIRST + i

    def _placed(self, nodes: Sequence[Node], t: Node) -> list[Node]:
        """Return expressions of a switch where they read real buffers, at the time `t`."""
        mapping: dict[Node, Node] = {_T: t}
        for node in topological(nodes):
            if node.op == "load":
                mapping[node] = load("parameters", node.value[1])
        return substitute(nodes, mapping)

    def _near(self, t: Node) -> Node:
        return (NEAR * EPSILON[self.precision]) * fabs(t)

    def update(
        self, block: BlockBuilder, t: Node, t_start: Node, t_end: Node, knot: Node | None
    ) -> None:
        """Update the slots that change at `t`, and their next switching times.

        Parameters
        ----------
        t : Node
        t_start, t_end : Node
            Of the run.
        knot : Node or None
            The next knot of the drivers.
        """
        near = block.let("switch_near", self._near(t) + t)
        forced = block.let("switch_forced", compare("!=", load("switch_clock", FORCED), 0.0))
        block.let("switch_changed", ZERO)
        for i, switch in enumerate(self.switches):
            due = logical_or(forced, compare("<=", load(*self._place(i)), near))
            due = block.let(f"switch_due_{i}", due)
            limits = [load(*self._place(j)) for j in switch.after]
            limits += [knot] if switch.driven and knot is not None else []
            limit = _NEVER
            for one in limits:
                limit = minimum(one, limit)
            with block.when(due):
                limit = block.let("switch_limit", limit)
                self._find(block, switch, t, near, limit, t_start, t_end)
                found = block.let("switch_time", minimum(load("switch_found", 0), limit))
                middle = block.let("switch_middle", 0.5 * t + 0.5 * minimum(found, t_end))
                (value,) = self._placed([switch.value], middle)
                value = block.let("switch_value", value)
                slot = ("parameters", self.first + i)
                differs = where(compare("==", value, load(*slot)), load("switch_changed", 0), ONE)
                block.assign(
                    [self._place(i), slot, ("switch_changed", 0)],
                    [where(due, found, load(*self._place(i))), value, differs],
                )
        following = load(*self._place(0))
        for i in range(1, len(self.switches)):
            following = minimum(load(*self._place(i)), following)
        places = [("switch_clock", place) for place in (NEXT, RESTART, FORCED)]
        # A run that starts needs no restart.
        started = compare("==", load("switch_clock", FORCED), _STARTED)
        restart = where(started, ZERO, load("switch_changed", 0))
        block.assign(places, [following, restart, ZERO])

    def _find(
        self,
        block: BlockBuilder,
        switch: Switch,
        t: Node,
        near: Node,
        limit: Node,
        t_start: Node,
        t_end: Node,
    ) -> None:
        """Write the next switching time of a slot to ``switch_found``."""
        slope = differentiate(switch.difference, _T)
        if _T in topological([slope]):
            self._search(block, switch, t, minimum(limit, t_end), t_start, t_end)
            return
        (rest,) = substitute([switch.difference], {_T: ZERO})
        slope, rest, now = self._placed([slope, rest, switch.difference], t)
        if switch.node.op == "compare":
            found = block.let("switch_root", -rest / slope)
        else:
            # The next integers in the direction in which the argument moves.
            up = compare(">", slope, 0.0)
            whole = where(up, floor(now) + 1.0, -floor(-now) - 1.0)
            whole = block.let("switch_whole", whole)
            root = block.let("switch_root", (whole - rest) / slope)
            beyond = (where(up, whole + 1.0, whole - 1.0) - rest) / slope
            found = where(compare(">", root, near), root, beyond)
        block.let("switch_found", where(compare(">", found, near), found, _NEVER))

    # the search -------------------------------------------------------------------------------

    def _search(
        self,
        block: BlockBuilder,
        switch: Switch,
        t: Node,
        stop: Node,
        t_start: Node,
        t_end: Node,
    ) -> None:
        """Search for the next change of a condition that is not affine in time.

        Intervals grow while bounds determine the side of the condition, and shrink where they do
        not. If the slope has one sign over an interval, its ends determine the side.
        """
        a = switch.node.args
        if switch.node.op == "compare":
            operands: list[Node] = [a[0], a[1]]
        else:
            # The sine changes sign at every integer.
            operands = [call("sin", math.pi * a[0]), ZERO]
        difference = operands[0] - operands[1]
        slope = differentiate(difference, _T)
        # Comparisons with an undefined number are false.
        undefined = 1.0 if switch.node.value in ("<", "<=") else -1.0
        stop = block.let("scan_stop", stop)
        grain = _GRAINS * EPSILON[self.precision]
        least = maximum(_LEAST * (t_end - t_start), grain * maximum(fabs(t), fabs(stop)))
        least = block.let("scan_finest", least)
        begin = block.let("scan_at", (grain * fabs(t)) + t)
        block.let("scan_width", maximum(stop - begin, ZERO))
        block.let("scan_least", least)
        block.let("scan_side", ZERO)
        block.let("scan_mark", begin)
        block.let("scan_crossing", ZERO)
        block.let("scan_going", where(compare("<", begin, stop), ONE, ZERO))
        with block.repeat(lambda: compare("!=", load("scan_going", 0), 0.0), _PASSES):
            self._scan(block, operands, difference, slope, undefined)
        crossing = compare("!=", load("scan_crossing", 0), 0.0)
        low, high = load("scan_mark", 0), load("scan_at", 0)
        block.let("bisecting", where(crossing, ONE, ZERO))
        side = load("scan_side", 0)
        with block.repeat(lambda: compare("!=", load("bisecting", 0), 0.0), _HALVINGS):
            middle = block.let("halfway", 0.5 * low + 0.5 * high)
            (value,) = self._placed([difference], middle)
            value = where(compare("==", value, value), value, const(undefined))
            same = block.let("same_side", compare(">", value * side, 0.0))
            between = logical_and(compare(">", middle, low), compare("<", middle, high))
            going = block.let("halving", logical_and(crossing, between))
            block.assign(
                [("scan_mark", 0), ("scan_at", 0), ("bisecting", 0)],
                [
                    where(logical_and(going, same), middle, low),
                    where(logical_and(going, logical_not(same)), middle, high),
                    where(going, ONE, ZERO),
                ],
            )
        over = logical_and(logical_not(crossing), compare(">=", high, stop))
        block.let("switch_found", where(over, _NEVER, high))

    def _scan(
        self,
        block: BlockBuilder,
        operands: Sequence[Node],
        difference: Node,
        slope: Node,
        undefined: float,
    ) -> None:
        """Look at one interval of a search, and choose the next."""
        at, width, least = load("scan_at", 0), load("scan_width", 0), load("scan_least", 0)
        side, mark, stop = load("scan_side", 0), load("scan_mark", 0), load("scan_stop", 0)
        right = block.let("scan_right", minimum(at + width, stop))
        nodes = [*operands, slope]
        a, b, steep = bounds(self._placed(nodes, _T), _T, at, right)
        doubt = (_ROUNDINGS * EPSILON[self.precision]) * (a.magnitude + b.magnitude)
        doubt = block.let("scan_doubt", doubt)

        def side_of(low: Node, high: Node) -> Node:
            above, below = compare(">", low, doubt), compare("<", high, -doubt)
            return where(above, ONE, where(below, -ONE, ZERO))

        whole = block.let("scan_whole", side_of(a.low - b.high, a.high - b.low))
        ends = [self._placed([difference], place)[0] for place in (at, right)]
        missing = [compare("!=", end, end) for end in ends]
        first, last = (
            block.let(f"scan_end_{i}", where(missing[i], const(undefined), side_of(end, end)))
            for i, end in enumerate(ends)
        )
        one_way = logical_or(compare(">", steep.low, 0.0), compare("<", steep.high, 0.0))
        one_way = block.let("scan_one_way", one_way)
        nowhere = logical_and(*missing)
        new = block.let("scan_new", where(logical_or(one_way, nowhere), last, whole))
        decided = block.let("scan_decided", compare("!=", new, 0.0))
        unknown = compare("==", side, 0.0)
        known = block.let("scan_known", where(unknown, where(one_way, first, new), side))
        crossing = compare("<", known * new, 0.0)
        crossing = block.let("scan_found", logical_and(decided, crossing))
        begun = logical_and(unknown, compare("!=", known, 0.0))
        fine = compare("<=", width, least)
        onward = block.let("scan_onward", logical_or(decided, fine))
        # Where nothing is decided, not even finely, it goes on in growing steps.
        coarser = minimum(2.0 * least, (1.0 / 256.0) * (stop - at))
        coarser = where(decided, load("scan_finest", 0), where(fine, coarser, least))
        block.assign(
            [
                ("scan_mark", 0), ("scan_side", 0), ("scan_at", 0), ("scan_width", 0),
                ("scan_least", 0), ("scan_crossing", 0), ("scan_going", 0),
            ],
            [
                where(
                    crossing,
                    where(begun, at, mark),
                    where(decided, right, mark),
                ),
                where(compare("!=", known, 0.0), known, where(decided, new, side)),
                where(onward, right, at),
                where(decided, 4.0 * width, where(fine, maximum(width, coarser), 0.25 * width)),
                maximum(coarser, load("scan_finest", 0)),
                where(crossing, ONE, ZERO),
                where(
                    logical_or(crossing, logical_and(onward, compare(">=", right, stop))),
                    ZERO,
                    ONE,
                ),
            ],
        )  # fmt: skip
