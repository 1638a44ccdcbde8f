"""The CPU target: runs are lanes of SIMD registers, and threads take groups of lanes."""

from __future__ import annotations

from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING

import llvmlite.binding as llvm

from cubie_flow.expressions.dialect import Dialect
from cubie_flow.kernels.targets.cpu_program import CpuCode, CpuProgram
from cubie_flow.kernels.targets.target import BuildResult, Target, package_versions

if TYPE_CHECKING:
    from cubie_flow.kernels.kernel import BatchSolverKernel


class CpuTarget(Target):
    """Compiles the batch loop for the vector registers of this machine's processor."""

    def dialect(self, kernel: BatchSolverKernel) -> Dialect:
        """Return how blocks are emitted: lanes and vector width by measured rules."""
        settings, run = kernel.settings, kernel.run
        lanes, width = vector_layout(
            settings.precision,
            len(run.settings.system.states),
            run.step.light,
            run.loop.batches_steps(run.step, run.controller),
            run.step.evaluations[0] <= 4,
        )
        return Dialect(settings.precision, settings.lanes or lanes, vector=width)

    def build(self, kernel: BatchSolverKernel) -> BuildResult:
        """Return the loaded program; numba is imported for a loop that is not cached."""
        started, dialect = perf_counter(), kernel.dialect
        compilers = package_versions("numba", "llvmlite", "numpy")
        key = kernel.cache_key(dialect, processor=processor(), compilers=compilers)
        cached = kernel.cache.get(key)
        if cached is not None:
            header, parts = cached
            code = CpuCode(parts["object"], header["entry"])
        else:
            from cubie_flow.kernels.targets.cpu_compile import compile_batch_loop

            code = CpuCode(
                *compile_batch_loop(kernel.run.product, dialect, kernel.places, kernel.cache)
            )
            kernel.cache.put(key, {"entry": code.entry, "target": "cpu"}, {"object": code.code})
        program = CpuProgram(code, dialect, kernel.arena_bytes)
        return BuildResult(program, perf_counter() - started, cached is not None, code.figures())


@cache
def processor() -> tuple[str, str]:
    """Return LLVM's name and features of this processor."""
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


@cache
def vector_bits() -> int:
    """Return the width of this processor's widest vector registers."""
    features = llvm.get_host_cpu_features()
    for name, width in (("avx512f", 512), ("avx2", 256), ("sve", 128), ("neon", 128)):
        if features.get(name):
            return width
    return 128


def vector_lanes(real: str) -> int:
    """Return the lanes that one vector register of this processor holds."""
    return vector_bits() // (64 if real == "float64" else 32)


def vector_layout(
    real: str, states: int, light: bool, batched_steps: bool, short: bool
) -> tuple[int, int]:
    """Return the lanes that keep a core busy, and the lanes that one instruction serves.

    Small models use several vectors, large ones a single vector. Light steps interleave the
    instructions of several vectors, because each waits for the one before. The rules were
    measured, see ``docs/lab-book.md``.

    Parameters
    ----------
    real : {"float32", "float64"}
    states : int
    light : bool
        Whether a step has few operations.
    batched_steps : bool
        Whether the loop takes several steps per call.
    short : bool
        Whether a step has few stages.

    Returns
    -------
    lanes, width : int
    """
    mixed = 2 if batched_steps or (light and vector_bits() >= 512) else 1
    if batched_steps and short:
        mixed = 4
    several = max(mixed, 2 if states <= 32 else 1)
    return several * vector_lanes(real), mixed * vector_lanes(real)
