"""The plan of a kernel: its memory, block size and occupancy, before anything runs."""

from __future__ import annotations

from typing import Any

from attrs import evolve, field, frozen

from cubie_flow.errors import FlowError
from cubie_flow.expressions.dialect import ARENAS
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.targets.detect import cuda_devices, install_hint, toolkit_installed
from cubie_flow.kernels.targets.target import Target
from cubie_flow.memory import BlockFit, LayoutEntry
from cubie_flow.memory.occupancy import Occupancy, is_known, limits, occupancy
from cubie_flow.memory.sizing import BANK_BYTES, bank_conflicts
from cubie_flow.registries import TARGETS

#: Architecture of the plan where neither the config nor a GPU names one.
ARCH = "sm_90"


@frozen
class ArchPlan:
    """The plan of a kernel on one CUDA architecture.

    Attributes
    ----------
    arch : str
    shared_limit : int
        Bytes of shared memory that a block may opt in to.
    fit : BlockFit, optional
        None if one run does not fit; then `problem` states why.
    figures : dict
        Statistics of the compiler; empty if it could not run.
    occupancy : Occupancy, optional
        Predicted from registers, block size and shared memory; None also for an architecture whose
        limits are not known.
    missing : str
        Why there are no statistics, and what to install.
    problem : str
        Why the kernel cannot run.
    """

    arch: str
    shared_limit: int
    fit: BlockFit | None = None
    figures: dict[str, int] = field(factory=dict)
    occupancy: Occupancy | None = None
    missing: str = ""
    problem: str = ""


@frozen
class KernelPlan:
    """The memory of one kernel.

    Attributes
    ----------
    target : str
    precision : str
    lanes : int
        Runs that a CPU core integrates together; 1 on a GPU.
    buffers : tuple of LayoutEntry
    shared_elements, shared_bytes : int
        Shared memory of one run without padding, in elements of the working precision and bytes.
    stride : int
        Bytes from one run's shared memory to the next.
    stride_reason : str
        Why the stride has this length.
    arena_bytes : tuple of int
        Bytes of one run: shared, local, persistent.
    block_size : int
        Configured threads per block.
    architectures : tuple of ArchPlan
    """

    target: str
    precision: str
    lanes: int
    buffers: tuple[LayoutEntry, ...]
    shared_elements: int
    shared_bytes: int
    stride: int
    stride_reason: str
    arena_bytes: tuple[int, int, int]
    block_size: int
    architectures: tuple[ArchPlan, ...]

    @property
    def thread_bytes(self) -> int:
        """Bytes of the buffers of one CPU thread, or of one run on a GPU."""
        return sum(-(-size * self.lanes // 64) * 64 for size in self.arena_bytes)


def plan_kernel(kernel: BatchSolverKernel, compiling: bool = True) -> KernelPlan:
    """Return the plan of a kernel without running it.

    Parameters
    ----------
    kernel : BatchSolverKernel
    compiling : bool
        Whether to compile for every CUDA architecture, for its statistics; needs no GPU.

    Raises
    ------
    FlowError
        If an architecture is unknown, or a buffer has an impossible location.
    """
    kernel.check_locations()
    layout = kernel.layout
    shared, local, persistent = (layout.bytes(arena) for arena in ARENAS)
    settings = kernel.settings
    return KernelPlan(
        target=kernel.target,
        precision=settings.precision,
        lanes=kernel.dialect.lanes,
        buffers=layout.entries,
        shared_elements=kernel.shared_memory_elements,
        shared_bytes=shared,
        stride=kernel.shared_memory_bytes,
        stride_reason=_stride_reason(kernel),
        arena_bytes=(shared, local, persistent),
        block_size=settings.block_size,
        architectures=tuple(_arch(kernel, arch, compiling) for arch in _architectures(kernel)),
    )


def _architectures(kernel: BatchSolverKernel) -> tuple[str, ...]:
    if given := kernel.settings.arch:
        return tuple(dict.fromkeys(arch.strip() for arch in given.split(",")))
    return (_present(kernel) or ARCH,)


def _present(kernel: BatchSolverKernel) -> str:
    """Return the architecture of the GPU of the settings, empty without it."""
    devices, number = cuda_devices(), kernel.settings.device
    return devices[number].arch if number < len(devices) else ""


def _shared_limit(kernel: BatchSolverKernel, arch: str) -> int:
    """Return the shared memory of a block; a GPU that is newer than our table is asked itself."""
    if arch == _present(kernel) and not is_known(arch):
        target: Target = TARGETS.get("cuda")()
        return target.shared_memory_limit(kernel)
    return limits(arch).shared_block


def _stride_reason(kernel: BatchSolverKernel) -> str:
    used, stride = kernel.layout.bytes("shared"), kernel.shared_memory_bytes
    widest = kernel.layout.widest_dtype("shared")
    if widest is None or not used:
        return "nothing is in shared memory, so there is no padding"
    item = max(widest.itemsize, BANK_BYTES)
    plain = -(-used // item) * item
    without, turns = bank_conflicts(plain, item), bank_conflicts(stride, item)
    words = f"{stride // item} words of {item} bytes, an odd number"
    if stride == plain:
        return f"{words} already: a warp's reads of one buffer take {turns} turn{'s'[: turns > 1]}"
    return f"{words}: a warp's reads of one buffer take {turns} instead of {without} turns"


def _arch(kernel: BatchSolverKernel, arch: str, compiling: bool) -> ArchPlan:
    plan = _compiled(kernel, ArchPlan(arch, _shared_limit(kernel, arch)), compiling)
    registers = plan.figures.get("registers", 0)
    try:
        fit = kernel.fit_block(plan.shared_limit, registers)
    except FlowError as error:
        return evolve(plan, problem=str(error))
    plan = evolve(plan, fit=fit)
    if not registers or not is_known(arch):
        return plan
    return evolve(plan, occupancy=occupancy(arch, registers, fit.shared_bytes, fit.block_size))


def _compiled(kernel: BatchSolverKernel, plan: ArchPlan, compiling: bool) -> ArchPlan:
    """Return a plan with the statistics of the compiler, or why there are none."""
    if not compiling:
        return plan
    if not toolkit_installed():
        return evolve(
            plan,
            missing=f"the CUDA compiler's wheels are not installed: {install_hint()}",
        )
    arch = plan.arch
    try:
        code = kernel.compile_cuda(arch, exact=arch != _present(kernel))
    except FlowError as error:
        return evolve(plan, missing=str(error))
    figures: dict[str, Any] = code.figures.as_dict()
    return evolve(plan, figures=figures)
