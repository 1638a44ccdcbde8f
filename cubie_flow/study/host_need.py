"""The memory of the host that the runs of a study take."""

from __future__ import annotations

from attrs import evolve

from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.launch import FinalRows, batch_shape
from cubie_flow.kernels.targets.batch import BatchShape
from cubie_flow.storage import StoreSchema
from cubie_flow.storage.schema import PER_RUN_AND_TIME
from cubie_flow.study.kernel import tolerances
from cubie_flow.study.study import Study

#: Bytes of a value of a varied quantity, and what making and counting the runs of a shard takes
#: for each of them.
_WIDE, _COUNTED = 8, 32


def study_shape(study: Study, kernel: BatchSolverKernel) -> BatchShape:
    """Return the sizes of the batches of a study."""
    settings = kernel.run_time_settings(tolerances(study))
    return batch_shape(kernel.run, settings, study.times)


def shard_run(study: Study, kernel: BatchSolverKernel, outline: StoreSchema) -> tuple[int, int]:
    """Return the bytes that a run takes in a shard that is solved, and in one that is written.

    Parameters
    ----------
    study : Study
    kernel : BatchSolverKernel
    outline : StoreSchema
        What `store_outline` returned for the study, or a smaller store.

    Notes
    -----
    Arrays of a store are views of the arrays of a batch, apart from counts and times of events,
    misfits and flags. While runs are solved, they are there twice if they are put back in order,
    if trajectories are chosen, or if failed runs are solved again.
    """
    shape = stored_shape(outline, study_shape(study, kernel))
    columns = _WIDE * (len(study.design.names) + len(study.design.labels))
    views = shape.sample_bytes + shape.real * FinalRows.of(kernel.run).misfits
    stored = sum(outline.bytes_per_run(v) for v in outline.variables)
    written = shape.run_bytes - shape.real * shape.inputs + columns + max(0, stored - views) + 1
    solved = written + shape.real * shape.inputs + _COUNTED
    if study.order == "cost":
        solved += shape.run_bytes + columns + _WIDE
    if study.output.where is not None:
        solved += shape.run_bytes
    if study.rescue:
        solved += shape.run_bytes
    return solved, written


def stored_shape(outline: StoreSchema, shape: BatchShape) -> BatchShape:
    """Return the sizes of the batches for a store, which may have fewer times or variables."""
    timed = [v for v in outline.variables if v.dims == PER_RUN_AND_TIME]
    times = len(outline.time) if outline.time is not None and timed else 0
    real = timed[0].dtype.itemsize if timed else shape.real
    return evolve(shape, saved=len(timed), times=times, real=real)
