"""The equivalence gate: moving a buffer must not change a single bit of any trajectory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
import numpy as np
from attrs import evolve, frozen

from cubie_flow.errors import FlowError
from cubie_flow.kernels.targets.cpu import CpuProgram, compile_code
from cubie_flow.solve import shard_arrays, tolerances

if TYPE_CHECKING:
    from cubie_flow.kernels.kernel import BatchSolverKernel
    from cubie_flow.solve import Study

Array = Any
#: Verdicts of the gate; a placement that differs has none, because it raises.
BASELINE, EQUAL, SAME_CODE = "baseline", "equal", "no_difference_possible"
VERDICTS = (BASELINE, EQUAL, SAME_CODE)
#: Runs compared on each target, and attempted steps of a run in the simulator.
RUNS = {"simulator": 2, "cpu": 32, "cuda": 4096}
SIMULATED_STEPS = 12


@frozen(eq=False)
class Trajectories:
    """What one placement computed on one target.

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
    """

    target: str
    code: str
    runs: Array
    times: Array
    arrays: dict[str, Array]


def integrate(
    kernel: BatchSolverKernel, study: Study, target: str, code: str | None = None
) -> Trajectories:
    """Integrate a few runs, spread over the design, with one placement.

    Parameters
    ----------
    kernel : BatchSolverKernel
        With the placement; it is left on `target`.
    study : Study
    target : {"simulator", "cpu", "cuda"}
        The simulator takes a few steps only, see `SIMULATED_STEPS`.
    code : str, optional
        Hash of the code, needed for ``cuda`` alone.
    """
    kernel.update(target=target)
    runs = np.unique(np.linspace(0, study.design.size - 1, RUNS[target]).astype(np.int64))
    parts = [study.design.columns(int(run), int(run) + 1) for run in runs]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    limits = tolerances(study.controller)
    if target == "simulator":
        limits = evolve(limits, max_steps=min(limits.max_steps, SIMULATED_STEPS))
    result = kernel.solve(columns, len(runs), limits, study.times if study.times.size else None)
    arrays = shard_arrays(study, columns, result)
    return Trajectories(target, code or code_hash(kernel), runs, study.times, arrays)


def code_hash(kernel: BatchSolverKernel) -> str:
    """Return a hash of what the simulator or the CPU executes for a kernel.

    The simulator interprets blocks at places; a CPU executes an object file, of which names of
    symbols, which numba counts up, are left out.
    """
    if kernel.target == "simulator":
        blocks = {name: block.digest for name, block in kernel.run.product.items()}
        places = sorted((name, repr(place)) for name, place in kernel.places.items())
        said = repr((blocks, places, kernel.arena_bytes, kernel.shared_memory_bytes))
        return hashlib.sha256(said.encode()).hexdigest()
    assert isinstance(kernel.product.program, CpuProgram)
    code = compile_code(kernel.run.product, kernel.dialect, kernel.places).code
    digest = hashlib.sha256(repr(kernel.arena_bytes).encode())
    for section in llvm.ObjectFileRef.from_data(code).sections():
        name = str(section.name() or "")
        if not any(word in name for word in ("strtab", "symtab", "note")):
            digest.update(f"{name} {section.size()} ".encode() + section.data())
    return digest.hexdigest()


def compare(baseline: Trajectories, moved: Trajectories, placement: str) -> str:
    """Return the verdict on a placement against the baseline on the same target.

    Returns
    -------
    str
        `SAME_CODE` where both execute the same code, so that equality proves nothing, else
        `EQUAL`.

    Raises
    ------
    FlowError
        Naming the first run, variable and time whose bits differ.
    """
    difference = first_difference(baseline, moved)
    if difference is not None:
        raise FlowError(
            f"placement {placement} changes results on target {moved.target}, which no placement "
            f"may: {difference}"
        )
    return SAME_CODE if baseline.code == moved.code else EQUAL


def first_difference(one: Trajectories, other: Trajectories) -> str | None:
    """Say which run, variable and time differs first (run by run), or return None."""
    if set(one.arrays) != set(other.arrays):
        unlike = ", ".join(sorted(set(one.arrays) ^ set(other.arrays)))
        return f"the variables {unlike} are there in one only"
    found: list[tuple[int, float, str, Array, Array]] = []
    for name, before in one.arrays.items():
        after = other.arrays[name]
        if before.shape != after.shape or before.dtype != after.dtype:
            return f"'{name}' has another shape or type"
        places = np.argwhere(_bits(before) != _bits(after))
        if places.size:
            first = tuple(int(i) for i in places[0])
            time = float(one.times[first[1]]) if len(first) == 2 else np.inf
            found.append((first[0], time, name, before[first], after[first]))
    if not found:
        return None
    row, time, name, before, after = min(found, key=lambda item: item[:2])
    when = "at the end" if np.isinf(time) else f"at time {time:g}"
    return f"run {int(one.runs[row])}, variable '{name}', {when}: {before!r} became {after!r}"


def _bits(array: Array) -> Array:
    array = np.ascontiguousarray(array)
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def gate(
    results: Mapping[str, Trajectories], baseline: str
) -> dict[str, str]:
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
