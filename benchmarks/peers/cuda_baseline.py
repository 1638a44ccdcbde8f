"""The hand-written CUDA C++ of ``lorenz.cu``, with arrays on the device, timed with events."""

from __future__ import annotations

from ctypes import c_double, c_float, c_int, c_int64, c_void_p
from typing import Any

import numpy as np

from benchmarks.cases import Case, Entry
from benchmarks.peers import Prepared, Unsupported, timed

BLOCK = 128


def prepare(case: Case, entry: Entry) -> Prepared:
    from cuda.bindings import driver

    from benchmarks.baseline import compile_baseline
    from benchmarks.device import Stopwatch, check, description, to_device, to_host
    from cubie_flow.kernels.targets.cuda_program import CudaProgram

    name = f"lorenz_{entry.method}"
    if case.problem.name != "lorenz" or name not in ("lorenz_rk4", "lorenz_tsit5"):
        raise Unsupported("written for Lorenz with RK4 and Tsit5")
    if (entry.method == "rk4") != bool(entry.dt):
        raise Unsupported("RK4 is written for fixed steps, Tsit5 for controlled ones")
    about, count = case.problem, entry.runs
    arch = description()["arch"]
    code, seconds = timed(lambda: compile_baseline(name, entry.precision, arch))
    program = CudaProgram(code, BLOCK, 0)
    rho = to_device(about.values(count).astype(entry.precision))
    finals = np.zeros((3, count), entry.precision)
    pointer = to_device(finals)
    values: tuple[Any, ...]
    real: Any = c_float if entry.precision == "float32" else c_double
    if entry.dt:
        values = (count, rho, entry.dt, round(about.duration / entry.dt), pointer)
        kinds = (c_int64, c_void_p, real, c_int, c_void_p)
    else:
        values = (count, rho, about.duration, entry.rtol, pointer)
        kinds = (c_int64, c_void_p, real, real, c_void_p)
    grid, watch = -(-count // BLOCK), Stopwatch()

    def launch() -> None:
        shape = (grid, 1, 1, BLOCK, 1, 1)
        check(driver.cuLaunchKernel(program.kernel.function, *shape, 0, 0, (values, kinds), 0))

    def ends(answer: Any, probes: Any) -> Any:
        return to_host(pointer, finals)[:, probes].T[:, None, :]

    return Prepared(lambda: watch.time(launch), ends, seconds, lambda: watch.seconds)
