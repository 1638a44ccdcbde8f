"""numbalsoda's LSODA and DOP853 in a parallel numba loop."""

from __future__ import annotations

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.fields import scalar_field
from benchmarks.peers import Prepared, timed


def prepare(case: Case, entry: Entry) -> Prepared:
    import numba
    from numbalsoda import dop853, lsoda, lsoda_sig

    from cubie_flow.process.machine import usable_cores

    numba.set_num_threads(usable_cores())
    about = case.problem
    right_hand_side, compiling = timed(lambda: numba.cfunc(lsoda_sig)(scalar_field(about)))
    address = right_hand_side.address
    solver = {"lsoda": lsoda, "dop853": dop853}[entry.method]
    start = about.start
    # It also needs the starting time.
    times = np.concatenate([[0.0], case.times()])
    kept = len(times) - 1
    rtol, atol = entry.rtol, entry.atol

    @numba.njit(parallel=True)
    def all_runs(values):  # type: ignore[no-untyped-def]
        out = np.empty((len(values), kept, len(start)))
        for i in numba.prange(len(values)):
            p = np.array([values[i]])
            states, _ = solver(address, start.copy(), times, p, rtol, atol, 1_000_000)
            out[i] = states[-kept:]
        return out

    values = about.values(entry.runs)
    _, linking = timed(lambda: all_runs.compile((numba.float64[::1],)))
    return Prepared(
        lambda: all_runs(values), lambda answer, probes: answer[probes], compiling + linking
    )
