"""A launch: a built kernel and its run-time settings, ready for one batch after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np
from attrs import evolve, field, frozen

from cubie_flow.integrators.comparison import SUMS, table
from cubie_flow.integrators.drivers import check_choices, tables
from cubie_flow.integrators.loop import COUNTS, METRICS
from cubie_flow.integrators.run import SingleIntegratorRun
from cubie_flow.kernels.targets.batch import Batch, Program

Array = Any


@frozen(eq=False)
class BatchResult:
    """What a batch of runs gives.

    Attributes
    ----------
    samples : ndarray, shape (saved, runs, times)
    finals : ndarray, shape (states, runs)
    metrics : ndarray, shape (summarised, 6, runs)
    misfits : ndarray, shape (compared, 2, runs)
        Sums of squared differences to data, see `cubie_flow.integrators.comparison`.
    event_counts : ndarray, shape (recorded events, runs)
    event_times : ndarray, shape (recorded events, times kept, runs)
        NaN where there are no more.
    status : ndarray of uint8, shape (runs,)
    steps, rejected : ndarray of int32, shape (runs,)
    evaluations : ndarray of int32, shape (runs,)
        Right-hand sides evaluated in attempted steps.
    seconds : float
        Time in the kernel, with transfers.
    measured : dict
        What the target measured, see `Batch`.
    attempts : ndarray of uint8, shape (runs,), optional
        Which attempt of a rescue a run comes from, 0 for none.
    """

    samples: Array
    finals: Array
    metrics: Array
    misfits: Array
    event_counts: Array
    event_times: Array
    status: Array
    steps: Array
    rejected: Array
    evaluations: Array
    seconds: float
    measured: dict[str, float] = field(factory=dict)
    attempts: Array | None = None

    def put_back(self, order: Array) -> BatchResult:
        """Return the result with run ``i`` of it as run ``order[i]``, as it was before."""

        def moved(array: Array, axis: int) -> Array:
            found = np.empty_like(array)
            np.moveaxis(found, axis, 0)[order] = np.moveaxis(array, axis, 0)
            return found

        return evolve(self, **{name: moved(getattr(self, name), i) for name, i in RUN_AXES})


#: Arrays of a result and their axis of runs.
RUN_AXES = (
    ("samples", 1), ("finals", 1), ("metrics", 2), ("misfits", 2), ("status", 0), ("steps", 0),
    ("rejected", 0), ("evaluations", 0),
)  # fmt: skip


class Launch:
    """Solves batches; all that does not differ between them is made once.

    Parameters
    ----------
    program : Program
    run : SingleIntegratorRun
        What the program integrates.
    settings : ndarray
        Its run-time settings, see `BatchSolverKernel.run_time_settings`.
    times : ndarray, optional
        Times to sample at, relative to the start, increasing; needed when the run samples.
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
        self._dtype = dtype = np.dtype(run.settings.precision)
        self._rows = run.rows
        given = np.asarray([] if times is None else times, np.float64)
        self._time_count = len(given)
        self._times = np.concatenate([given, [np.inf]]).astype(dtype)
        states, self._drivers = run.settings.system.states, run.settings.system.drivers
        parts = [[state.value for state in states], tables(self._drivers, len(states))]
        if run.settings.measured is not None:
            parts.append(table(run.settings.measured, given + run.settings.t_start))
        self._initial = np.concatenate(parts).astype(dtype)
        loop = run.loop.settings
        self._sampling, self._saved = loop.sampling, len(loop.saved_numbers)
        self._states, self._summarised = len(states), len(loop.summarised_numbers)
        self._compared = len(loop.compared_numbers)
        events = run.loop.events
        self._recorded = len(events.recorded) if events is not None else 0
        self._times_kept = events.times_kept if events is not None else 0
        # Rows of the final values: states, metrics, misfits, events.
        self._kept = self._states + len(METRICS) * self._summarised
        self._first_event = self._kept + SUMS * self._compared
        self._finals = self._first_event + (events.rows if events is not None else 0)

    def solve(
        self,
        columns: Mapping[str, Array],
        count: int,
        tick: Callable[[int], None] | None = None,
    ) -> BatchResult:
        """Integrate `count` runs.

        Parameters
        ----------
        columns : mapping
            For every varied quantity its values, shape (count,).
        count : int
        tick : callable, optional
            Called now and then with the number of runs started.

        Raises
        ------
        FlowError
            If a run chooses a series of a driver that is not there.
        """
        dtype, program, times = self._dtype, self._program, self._time_count
        inputs = np.empty((len(self._rows), count), dtype)
        for row, name in enumerate(self._rows):
            inputs[row] = columns[name]
        check_choices(self._drivers, columns)
        shape = (self._saved, count, times) if self._sampling else (1,)
        samples = self._memory.empty(shape, dtype)
        finals = self._memory.empty((self._finals, count), dtype)
        counts = self._memory.empty((COUNTS, count), np.int32)
        batch = Batch(
            count=count,
            inputs=inputs,
            initial=self._initial,
            settings=self._settings,
            times=self._times,
            time_count=times,
            samples=samples,
            strides=(count * times, times, 1),
            finals=finals,
            counts=counts,
            threads=self._threads,
            tick=tick,
        )
        started = perf_counter()
        program.run(batch)
        seconds = perf_counter() - started
        states, kept, first = self._states, self._kept, self._first_event
        first_time = first + self._recorded
        return BatchResult(
            samples=samples if self._sampling else np.empty((0, count, 0), dtype),
            finals=finals[:states],
            metrics=finals[states:kept].reshape(self._summarised, len(METRICS), count),
            misfits=finals[kept:first].reshape(self._compared, SUMS, count),
            event_counts=finals[first:first_time],
            event_times=finals[first_time:].reshape(self._recorded, self._times_kept, count),
            status=counts[0].astype(np.uint8),
            steps=counts[1],
            rejected=counts[2],
            evaluations=counts[3],
            seconds=seconds,
            measured=batch.measured,
        )
