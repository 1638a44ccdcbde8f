"""Figures of cubie_flow alone: efficiency, scaling, small batches, compile time, first result.

Each is a function without arguments that returns a flat mapping of names to numbers. Quantities
that are compared within a figure are measured alternately.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from benchmarks.cases import Case, Entry, adaptive, fixed
from benchmarks.operations import flops, operations
from benchmarks.peak import Peak
from benchmarks.peers.kernel import limits, make_kernel
from cubie_flow.kernels.cache import FOLDER_VARIABLE
from cubie_flow.kernels.targets.cpu import vector_bits
from cubie_flow.kernels.targets.detect import toolkit_installed
from cubie_flow.process.machine import usable_cores

CompilerStats = dict[str, float | str]
ROUNDS = 7


def _solver(case: Case, threads: int) -> Callable[[], Any]:
    entry = case.entries[0]
    launch = make_kernel(case, entry).launch(limits(entry), threads=threads)
    values = {case.problem.varied: case.problem.values(case.runs)}
    return lambda: launch.solve(values, case.runs)


def _alternate(
    actions: dict[str, Callable[[], Any]],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each action, after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            began = clock()
            action()
            if number:
                times[name].append(clock() - began)
    return {name: median(measured) for name, measured in times.items()}


def efficiency() -> CompilerStats:
    """Return the shares of the measured floating-point peak that RK4 and Tsit5 reach."""
    threads = usable_cores()
    found: CompilerStats = {}
    for precision in ("float64", "float32"):
        peak = Peak(precision, vector_bits())
        factor = 1.0 if precision == "float64" else 1e2
        cases = {
            "rk4": fixed(65_536, precision),
            "tsit5": adaptive("lorenz", 65_536, precision, factor=factor),
        }
        rates: dict[str, list[float]] = {name: [] for name in ("peak", *cases)}
        works: dict[str, tuple[Callable[[], Any], float]] = {}
        for name, case in cases.items():
            kernel = make_kernel(case, case.entries[0])
            each = flops(operations(kernel))
            solve = _solver(case, threads)
            answer = solve()
            attempts = int(answer.steps.sum(dtype="int64") + answer.rejected.sum(dtype="int64"))
            works[name] = solve, float(each * attempts)
            found[f"flops_an_attempt_{name}_{precision}"] = each
        for _ in range(ROUNDS):
            rates["peak"].append(peak.flops(threads, 4_000_000))
            for name, (solve, work) in works.items():
                began = perf_counter()
                solve()
                rates[name].append(work / (perf_counter() - began))
        best = median(rates["peak"])
        found[f"peak_gflops_{precision}"] = best / 1e9
        for name in cases:
            found[f"gflops_{name}_{precision}"] = median(rates[name]) / 1e9
            found[f"fraction_of_peak_{name}_{precision}"] = median(rates[name]) / best
    return found


def scaling() -> CompilerStats:
    """Return the speed of all threads relative to one."""
    case = adaptive("lorenz", 65_536)
    threads = usable_cores()
    times = _alternate({"one": _solver(case, 1), "all": _solver(case, threads)})
    return {"threads": threads, "speed_of_all_relative_to_one": times["one"] / times["all"]}


def small_batches() -> CompilerStats:
    """Return the cost per run in batches of 64 to 16,384, and the ratio of the ends.

    `ratio` is in core time and `ratio_wall` in wall time: waking a second core takes longer than
    integrating 64 runs, so a small batch uses one core and a large batch all of them.
    """
    threads, sizes = usable_cores(), (64, 256, 1024, 4096, 16_384)
    repeats = {runs: max(1, 4096 // runs) for runs in sizes}

    def several(runs: int) -> Callable[[], Any]:
        solve = _solver(adaptive("lorenz", runs), threads)
        return lambda: [solve() for _ in range(repeats[runs])]

    actions = {str(runs): several(runs) for runs in sizes}
    found: CompilerStats = {}
    for kind, clock in (("us", perf_counter), ("core_us", process_time)):
        times = _alternate(actions, 2 * ROUNDS, clock)
        each = {runs: 1e6 * times[str(runs)] / (runs * repeats[runs]) for runs in sizes}
        found |= {f"{kind}_{runs}": us for runs, us in each.items()}
        found["ratio" if kind == "core_us" else "ratio_wall"] = each[64] / each[sizes[-1]]
    return found


def solve_overhead() -> CompilerStats:
    """Return the milliseconds per call that `cubie_flow.solve` takes in addition to its kernel."""
    from benchmarks.peers.solve import prepare

    case = adaptive("lorenz", 1024)
    entry = next(entry for entry in case.entries if entry.peer == "solve")
    times = _alternate(
        {"kernel": _solver(case, usable_cores()), "solve": prepare(case, entry).run}, 15
    )
    added = {"added_ms": 1e3 * (times["solve"] - times["kernel"])}
    return {**{name: 1e3 * seconds for name, seconds in times.items()}, **added}


def sizes() -> CompilerStats:
    """Return nanoseconds per attempted step and non-zero of the Jacobian, by number of states."""
    from attrs import evolve

    from benchmarks.problems import PROBLEMS

    found: CompilerStats = {}
    ring = PROBLEMS["lorenz96_40"]
    for states in (10, 40, 100, 200, 400):
        about = evolve(ring, name=f"lorenz96_{states}", settings={"size": states})
        case = adaptive("lorenz96_40", max(64, 40_960 // states))
        kernel, tolerances = _kernel_of(about, case), limits(case.entries[0])
        values = {about.varied: about.values(case.runs)}
        answer = kernel.solve(values, case.runs, tolerances, None, usable_cores())
        attempts = int(answer.steps.sum() + answer.rejected.sum())
        times = _alternate(
            {"it": lambda k=kernel, v=values, c=case, t=tolerances: k.solve(  # type: ignore[misc]
                v, c.runs, t, None, usable_cores()
            )}, 3,
        )  # fmt: skip
        found[f"ns_an_attempt_and_nonzero_{states}"] = times["it"] / attempts / (4 * states) * 1e9
    return found


def _kernel_of(about: Any, case: Case) -> Any:
    from cubie_flow.integrators.run import RunSettings
    from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel

    run = RunSettings(
        about.system, (about.varied,), case.entries[0].method, duration=about.duration
    )
    return BatchSolverKernel(run, BatchSolverConfig("cpu"))


def compile_times(limit: float = 90.0) -> CompilerStats:
    """Return compile times for 3, 40 and 400 states, by method and target, in seconds."""
    found: CompilerStats = {}
    for method in ("tsit5", "rodas5p"):
        for problem in ("lorenz", "lorenz96_40", "lorenz96_400"):
            for arch in ("", "sm_90") if toolkit_installed() else ("",):
                name = f"{method}_{problem}_{arch or 'cpu'}"
                found[name] = _elsewhere(_compile, (problem, method, arch), limit)
    return found


def _elsewhere(work: Any, given: tuple[Any, ...], limit: float) -> float | str:
    """Run `work` in a new process for at most `limit` seconds, and return what it sends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *given))
    process.start()
    theirs.close()
    try:
        return float(ours.recv()) if ours.poll(limit) else f"over {limit:g} s"
    except EOFError:
        return "failed"
    finally:
        process.kill()
        process.join()


