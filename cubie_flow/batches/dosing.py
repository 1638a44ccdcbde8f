"""The doses, resets and covariates of one subject as a list of actions in time.

Everything that depends on the data alone is worked out here: additional doses, overlapping
infusions, what a reset cancels, and the repeated doses that lead to a steady state. A run only has
to land on one action after another.

A steady state is a short program. `STEADY` begins it at the time of the dose: the states go back to
their start values, and the time goes back by one interval. The actions of one interval follow, and
`CHECK` at its end: it returns to the first of them until the states repeat. So it is right for
equations that are not linear, too.

Source: NONMEM Users Guide, Part VI (PREDPP), chapter V.
"""

from __future__ import annotations

import math
from bisect import bisect, insort
from collections.abc import Mapping, Sequence

from attrs import evolve, field, frozen

from cubie_flow.batches.subject_table import DOSE, OBSERVATION, OTHER, RESET, RESET_DOSE

# What an action does: add an amount to a state, set the inflow of a state, set a covariate, return
# to the start values, begin a steady state, end an interval of it (the second kind adds the states
# from before it).
ADD, INFLOW, SET, RETURN, STEADY, STEADY_ON_TOP, CHECK, CHECK_ON_TOP = (
    "add", "inflow", "set", "return", "steady", "steady_on_top", "check", "check_on_top",
)  # fmt: skip
#: Times that differ by less than this part of them are equal.
EQUAL = 1e-10


@frozen
class Row:
    """One row of a subject.

    Attributes
    ----------
    time : float
        Relative to the first row of the subject.
    kind : int
        EVID.
    state : int
        Number of the state that a dose goes into.
    amount, rate, interval : float
        AMT, RATE and II.
    additional, steady : int
        ADDL and SS.
    covariates : mapping
        Values that hold from this row on, by name.
    """

    time: float
    kind: int
    state: int = 0
    amount: float = 0.0
    rate: float = 0.0
    interval: float = 0.0
    additional: int = 0
    steady: int = 0
    covariates: Mapping[str, float] = field(factory=dict)

    @property
    def length(self) -> float:
        """Duration of an infusion; 0 for a dose at once."""
        return self.amount / self.rate if self.rate > 0 else 0.0

    @property
    def sampled(self) -> bool:
        """Whether the run is saved at this row."""
        return self.kind in (OBSERVATION, OTHER)


@frozen
class Action:
    """One entry of the list of a run.

    Attributes
    ----------
    time : float
    what : str
    target : int or str
        Number of a state, or name of a covariate.
    value : float
    before : int
        Number of rows that are saved before it.
    """

    time: float
    what: str
    target: int | str = -1
    value: float = 0.0
    before: int = 0


@frozen
class _Item:
    """A dose, or the end of an infusion, that a row asks for at a later time."""

    time: float
    state: int
    amount: float = 0.0
    rate: float = 0.0
    end_of: int | None = None


def actions(rows: Sequence[Row], backward: bool = False) -> list[Action]:
    """Return the actions of a subject in the order in which they happen.

    At one time, additional doses and ends of infusions come before the rows, and the rows in their
    own order.

    Parameters
    ----------
    rows : sequence of Row
        In the order of the table; the run ends at the last.
    backward : bool
        Whether the covariates of a row hold from the row before it on, instead of from the row on.
    """
    return _Subject(rows, backward).run()


