"""The shards of a study, solved one by one in this process or in a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from time import time as wall_time
from typing import Any
from uuid import uuid4

import numpy as np
from attrs import evolve, field, frozen

from cubie_flow.engines import Record, WorkerResources, pick_devices
from cubie_flow.errors import FlowError
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.launch import UNFINISHED, BatchResult, Launch
from cubie_flow.kernels.targets.batch import join_measured
from cubie_flow.kernels.targets.detect import cuda_devices
from cubie_flow.storage import Location, ResultStore
from cubie_flow.storage.layout import ShardPlan
from cubie_flow.study.accuracy import faint_states
from cubie_flow.study.conditions import Condition
from cubie_flow.study.cost_order import cost_order
from cubie_flow.study.kernel import build_kernel, kernel_digest, threads_of, tolerances
from cubie_flow.study.rescue import Rescue
from cubie_flow.study.store_schema import KEPT, shard_arrays
from cubie_flow.study.study import Study
from cubie_flow.study.trajectory_filter import trajectory_filter

Array = Any


@frozen(eq=False)
class _Pass:
    """Solves batches of a study with one kernel."""

    study: Study
    kernel: BatchSolverKernel
    threads: int
    keep_interrupted: bool = False

    @cached_property
    def _launch(self) -> Launch:
        limits = tolerances(self.study)
        return self.kernel.launch(limits, self.study.times, self.threads)

    @cached_property
    def _rescue(self) -> Rescue | None:
        return Rescue(self.study) if self.study.rescue else None

    def solve(
        self, columns: Mapping[str, Array], count: int, tick: Callable[[int], None] | None = None
    ) -> tuple[dict[str, Array], BatchResult]:
        """Return the arrays of a batch by the names of the store, and its result.

        Parameters
        ----------
        columns : mapping
            Values of every varied quantity, each of shape (count,).
        count : int
            Number of runs.
        tick : callable, optional
            Called several times with the number of runs started.
        """
        order, seconds = self._order(columns, count)
        given = columns if order is None else {n: v[order] for n, v in columns.items()}
        result = self._launch.solve(given, count, tick, self.keep_interrupted)
        if order is not None:
            result = evolve(result.put_back(order), seconds=result.seconds + seconds)
        interrupted = self.keep_interrupted and (result.status == UNFINISHED).any()
        if self._rescue is not None and not interrupted:
            result = self._rescue.apply(columns, result, self.study.times, self.threads)
        return shard_arrays(self.study, columns, result), result

    def _order(self, columns: Mapping[str, Array], count: int) -> tuple[Array | None, float]:
        """Return the order in which runs are solved, and the seconds of the pilot."""
        if self.study.order != "cost":
            return None, 0.0
        limits, seconds = tolerances(self.study), 0.0

        def attempts(runs: Array) -> Array:
            nonlocal seconds
            chosen = {name: values[runs] for name, values in columns.items()}
            result = self.kernel.solve(chosen, len(runs), limits, None, self.threads)
            seconds += result.seconds
            return result.steps + result.rejected

        return cost_order(columns, count, attempts), seconds

    def trajectories(
        self, columns: Mapping[str, Array], chosen: Array
    ) -> tuple[dict[str, Array], float, Mapping[str, float]]:
        """Return trajectories, NaN for runs that are not chosen, their seconds and measurements."""
        study, count = self.study, int(chosen.sum())
        shape = (len(chosen), len(study.times))
        saved = {name: np.full(shape, np.nan, study.precision) for name in study.saved}
        if not count:
            return saved, 0.0, {}
        arrays, result = self.solve({n: v[chosen] for n, v in columns.items()}, count)
        for name, values in saved.items():
            values[chosen] = arrays[name]
        return saved, result.seconds, result.measured


@frozen(eq=False)
class ShardSolver:
    """Solves the shards of a study with one kernel; see `cubie_flow.engines.base.Solver`.

    Parameters
    ----------
    study : Study
    kernel : BatchSolverKernel
    shards : sequence of (int, int)
        First run and the one after the last, by shard.
    threads : int
        CPU threads.
    keep_interrupted : bool
        Whether Ctrl-C ends a shard with the runs that are finished, see
        `cubie_flow.kernels.launch.Launch.solve`.
    """

    study: Study
    kernel: BatchSolverKernel
    shards: Sequence[tuple[int, int]]
    threads: int
    keep_interrupted: bool = False

    @cached_property
    def _filter(self) -> Condition | None:
        return trajectory_filter(self.study)

    @cached_property
    def _passes(self) -> list[_Pass]:
        """The pass over every run, and the one that saves the trajectories of chosen runs."""
        whole = _Pass(self.study, self.kernel, self.threads, self.keep_interrupted)
        if self._filter is None:
            return [whole]
        first = self.study.first_pass
        return [_Pass(first, build_kernel(first), self.threads, self.keep_interrupted), whole]

    def solve(
        self, index: int, tick: Callable[[int], None] | None = None
    ) -> tuple[dict[str, Array], Record]:
        """Return the arrays of a shard, by the names of the store, and its summary.

        Parameters
        ----------
        index : int
            Number of the shard.
        tick : callable, optional
            Called several times with the number of runs started.
        """
        began = wall_time()
        start, stop = self.shards[index]
        columns = self.study.design.columns(start, stop)
        first, *second = self._passes
        arrays, result = first.solve(columns, stop - start, tick)
        if self._filter is not None:
            chosen = self._filter(arrays)
            saved, more, measured = second[0].trajectories(columns, chosen)
            arrays = {**saved, **arrays, KEPT.name: chosen.astype(np.uint8)}
            measured = join_measured(result.measured, measured)
            result = evolve(result, seconds=result.seconds + more, measured=measured)
        measured = {**result.measured, "shard_bytes": sum(a.nbytes for a in arrays.values())}
        transfer = measured.pop("transfer_seconds", 0.0)
        if "device_bytes" in measured:
            measured["device_bytes"] += measured["device_local_bytes"]
        row = {
            "start": start,
            "runs": stop - start,
            "transfer_seconds": transfer,
            "kernel_seconds": result.seconds - transfer,
            "solve_began": began,
        }
        faint = faint_states(self.study, columns, arrays)
        record = self._counts(
            result,
            index=index,
            measured=measured,
            row=row,
            faint={name: (one.runs, one.largest) for name, one in faint.items()},
        )
        return arrays, record

    def _counts(self, result: BatchResult, **others: Any) -> Record:
        """Return the summary of a shard: its counts, and the fields that are given."""
        codes, counts = np.unique(result.status, return_counts=True)
        attempts: tuple[int, ...] = ()
        if result.attempts is not None:
            length = len(self.study.rescue) + 1
            attempts = tuple(np.bincount(result.attempts, minlength=length).tolist())
        return Record(
            runs=len(result.status),
            statuses={int(code): int(n) for code, n in zip(codes, counts, strict=True)},
            steps=int(result.steps.sum(dtype=np.int64)),
            rejected=int(result.rejected.sum(dtype=np.int64)),
            rescued=attempts,
            seconds=result.seconds,
            **others,
        )


@frozen(eq=False)
class ShardWork:
    """The shards of a study and the store they go to; see `cubie_flow.engines.base.Work`.

    It is sent to a worker without its kernel: the worker builds that, from its cache if possible.
    `digest` identifies the operations of the kernel; a worker that would compute something else is
    refused.
    """

    study: Study
    location: Location
    shard_plan: ShardPlan
    kernel: BatchSolverKernel | None = None
    token: str = field(factory=lambda: uuid4().hex)
    digest: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        here = kernel_digest(self.kernel) if self.kernel is not None else self.digest
        return ShardWork, (self.study, self.location, self.shard_plan, None, self.token, here)

    @property
    def devices(self) -> tuple[int, ...]:
        """Numbers of the GPUs of this machine that the study may use."""
        if self.study.target.kind != "cuda":
            return ()
        return pick_devices(self.study.target.device, len(cuda_devices()))

    @property
    def where(self) -> str:
        """Where the store is."""
        return self.location.name

    @property
    def alone(self) -> str:
        """The reason why no other process may write to the store; empty if others may."""
        return self.location.alone

    def solver(self, resources: WorkerResources) -> ShardSolver:
        """Return a solver that uses the device and threads of a worker."""
        study, kernel = self.study, self.kernel
        if resources.device is not None:
            study = evolve(study, target=evolve(study.target, device=resources.device))
        if kernel is None or kernel.settings.device != study.target.first_device:
            kernel = build_kernel(study)
        if self.digest and self.digest != kernel_digest(kernel):
            raise FlowError(
                "a worker would compute something else than the command: their versions of "
                "cubie_flow differ; install the same on both"
            )
        threads = max(1, threads_of(study) // resources.share)
        threads = threads if resources.limit is None else min(threads, resources.limit)
        return ShardSolver(study, kernel, self.shard_plan.shards, threads)

    def store(self) -> ResultStore:
        """Return the store, open."""
        return ResultStore.open(self.location)

    def runs(self, index: int) -> tuple[int, int]:
        """Return the first run of a shard and the one after its last."""
        return self.shard_plan.shards[index]
