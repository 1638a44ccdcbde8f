"""Adaptive Lorenz beside peers, in one run: microseconds a trajectory and the error of each.

    python benchmarks/lorenz.py            # needs the `peers` extra for the others

Tsit5 (or the peer's nearest method) to 1e-8, float64, 16,384 runs over rho, final state, all
cores. Rounds are interleaved and medians reported, of wall and of core time (the latter hardly
minds a busy machine); a peer that is missing says so.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np

RUNS, TOLERANCE, ROUNDS = 16_384, 1e-8, 9
RHO = np.linspace(0.0, 21.0, RUNS)
REFERENCE = np.array([-6.450579147318919, -8.895211478667811, 14.649145866604451])
Solver = Callable[[], Any]


def ours() -> Solver:
    """Our kernel on the CPU target."""
    from cubie_flow import OdeSystem
    from cubie_flow.integrators.run import RunSettings
    from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel, Tolerances
    from cubie_flow.kernels.targets.cpu import usable_threads

    system = OdeSystem.from_equations(
        "dx/dt = 10*(y - x)\ndy/dt = x*(rho - z) - y\ndz/dt = x*y - 8/3*z",
        states={"x": 1.0, "y": 0.0, "z": 0.0},
        parameters={"rho": 21.0},
    )
    kernel = BatchSolverKernel(
        RunSettings(system, varied=("rho",), precision="float64", duration=1.0),
        BatchSolverConfig("cpu"),
    )
    threads = usable_threads()

    def run() -> Any:
        limits = Tolerances(TOLERANCE, TOLERANCE)
        return kernel.solve({"rho": RHO}, RUNS, limits, threads=threads).finals[:, -1]

    return run


def heyoka_batch() -> Solver:
    """heyoka's Taylor integrator: SIMD batches, one integrator a thread, reused throughout."""
    from concurrent.futures import ThreadPoolExecutor
    from copy import deepcopy

    import heyoka as hy

    from cubie_flow.kernels.targets.cpu import usable_threads

    x, y, z = hy.make_vars("x", "y", "z")
    rho = hy.par[0]
    width = hy.recommended_simd_size()
    equations = [(x, 10.0 * (y - x)), (y, x * (rho - z) - y), (z, x * y - 8.0 / 3.0 * z)]
    start = np.repeat(np.array([[1.0], [0.0], [0.0]]), width, axis=1)
    template = hy.taylor_adaptive_batch(equations, start, tol=TOLERANCE, pars=np.zeros((1, width)))
    groups = RHO.reshape(-1, width)
    threads = usable_threads()
    integrators = [deepcopy(template) for _ in range(threads)]
    finals = np.empty((3, RUNS))

    def share(number: int) -> None:
        integrator = integrators[number]
        for i in range(number, len(groups), threads):
            integrator.set_time(0.0)
            integrator.state[:] = start
            integrator.pars[0, :] = groups[i]
            integrator.propagate_until(1.0)
            finals[:, i * width : (i + 1) * width] = integrator.state

    pool = ThreadPoolExecutor(threads)

    def run() -> Any:
        list(pool.map(share, range(threads)))
        return finals[:, -1]

    return run


def numbalsoda_dop853() -> Solver:
    """numbalsoda's dop853 in a parallel numba loop."""
    import numba
    from numbalsoda import dop853, lsoda_sig

    @numba.cfunc(lsoda_sig)
    def rhs(t, u, du, p):  # type: ignore[no-untyped-def]
        du[0] = 10.0 * (u[1] - u[0])
        du[1] = u[0] * (p[0] - u[2]) - u[1]
        du[2] = u[0] * u[1] - 8.0 / 3.0 * u[2]

    address = rhs.address

    @numba.njit(parallel=True)
    def all_runs(rho):  # type: ignore[no-untyped-def]
        out = np.empty((len(rho), 3))
        ends = np.array([0.0, 1.0])
        for i in numba.prange(len(rho)):
            u0 = np.array([1.0, 0.0, 0.0])
            p = np.array([rho[i]])
            states, _ = dop853(address, u0, ends, p, rtol=TOLERANCE, atol=TOLERANCE)
            out[i] = states[-1]
        return out

    return lambda: all_runs(RHO)[-1]


def diffrax_tsit5() -> Solver:
    """diffrax Tsit5 under vmap and jit."""
    import diffrax
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy

    def field(t: Any, u: Any, rho: Any) -> Any:
        x, y, z = u
        return jnp.stack([10.0 * (y - x), x * (rho - z) - y, x * y - 8.0 / 3.0 * z])

    controller = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)

    @jax.jit
    @jax.vmap
    def one(rho: Any) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Tsit5(), 0.0, 1.0, 1e-3, jnp.array([1.0, 0.0, 0.0]),
            args=rho, stepsize_controller=controller, max_steps=10_000,
        )  # fmt: skip
        return solution.ys[-1]

    rho = jnp.asarray(RHO)
    return lambda: np.asarray(one(rho))[-1]


ENTRANTS = {
    "cubie_flow tsit5": ours,
    "heyoka batch": heyoka_batch,
    "numbalsoda dop853": numbalsoda_dop853,
    "diffrax tsit5": diffrax_tsit5,
}


def main() -> None:
    """Run all entrants in interleaved rounds; print JSON."""
    solvers: dict[str, Solver] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, make in ENTRANTS.items():
        try:
            started = perf_counter()
            solvers[name] = make()
            end = solvers[name]()
            rows[name] = {
                "first_result_s": round(perf_counter() - started, 3),
                "error": float(np.abs(np.asarray(end) - REFERENCE).max()),
            }
        except ImportError as missing:
            rows[name] = {"missing": str(missing)}
    times: dict[str, list[float]] = {name: [] for name in solvers}
    cores: dict[str, list[float]] = {name: [] for name in solvers}
    for _ in range(ROUNDS):
        for name, solver in solvers.items():
            started, used = perf_counter(), process_time()
            solver()
            times[name].append(perf_counter() - started)
            cores[name].append(process_time() - used)
    for name, measured in times.items():
        rows[name]["microseconds_per_trajectory"] = round(median(measured) / RUNS * 1e6, 3)
        rows[name]["core_microseconds"] = round(median(cores[name]) / RUNS * 1e6, 3)
        rows[name]["spread"] = [round(f(measured) / RUNS * 1e6, 3) for f in (min, max)]
    own = rows["cubie_flow tsit5"]
    for row in rows.values():
        if "microseconds_per_trajectory" in row:
            for key, figure in (
                ("times_ours", "microseconds_per_trajectory"),
                ("core_times_ours", "core_microseconds"),
            ):
                row[key] = round(row[figure] / own[figure], 2)
    record = {"runs": RUNS, "tolerance": TOLERANCE, "rounds": ROUNDS, "results": rows}
    record["machine"] = f"{platform.machine()}, Python {platform.python_version()}"
    json.dump(record, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
