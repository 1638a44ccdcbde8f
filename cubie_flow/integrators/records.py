"""Records of a run: its own doses, infusions, resets, covariates and times to save at.

Every run walks a list of records in a run-time table, ``time, effect, value, samples before it``.
It lands on the time of each, applies the effect and restarts. A sample that comes before a record
of the same time shows the state before it. The kernel knows which effects exist and not how many
records a run has, so other data of the same kind need no new kernel.

The table follows the initial values and the tables of drivers: the number of samples of all lists,
the tolerances of a steady state, ``quantity, value`` of every sample, then the records. The times
of the samples are in the array of times. Both lists of a run end with one at infinity.

A steady state is a part of the list that a run repeats: the record that begins it sets the time
back by one interval, and the record that ends the interval sets it back again until the states
repeat. They are compared at 1, 2, 4, ... intervals. The difference of two comparisons is the
distance to the steady state at the first of them, and the rest at the second is about its square.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from cubie_flow.batches.store_names import SUBJECT
from cubie_flow.errors import FlowError
from cubie_flow.expressions.bit_operations import fetch, iadd, imul, integer, to_int
from cubie_flow.expressions.block import BlockBuilder, Function
from cubie_flow.expressions.graph import (
    ONE,
    TRUE,
    ZERO,
    Node,
    compare,
    const,
    fabs,
    load,
    logical_and,
    logical_not,
    logical_or,
    where,
)
from cubie_flow.integrators.lane import (
    CODE,
    RUNNING,
    SAVED,
    T_LOW,
    T_PREVIOUS,
    T_START,
    H,
    T,
    clock,
    counter,
)
from cubie_flow.integrators.restart_clock import RestartClock
from cubie_flow.integrators.status import STATUS
from cubie_flow.integrators.switches import SwitchBlocks

Array = Any
#: Rows of the inputs of a run with records: its start, and where its lists begin.
START, FIRST_RECORD, FIRST_SAMPLE = "@start", "@record", "@sample"
ROWS = (START, FIRST_RECORD, FIRST_SAMPLE)
#: Numbers of a record and of a sample.
WIDTH, SAMPLE_WIDTH = 4, 2
TIME, EFFECT, VALUE, BEFORE = range(WIDTH)
# Effects: an amount is added to a state, a parameter is set, a covariate is set, the states return
# to their start values, a steady state begins, an interval of it ends. ON_TOP keeps the states that
# were there before.
ADD, SET, COVER, RETURN, STEADY, STEADY_ON_TOP, CHECK, CHECK_ON_TOP = range(8)
# Elements of the buffer `record_clock`: the time of the next record, whether the run has to
# restart, the next record, the number of samples before it, the first sample of the run, the
# record that began the steady state, the intervals since, and those at the last comparison.
NEXT, RESTART, ROW, AFTER, FIRST, BEGUN, INTERVALS, MARK, SIZE = range(9)
#: Intervals after which a run has no steady state.
MOST_INTERVALS = 1 << 13
#: Differences of the states, in units of their tolerances, that count as none.
REPEATS = 10.0
_MOVES = 1 << 40


@frozen
class Effect:
    """One kind of record of a kernel.

    Parameters
    ----------
    kind : int
        One of the effects above.
    target : int
        Number of a state or of a parameter; -1 for none.
    """

    kind: int
    target: int = -1


@frozen
class RecordSlots:
    """What of the records is compiled in.

    Parameters
    ----------
    effects : tuple of Effect
        A record holds the number of one of them.
    start, first_record, first_sample : int
        Rows of the inputs.
    again : Function, optional
        Start values of states that are computed, for a return to them.
    derived : Function, optional
        Parameters that are computed from covariates which change.
    """

    effects: tuple[Effect, ...]
    start: int
    first_record: int
    first_sample: int
    again: Function | None = None
    derived: Function | None = None

    def has(self, *kinds: int) -> bool:
        """Return whether one of the effects is of one of these kinds."""
        return any(effect.kind in kinds for effect in self.effects)

    @property
    def parameters(self) -> frozenset[int]:
        """Parameters that records set, directly or by what is computed from them."""
        derived = () if self.derived is None else self.derived.outputs
        own = {effect.target for effect in self.effects if effect.kind in (SET, COVER)}
        return frozenset(own | {index for _, index in derived})


class RecordBlocks(RestartClock):
    """The statements that apply the records of a run.

    Parameters
    ----------
    slots : RecordSlots
    states : int
    table : Node
        Element of ``initial`` where the table begins.
    start_states : callable
        Writes the start values of the states that are not computed.
    sampling : bool
        Whether runs are sampled.
    """

    buffer, places = "record_clock", (NEXT, RESTART)

    def __init__(
        self,
        slots: RecordSlots,
        states: int,
        table: Node,
        start_states: Callable[[BlockBuilder], None],
        sampling: bool,
    ) -> None:
        self.slots, self.states, self.table = slots, states, table
        self.start_states, self.sampling = start_states, sampling

    @property
    def steady(self) -> bool:
        """Whether a run may look for a steady state."""
        return self.slots.has(STEADY, STEADY_ON_TOP)

    @property
    def on_top(self) -> bool:
        """Whether a steady state may be added to what is there."""
        return self.slots.has(STEADY_ON_TOP)

    # places -----------------------------------------------------------------------------------

    @staticmethod
    def first_sample() -> Node:
        """Return where the samples of a run begin."""
        return load("record_clock", FIRST)

    @staticmethod
    def due() -> Node:
        """Return whether the next record is due: its time has come, and the samples before it."""
        running = compare("==", counter(CODE), float(RUNNING))
        ended = compare("==", counter(CODE), float(STATUS["success"]))
        come = compare("<=", load("record_clock", NEXT), clock(T))
        come = logical_and(come, logical_or(running, ended))
        return logical_and(come, logical_not(RecordBlocks.sample_first()))

    @staticmethod
    def sample_first() -> Node:
        """Return whether a sample comes before the next record."""
        return compare("<", counter(SAVED), load("record_clock", AFTER))

    def sample_field(self, index: Node, item: int) -> Node:
        """Return a number of the sample with an integer index over all lists."""
        first = iadd(to_int(self.table), integer(1 + 2 * self.states + item))
        return fetch("initial", iadd(first, imul(index, integer(SAMPLE_WIDTH))))

    def _field(self, row: Node, item: int) -> Node:
        """Return a number of a record."""
        samples = to_int(fetch("initial", to_int(self.table)))
        first = iadd(to_int(self.table), integer(1 + 2 * self.states + item))
        first = iadd(first, imul(samples, integer(SAMPLE_WIDTH)))
        return fetch("initial", iadd(first, imul(to_int(row), integer(WIDTH))))

    def _time(self, row: Node) -> Node:
        return self._field(row, TIME) + clock(T_START)

    # a run ------------------------------------------------------------------------------------

    def start(self, block: BlockBuilder) -> None:
        """Take the lists of a run that starts."""
        s = self.slots
        values = {
            RESTART: ZERO, FIRST: load("inputs", s.first_sample),
            BEGUN: const(-1.0), INTERVALS: ZERO, MARK: ZERO,
        }  # fmt: skip
        block.assign([("record_clock", i) for i in values], list(values.values()))
        self._go_to(block, block.let("record_row", load("inputs", s.first_record)))

    def _go_to(self, block: BlockBuilder, row: Node) -> None:
        """Make a record the next one."""
        values = {ROW: row, NEXT: self._time(row), AFTER: self._field(row, BEFORE)}
        block.assign([("record_clock", i) for i in values], list(values.values()))

    def apply(self, block: BlockBuilder, rechecks: bool) -> None:
        """Apply the records of one lane that are due, in order.

        Parameters
        ----------
        block : BlockBuilder
        rechecks : bool
            Whether the parameters that they set decide when switches in time change.
        """
        with block.repeat(self.due, _MOVES), block.when(self.due()):
            row = block.let("record_row", load("record_clock", ROW))
            effect = block.let("record_effect", self._field(row, EFFECT))
            value = block.let("record_value", self._field(row, VALUE))
            block.let("record_next", row + 1.0)
            block.assign([("record_clock", RESTART)], [ONE])
            for number, one in enumerate(self.slots.effects):
                with block.when(compare("==", effect, float(number))):
                    self._happen(block, one, value, rechecks)
            self._go_to(block, load("record_next", 0))

    def _happen(self, block: BlockBuilder, effect: Effect, value: Node, rechecks: bool) -> None:
        """Write one effect."""
        kind = effect.kind
        if kind == ADD:
            state = ("state", effect.target)
            block.assign([state], [load(*state) + value])
        elif kind in (SET, COVER):
            block.assign([("parameters", effect.target)], [value])
            if kind == COVER and self.slots.derived is not None:
                self._evaluate(block, self.slots.derived)
            if rechecks:
                SwitchBlocks.recheck(block, TRUE)
        elif kind == RETURN:
            self._return(block)
        elif kind in (STEADY, STEADY_ON_TOP):
            self._begin_steady(block, kind == STEADY_ON_TOP)
        else:
            self._check_steady(block, kind == CHECK_ON_TOP)

    def _return(self, block: BlockBuilder) -> None:
        """Set the states to their start values."""
        self.start_states(block)
        if self.slots.again is not None:
            self._evaluate(block, self.slots.again)

    @staticmethod
    def _evaluate(block: BlockBuilder, function: Function) -> None:
        block.evaluate(function, {"u": ("state", 0), "p": ("parameters", 0)}, t=clock(T))

    # steady states ----------------------------------------------------------------------------

    def _begin_steady(self, block: BlockBuilder, on_top: bool) -> None:
        if on_top:
            block.sweep(self.states, {"kept_state": load("state", 0, 1)})
        self._return(block)
        values = {BEGUN: load("record_clock", ROW), INTERVALS: ZERO, MARK: ZERO}
        block.assign([("record_clock", i) for i in values], list(values.values()))
        self._go_back(block)

    def _go_back(self, block: BlockBuilder) -> None:
        """Set the time back to the beginning of the interval."""
        first = block.let("record_next", load("record_clock", BEGUN) + 1.0)
        t = block.let("record_time", self._time(first))
        values = {T: t, T_LOW: ZERO}
        if self.sampling:
            values |= {T_PREVIOUS: t, H: ZERO}
        block.assign([("clock", i) for i in values], list(values.values()))
        block.assign([("counters", CODE)], [const(RUNNING)])

    def _check_steady(self, block: BlockBuilder, on_top: bool) -> None:
        """Compare the states at the end of an interval, and repeat it until they repeat."""
        n = self.states
        mark, intervals = load("record_clock", MARK), load("record_clock", INTERVALS)
        block.assign([("record_clock", INTERVALS)], [intervals + 1.0])
        block.let("record_apart", ONE)
        with block.when(compare(">=", intervals, 2.0 * mark)):
            block.let("record_apart", where(compare(">", mark, 0.0), ZERO, ONE))
            state, before = load("state", 0, 1), load("repeated_state", 0, 1)
            # A steady state excludes drivers, so the table follows one number after the states.
            first = n + 2
            near = load("initial", first, 1) * fabs(state) + load("initial", first + n, 1)
            same = compare("<=", fabs(state - before), near)
            apart = where(same, load("record_apart", 0), ONE)
            block.sweep(n, [("record_apart", 0, 0, apart)])
            block.sweep(n, {"repeated_state": state})
            block.assign([("record_clock", MARK)], [intervals])
        repeats = compare("==", load("record_apart", 0), 0.0)
        with block.when(logical_not(repeats)):
            self._go_back(block)
            lost = compare(">=", intervals, float(MOST_INTERVALS))
            with block.when(lost):
                block.assign([("counters", CODE)], [const(STATUS["no_steady_state"])])
                self.restarted(block)
        with block.when(repeats):
            if on_top:
                block.sweep(n, {"state": load("state", 0, 1) + load("kept_state", 0, 1)})
            block.assign([("record_clock", BEGUN)], [const(-1.0)])


# on the host ----------------------------------------------------------------------------------


@frozen(eq=False)
class Records:
    """The lists of all subjects, and what their records do by the names of the model.

    Attributes
    ----------
    effects : tuple of (int, str)
        Kind and target of every effect.
    starts : ndarray, shape (subjects,)
        Start of each run.
    rows : ndarray, shape (n, 4)
        Records of all subjects, each list with an end at infinity.
    first_row : ndarray of int, shape (subjects + 1,)
    times : ndarray, shape (m,)
        Times of the samples relative to the start, each list with infinity at its end.
    first_time : ndarray of int, shape (subjects + 1,)
    samples : ndarray, shape (m, 2)
        Number of the compared quantity, -1 for none, and the measured value.
    most_samples : int
        Samples of the subject that has most of them.
    """

    effects: tuple[tuple[int, str], ...]
    starts: Array
    rows: Array
    first_row: Array
    times: Array
    first_time: Array
    samples: Array
    most_samples: int
    content_hash: str = field(init=False)

    @content_hash.default
    def _hash(self) -> str:
        import numpy as np

        digest = hashlib.sha256(repr(self.effects).encode())
        for values in (self.starts, self.rows, self.first_row, self.times, self.first_time,
                       self.samples):  # fmt: skip
            digest.update(np.ascontiguousarray(values).tobytes() + b";")
        return digest.hexdigest()

    @property
    def parameters(self) -> frozenset[str]:
        """Parameters that records set."""
        return frozenset(name for kind, name in self.effects if kind in (SET, COVER))

    @property
    def covariates(self) -> frozenset[str]:
        """Parameters that are covariates which change."""
        return frozenset(name for kind, name in self.effects if kind == COVER)

    @property
    def size(self) -> int:
        """Numbers that the lists of all subjects have."""
        return int(self.rows.size + self.times.size + self.samples.size)

    def batch(self, columns: Mapping[str, Array], tolerances: Array, precision: Any) -> RecordTable:
        """Return the table of the subjects of a batch; each is in it once.

        Parameters
        ----------
        columns : mapping
            Values of the batch, among them the subject of every run, shape (runs,).
        tolerances : ndarray, shape (2*states,)
            Relative and absolute tolerances of the states.
        precision : dtype

        Raises
        ------
        FlowError
            If the precision cannot number the records.
        """
        import numpy as np

        used, which = np.unique(columns[SUBJECT].astype(np.int64), return_inverse=True)
        rows, first_row = _gather(self.first_row, used)
        places, first_time = _gather(self.first_time, used)
        if max(len(rows), len(places)) > 2**24 and np.dtype(precision) == np.float32:
            raise FlowError(
                f"a shard has {max(len(rows), len(places)):,} records or observations, more than "
                f"float32 can number ({2**24:,}); use precision=float64 or a smaller "
                "storage.shard_runs"
            )
        head = [[len(places)], REPEATS * np.asarray(tolerances, np.float64)]
        numbers = np.concatenate([*head, self.samples[places].ravel(), self.rows[rows].ravel()])
        inputs = {
            START: self.starts[used][which],
            FIRST_RECORD: first_row[which],
            FIRST_SAMPLE: first_time[which],
        }
        return RecordTable(numbers, self.times[places], inputs)


@frozen(eq=False)
class RecordTable:
    """The lists of a batch.

    Attributes
    ----------
    numbers : ndarray
        What follows the initial values.
    times : ndarray
        Times of the samples.
    inputs : dict
        For each of `ROWS` its values, shape (runs,).
    """

    numbers: Array
    times: Array
    inputs: dict[str, Array]


def _gather(first: Array, used: Array) -> tuple[Array, Array]:
    """Return the places of the lists `used`, joined, and where each begins among them."""
    import numpy as np

    lengths = first[used + 1] - first[used]
    begins = np.concatenate([[0], np.cumsum(lengths)])
    shift = np.repeat(first[used] - begins[:-1], lengths)
    return np.arange(begins[-1]) + shift, begins[:-1]
