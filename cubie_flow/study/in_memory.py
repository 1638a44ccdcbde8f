"""A study that is solved into memory: refused if it cannot fit, and solved in shards if large."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from cubie_flow.batches.store_names import STATUS
from cubie_flow.errors import FlowError
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.launch import UNFINISHED
from cubie_flow.kernels.targets.detect import driver_problem
from cubie_flow.process.machine import available_memory, process_memory
from cubie_flow.storage import StoreSchema
from cubie_flow.study.host_need import shard_run
from cubie_flow.study.kernel import threads_of
from cubie_flow.study.shards import ShardSolver
from cubie_flow.study.study import Study
from cubie_flow.study.tolerance_record import Faint, join_faint

Array = Any
#: Bytes of a study up to which it is solved at once: its arrays are then the result, without a
#: copy. A larger one is solved in shards of this size, so that only the result itself is large.
AT_ONCE = 2_000_000_000


def solve_in_memory(
    study: Study,
    kernel: BatchSolverKernel,
    outline: StoreSchema,
    tick: Callable[[int], None] | None = None,
    *,
    keep_interrupted: bool = False,
) -> tuple[dict[str, Array], dict[str, Faint]]:
    """Return the arrays of a study by the names of a store, and its faint states.

    Parameters
    ----------
    study : Study
    kernel : BatchSolverKernel
    outline : StoreSchema
        What `store_outline` returned for the study.
    tick : callable, optional
        Called several times per second with the number of runs started.
    keep_interrupted : bool
        Whether Ctrl-C returns the runs that are finished; the others have the status `UNFINISHED`.

    Raises
    ------
    FlowError
        If the arrays do not fit the memory.
    """
    if study.target.kind == "auto" and (problem := driver_problem()):
        warnings.warn(f"no GPU is used: {problem}", stacklevel=4)
    runs, (each, _) = study.design.size, shard_run(study, kernel, outline)
    shard = runs if runs * each <= AT_ONCE else max(1, AT_ONCE // each)
    _refuse_beyond_memory(outline, runs * each if shard == runs else shard * each)
    shards = [(start, min(start + shard, runs)) for start in range(0, runs, shard)]
    threads = threads_of(study)
    solver = ShardSolver(study, kernel, shards, threads, keep_interrupted=keep_interrupted)
    whole: dict[str, Array] = {}
    faint: dict[str, Faint] = {}
    for index, (start, stop) in enumerate(shards):
        begun = partial(_tick_from, tick, start) if tick is not None else None
        arrays, record = solver.solve(index, begun)
        faint = join_faint(faint, {name: Faint(*one) for name, one in record.faint.items()})
        if len(shards) == 1:
            return arrays, faint
        for name, values in arrays.items():
            if name not in whole:
                whole[name] = np.empty((runs, *values.shape[1:]), values.dtype)
            whole[name][start:stop] = values
        if UNFINISHED in record.statuses:
            _blank(whole, stop)
            break
    return whole, faint


def _tick_from(tick: Callable[[int], None], start: int, begun: int) -> None:
    tick(start + begun)


def _blank(arrays: Mapping[str, Array], start: int) -> None:
    """Fill the runs from `start` on, which an interruption left unsolved."""
    for name, values in arrays.items():
        values[start:] = UNFINISHED if name == STATUS else _nothing(values)


def _nothing(values: Array) -> Any:
    return np.nan if values.dtype.kind == "f" else 0


def _refuse_beyond_memory(outline: StoreSchema, shard: int) -> None:
    """Refuse a result that does not fit the memory together with a shard of `shard` bytes."""
    result = 0 if shard >= outline.total_bytes else outline.total_bytes
    needed, available = process_memory() + result + shard, available_memory()
    if needed > available:
        raise FlowError(
            f"solving {outline.runs:,} runs in memory takes {needed / 1e9:,.1f} GB, more than the "
            f"{available / 1e9:,.1f} GB that are available; write the result to a store with "
            "run_study or the command, or choose fewer runs or saved times"
        )
