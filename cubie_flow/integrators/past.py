"""The past of a run: kept steps in a ring, look-ups in them, and discontinuities that come back.

Equations with delays read states at earlier times. Every accepted step is kept: its start, its
length, and its interpolant as a polynomial in ``theta`` of the states that are delayed. The kept
steps are a ring of rows, so the oldest is replaced when it is full. A look-up walks in the ring
from the row of the look-up before to the row that holds its time. Lanes walk together, and every
lane stops at a row that only its own time decides.

A state whose derivative jumps at one time makes a jump of the next higher derivative one delay
later (C. A. H. Paul, Developing a delay differential equation solver, Appl. Numer. Math. 9, 1992,
403-414; A. Bellen and M. Zennaro, Numerical Methods for Delay Differential Equations, 2003,
chapter 2). The start of a run has level 1: the derivative jumps. Each delay adds one to the level
of a time, and times up to the order of the method are landed on. The level of a time is kept in the
row of the step that begins there.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen

from cubie_flow.expressions.bit_operations import to_int
from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.derivatives import differentiate, directional
from cubie_flow.expressions.graph import (
    FALSE,
    ONE,
    ZERO,
    Node,
    compare,
    const,
    fabs,
    lane_counter,
    load,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    past_value,
    symbol,
    where,
)
from cubie_flow.expressions.traversal import content_hash, substitute, topological, transform
from cubie_flow.integrators.controllers import EPSILON
from cubie_flow.integrators.lane import T_START, clock
from cubie_flow.integrators.restart_clock import RestartClock

#: Elements of a row of the ring before the coefficients of the interpolants: start and length of a
#: step, and the level of its start.
START, LENGTH, LEVEL, ROW = range(4)
#: Elements of the buffer ``past_clock`` before those of delays: the row of the next step, the
#: number of kept steps, the level of the present time, the next time to land on, and whether the
#: run restarts there.
HEAD, COUNT, MESH, NEXT, RESTART, FIRST = range(6)
#: Elements of ``past_clock`` for every delay: the row of its last look-up, the row of the next
#: discontinuity that it can bring back, and how many kept steps follow from there.
PLACE, SCAN, REST, LAG = range(4)
#: Default number of kept steps.
KEPT = 256
#: Level of a time at which all derivatives that matter are continuous.
SMOOTH = 1000.0
# Roundings of a time within which two times are equal.
_NEAR = 16.0
# The last step before a time may be this much longer than proposed, see `Attempt`.
_STRETCH = 1.01
_NEVER = const(float("inf"))
_T = symbol("t")


def reads_delays(nodes: Sequence[Node]) -> bool:
    """Return whether bound expressions read delayed values."""
    return any(node.op == "past" for node in topological(nodes))


@frozen
class Lag:
    """One delay.

    Parameters
    ----------
    node : Node
        Length of the delay, in ``u``, ``p``, ``t`` and values of earlier delays ``d``.
    """

    node: Node

    @property
    def constant(self) -> bool:
        """Whether it is constant between events."""
        reads = topological([self.node])
        return not any(one is _T or (one.op == "load" and one.value[0] != "p") for one in reads)

    @property
    def content_hash(self) -> str:
        """SHA-256 digest of the expression."""
        return content_hash([self.node])


@frozen
class LookUps:
    """The delayed values that a function reads.

    Parameters
    ----------
    lags : tuple of Lag
    slots : tuple of (int, int)
        Number of the delay and of the state for every value ``d[2*i]``, whose derivative by time is
        ``d[2*i + 1]``.
    first : int
        Number of the first delay among those of all functions.
    """

    lags: tuple[Lag, ...] = ()
    slots: tuple[tuple[int, int], ...] = ()
    first: int = 0


class DelayFinder:
    """Finds delayed values in bound expressions and replaces them by elements of ``d``."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.lags: list[Lag] = []
        self.slots: list[tuple[int, int]] = []
        self._found: dict[Node, tuple[int, Node]] = {}

    def replace(self, nodes: Sequence[Node]) -> list[Node]:
        """Return expressions of ``u``, ``p``, ``t`` and ``d``."""

        def rule(node: Node) -> Node:
            if node.op != "delay":
                return node
            if node not in self._found:
                self._found[node] = self._slot(node)
            number, time = self._found[node]
            return past_value(load("d", 2 * number), load("d", 2 * number + 1), time)

        return transform(nodes, rule)

    def _slot(self, node: Node) -> tuple[int, Node]:
        state, lag = node.args
        one = Lag(lag)
        if one not in self.lags:
            self.lags.append(one)
        self.slots.append((self.lags.index(one), int(state.value[1])))
        return len(self.slots) - 1, _T - lag

    @property
    def look_ups(self) -> LookUps:
        """What was found."""
        return LookUps(tuple(self.lags), tuple(self.slots), self.first)


