"""cubie on a GPU: one thread per run, kernels compiled by numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.peers import Prepared, Unsupported

#: The `Entry.method` names and cubie's.
METHODS = {"rk4": "classical-rk4", "tsit5": "tsit5"}


def prepare(case: Case, entry: Entry) -> Prepared:
    import cubie

    if case.problem.name != "lorenz" or entry.method not in METHODS:
        raise Unsupported("written for Lorenz with RK4 and Tsit5")
    about = case.problem
    real = np.dtype(entry.precision).type
    system = cubie.create_ODE_system(
        "dx = 10.0*(y - x)\ndy = x*(rho - z) - y\ndz = x*y - (8.0/3.0)*z",
        precision=real,
        states={"x": 1.0, "y": 0.0, "z": 0.0},
        parameters={"rho": 21.0},
        name="Lorenz",
    )
    chosen: dict[str, Any] = {"dt": entry.dt} if entry.dt else {
        "rtol": entry.rtol, "atol": entry.atol
    }  # fmt: skip
    solver = cubie.Solver(system, algorithm=METHODS[entry.method], **chosen)
    values = np.asarray(about.values(entry.runs), real)

    def run() -> Any:
        return solver.solve(parameters={"rho": values}, duration=about.duration)

    def ends(answer: Any, probes: Any) -> Any:
        # (times, variables, runs); the last time is the end.
        states = np.asarray(answer.time_domain_array)[-1, :3, :]
        return states[:, probes].T[:, None, :]

    return Prepared(run, ends)
