"""A launch: a built kernel and its run-time settings, ready for one batch after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Any

import numpy as np
from attrs import evolve, field, fields, frozen

from cubie_flow.errors import FlowError
from cubie_flow.integrators.comparison import table
from cubie_flow.integrators.controllers import SETTINGS
from cubie_flow.integrators.drivers import check_choices, tables
from cubie_flow.integrators.lane import COUNTS
from cubie_flow.integrators.metrics import METRICS
from cubie_flow.integrators.records import RecordTable
from cubie_flow.integrators.run import SingleIntegratorRun
from cubie_flow.kernels.targets.batch import Batch, BatchShape, Program

Array = Any


#: Metadata key of a field: the run axis of its array, None if it has none.
_AXIS = "run_axis"


def _axis(number: int | None) -> dict[str, int | None]:
    """Return field metadata for an array whose axis `number` counts the runs; None: no axis."""
    return {_AXIS: number}


@frozen(eq=False)
class BatchResult:
    """Results of a batch of runs.

    Every field states which axis of its array counts the runs. `RUN_AXES` collects these axes, and
    all code that moves, selects or replaces runs uses it.

    Attributes
    ----------
    samples : ndarray, shape (saved, runs, times)
    finals : ndarray, shape (states, runs)
    metrics : ndarray, shape (summarised, 6, runs)
    misfits : ndarray, shape (compared, 2 or 3, runs)
        Sums of squared differences to data, see `cubie_flow.integrators.comparison` and
        `cubie_flow.integrators.residual_errors`.
    event_counts : ndarray, shape (recorded events, runs)
    event_times : ndarray, shape (recorded events, times kept, runs)
        NaN after the last event.
    status : ndarray of uint8, shape (runs,)
    steps, rejected : ndarray of int32, shape (runs,)
    evaluations : ndarray of int32, shape (runs,)
        Right-hand sides evaluated in attempted steps.
    seconds : float
        Time in the kernel, transfers included.
    measured : dict
        Measurements of the target, see `Batch`.
    attempts : ndarray of uint8, shape (runs,), optional
        Number of the rescue attempt that solved a run, 0 for none.
    """

    samples: Array = field(metadata=_axis(1))
    finals: Array = field(metadata=_axis(1))
    metrics: Array = field(metadata=_axis(2))
    misfits: Array = field(metadata=_axis(2))
    event_counts: Array = field(metadata=_axis(1))
    event_times: Array = field(metadata=_axis(2))
    status: Array = field(metadata=_axis(0))
    steps: Array = field(metadata=_axis(0))
    rejected: Array = field(metadata=_axis(0))
    evaluations: Array = field(metadata=_axis(0))
    seconds: float = field(metadata=_axis(None))
    measured: dict[str, float] = field(metadata=_axis(None), factory=dict)
    attempts: Array | None = field(metadata=_axis(0), default=None)

    def put_back(self, order: Array) -> BatchResult:
        """Undo a permutation: return the result whose run ``order[i]`` is run ``i`` of this one."""

        def moved(array: Array, axis: int) -> Array:
            target = np.empty_like(array)
            _runs_first(target, axis)[order] = _runs_first(array, axis)
            return target

        return evolve(self, **{name: moved(array, axis) for name, array, axis in self._arrays()})

    def replace_runs(self, runs: Array, other: BatchResult, chosen: Array) -> None:
        """Overwrite the runs `runs` with the runs `chosen` of another result, in place.

        Parameters
        ----------
        runs : ndarray of int, shape (n,)
            Numbers of the runs to overwrite.
        other : BatchResult
            A result with the same arrays, of any precision.
        chosen : ndarray
            Index that selects n runs of `other`.
        """
        for name, array, axis in self._arrays():
            # A float64 result may hold numbers out of the range of float32.
            with np.errstate(over="ignore"):
                _runs_first(array, axis)[runs] = _runs_first(getattr(other, name), axis)[chosen]

    def _arrays(self) -> Iterator[tuple[str, Array, int]]:
        """Yield (name, array, run axis) of every array that is present."""
        for name, axis in RUN_AXES.items():
            array = getattr(self, name)
            if array is not None:
                yield name, array, axis


def run_axes(result: type) -> dict[str, int]:
    """Return the run axis of every array of a result class, by name.

    Raises
    ------
    TypeError
        Naming a field that does not state its axis.
    """
    axes = {}
    for one in fields(result):
        if _AXIS not in one.metadata:
            raise TypeError(f"{result.__name__}.{one.name} does not say which axis counts the runs")
        if one.metadata[_AXIS] is not None:
            axes[one.name] = one.metadata[_AXIS]
    return axes


def _runs_first(array: Array, axis: int) -> Array:
    return np.moveaxis(array, axis, 0)


#: Run axis of every array of a result.
RUN_AXES = run_axes(BatchResult)


@frozen
class FinalRows:
    """Where the parts of the final values begin: states, then metrics, misfits and events.

    Attributes
    ----------
    metrics, misfits, events, end : int
        First row of each part, and the number of rows.
    """

    metrics: int
    misfits: int
    events: int
    end: int

    @classmethod
    def of(cls, run: SingleIntegratorRun) -> FinalRows:
        """Return the rows of a run."""
        loop = run.loop.settings
        events = run.loop.events
        misfits = loop.states + len(METRICS) * len(loop.summarised_numbers)
        first = misfits + run.loop.comparison.size
        return cls(loop.states, misfits, first, first + (events.rows if events is not None else 0))


@frozen(eq=False)
class SharedArrays:
    """What all runs of a batch share, besides the settings.

    Attributes
    ----------
    times : ndarray
        Times at which runs are sampled, from the start, then infinity.
    initial : ndarray
        Fixed initial values, then the tables of drivers and of data.
    time_count : int
        Times that are saved; the others are those of data.
    """

    times: Array
    initial: Array
    time_count: int

    @classmethod
    def of(cls, run: SingleIntegratorRun, times: Array | None) -> SharedArrays:
        """Return the arrays of a run that is saved at `times`, relative to the start.

        Raises
        ------
        FlowError
            If a table has more entries than the precision can count.
        """
        s, dtype = run.settings, np.dtype(run.settings.precision)
        saved = np.asarray([] if times is None else times, np.float64)
        sampled, states = saved, s.system.states
        count = len(saved) if s.records is None else s.records.most_samples
        parts = [[state.value for state in states], tables(s.system.drivers, len(states))]
        if s.measured is not None:
            sampled = np.union1d(saved, np.asarray(s.measured.times) - s.t_start)
            stored = np.isin(sampled, saved)
            parts.append(table(s.measured, sampled + s.t_start, stored))
        initial = np.concatenate(parts)
        # The kernel counts samples and addresses tables in the working precision.
        most = int(2 / np.finfo(dtype).eps)
        for what, size in (("sampled times", len(sampled)), ("entries of tables", len(initial))):
            if size > most:
                raise FlowError(
                    f"there are {size:,} {what}, but {dtype.name} counts up to {most:,}; use "
                    "precision=float64, or fewer times in output and in the data"
                )
        ending = np.concatenate([sampled, [np.inf]]).astype(dtype)
        return cls(ending, initial.astype(dtype), count)

    def with_records(self, own: RecordTable) -> SharedArrays:
        """Return the arrays of a batch whose runs have records and times of their own."""
        dtype = self.times.dtype
        initial = np.concatenate([self.initial, own.numbers.astype(dtype)])
        return evolve(self, times=own.times.astype(dtype), initial=initial)


def batch_shape(run: SingleIntegratorRun, settings: Array, times: Array | None) -> BatchShape:
    """Return the sizes of the batches of a run, which need no kernel.

    Parameters
    ----------
    run : SingleIntegratorRun
    settings : ndarray
        Run-time settings, see `BatchSolverKernel.run_time_settings`.
    times : ndarray, optional
        Times to save at.
    """
    shared = SharedArrays.of(run, times)
    saved = len(run.loop.settings.saved_numbers) if shared.time_count else 0
    return BatchShape(
        real=np.dtype(run.settings.precision).itemsize,
        inputs=len(run.rows),
        finals=FinalRows.of(run).end,
        saved=saved,
        times=shared.time_count if saved else 0,
        shared=len(settings) + len(shared.times) + len(shared.initial) + _record_entries(run),
    )


def _record_entries(run: SingleIntegratorRun) -> int:
    """Return the number of entries of the records of all subjects, of which a batch has a part."""
    records = run.settings.records
    return 0 if records is None else records.size


#: Status of a run that an interruption left unfinished, as of a run that a store lacks.
UNFINISHED = 255


def _blank_unfinished(batch: Batch, sampling: bool) -> None:
    """Remove what an interrupted batch has of runs that did not end."""
    unfinished = batch.counts[0] == UNFINISHED
    batch.counts[1:, unfinished] = 0
    batch.finals[:, unfinished] = np.nan
    if sampling:
        batch.samples[:, unfinished] = np.nan


class Launch:
    """Solves batches of one kernel; what they share is prepared once.

    Parameters
    ----------
    program : Program
    run : SingleIntegratorRun
        The run that the program integrates.
    settings : ndarray
        Run-time settings, see `BatchSolverKernel.run_time_settings`.
    times : ndarray, optional
        Times to save at, relative to the start, increasing. A run that is compared with data is
        also sampled at the times of the data.
    threads : int
        CPU threads.
    """

    def __init__(
        self,
        program: Program,
        run: SingleIntegratorRun,
        settings: Array,
        times: Array | None = None,
        threads: int = 1,
    ) -> None:
        self._program, self._settings, self._threads = program, settings, threads
        self._memory = program.memory()
        self._dtype = np.dtype(run.settings.precision)
        self._rows, self._drivers = run.rows, run.settings.system.drivers
        self._shared = SharedArrays.of(run, times)
        self._records = run.settings.records
        loop = run.loop.settings
        self._sampling, self._saved = loop.sampling, len(loop.saved_numbers)
        self._summarised, self._compared = len(loop.summarised_numbers), len(loop.compared_numbers)
        events = run.loop.events
        self._recorded = len(events.recorded) if events is not None else 0
        self._times_kept = events.times_kept if events is not None else 0
        self._first = FinalRows.of(run)
        self._sums = run.loop.comparison.sums

    def solve(
        self,
        columns: Mapping[str, Array],
        count: int,
        tick: Callable[[int], None] | None = None,
        keep_interrupted: bool = False,
    ) -> BatchResult:
        """Integrate `count` runs.

        Parameters
        ----------
        columns : mapping
            For every varied quantity its values, shape (count,).
        count : int
            Number of runs.
        tick : callable, optional
            Called several times per second with the number of runs started.
        keep_interrupted : bool
            Whether Ctrl-C ends the batch with the runs that are finished. The others have the
            status `UNFINISHED`, no steps, and NaN everywhere.

        Raises
        ------
        FlowError
            If a run chooses a series that its driver does not have.
        """
        dtype, program, shared = self._dtype, self._program, self._shared
        check_choices(self._drivers, columns)
        if self._records is not None:
            own = self._records.batch(columns, self._settings[SETTINGS:], dtype)
            shared, columns = shared.with_records(own), {**columns, **own.inputs}
        times = shared.time_count
        inputs = np.empty((len(self._rows), count), dtype)
        for row, name in enumerate(self._rows):
            inputs[row] = columns[name]
        shape = (self._saved, count, times) if self._sampling else (1,)
        samples = self._memory.empty(shape, dtype)
        finals = self._memory.empty((self._first.end, count), dtype)
        counts = self._memory.empty((COUNTS, count), np.int32)
        batch = Batch(
            count=count,
            inputs=inputs,
            initial=shared.initial,
            settings=self._settings,
            times=shared.times,
            time_count=times,
            samples=samples,
            strides=(count * times, times, 1),
            finals=finals,
            counts=counts,
            threads=self._threads,
            tick=tick,
        )
        started = perf_counter()
        if keep_interrupted:
            counts[0] = UNFINISHED
            try:
                program.run(batch)
            except KeyboardInterrupt:
                _blank_unfinished(batch, self._sampling)
        else:
            program.run(batch)
        return self._result(batch, perf_counter() - started)

    def _result(self, batch: Batch, seconds: float) -> BatchResult:
        """Return the arrays of a solved batch, divided into results."""
        finals, counts, runs = batch.finals, batch.counts, batch.count
        first = self._first
        metrics, misfits, events = first.metrics, first.misfits, first.events
        times = events + self._recorded
        return BatchResult(
            samples=batch.samples if self._sampling else np.empty((0, runs, 0), self._dtype),
            finals=finals[:metrics],
            metrics=finals[metrics:misfits].reshape(self._summarised, len(METRICS), runs),
            misfits=finals[misfits:events].reshape(self._compared, self._sums, runs),
            event_counts=finals[events:times],
            event_times=finals[times:].reshape(self._recorded, self._times_kept, runs),
            status=counts[0].astype(np.uint8),
            steps=counts[1],
            rejected=counts[2],
            evaluations=counts[3],
            seconds=seconds,
            measured=batch.measured,
        )
