"""The memory that a study takes on a GPU: of every kernel that it may run, and of their threads."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import field, frozen

from cubie_flow.errors import FlowError
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.plan import KernelPlan
from cubie_flow.kernels.targets.batch import BatchShape
from cubie_flow.kernels.targets.cuda_api import resident_threads, stack_problem
from cubie_flow.kernels.targets.cuda_sizes import (
    DEVICE_FRACTION,
    SLOTS,
    fixed_bytes,
    most_slot_bytes,
    run_bytes,
    slot_bytes,
)
from cubie_flow.kernels.targets.detect import cuda_devices, toolkit_installed
from cubie_flow.storage import StoreSchema
from cubie_flow.study.host_need import stored_shape, study_shape
from cubie_flow.study.kernel import build_kernel
from cubie_flow.study.rescue import attempt_study
from cubie_flow.study.study import Study

#: Bytes per thread up to which buffers in local memory are taken to end in registers.
IN_REGISTERS = 1024


@frozen
class _Part:
    """A kernel that a study runs: its batches, its stack per thread, and whether all runs come."""

    shape: BatchShape
    stack: int
    whole: bool


@frozen
class DeviceNeed:
    """The memory that the shards of a study take on a GPU.

    Attributes
    ----------
    shape : BatchShape
        The batches of the kernel that saves trajectories.
    memory : int
        Bytes of the GPU; 0 if the study does not run on one.
    resident : int
        Threads that the GPU holds at once.
    """

    shape: BatchShape
    memory: int = 0
    resident: int = 0
    _parts: tuple[_Part, ...] = field(default=())

    @classmethod
    def of(cls, study: Study, kernel: BatchSolverKernel, plan: KernelPlan) -> DeviceNeed:
        """Return the need of a study.

        Parameters
        ----------
        study : Study
        kernel : BatchSolverKernel
            Its kernel.
        plan : KernelPlan
            With the compiler's statistics, if they are known.
        """
        shape, number = study_shape(study, kernel), kernel.settings.device
        devices = cuda_devices() if kernel.target == "cuda" and toolkit_installed() else ()
        memory = devices[number].memory if number < len(devices) else 0
        if not memory:
            return cls(shape)
        local = sum(plan.arena_bytes[1:])
        guessed = local if local > IN_REGISTERS else 0
        stack = plan.architectures[0].figures.get("stack", guessed)
        # Another kernel of the study has more or fewer buffers, and else as much.
        parts = []
        for other, made, whole in _kernels(study, kernel):
            own = max(0, stack + sum(made.arena_bytes[1:]) - local)
            parts.append(_Part(study_shape(other, made), own, whole))
        return cls(shape, memory, resident_threads(number), tuple(parts))

    @property
    def local(self) -> int:
        """Bytes of local memory of all threads that the GPU holds."""
        return self.resident * max((part.stack for part in self._parts), default=0)

    @property
    def problem(self) -> str:
        """Why the GPU cannot hold the threads of a kernel; empty if it can."""
        stack = max((part.stack for part in self._parts), default=0)
        return stack_problem(stack, self.resident, self.memory) if self.memory else ""

    @property
    def room(self) -> int:
        """Bytes that a piece may have."""
        return max(0, int(DEVICE_FRACTION * (self.memory - self.local) / SLOTS))

    def run_bytes(self, schema: StoreSchema) -> int:
        """Return the bytes of a piece of one run, for a store that may be smaller."""
        shape = stored_shape(schema, self.shape)
        return run_bytes(shape) + fixed_bytes(shape)

    def bytes(self, shard: int, runs: int) -> tuple[int, int]:
        """Return the bytes of the pieces of a shard, and of local memory.

        Parameters
        ----------
        shard : int
            Runs of a shard.
        runs : int
            Runs of the study.
        """
        if not self.memory:
            return 0, 0
        taken, local, full = 0, 0, min(shard, runs)
        # The last shard may be divided into other pieces.
        counts = {full, runs % shard or full}
        for part in self._parts:
            local = max(local, part.stack * self.resident)
            free = self.memory - taken - local
            try:
                if part.whole:
                    slots = [slot_bytes(part.shape, n, free, self.resident) for n in counts]
                else:
                    slots = [most_slot_bytes(part.shape, full, free, self.resident)]
            except FlowError:  # see `room`
                return taken, local
            for number in range(SLOTS):
                taken += max((slot[number] for slot in slots if number < len(slot)), default=0)
        return taken, local


def _kernels(
    study: Study, kernel: BatchSolverKernel
) -> Iterator[tuple[Study, BatchSolverKernel, bool]]:
    """Yield every kernel of a study with its own study, and whether it solves all runs of a shard.

    The order is that in which they first run.
    """
    passes = [(study, kernel, True)]
    if study.output.where is not None:
        first = study.first_pass
        passes = [(first, build_kernel(first), True), (study, kernel, False)]
    for one, made, whole in passes:
        yield one, made, whole
        for number in range(1, len(one.rescue) + 1):
            again = attempt_study(one, number)
            yield again, build_kernel(again), False
