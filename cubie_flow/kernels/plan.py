"""The plan of a kernel: its memory, block size and occupancy, before anything runs."""

from __future__ import annotations

from typing import Any

from attrs import evolve, field, frozen

from cubie_flow.errors import FlowError
from cubie_flow.expressions.dialect import ARENAS
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.targets.detect import cuda_devices, install_hint, toolkit_installed
from cubie_flow.memory import BlockFit, LayoutEntry
from cubie_flow.memory.occupancy import Occupancy, limits, occupancy
from cubie_flow.memory.sizing import BANK_BYTES, bank_conflicts

#: Planned for where neither the config nor a GPU names an architecture.
ARCH = "sm_90"


@frozen
class ArchPlan:
    """What the kernel comes to on one CUDA architecture.

    Attributes
    ----------
    arch : str
    shared_limit : int
        Bytes of shared memory a block may opt in to.
    fit : BlockFit, optional
        None where one run does not fit; then `problem` says so.
    figures : dict
        What the compiler reports of the kernel; empty where it could not be asked.
    occupancy : Occupancy, optional
        Predicted, from registers, block and shared memory.
    missing : str
        Why there are no figures, and what to install.
    problem : str
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
    """Memory of one kernel.

    Attributes
    ----------
    target : str
    precision : str
    lanes : int
        Runs side by side on a CPU core; 1 on a GPU.
    buffers : tuple of LayoutEntry
    shared_elements, shared_bytes : int
        Of one run, without padding; elements of the working precision.
    stride : int
        Bytes from one run's shared memory to the next.
    stride_reason : str
    arena_bytes : tuple of int
        Of one run: shared, local, persistent.
    block_size : int
        As wished.
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
        """Bytes of memory that the buffers of one CPU thread (or one run on a GPU) take."""
        return sum(-(-size * self.lanes // 64) * 64 for size in self.arena_bytes)


def plan_kernel(kernel: BatchSolverKernel, compiling: bool = True) -> KernelPlan:
    """Return the plan of a kernel without running or, unless asked for, compiling it.

    Parameters
    ----------
    kernel : BatchSolverKernel
    compiling : bool
        Ask the CUDA compiler for the figures of every architecture; needs no GPU.

    Raises
    ------
    FlowError
        If an architecture is not known, or a buffer lies where it cannot.
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
    given, devices = kernel.settings.arch, cuda_devices()
    if given:
        return tuple(dict.fromkeys(arch.strip() for arch in given.split(",")))
    number = kernel.settings.device
    return (devices[number].arch if number < len(devices) else ARCH,)


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
    plan = ArchPlan(arch, limits(arch).shared_block)
    try:
        plan = evolve(plan, fit=kernel.fit_block(plan.shared_limit))
    except FlowError as error:
        plan = evolve(plan, problem=str(error))
    if not compiling:
        return plan
    if not toolkit_installed():
        return evolve(
            plan,
            missing=f"the CUDA compiler's wheels are not installed: {install_hint()}",
        )
    try:
        figures: dict[str, Any] = kernel.compile_cuda(arch).figures.as_dict()
    except FlowError as error:
        return evolve(plan, missing=str(error))
    if plan.fit is None:
        return evolve(plan, figures=figures)
    fit = plan.fit
    predicted = occupancy(arch, figures["registers"], fit.shared_bytes, fit.block_size)
    return evolve(plan, figures=figures, occupancy=predicted)
