"""Failed runs are solved again with sturdier settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import evolve

from cubie_flow.integrators.status import ended_well
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.launch import BatchResult
from cubie_flow.kernels.targets.batch import join_measured
from cubie_flow.study.kernel import build_kernel, tolerances
from cubie_flow.study.study import Study

Array = Any


class Rescue:
    """Solves the failed runs of batches again; its kernels are built when first needed.

    Parameters
    ----------
    study : Study
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._kernels: dict[int, BatchSolverKernel] = {}

    def apply(
        self, columns: Mapping[str, Array], result: BatchResult, times: Array | None, threads: int
    ) -> BatchResult:
        """Return the result with failed runs replaced where an attempt succeeds.

        Every attempt gathers the runs that still fail into one compact batch. ``attempts`` of the
        result is 0 for runs that were not replaced, else the number of the successful attempt,
        from 1.

        Parameters
        ----------
        columns : mapping
            Values of every varied quantity, each of shape (runs,).
        result : BatchResult
            Of all runs; arrays of failed runs are overwritten.
        times : ndarray, optional
            Sampled times.
        threads : int
            CPU threads.
        """
        attempts = np.zeros(len(result.status), np.uint8)
        seconds, measured = result.seconds, result.measured
        for number in range(1, len(self.study.rescue) + 1):
            failed = np.flatnonzero(~ended_well(result.status))
            if not failed.size:
                break
            chosen = {name: values[failed] for name, values in columns.items()}
            again = self._solve(number, chosen, failed.size, times, threads)
            seconds += again.seconds
            measured = join_measured(measured, again.measured)
            good = ended_well(again.status)
            result.replace_runs(failed[good], again, good)
            attempts[failed[good]] = number
        return evolve(result, attempts=attempts, seconds=seconds, measured=measured)

    def _solve(
        self, number: int, columns: Mapping[str, Array], count: int, times: Array | None,
        threads: int,
    ) -> BatchResult:  # fmt: skip
        study = attempt_study(self.study, number)
        if number not in self._kernels:
            self._kernels[number] = build_kernel(study)
        factor = self.study.rescue[number - 1].tolerance_factor
        limits = evolve(tolerances(study), factor=factor)
        return self._kernels[number].solve(columns, count, limits, times, threads)


def attempt_study(study: Study, number: int) -> Study:
    """Return a study as attempt `number` of its rescue, from 1, solves it."""
    attempt = study.rescue[number - 1]
    c = study.controller
    precision = attempt.precision or study.precision
    steps = int(c.max_steps * attempt.max_steps_factor)

    return evolve(
        study,
        algorithm=attempt.algorithm or study.algorithm,
        precision=precision,
        linear_solver=attempt.linear_solver or "auto",
        controller=evolve(
            c,
            kind="default",
            safety=None,
            min_factor=None,
            max_factor=None,
            dt=None,
            max_steps=min(steps, 2**24) if precision == "float32" else steps,
        ),
        # The condition on trajectories may name the attempt; it is applied after the rescue.
        output=evolve(study.output, where=None),
        locations={},
        rescue=(),
    )