class _Subject:
    """The state of the walk over the rows of one subject."""

    def __init__(self, rows: Sequence[Row], backward: bool) -> None:
        self.rows, self.backward, self.span = rows, backward, rows[-1].time
        self.times = sorted({row.time for row in rows})
        self.waiting: list[_Item] = []
        #: Rate of every running infusion by its number, by state.
        self.running: dict[int, dict[int, float]] = {}
        self.infusions = 0
        self.inflow: dict[int, float] = {}
        self.present: dict[str, float] = {}
        self.found: list[Action] = []
        self.saved = 0

    def run(self) -> list[Action]:
        """Return the actions."""
        for number, row in enumerate(self.rows):
            self._catch_up(row.time)
            if number == 0 or not self.backward:
                self._cover(row.time, row.covariates)
            if row.kind in (RESET, RESET_DOSE):
                self._reset(row.time)
                self._do(row.time, RETURN)
            if row.kind in (DOSE, RESET_DOSE):
                self._dose(row)
            self.saved += row.sampled
            if self.backward and number + 1 < len(self.rows):
                self._cover(row.time, self.rows[number + 1].covariates)
        self._catch_up(self.span)
        return self.found

    def _do(self, time: float, what: str, target: int | str = -1, value: float = 0.0) -> None:
        self.found.append(Action(time, what, target, value, self.saved))

    def _cover(self, time: float, covariates: Mapping[str, float]) -> None:
        """Set the covariates that change; the first values are those of the start."""
        for name, value in covariates.items():
            if self.present.get(name) != value:
                if name in self.present:
                    self._do(time, SET, name, value)
                self.present[name] = value

    def _reset(self, time: float) -> None:
        """Cancel running infusions and doses that were still to come."""
        self.waiting.clear()
        self.running.clear()
        self._set_inflows(time)

    # what happens between rows ----------------------------------------------------------------

    def _catch_up(self, time: float) -> None:
        """Do what waits until `time`."""
        while self.waiting and self.waiting[0].time <= time:
            item = self.waiting.pop(0)
            if item.end_of is not None:
                del self.running[item.state][item.end_of]
                self._set_inflows(item.time)
            else:
                self._give(item.time, item.state, item.amount, item.rate)

    def _later(self, item: _Item) -> None:
        """Add an item that waits; its time is that of a row if both are nearly equal."""
        place = bisect(self.times, item.time)
        for near in self.times[max(place - 1, 0) : place + 1]:
            if abs(near - item.time) <= EQUAL * max(abs(near), abs(item.time)):
                item = evolve(item, time=near)
        # Ends come before doses, so that infusions that follow each other do not overlap.
        insort(self.waiting, item, key=lambda one: (one.time, one.end_of is None))

    # doses ------------------------------------------------------------------------------------

    def _dose(self, row: Row) -> None:
        if row.steady:
            self._steady_state(row)
        if row.amount > 0:
            self._give(row.time, row.state, row.amount, row.rate)
        for k in range(1, row.additional + 1):
            time = row.time + k * row.interval
            if time > self.span * (1.0 + EQUAL):
                break
            self._later(_Item(time, row.state, row.amount, row.rate))

    def _give(self, time: float, state: int, amount: float, rate: float) -> None:
        """Give a dose now, at once or as an infusion that begins."""
        if rate == 0:
            self._do(time, ADD, state, amount)
            return
        self._infuse(time, state, rate, time + amount / rate)
        self._set_inflows(time)

    def _infuse(self, time: float, state: int, rate: float, end: float) -> None:
        """Count an infusion as running until its end."""
        self.infusions += 1
        self.running.setdefault(state, {})[self.infusions] = rate
        self._later(_Item(max(end, time), state, end_of=self.infusions))

    def _set_inflows(self, time: float, more: Mapping[int, float] | None = None) -> None:
        """Write the inflows that have changed: those of running infusions, or `more` instead."""
        new = {state: math.fsum(rates.values()) for state, rates in self.running.items()}
        new = dict(more) if more is not None else new
        for state in sorted({*self.inflow, *new}):
            value = new.get(state, 0.0)
            if value != self.inflow.get(state, 0.0):
                self._do(time, INFLOW, state, value)
                self.inflow[state] = value

    def _steady_state(self, row: Row) -> None:
        """Bring the run to the steady state of a dose that repeats for ever."""
        on_top = row.steady == 2
        if not on_top:
            self._reset(row.time)
        self._do(row.time, STEADY_ON_TOP if on_top else STEADY)
        # A constant infusion has no interval; any length will do.
        interval = row.interval or self.span or 1.0
        begin = row.time - interval
        if row.amount > 0 and row.rate == 0:
            self._set_inflows(begin, {})
            self._do(begin, ADD, row.state, row.amount)
        else:
            earlier, rest = _overlap(row.length or interval, interval)
            self._set_inflows(begin, {row.state: (earlier + 1) * row.rate})
            # Each interval begins with all of them.
            again = Action(begin, INFLOW, row.state, (earlier + 1) * row.rate, self.saved)
            if self.found[-1] != again:
                self.found.append(again)
            if rest < interval:
                self._set_inflows(begin + rest, {row.state: earlier * row.rate})
        self._do(row.time, CHECK_ON_TOP if on_top else CHECK)
        if row.rate > 0 and row.amount > 0:
            # Infusions that began before this dose still run.
            for k in range(1, earlier + 1):
                end = row.time + row.length - k * interval
                self._infuse(row.time, row.state, row.rate, end)
        self._set_inflows(row.time)


def _overlap(length: float, interval: float) -> tuple[int, float]:
    """Return how many earlier infusions run when one begins, and for how long the last of them."""
    earlier = max(0, math.ceil(length / interval * (1.0 - EQUAL)) - 1)
    rest = length - earlier * interval
    return earlier, interval if rest >= interval * (1.0 - EQUAL) else rest
