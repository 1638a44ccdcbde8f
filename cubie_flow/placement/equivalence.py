"""The equivalence gate: moving a buffer must not change a single bit of any trajectory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
import numpy as np
from attrs import evolve, frozen

from cubie_flow.errors import FlowError
from cubie_flow.integrators.run import DURATION
from cubie_flow.integrators.status import ended_well
from cubie_flow.kernels.targets.cpu import vector_lanes
from cubie_flow.kernels.targets.cpu_program import CpuProgram
from cubie_flow.study.kernel import build_kernel, tolerances
from cubie_flow.study.store_schema import shard_arrays, variables
from cubie_flow.study.study import Study

if TYPE_CHECKING:
    from cubie_flow.kernels.kernel import BatchSolverKernel
    from cubie_flow.kernels.launch import BatchResult

Array = Any
#: Verdicts of the gate; a placement that differs raises an error instead.
BASELINE, EQUAL, SAME_CODE = "baseline", "equal", "no_difference_possible"
NOT_COMPARED = "not_compared"
VERDICTS = (BASELINE, EQUAL, SAME_CODE, NOT_COMPARED)
#: Runs compared on each target, and about how many steps of a run the simulator attempts: it
#: interprets, so a larger model gets fewer.
RUNS = {"simulator": 2, "cpu": 32, "cuda": 4096}
SIMULATED_STEPS, SIMULATED_STATES = 12, 20
FEWEST_STEPS = 3
#: Where `short_duration` misjudges how many steps a time takes, the simulator still ends.
PATIENCE = 10


@frozen(eq=False)
class Trajectories:
    """Results of one placement on one target.

    Attributes
    ----------
    target : str
    code : str
        Hash of what the target executes; equal hashes cannot give unequal results.
    runs : ndarray of int
        The runs of the design that were integrated.
    times : ndarray
        Saved times.
    arrays : dict
        By variable, shape (runs,) or (runs, times).
    finite : int
        Number of finite values, in which a difference can show; failed runs hold NaN.
    """

    target: str
    code: str
    runs: Array
    times: Array
    arrays: dict[str, Array]
    finite: int


def integrate(
    study: Study, target: str, span: float | None = None, code: str | None = None
) -> Trajectories:
    """Integrate a few runs, spread over the design, with the placement of a study.

    Parameters
    ----------
    study : Study
    target : {"simulator", "cpu", "cuda"}
        On a CPU one vector of lanes runs at a time, which compiles in less than half the time of
        several; the bits do not depend on it.
    span : float, optional
        Integrate only so far, with a few saved times, see `short_duration`; None: the whole
        duration.
    code : str, optional
        Hash of the code, needed for ``cuda`` alone.
    """
    choice = evolve(study.target, kind=target)
    if target == "cpu" and choice.lanes is None:
        choice = evolve(choice, lanes=vector_lanes(study.precision))
    study = evolve(study, target=choice)
    if span is not None:
        output = study.output
        if study.times.size:
            output = evolve(output, save_every=None, times=np.linspace(0.0, span, 5).tolist())
        study = evolve(study, duration=span, output=output)
    kernel = build_kernel(study)
    runs, result, columns = _some_runs(kernel, study, RUNS[target], span)
    arrays = shard_arrays(study, columns, result)
    finite = sum(int(np.isfinite(arrays[variable.name]).sum()) for variable in variables(study))
    return Trajectories(target, code or code_hash(kernel), runs, study.times, arrays, finite)


def _some_runs(
    kernel: BatchSolverKernel, study: Study, count: int, span: float | None
) -> tuple[Array, BatchResult, dict[str, Array]]:
    """Return the numbers, results and values of some runs, spread over the design."""
    runs = np.unique(np.linspace(0, study.design.size - 1, count).astype(np.int64))
    parts = [study.design.columns(int(run), int(run) + 1) for run in runs]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    limits = tolerances(study)
    if span is not None:
        limits = evolve(limits, max_steps=min(limits.max_steps, PATIENCE * SIMULATED_STEPS))
        if DURATION in columns:
            columns[DURATION] = np.minimum(columns[DURATION], span)
    return runs, kernel.solve(columns, len(runs), limits, study.times), columns


def short_duration(study: Study) -> float:
    """Return a duration in which the runs of the simulator make a few steps.

    The runs must reach their end: a run that a step limit ends has no final state to compare. The
    number of steps in the whole duration is measured on the CPU.
    """
    lanes = study.target.lanes or vector_lanes(study.precision)
    study = evolve(study, target=evolve(study.target, kind="cpu", lanes=lanes))
    _, result, _ = _some_runs(build_kernel(study), study, RUNS["simulator"], None)
    ended = ended_well(result.status)
    attempts = (result.steps + result.rejected)[ended if ended.any() else slice(None)]
    states = max(SIMULATED_STATES, len(study.system.states))
    wanted = max(FEWEST_STEPS, SIMULATED_STEPS * SIMULATED_STATES // states)
    share = min(1.0, wanted / max(1, int(attempts.max())))
    resolution = float(np.finfo(study.precision).eps) * max(abs(study.t_start), study.span)
    return min(study.span, max(share * study.span, 2000 * resolution))


def code_hash(kernel: BatchSolverKernel) -> str:
    """Return a hash of what the simulator or the CPU executes for a kernel.

    The simulator interprets blocks of operations, a CPU executes an object file. Names of symbols
    are left out, because numba numbers them.
    """
    if kernel.target == "simulator":
        blocks = {name: block.digest for name, block in kernel.run.product.items()}
        regions = sorted((name, repr(region)) for name, region in kernel.places.items())
        text = repr((blocks, regions, kernel.arena_bytes, kernel.shared_memory_bytes))
        return hashlib.sha256(text.encode()).hexdigest()
    program = kernel.product.program
    assert isinstance(program, CpuProgram)
    digest = hashlib.sha256(repr(kernel.arena_bytes).encode())
    for section in llvm.ObjectFileRef.from_data(program.code.code).sections():
        name = (section.name() or b"").decode()
        if not any(word in name for word in ("strtab", "symtab", "note")):
            digest.update(f"{name} {section.size()} ".encode() + section.data())
    return digest.hexdigest()


def compare(baseline: Trajectories, moved: Trajectories, placement: str) -> str:
    """Return the verdict on a placement against the baseline on the same target.

    Parameters
    ----------
    baseline, moved : Trajectories
        Results of the study's own placement and of the other one.
    placement : str
        Name of the other one, for messages.

    Returns
    -------
    str
        `SAME_CODE` where both execute the same code, and `NOT_COMPARED` where no run has a
        finite result, so that equality proves nothing; else `EQUAL`.

    Raises
    ------
    FlowError
        Naming the first run, variable and time whose bits differ.
    """
    difference = first_difference(baseline, moved)
    if difference is not None:
        raise FlowError(
            f"placement {placement} changes results on target {moved.target}, but no placement "
            f"may do so: {difference}"
        )
    if baseline.code == moved.code:
        return SAME_CODE
    return EQUAL if moved.finite else NOT_COMPARED


def first_difference(one: Trajectories, other: Trajectories) -> str | None:
    """Return which run, variable and time differs first (run by run); None if none does."""
    if set(one.arrays) != set(other.arrays):
        unlike = ", ".join(sorted(set(one.arrays) ^ set(other.arrays)))
        return f"the variables {unlike} exist in one only"
    differences: list[tuple[int, float, str, Array, Array]] = []
    for name, before in one.arrays.items():
        after = other.arrays[name]
        if before.shape != after.shape or before.dtype != after.dtype:
            return f"'{name}' has another shape or type"
        positions = np.argwhere(_bits(before) != _bits(after))
        if positions.size:
            first = tuple(int(i) for i in positions[0])
            time = float(one.times[first[1]]) if len(first) == 2 else np.inf
            differences.append((first[0], time, name, before[first], after[first]))
    if not differences:
        return None
    row, time, name, before, after = min(differences, key=lambda item: item[:2])
    when = "at the end" if np.isinf(time) else f"at time {time:g}"
    return f"run {int(one.runs[row])}, variable '{name}', {when}: {before!r} became {after!r}"


def _bits(array: Array) -> Array:
    array = np.ascontiguousarray(array)
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def gate(results: Mapping[str, Trajectories], baseline: str) -> dict[str, str]:
    """Return the verdict on every placement, by name.

    Raises
    ------
    FlowError
        For the first placement that differs from the baseline.
    """
    return {
        name: BASELINE if name == baseline else compare(results[baseline], result, name)
        for name, result in results.items()
    }
