"""RK4 as plain loops in numba with runs in parallel, as written without a library."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.fields import scalar_field
from benchmarks.peers import Prepared, steps_a_save, timed


def prepare(case: Case, entry: Entry) -> Prepared:
    import numba

    steps, dt = steps_a_save(case, entry)
    from cubie_flow.process.machine import usable_cores

    numba.set_num_threads(usable_cores())
    about, saves = case.problem, len(case.times())
    real: Any = np.dtype(entry.precision).type
    rhs = numba.njit(scalar_field(about), error_model="numpy")
    start = about.start.astype(real)
    size, h, half, sixth = len(start), real(dt), real(dt / 2), real(dt / 6)

    @numba.njit(parallel=True, error_model="numpy")
    def all_runs(values):  # type: ignore[no-untyped-def]
        out = np.empty((len(values), saves, size), start.dtype)
        for i in numba.prange(len(values)):
            u, p = start.copy(), np.empty(1, start.dtype)
            p[0] = values[i]
            a, k, total = np.empty_like(u), np.empty_like(u), np.empty_like(u)
            for save in range(saves):
                for step in range(steps):
                    t = (save * steps + step) * h
                    rhs(t, u, k, p)
                    for j in range(size):
                        total[j] = k[j]
                        a[j] = u[j] + half * k[j]
                    rhs(t + half, a, k, p)
                    for j in range(size):
                        total[j] += real(2) * k[j]
                        a[j] = u[j] + half * k[j]
                    rhs(t + half, a, k, p)
                    for j in range(size):
                        total[j] += real(2) * k[j]
                        a[j] = u[j] + h * k[j]
                    rhs(t + h, a, k, p)
                    for j in range(size):
                        u[j] += sixth * (total[j] + k[j])
                out[i, save] = u
        return out

    values = about.values(entry.runs).astype(real)
    _, seconds = timed(lambda: all_runs.compile((numba.typeof(values),)))
    return Prepared(lambda: all_runs(values), lambda answer, probes: answer[probes], seconds)