def _compile(pipe: Connection, problem: str, method: str, arch: str) -> None:
    from attrs import evolve

    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER_VARIABLE] = folder
        # The first one includes imports; the second is measured.
        for case in (fixed(64), adaptive(problem, 64)):
            entry: Entry = case.entries[0]
            kernel = make_kernel(case, entry if entry.dt else evolve(entry, method=method))
            began = perf_counter()
            if arch:
                kernel.compile_cuda(arch)
            else:
                kernel.product  # noqa: B018
        pipe.send(perf_counter() - began)


def first_result() -> CompilerStats:
    """Return the seconds of the default command, cold and warm, and of the import."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        environment = os.environ | {FOLDER_VARIABLE: str(place / "kernels")}
        # With this variable every process would compile our modules again.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def command(number: int) -> float:
            began = perf_counter()
            subprocess.run(
                [sys.executable, "-m", "cubie_flow", f"storage.folder={place / str(number)}"],
                env=environment, capture_output=True, check=True,
            )  # fmt: skip
            return perf_counter() - began

        cold = command(0)
        warm = [command(number) for number in range(1, 4)]
    code = "from time import perf_counter as now; t = now(); import cubie_flow; print(now() - t)"
    imports = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(5)
    ]
    return {"cold_s": cold, "warm_s": median(warm), "import_s": median(imports)}


FIGURES: dict[str, Callable[[], CompilerStats]] = {
    "efficiency": efficiency,
    "scaling": scaling,
    "small_batches": small_batches,
    "solve_overhead": solve_overhead,
    "sizes": sizes,
    "compile_times": compile_times,
    "first_result": first_result,
}
