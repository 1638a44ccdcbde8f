"""The kernel of a study, checked and built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import numpy as np

from cubie_flow.errors import FlowError
from cubie_flow.expressions.traversal import topological
from cubie_flow.integrators.drivers import check_choices
from cubie_flow.integrators.records import VALUE
from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.cache import source_digest
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.memory.hashing import stable_hash
from cubie_flow.study.study import Study, parts
from cubie_flow.study.trajectory_filter import trajectory_filter

Array = Any


def build_kernel(study: Study) -> BatchSolverKernel:
    """Return the kernel of a study, not yet compiled.

    Raises
    ------
    FlowError
        If the study asks for what its system, method or target does not have.
    """
    _check_kernel(study)
    return BatchSolverKernel(*kernel_settings(study), study.locations)


def _check_kernel(study: Study) -> None:
    _check_study(study)
    for columns in parts(study.design, {driver.series for driver in study.system.drivers}):
        check_choices(study.system.drivers, columns)


#: Kernels that were used last. A notebook solves repeatedly with other values, and jobs of a
#: multirun that differ in tolerances share one kernel.
_recent: dict[object, BatchSolverKernel] = {}
_RECENT = 4


@contextmanager
def lent_kernel(study: Study, *, large: bool = False) -> Iterator[BatchSolverKernel]:
    """Lend the kernel of a study exclusively; an earlier call may have built it.

    Parameters
    ----------
    study : Study
    large : bool
        Whether it will solve batches that fill a GPU. Such a kernel is not kept afterwards: it
        holds the memory of its batches, which the next kernel needs.
    """
    _check_kernel(study)
    run, config = kernel_settings(study)
    if large and config.resolved_target() == "cuda":
        yield BatchSolverKernel(run, config, study.locations)
        return
    locations = tuple(sorted(study.locations.items()))
    key = stable_hash(run), stable_hash(config), config.resolved_target(), locations
    kernel = _recent.pop(key, None) or BatchSolverKernel(run, config, study.locations)
    yield kernel
    _recent[key] = kernel
    for oldest in list(_recent)[:-_RECENT]:
        _recent.pop(oldest, None)


def kernel_settings(study: Study) -> tuple[RunSettings, BatchSolverConfig]:
    """Return what is compiled into the kernel of a study, besides the locations of buffers."""
    c, t, subjects = study.controller, study.target, study.subjects
    run = RunSettings(
        system=study.integrated,
        varied=study.design.names,
        algorithm=study.algorithm,
        linear_solver=study.linear_solver,
        precision=study.precision,
        controller=c.kind,
        safety=c.safety,
        min_factor=c.min_factor,
        max_factor=c.max_factor,
        saved=study.saved,
        summarised=study.summarised,
        sampling=study.sampling,
        measured=study.measured,
        records=None if subjects is None else subjects.records,
        errors=() if subjects is None else subjects.errors,
        t_start=study.t_start,
        duration=study.span,
        event_times=study.output.event_times,
        pending_events=c.pending_events,
        history=c.history,
    )
    config = BatchSolverConfig(
        target=t.kind,
        lanes=t.lanes,
        math=t.math,
        arch=t.arch,
        block_size=t.block_size,
        device=t.first_device,
    )
    return run, config


def _check_study(study: Study) -> None:
    """Refuse a wrong condition on trajectories, and times that the precision cannot resolve."""
    trajectory_filter(study)
    if not isinstance(study.t_start, int | float) or not np.isfinite(study.t_start):
        raise FlowError(f"t_start is {study.t_start!r}; it must be a finite number")
    shortest, span = study.spans
    if not (shortest >= 0 and np.isfinite(span)):
        wrong = span if shortest >= 0 else shortest
        raise FlowError(f"duration is {wrong}; it must be a finite number of at least 0")
    _check_range(study)
    _check_reach(study)
    starts = [study.t_start] if study.subjects is None else study.subjects.records.starts
    latest = float(max(starts, key=abs))
    resolution = float(np.finfo(study.precision).eps) * max(abs(latest), span)
    if 0 < span < 1000 * resolution:
        raise FlowError(
            f"t_start={latest:g} with duration={span:g} leaves times that "
            f"{study.precision} cannot tell apart; start nearer to 0 or use precision=float64"
        )


def _check_reach(study: Study) -> None:
    """Refuse to vary a quantity that only other given quantities depend on."""
    given = study.system.with_given(study.design.names)
    lost = study.system.reaching - given.reaching if given is not study.system else frozenset()
    for name in study.design.names:
        if name in lost:
            raise FlowError(
                f"the batch varies '{name}', but also gives all that is computed from it, so "
                f"'{name}' changes nothing; leave it out, or what is computed from it"
            )


def _check_range(study: Study) -> None:
    """Refuse numbers above the range of the precision, which would become infinite."""
    system, varied = study.integrated, study.design.names
    numbers = [(f"batch.values.{name}", value) for name, value in study.design.largest().items()]
    for group in ("states", "parameters"):
        numbers += [
            (f"system.{group}.{one.name}", one.value)
            for one in getattr(system, group)
            if one.name not in varied
        ]
    numbers += [
        (f"the driver {one.name}", max(map(abs, row)))
        for one in system.drivers
        for row in one.values
    ]
    if study.subjects is not None:
        own, source = study.subjects.records, study.subjects.design.table.source
        numbers.append((f"a dose or covariate of {source}", np.abs(own.rows[:, VALUE]).max()))
        numbers.append((f"DV of {source}", np.abs(np.nan_to_num(own.samples[:, 1])).max()))
    numbers += [("t_start", study.t_start), ("duration", study.span)]
    numbers += [("controller.dt", study.controller.dt or 0.0)]
    starts = [one.start for one in system.quantities if one.start is not None]
    # Infinity itself stands for an event that never happens.
    numbers += [
        (f"a number in the equations of {system.name}", node.value)
        for node in topological([*system.expressions, *starts])
        if node.op == "const" and np.isfinite(node.value)
    ]
    limit = float(np.finfo(study.precision).max)
    for key, value in numbers:
        if not abs(value) <= limit:
            remedy = "use precision=float64" if study.precision == "float32" else "rescale it"
            raise FlowError(
                f"{key} is {value:g}, but {study.precision} ends at {limit:.2g}; {remedy}"
            )


def tolerances(study: Study) -> Tolerances:
    """Return the run-time settings of the controller of a study, checked.

    Raises
    ------
    FlowError
        If a relative tolerance is 1 or more, or the smallest step is above the largest.
    """
    choice = study.controller
    relative = choice.rtol if isinstance(choice.rtol, Mapping) else {"": choice.rtol}
    for name, value in relative.items():
        if value >= 1:
            raise FlowError(
                f"controller.rtol{f'.{name}' if name else ''} is {value:g}; it must be below 1, an "
                "error as large as the value itself"
            )
    if choice.dt_max is not None and choice.dt_min > choice.dt_max:
        raise FlowError(
            f"controller.dt_min={choice.dt_min:g} is above controller.dt_max={choice.dt_max:g}"
        )
    return Tolerances(
        choice.rtol, choice.atol, choice.dt, choice.dt_min, choice.dt_max, choice.max_steps,
        starts=study.design.largest(),
    )  # fmt: skip


def threads_of(study: Study) -> int:
    """Return the number of CPU threads that the study may use in this process."""
    from cubie_flow.process.machine import usable_cores

    return usable_cores(study.target.threads)


def kernel_digest(kernel: BatchSolverKernel) -> str:
    """Return a hash of the operations of a kernel, independent of the locations of its buffers."""
    blocks = [f"{name} {block.digest}" for name, block in sorted(kernel.run.product.items())]
    return sha256("\n".join([source_digest(), *blocks]).encode()).hexdigest()