@frozen
class Past(RestartClock):
    """The statements that keep the past of a run and look values up in it.

    Buffers: ``past`` (the ring, and one more row that steps which do not count are written to),
    ``past_clock``, ``past_start`` (start values of the states), ``delayed`` (values that a
    function reads) and, for implicit methods, ``delayed_base`` (those of the Jacobian).

    Parameters
    ----------
    rhs, observables : LookUps
        Of the right-hand side and of the observables.
    history : tuple of (int, Node)
        States before the start, as expressions of ``t``, ``p`` and start values ``u``; the others
        have their start values.
    states : int
        Number of states.
    kept : int
        Largest number of kept steps.
    degree : int
        Of the interpolant.
    order : int
        Of the method: the highest level of a time to land on.
    restarts : bool
        Whether the method restarts wherever it lands, because it remembers steps.
    precision : {"float32", "float64"}
    """

    buffer, places = "past_clock", (NEXT, RESTART)

    rhs: LookUps
    observables: LookUps
    history: tuple[tuple[int, Node], ...] = field(metadata={"hash": False})
    history_hash: str
    states: int
    kept: int
    degree: int
    order: int
    restarts: bool
    precision: str

    # memory -----------------------------------------------------------------------------------

    @property
    def delayed_states(self) -> tuple[int, ...]:
        """Numbers of the states that are kept."""
        slots = (*self.rhs.slots, *self.observables.slots)
        return tuple(sorted({state for _, state in slots}))

    @property
    def width(self) -> int:
        """Elements of a row of the ring."""
        return ROW + len(self.delayed_states) * (self.degree + 1)

    @property
    def size(self) -> int:
        """Elements of the buffer ``past``."""
        return (self.kept + 1) * self.width

    @property
    def clock_size(self) -> int:
        """Elements of the buffer ``past_clock``."""
        return FIRST + LAG * (len(self.rhs.lags) + len(self.observables.lags))

    @property
    def delayed_size(self) -> int:
        """Elements of the buffer ``delayed``."""
        return 2 * max(len(self.rhs.slots), len(self.observables.slots), 1)

    @staticmethod
    def _lag(number: int, item: int) -> tuple[str, int]:
        return "past_clock", FIRST + LAG * number + item

    def _near(self, t: Node, lag: Node) -> Node:
        return (_NEAR * EPSILON[self.precision]) * (fabs(t) + fabs(lag))

    def _row(self, row: str, element: int) -> Node:
        """Return an element of the row whose number is in a value of the block."""
        return load("past", element, ((lane_counter(row), self.width),))

    def _after(self, row: Node) -> Node:
        return where(compare("==", row, float(self.kept - 1)), ZERO, row + 1.0)

    def _before(self, row: Node) -> Node:
        return where(compare("==", row, 0.0), const(float(self.kept - 1)), row - 1.0)

    @staticmethod
    def _point(block: BlockBuilder, name: str, row: Node) -> None:
        """Write the number of a row where `_row` reads it."""
        block.assign([(lane_counter(name), 0)], [to_int(row)])

    # start of a run ---------------------------------------------------------------------------

    def start(self, block: BlockBuilder) -> None:
        """Write the past of a run that is about to start."""
        level = ZERO if self.history else ONE
        values = {HEAD: ZERO, COUNT: ZERO, MESH: level, NEXT: _NEVER, RESTART: ZERO}
        values |= dict.fromkeys(range(FIRST, self.clock_size), ZERO)
        block.assign([("past_clock", i) for i in values], list(values.values()))
        block.sweep(self.states, {"past_start": load("state", 0, 1)})

    def open(self, block: BlockBuilder, middle: Node = _NEVER) -> None:
        """Write the values that look-ups of a block need.

        Parameters
        ----------
        block : BlockBuilder
        middle : Node
            A time within the step. Look-ups for earlier times read what follows a jump exactly one
            delay before, those for later times what precedes it.
        """
        block.assign(
            [("past_middle", 0), ("past_lost", 0), ("past_ahead", 0)], [middle, FALSE, FALSE]
        )

    @staticmethod
    def lost() -> Node:
        """Return whether a look-up of the block was earlier than the oldest kept step."""
        return load("past_lost", 0, kind="bool")

    @staticmethod
    def ahead() -> Node:
        """Return whether a look-up of the block was later than the present."""
        return load("past_ahead", 0, kind="bool")

    # look-ups ---------------------------------------------------------------------------------

    def look_up(
        self, block: BlockBuilder, ups: LookUps, at: str, time: Node, target: str, slopes: bool
    ) -> None:
        """Write the delayed values of a function, and their derivatives by time if wanted.

        Parameters
        ----------
        block : BlockBuilder
            After `open`.
        ups : LookUps
        at : str
            Buffer of the states.
        time : Node
        target : str
            Buffer of the result.
        slopes : bool
        """
        time = block.let("past_now", time)
        for number, lag in enumerate(ups.lags):
            length = block.let("past_length", self._bound(lag.node, at, time, target))
            wanted = block.let("past_time", time - length)
            self._find(block, ups.first + number, time, length, wanted)
            for slot, (owner, state) in enumerate(ups.slots):
                if owner == number:
                    self._read(block, state, wanted, (target, 2 * slot), slopes)

    def _bound(self, node: Node, at: str, time: Node, target: str = "delayed") -> Node:
        """Return an expression that reads the buffers of the loop."""
        buffers = {"u": at, "p": "parameters", "d": target, "w": "past_start"}
        mapping: dict[Node, Node] = {_T: time}
        for one in topological([node]):
            if one.op == "load" and one.value[0] in buffers:
                mapping[one] = load(buffers[one.value[0]], one.value[1])
        return substitute([node], mapping)[0]

    def _find(
        self, block: BlockBuilder, number: int, time: Node, length: Node, wanted: Node
    ) -> None:
        """Walk to the row of a time; write whether it is before the start or cannot be read."""
        near = block.let("past_near", self._near(time, length))
        early = compare("<", time, load("past_middle", 0))
        found = block.let("past_side", wanted + where(early, near, -near))
        old = block.let("past_old", compare("<", found, clock(T_START)))
        head, count = load("past_clock", HEAD), load("past_clock", COUNT)
        full = compare(">=", count, float(self.kept))
        oldest = block.let("past_oldest", where(full, head, ZERO))
        newest = block.let("past_newest", self._before(head))
        block.assign(
            [("past_at", 0), ("past_going", 0)],
            [
                load(*self._lag(number, PLACE)),
                logical_and(logical_not(old), compare(">", count, 0.0)),
            ],
        )
        at, going = load("past_at", 0), load("past_going", 0, kind="bool")
        with block.repeat(lambda: going, 2 * self.kept + 2):
            after = block.let("past_after", self._after(at))
            self._point(block, "past_row", at)
            self._point(block, "past_next", after)
            earlier = compare("<", found, self._row("past_row", START))
            back = logical_and(earlier, compare("!=", at, oldest))
            later = compare(">=", found, self._row("past_next", START))
            forth = logical_and(later, compare("!=", at, newest))
            forth = logical_and(logical_not(earlier), forth)
            back = block.let("past_back", logical_and(going, back))
            forth = block.let("past_forth", logical_and(going, forth))
            block.assign(
                [("past_at", 0), ("past_going", 0)],
                [
                    where(back, self._before(at), where(forth, after, at)),
                    logical_or(back, forth),
                ],
            )
        block.assign([self._lag(number, PLACE)], [at])
        self._point(block, "past_row", at)
        start = block.let("past_begun", self._row("past_row", START))
        lasted = block.let("past_lasted", self._row("past_row", LENGTH))
        block.let("past_theta", (wanted - start) / lasted)
        empty = block.let("past_empty", compare("==", count, 0.0))
        known = logical_not(logical_or(old, empty))
        lost = logical_and(logical_and(known, full), compare("<", found, start))
        until = where(empty, clock(T_START), start + lasted)
        ahead = logical_and(logical_not(old), compare(">", wanted, until + 2.0 * near))
        block.assign(
            [("past_lost", 0), ("past_ahead", 0)],
            [logical_or(self.lost(), lost), logical_or(self.ahead(), ahead)],
        )

    def _read(
        self,
        block: BlockBuilder,
        state: int,
        wanted: Node,
        target: tuple[str, int],
        slopes: bool,
    ) -> None:
        """Write the value of a state at the time found, and its derivative by time."""
        old, empty = (load(name, 0, kind="bool") for name in ("past_old", "past_empty"))
        theta, first = load("past_theta", 0), self._first(state)
        terms = [self._row("past_row", first + k) for k in range(self.degree + 1)]
        value = terms[-1]
        for term in reversed(terms[:-1]):
            value = value * theta + term
        begun = load("past_start", state)
        before = self._before_start(state)
        history = self._bound(before, "past_start", wanted)
        places, nodes = [target], [where(old, history, where(empty, begun, value))]
        if slopes:
            rate = float(self.degree) * terms[-1]
            for k in reversed(range(1, self.degree)):
                rate = rate * theta + float(k) * terms[k]
            rate = where(empty, ZERO, rate / load("past_lasted", 0))
            slope = self._bound(differentiate(before, _T), "past_start", wanted)
            places.append((target[0], target[1] + 1))
            nodes.append(where(old, slope, rate))
        block.assign(places, nodes)

    def _first(self, state: int) -> int:
        """Return the element of a row where the coefficients of a state begin."""
        return ROW + self.delayed_states.index(state) * (self.degree + 1)

    def _before_start(self, state: int) -> Node:
        """Return a state before the start of the run."""
        return dict(self.history).get(state, load("u", state))

    # a step -----------------------------------------------------------------------------------

    def longest(self, block: BlockBuilder, t: Node) -> Node:
        """Return the longest step that reads no value of itself: the shortest delay."""
        lengths = self._lengths(block, t)
        shortest = lengths[0]
        for length in lengths[1:]:
            shortest = minimum(shortest, length)
        # A step may be stretched to a time that it nearly reaches.
        part = (1.0 + 8.0 * EPSILON[self.precision]) / _STRETCH
        return block.let("past_longest", part * shortest)

    @property
    def _nested(self) -> bool:
        """Whether the length of a delay depends on delayed values."""
        nodes = topological([one.node for one in self.rhs.lags])
        return any(one.op == "load" and one.value[0] == "d" for one in nodes)

    def _lengths(self, block: BlockBuilder, t: Node) -> list[Node]:
        """Return the delays of the right-hand side at the present state."""
        if self._nested:
            self.look_up(block, self.rhs, "state", t, "delayed", True)
        lags = enumerate(self.rhs.lags)
        return [block.let(f"lag_{i}", self._bound(one.node, "state", t)) for i, one in lags]

    def find_next(self, block: BlockBuilder, t: Node, active: Node) -> None:
        """Write the next time at which a delay brings a discontinuity back."""
        until: Node = _NEVER
        # The present time is not yet the start of a kept step.
        fresh = compare("<", load("past_clock", MESH), float(self.order))
        for number, lag in enumerate(self.rhs.lags):
            length = load(f"lag_{number}", 0)
            if lag.constant:
                until = minimum(until, where(fresh, t + length, _NEVER))
            seen = block.let("past_seen", (t - length) + self._near(t, length))
            self._scan(block, number, seen, active)
            rest = load(*self._lag(number, REST))
            source = block.let("past_source", self._row("past_row", START))
            if lag.constant:
                coming = source + length
            else:
                pace = block.let("past_pace", ONE - self._lag_slope(lag, t))
                left = (source - (t - length)) / pace
                least = 0.5 * self._near(t, length)
                coming = where(compare(">", pace, 0.0), t + maximum(left, least), _NEVER)
            coming = where(compare(">", rest, 0.0), coming, _NEVER)
            until = block.let("past_until", minimum(until, coming))
        block.assign([("past_clock", NEXT)], [where(active, until, load("past_clock", NEXT))])

    def _scan(self, block: BlockBuilder, number: int, seen: Node, active: Node) -> None:
        """Move the row of a delay to the next discontinuity that it has not brought back."""
        scan, rest = self._lag(number, SCAN), self._lag(number, REST)
        block.assign([("past_at", 0), ("past_rest", 0)], [load(*scan), load(*rest)])
        block.assign([("past_going", 0)], [active])
        at, left = load("past_at", 0), load("past_rest", 0)
        going = load("past_going", 0, kind="bool")
        with block.repeat(lambda: going, self.kept + 1):
            self._point(block, "past_row", at)
            passed = compare("<=", self._row("past_row", START), seen)
            plain = compare(">=", self._row("past_row", LEVEL), float(self.order))
            more = logical_and(compare(">", left, 0.0), logical_or(passed, plain))
            more = block.let("past_more", logical_and(going, more))
            block.assign(
                [("past_at", 0), ("past_rest", 0), ("past_going", 0)],
                [where(more, self._after(at), at), where(more, left - 1.0, left), more],
            )
        block.assign([scan, rest], [at, left])
        self._point(block, "past_row", at)

    def _lag_slope(self, lag: Lag, t: Node) -> Node:
        """Return the derivative of a delay along the solution."""
        used = sorted(
            one.value[1]
            for one in topological([lag.node])
            if one.op == "load" and one.value[0] == "u"
        )
        variables = [_T, *(load("u", j) for j in used)]
        rates = [ONE, *(load("derivative", j) for j in used)]
        (slope,) = directional([lag.node], variables, rates)
        return self._bound(slope, "state", t)

    def missed(self, block: BlockBuilder, h: Node, t: Node) -> Node:
        """Return whether a step went past a discontinuity that a varying delay brings back."""
        truth = FALSE
        end = block.let("past_end", h + t)
        for number, lag in enumerate(self.rhs.lags):
            if lag.constant:
                continue
            length = block.let("past_length", self._bound(lag.node, "proposed_state", end))
            self._point(block, "past_row", load(*self._lag(number, SCAN)))
            reached = self._row("past_row", START) + 2.0 * self._near(end, length)
            some = compare(">", load(*self._lag(number, REST)), 0.0)
            truth = logical_or(truth, logical_and(some, compare(">", end - length, reached)))
        return block.let("past_missed", truth) if truth is not FALSE else FALSE

    def keep(
        self, block: BlockBuilder, t: Node, h: Node, terms: Sequence[Sequence[Node]], accept: Node
    ) -> None:
        """Add an accepted step to the ring.

        Parameters
        ----------
        block : BlockBuilder
        t, h : Node
            Start and length of the step.
        terms : sequence of sequence of Node
            Coefficients of the interpolant of every state of `delayed_states`.
        accept : Node
            Whether the step counts.
        """
        head, count = load("past_clock", HEAD), load("past_clock", COUNT)
        self._point(block, "past_row", where(accept, head, const(float(self.kept))))
        level = load("past_clock", MESH)
        moves = ((lane_counter("past_row"), self.width),)
        values = [t, h, where(compare("<=", level, float(self.order)), level, const(SMOOTH))]
        values += [node for row in terms for node in row]
        block.put(*(("past", i, moves, value) for i, value in enumerate(values)))
        after = self._after(head)
        full = compare(">=", count, float(self.kept))
        places = [("past_clock", HEAD), ("past_clock", COUNT), ("past_clock", MESH)]
        nodes = [after, where(full, count, count + 1.0), const(SMOOTH)]
        for number in range(len(self.rhs.lags)):
            scan, rest = self._lag(number, SCAN), self._lag(number, REST)
            all_left = compare(">=", load(*rest), float(self.kept))
            places += [scan, rest]
            nodes += [
                where(all_left, after, load(*scan)),
                where(all_left, load(*rest), load(*rest) + 1.0),
            ]
        pairs = zip(places, nodes, strict=True)
        block.assign(places, [where(accept, node, load(*place)) for place, node in pairs])

    # discontinuities --------------------------------------------------------------------------

    def arrive(self, block: BlockBuilder, t: Node) -> None:
        """Write the level of the present time of a run that is on `next_time`."""
        level = load("past_clock", MESH)
        if not self.rhs.lags:
            return
        self._lengths(block, t)
        for number in range(len(self.rhs.lags)):
            length = load(f"lag_{number}", 0)
            self._point(block, "past_row", load(*self._lag(number, SCAN)))
            seen = (t - length) + 2.0 * self._near(t, length)
            some = compare(">", load(*self._lag(number, REST)), 0.0)
            met = logical_and(some, compare("<=", self._row("past_row", START), seen))
            below = minimum(level, self._row("past_row", LEVEL) + 1.0)
            level = block.let("past_level", where(met, below, level))
        # A jump of the derivative needs the derivative after it.
        highest = SMOOTH - 1.0 if self.restarts else 1.0
        due = compare(">=", t, load("past_clock", NEXT))
        wanted = logical_and(due, compare("<=", level, highest))
        block.assign(
            [("past_clock", MESH), ("past_clock", RESTART), ("past_clock", NEXT)],
            [level, where(wanted, ONE, ZERO), where(due, _NEVER, load("past_clock", NEXT))],
        )

    @staticmethod
    def note(block: BlockBuilder, condition: Node, level: float) -> None:
        """Note a discontinuity at the present time where a condition holds."""
        old = load("past_clock", MESH)
        block.assign([("past_clock", MESH)], [where(condition, minimum(old, const(level)), old)])

    def rescan(self, block: BlockBuilder, condition: Node) -> None:
        """Look for discontinuities in all kept steps again where a condition holds."""
        count, head = load("past_clock", COUNT), load("past_clock", HEAD)
        full = compare(">=", count, float(self.kept))
        oldest = where(full, head, ZERO)
        for number in range(len(self.rhs.lags)):
            for item, value in ((SCAN, oldest), (REST, count)):
                place = self._lag(number, item)
                block.assign([place], [where(condition, value, load(*place))])
