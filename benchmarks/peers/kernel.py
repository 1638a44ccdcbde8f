"""cubie_flow: the batch kernel alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.peers import Prepared
from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.tableaus import method
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.process.machine import usable_cores


def make_kernel(case: Case, entry: Entry, target: str = "cpu", **config: Any) -> BatchSolverKernel:
    """Return the kernel of an entry, not yet compiled."""
    about = case.problem
    names = tuple(state.name for state in about.system.states)
    run = RunSettings(
        about.system,
        varied=(about.varied,),
        algorithm=entry.method,
        precision=entry.precision,
        controller="fixed" if entry.dt else "default",
        duration=about.duration,
        saved=names if case.saves else (),
        sampling=bool(case.saves),
    )
    return BatchSolverKernel(run, BatchSolverConfig(target, entry.precision, **config))


def limits(entry: Entry) -> Tolerances:
    """Return the run-time settings of an entry."""
    method(entry.method)
    return Tolerances(entry.rtol, entry.atol, dt=entry.dt)


def prepare(case: Case, entry: Entry) -> Prepared:
    about = case.problem
    kernel = make_kernel(case, entry)
    times = case.times() if case.saves else None
    values = {about.varied: about.values(entry.runs)}
    built = kernel.product
    launch = kernel.launch(limits(entry), times, usable_cores())

    def run() -> Any:
        return launch.solve(values, entry.runs)

    def ends(answer: Any, probes: Any) -> Any:
        if case.saves:
            return np.moveaxis(answer.samples[:, probes, :], 0, 2)
        return answer.finals[:, probes].T[:, None, :]

    return Prepared(run, ends, built.seconds)
