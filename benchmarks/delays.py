"""Delay equations: our kernel, SciPy by the method of steps, and jitcdde if it is installed.

    python -m benchmarks delays [--runs N]

Every solver integrates the Mackey-Glass equation (x(0) = 0.5 and before, delays from 6 to 20 days,
100 days) at the same tolerance. The table shows the time per run in one process and thread, without
compiling, and the largest error of some runs, the same for all, at the end: the difference to vern7
at a tolerance of 1e-12. SciPy and jitcdde integrate only these.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.systems import OdeSystem

Array = Any
#: End of the runs, tolerances, and the number of runs of the solvers that take one at a time.
DURATION, RTOL, ATOL, FEW = 100.0, 1e-6, 1e-9, 8
_MODEL = Path(__file__).parents[1] / "conf" / "system" / "mackey_glass.yaml"


def kernel(algorithm: str) -> BatchSolverKernel:
    """Return a kernel that varies the delay."""
    settings = RunSettings(
        OdeSystem.from_file(_MODEL),
        varied=("tau",),
        algorithm=algorithm,
        duration=DURATION,
        history=4096 if algorithm == "vern7" else 256,
    )
    return BatchSolverKernel(settings, BatchSolverConfig("cpu"))


def ours(algorithm: str, delays: Array, tolerances: Tolerances) -> tuple[Array, float]:
    """Return the final values, and the seconds of a second call."""
    built, columns = kernel(algorithm), {"tau": delays}
    built.solve(columns, len(delays), tolerances)
    result = built.solve(columns, len(delays), tolerances)
    assert (result.status == 0).all()
    return result.finals[0], result.seconds


def production(past: float) -> float:
    """Return the production of cells for their past number."""
    return 0.2 * past / (1.0 + past**10)


def by_steps(tau: float) -> float:
    """Return the final value by SciPy: an initial value problem per interval of one delay."""
    from scipy.integrate import solve_ivp

    def before(_: float) -> Array:
        return np.array([0.5])

    past: Callable[[float], Array] = before
    t, x = 0.0, np.array([0.5])
    while t < DURATION:
        end = min(t + tau, DURATION)
        solution = solve_ivp(
            lambda s, y, past=past: production(past(s - tau)[0]) - 0.1 * y,  # type: ignore[misc]
            (t, end), x, "RK45", dense_output=True, rtol=RTOL, atol=ATOL,
        )  # fmt: skip
        t, x, past = end, solution.y[:, -1], solution.sol
    return float(x[0])


def jitcdde_solver() -> Callable[[float], float] | None:
    """Return a function from the delay to the final value, None if jitcdde is not installed."""
    try:
        from jitcdde import jitcdde, t, y
        from symengine import symbols
    except ImportError:
        return None
    tau = symbols("tau")
    past = y(0, t - tau)
    equation = [0.2 * past / (1 + past**10) - 0.1 * y(0)]
    solver = jitcdde(equation, control_pars=[tau], max_delay=20.0, verbose=False)
    # The build reads a pyproject.toml in the current folder.
    with TemporaryDirectory() as folder, chdir(folder):
        solver.compile_C()

    def solve(delay: float) -> float:
        solver.purge_past()
        solver.constant_past([0.5])
        solver.set_parameters(delay)
        solver.set_integration_parameters(rtol=RTOL, atol=ATOL)
        solver.adjust_diff()
        return float(solver.integrate(DURATION)[0])

    return solve


def one_by_one(solve: Callable[[float], float], delays: Array) -> tuple[Array, float]:
    """Return the final values of a solver for single runs, and its seconds."""
    started = perf_counter()
    ends = [solve(float(delay)) for delay in delays]
    return np.array(ends), perf_counter() - started


def main(runs: int) -> None:
    """Print the table."""
    delays = np.linspace(6.0, 20.0, runs)
    few = np.unique(np.linspace(0, runs - 1, min(runs, FEW)).astype(int))
    exact, _ = ours("vern7", delays, Tolerances(1e-12, 1e-13))
    print(f"Mackey-Glass, {runs} delays from 6 to 20, {DURATION:g} d, rtol {RTOL:g}, one thread")
    print(f"{'solver':<24}{'us per run':>12}{'largest error':>16}")

    def show(name: str, ends: Array, seconds: float) -> None:
        chosen = ends[few] if len(ends) == runs else ends
        error = np.abs(chosen - exact[few]).max()
        print(f"{name:<24}{1e6 * seconds / len(ends):>12.1f}{error:>16.1e}", flush=True)

    for algorithm in ("tsit5", "dormand_prince_54", "rodas5p"):
        show(f"ours, {algorithm}", *ours(algorithm, delays, Tolerances(RTOL, ATOL)))
    show("SciPy RK45 by steps", *one_by_one(by_steps, delays[few]))
    peer = jitcdde_solver()
    if peer is None:
        print("jitcdde                 not installed")
    else:
        show("jitcdde", *one_by_one(peer, delays[few]))
