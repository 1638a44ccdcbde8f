"""Drivers in a kernel: the polynomial of the present segment, and how a run moves to the next.

A driver is a polynomial between two neighbouring times (knots). A run keeps the coefficients of
its present segment after its parameters. So equations and their exact derivatives, also by time,
evaluate a polynomial of ``t`` and search nothing. The loop lands on every knot, and a block of one
lane fetches the next segment from a table. The table is a run-time array: a new series needs no
new kernel.

The tables follow the initial values:

1. for each driver four numbers: index of the first row, rows per series, period or 0, numbers per
   series;
2. one number: the index of the first element after the tables;
3. the rows of each series, ``start of the segment, origin, coefficients``, with a last row at the
   end of the segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from cubie_flow.expressions.bit_operations import fetch, to_int
from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.graph import Node, compare, const, floor, load, minimum, where
from cubie_flow.integrators.restart_clock import RestartClock
from cubie_flow.systems.drivers import Driver

Array = Any
HEADER = 4
BASE, ROWS, PERIOD, SERIES = range(HEADER)
# Elements of the buffer `driver_clock`: the next knot of any driver, whether the run has to be
# restarted, and for each driver its segment, the shift of its periods and its next knot.
NEXT, RESTART, FIRST = range(3)
SEGMENT, SHIFT, KNOT, CLOCK = range(4)
#: More than the halvings and the segments that a search can take.
_SEARCH, _MOVES = 64, 1 << 40


@frozen
class DriverSlot:
    """How one driver is compiled in; its data is not.

    Parameters
    ----------
    degree : int
        Of its polynomials.
    restarts : bool
        Whether the integration is restarted at its knots.
    series : int or float
        The row of the inputs (int) that chooses the series, or the literal choice.
    """

    degree: int
    restarts: bool
    series: int | float

    @property
    def width(self) -> int:
        """Numbers of a run that follow its parameters: the origin, then the coefficients."""
        return self.degree + 2


def width(drivers: Sequence[Driver]) -> int:
    """Return how many numbers of a run the drivers add to its parameters."""
    return sum(driver.order + 2 for driver in drivers)


def polynomials(drivers: Sequence[Driver], first: int, t: Node) -> dict[str, Node]:
    """Return every driver by name as a polynomial of `t`.

    Parameters
    ----------
    drivers : sequence of Driver
    first : int
        Where their numbers begin in the parameters ``p`` of a run.
    t : Node
    """
    found = {}
    for driver in drivers:
        since = t - load("p", first)
        value = load("p", first + 1 + driver.order)
        for power in reversed(range(driver.order)):
            value = value * since + load("p", first + 1 + power)
        found[driver.name] = value
        first += driver.order + 2
    return found


class DriverBlocks(RestartClock):
    """The statements that keep the segments of a run.

    Parameters
    ----------
    slots : sequence of DriverSlot
    states : int
        Initial values before the tables.
    first : int
        Where the drivers' numbers begin in the buffer ``parameters``.
    """

    buffer, places = "driver_clock", (NEXT, RESTART)

    def __init__(self, slots: Sequence[DriverSlot], states: int, first: int) -> None:
        self.slots = slots
        self.states = states
        self.first = first

    @property
    def size(self) -> int:
        """Elements of the buffer ``driver_clock``."""
        return FIRST + CLOCK * len(self.slots)

    @property
    def restarts(self) -> bool:
        """Whether a run restarts at some knot."""
        return any(slot.restarts for slot in self.slots)

    def _header(self, number: int, item: int) -> Node:
        return load("initial", self.states + HEADER * number + item)

    def _table(self, block: BlockBuilder, number: int) -> Node:
        """Return where the series of the run begins."""
        series = self.slots[number].series
        chosen = load("inputs", series) if isinstance(series, int) else const(series)
        start = chosen * self._header(number, SERIES) + self._header(number, BASE)
        return block.let("driver_table", start)

    def _at(self, number: int, row: Node, item: int) -> Node:
        width = self.slots[number].width + 1
        place = float(width) * row + (load("driver_table", 0) + float(item))
        return fetch("initial", to_int(place))

    def _enter(self, block: BlockBuilder, number: int, row: Node, shift: Node) -> None:
        """Make a segment the present one."""
        slot = self.slots[number]
        own = FIRST + CLOCK * number
        offset = self.first + sum(one.width for one in self.slots[:number])
        values = [self._at(number, row, 1) + shift]
        values += [self._at(number, row, 2 + i) for i in range(slot.degree + 1)]
        knot = self._at(number, row + 1.0, 0) + shift
        block.assign(
            [("driver_clock", own + i) for i in (SEGMENT, SHIFT, KNOT)]
            + [("parameters", offset + i) for i in range(slot.width)],
            [row, shift, knot, *values],
        )

    def _earliest(self, block: BlockBuilder, restart: Node) -> None:
        knots = [load("driver_clock", FIRST + CLOCK * i + KNOT) for i in range(len(self.slots))]
        earliest = knots[0]
        for knot in knots[1:]:
            earliest = minimum(earliest, knot)
        block.assign([("driver_clock", NEXT), ("driver_clock", RESTART)], [earliest, restart])

    def find(self, block: BlockBuilder, t: Node) -> None:
        """Find the segments at the start of a run by bisection."""
        for number in range(len(self.slots)):
            self._table(block, number)
            rows = self._header(number, ROWS)
            period = self._header(number, PERIOD)
            zero = const(0.0)
            since = t - self._at(number, zero, 0)
            periods = where(compare(">", period, 0.0), floor(since / period) * period, zero)
            shift = block.let("driver_shift", periods)
            folded = block.let("driver_time", t - shift)
            self._search(block, number, rows, folded)
            self._enter(block, number, load("segment_low", 0), shift)
        self._earliest(block, const(0.0))

    def _search(self, block: BlockBuilder, number: int, rows: Node, t: Node) -> None:
        """Find the last of `rows` segments that begins at `t` or earlier."""
        block.assign([("segment_low", 0), ("segment_high", 0)], [const(0.0), rows])
        low, high = load("segment_low", 0), load("segment_high", 0)
        with block.repeat(lambda: compare(">", high - low, 1.0), _SEARCH):
            middle = block.let("segment_middle", floor(0.5 * (low + high)))
            begun = block.let("segment_begun", compare("<=", self._at(number, middle, 0), t))
            block.assign(
                [("segment_low", 0), ("segment_high", 0)],
                [where(begun, middle, low), where(begun, high, middle)],
            )

    def follow(self, block: BlockBuilder, t: Node) -> None:
        """Move a run that is on a knot to the segments after it."""
        restart: Node = const(0.0)
        for number, slot in enumerate(self.slots):
            own = FIRST + CLOCK * number
            self._table(block, number)
            passed = block.let(
                f"passed_{number}", compare("<=", load("driver_clock", own + KNOT), t)
            )
            # Segments shorter than the rounding of the time are skipped.
            with block.repeat(
                lambda own=own: compare("<=", load("driver_clock", own + KNOT), t),  # type: ignore[misc]
                _MOVES,
            ):
                row, shift = (load("driver_clock", own + i) for i in (SEGMENT, SHIFT))
                due = block.let("segment_due", compare("<=", load("driver_clock", own + KNOT), t))
                ahead = block.let("segment_ahead", where(due, row + 1.0, row))
                around = compare(">=", ahead, self._header(number, ROWS))
                around = block.let("segment_around", around)
                moved = block.let(
                    "segment_moved",
                    where(around, shift + self._header(number, PERIOD), shift),
                )
                place = block.let("segment_place", where(around, const(0.0), ahead))
                self._enter(block, number, place, moved)
            if slot.restarts:
                restart = where(passed, const(1.0), restart)
        self._earliest(block, restart)


# the tables, on the host ----------------------------------------------------------------------


def tables(drivers: Sequence[Driver], states: int) -> Array:
    """Return the tables of drivers as they follow `states` initial values, float64, shape (n,)."""
    import numpy as np

    headers, parts = [], []
    place = states + HEADER * len(drivers) + 1
    for driver in drivers:
        series = [driver.segments(number) for number in range(len(driver.values))]
        period = driver.times[-1] - driver.times[0] if driver.outside == "periodic" else 0.0
        size = series[0].size
        headers.append([place, len(series[0]) - 1, period, size])
        parts += [rows.ravel() for rows in series]
        place += size * len(series)
    return np.concatenate([np.ravel(headers), [place], *parts])


def check_choices(drivers: Sequence[Driver], columns: Mapping[str, Array]) -> None:
    """Refuse runs that choose a series which the driver does not have.

    Parameters
    ----------
    drivers : sequence of Driver
    columns : mapping of str to ndarray, shape (runs,)
        Values of the batch by name.

    Raises
    ------
    FlowError
        Naming the first such series.
    """
    for driver in drivers:
        if driver.series in columns:
            column = columns[driver.series]
            driver.check_series(float(value) for value in set(column.tolist()))
