"""Statistics of the CUDA compiler for one placement of buffers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from cubie_flow.errors import FlowError
from cubie_flow.memory.occupancy import limits, occupancy
from cubie_flow.placement import equivalence
from cubie_flow.placement.search import Placement
from cubie_flow.study.kernel import build_kernel
from cubie_flow.study.study import Study
from cubie_flow.systems import OdeSystem

if TYPE_CHECKING:
    from cubie_flow.kernels.kernel import BatchSolverKernel

#: Architecture that placements are compiled for, unless one is given.
ARCH = "sm_90"
#: Fraction of the warps below which a multiprocessor has too few to hide the latency of memory.
ENOUGH = 0.25


@frozen
class CompilerStats:
    """Statistics of the compiler for one placement.

    Attributes
    ----------
    placement : dict
        Location by buffer.
    shared_run : int
        Bytes of shared memory from one run to the next, padding included.
    problem : str
        Why the placement cannot be launched; then the values below are 0. Empty if it can.
    registers, stack, spill_stores, spill_loads : int
        Per thread, from the assembler; spills and stack in bytes.
    shared_block : int
        Bytes of shared memory of a block.
    block_size : int
        After fitting shared memory.
    occupancy : float
        Predicted fraction of active warps.
    limiter : str
        What limits it.
    ld_shared, st_shared : int
        Instructions in the PTX that read and write shared memory.
    ptx_hash : str
        Of the PTX without the names that the compiler numbers.
    trajectories : tuple of Trajectories
        For the gate.
    """

    placement: Placement
    shared_run: int
    problem: str = ""
    registers: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    shared_block: int = 0
    block_size: int = 0
    occupancy: float = 0.0
    limiter: str = ""
    ld_shared: int = 0
    st_shared: int = 0
    ptx_hash: str = ""
    trajectories: tuple[equivalence.Trajectories, ...] = field(default=(), repr=False, eq=False)

    @property
    def spills(self) -> int:
        """Bytes of registers that a thread stores to and loads from memory."""
        return self.spill_stores + self.spill_loads

    @property
    def cost(self) -> tuple[float, ...]:
        """What ranks a placement that was not timed, the smallest first."""
        accesses = self.ld_shared + self.st_shared
        return (
            bool(self.problem), self.spills, self.occupancy < ENOUGH, self.stack, accesses,
            -self.occupancy, self.registers, self.shared_run,
        )  # fmt: skip

    def reason(self) -> str:
        """Return the statistics in a few words."""
        if self.problem:
            return f"does not fit: {self.problem}"
        return (
            f"{self.spills} bytes spilled, {self.stack} of stack, {self.registers} registers, "
            f"{self.shared_run} bytes of shared memory per run, occupancy {self.occupancy:.0%} "
            f"({self.limiter})"
        )


_COMMUTATIVE = re.compile(r"((?:mul|add|fma)\.rn\.\w+\s+%\w+, )(%\w+), (%\w+)")


def ptx_hash(ptx: str) -> str:
    """Return a hash of what PTX does.

    Left out are comments, names that numba numbers, and the order of the factors and summands
    of one operation, which the compiler picks freely.
    """
    numbers: dict[str, str] = {}
    text = re.sub(r"//.*", "", ptx)
    text = re.sub(r"\b_Z[\w$]+", lambda m: numbers.setdefault(m[0], f"n{len(numbers)}"), text)
    text = _COMMUTATIVE.sub(lambda m: m[1] + ", ".join(sorted(m.group(2, 3))), text)
    return hashlib.sha256(text.encode()).hexdigest()


def shared_accesses(ptx: str) -> tuple[int, int]:
    """Return how many instructions read and how many write shared memory."""
    loads, stores = (len(re.findall(rf"\b{op}(?:\.\w+)*?\.shared\b", ptx)) for op in ("ld", "st"))
    return loads, stores


#: How far each target of the gate integrates; None is the whole duration.
Gate = Mapping[str, float | None]


def single_arch(study: Study) -> str:
    """Return the architecture that placements are compiled for.

    Raises
    ------
    FlowError
        If there are several, or it is unknown.
    """
    arch = study.target.arch or ARCH
    if "," in arch:
        raise FlowError(
            f"target.arch is '{arch}'; placements are ranked for one architecture, so give one "
            f"(task=plan compares several)"
        )
    limits(arch)
    return arch


def measure(study: Study, gate: Gate, placement: Placement) -> CompilerStats:
    """Compile one placement and integrate a few runs with it (runs in a process of its own).

    Parameters
    ----------
    study : Study
        Its ``target.arch`` decides what is compiled for.
    gate : mapping
        Targets to integrate on.
    placement : dict
    """
    moved = evolve(study, locations={**study.locations, **placement})
    kernel = build_kernel(moved)
    kernel.check_locations()
    try:
        stats = _compile(kernel, placement, single_arch(study))
    except FlowError as error:
        stats = CompilerStats(placement, kernel.shared_memory_bytes, str(error))
    # A CPU and the simulator also run what exceeds the memory of a GPU.
    results = (equivalence.integrate(moved, target, span) for target, span in gate.items())
    return evolve(stats, trajectories=tuple(results))


def _compile(kernel: BatchSolverKernel, placement: Placement, arch: str) -> CompilerStats:
    """Return the statistics of the compiler.

    Raises
    ------
    FlowError
        If shared memory has no room for one run, or the kernel cannot be assembled.
    """
    limit = limits(arch).shared_block
    kernel.fit_block(limit)  # refuses what does not fit before it is compiled
    code = kernel.compile_cuda(arch)
    fit = kernel.fit_block(limit, code.figures.registers)
    filled = occupancy(arch, code.figures.registers, fit.shared_bytes, fit.block_size)
    loads, stores = shared_accesses(code.ptx)
    return CompilerStats(
        placement=placement,
        shared_run=kernel.shared_memory_bytes,
        registers=code.figures.registers,
        stack=code.figures.stack,
        spill_stores=code.figures.spill_stores,
        spill_loads=code.figures.spill_loads,
        shared_block=fit.shared_bytes,
        block_size=fit.block_size,
        occupancy=filled.fraction,
        limiter=filled.limiter,
        ld_shared=loads,
        st_shared=stores,
        ptx_hash=ptx_hash(code.ptx),
    )


def measure_elsewhere(
    system: Mapping[str, Any], rest: Mapping[str, Any], gate: Gate, placement: Placement
) -> CompilerStats:
    """Measure a placement of a study that was sent as plain values; see `measure`.

    Parameters
    ----------
    system : mapping
        The system of the study as `OdeSystem.to_mapping` returns it.
    rest : mapping
        The other fields of the study.
    gate, placement
        See `measure`.
    """
    return measure(Study(OdeSystem.from_mapping(system), **rest), gate, placement)
