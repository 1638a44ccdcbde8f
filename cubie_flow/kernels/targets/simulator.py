"""The simulator target: the CUDA kernel's source, run in Python with checked memory."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from cubie_flow.expressions.dialect import Dialect
from cubie_flow.kernels.targets.detect import require_toolkit
from cubie_flow.kernels.targets.target import BuildResult, Target

if TYPE_CHECKING:
    from cubie_flow.kernels.kernel import BatchSolverKernel


class SimulatorTarget(Target):
    """Interprets the blocks of a kernel; nothing is compiled."""

    def dialect(self, kernel: BatchSolverKernel) -> Dialect:
        """Return how blocks are emitted: as for a GPU."""
        return gpu_dialect(kernel)

    def build(self, kernel: BatchSolverKernel) -> BuildResult:
        """Return a program for small batches."""
        started = perf_counter()
        require_toolkit("target.kind=simulator")
        from cubie_flow.kernels.targets.simulator_program import SimulatorProgram

        program = SimulatorProgram(
            kernel.run.product, kernel.dialect, kernel.places, kernel.arena_bytes,
            kernel.shared_memory_bytes, kernel.settings.block_size,
        )  # fmt: skip
        return BuildResult(program, perf_counter() - started)


def gpu_dialect(kernel: BatchSolverKernel) -> Dialect:
    """Return the dialect of GPU code: one run per thread."""
    settings = kernel.settings
    return Dialect(settings.precision, 1, shared_space=3, portable=settings.math == "portable")
