"""The measurements on a GPU, in parts that can be stopped and resumed.

``python -m benchmarks gpu`` measures the cases that are not in the record, which is written after
every case. With ``--dry`` the simulator and the compilers replace a GPU, and nothing is timed.

Wheels: ``cubie-flow[cuda13]``, with ``numba-cuda`` and through it NVVM, nvJitLink and NVRTC; for
the peers ``jax[cuda13]``, ``diffrax``, ``torch``, ``torchdiffeq`` and ``cubie``. A peer that is not
installed gives a row that says so.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from attrs import evolve

from benchmarks.cases import Case, Entry, adaptive, entry
from benchmarks.measure import Effort, measure
from benchmarks.operations import operations
from benchmarks.peers.kernel import limits, make_kernel
from benchmarks.problems import problem
from benchmarks.record import write
from cubie_flow.errors import FlowError, nearest
from cubie_flow.integrators.tableaus import EXPLICIT, METHODS, TAYLOR
from cubie_flow.kernels.targets.detect import cuda_devices, toolkit_installed

ARCH = "sm_90"
#: Steps per run of Lorenz with a fixed step, as in published comparisons.
STEPS = 1000
Row = dict[str, Any]
#: A case of a part: its name, and the function that returns its row.
Work = tuple[str, Callable[[], Row]]


# correctness


def correctness(dry: bool) -> Iterator[Work]:
    """Compare every method with the CPU target, bit for bit."""
    for name in METHODS:
        for precision in ("float64",) if dry else ("float64", "float32"):
            yield (
                f"{name} {precision}",
                lambda name=name, precision=precision: compared(  # type: ignore[misc]
                    name, precision, "simulator" if dry else "cuda", 2 if dry else 4096
                ),
            )


def compared(method: str, precision: str, target: str, runs: int) -> Row:
    """Return the differences between a method's numbers on `target` and on the CPU."""
    explicit = method in EXPLICIT
    about = problem("lorenz")
    if not explicit and problem("robertson").available:
        about = problem("robertson")
    # The simulator is slow, so it takes only a few steps.
    duration = (0.02 if target == "simulator" else 1.0) * about.duration
    about = evolve(about, duration=duration)
    case = _of(about, runs, precision)
    fixed_step = METHODS[method].embedded_order is None
    first = evolve(
        case.entries[0], method=method, dt=duration / 4 if fixed_step and target == "simulator"
        else duration / STEPS if fixed_step else None,
    )  # fmt: skip
    values = {about.varied: about.values(runs)} if runs >= 5 else {
        about.varied: np.linspace(about.low, about.high, runs)
    }  # fmt: skip
    found = {
        kind: make_kernel(case, first, kind).solve(values, runs, limits(first))
        for kind in ("cpu", target)
    }
    ours, theirs = found["cpu"], found[target]
    apart = np.abs(ours.finals - theirs.finals) / (np.abs(ours.finals) + about.floor)
    return {
        "problem": about.name,
        "identical": bool(np.array_equal(ours.finals, theirs.finals, equal_nan=True)),
        "difference": float(np.nanmax(apart)),
        "same_steps": bool(np.array_equal(ours.steps, theirs.steps)),
        "failed": int(np.count_nonzero(theirs.status)),
    }


def _of(about: Any, runs: int, precision: str) -> Case:
    """Return a case of a problem that is not in the list, for example of another duration."""
    made = adaptive(about.name, runs, precision)

    class _Changed(Case):
        problem = about

    return _Changed(made.name, made.problem_name, runs, precision, 0, made.entries[:1])


# timing

_GPU_PEERS = ("cuda_kernel", "cuda_solve", "cuda_baseline", "cubie", "diffrax", "torchdiffeq")


#: Sizes at which peers with a slow start are measured.
_SLOW, _SLOW_SIZES = ("diffrax", "torchdiffeq"), {"rk4": (2**13,), "tsit5": (2**13, 2**20)}
#: Least arithmetic instructions of a fixed step of Lorenz: six per right-hand side, and one per
#: weight and state.
LEAST = {"rk4": 4 * 6 + 3 * (3 + 4), "tsit5": 6 * 6 + 3 * (15 + 6)}


#: Comparison of the Taylor methods with our other explicit methods: their errors at one tolerance
#: differ, and a tighter tolerance gives the cost of equal errors.
_SERIES = (
    ("taylor_12", 1.0), ("taylor_8", 1.0), ("taylor_16", 1e-1), ("tsit5", 1.0), ("vern7", 1.0),
    ("dormand_prince_853", 1e-1),
)  # fmt: skip


def timing_case(method: str, precision: str, runs: int) -> Case:
    """Return Lorenz on a GPU: RK4 with a fixed step or Tsit5 with peers, or our methods alone."""
    about = problem("lorenz")
    factor = 1.0 if precision == "float64" else 1e2
    entries: list[Entry] = []
    if method in TAYLOR:
        entries += [
            entry(about, runs, precision, "cuda_kernel", name, factor * by)
            for name, by in _SERIES
            if precision == "float64" or by == 1.0
        ]
        entries.append(entry(about, runs, precision, "cuda_solve", method, factor))
    for peer in () if method in TAYLOR else _GPU_PEERS:
        if peer in _SLOW and runs not in _SLOW_SIZES[method]:
            continue
        name = "dopri5" if peer == "torchdiffeq" and method == "tsit5" else method
        dt = about.duration / STEPS if method == "rk4" else None
        made = entry(about, runs, precision, peer, name, factor, dt)
        entries.append(evolve(made, runs=runs))
    short = precision.replace("float", "f")
    return Case(f"gpu_{method}_{short}_{runs}", "lorenz", runs, precision, 0, entries)


def _timing(method: str) -> Callable[[bool], Iterator[Work]]:
    def part(dry: bool) -> Iterator[Work]:
        for precision in ("float32", "float64"):
            if dry:
                yield f"compile {precision}", lambda p=precision: compiled(method, p)  # type: ignore[misc]
                continue
            for power in (10, 16, 20, 23) if method in TAYLOR else (10, 13, 16, 20, 23, 24):
                case = timing_case(method, precision, 2**power)
                yield (
                    case.name,
                    lambda case=case: measure(  # type: ignore[misc]
                        case, Effort(rounds=7, first_limit=60.0, case_limit=6.0)
                    ),
                )

    return part


def compiled(method: str, precision: str) -> Row:
    """Return the compiler's figures of our kernels and of the baseline, for `ARCH`."""
    from benchmarks.baseline import compile_baseline

    case = timing_case(method, precision, 64)
    kernels = [each for each in case.entries if each.peer == "cuda_kernel"]
    row: Row = {"arch": ARCH, "unmeasured": "no GPU"}
    row |= {each.method: _built(make_kernel(case, each)) for each in kernels}
    if method not in TAYLOR:
        theirs = compile_baseline(f"lorenz_{method}", precision, ARCH)
        row["baseline"] = theirs.figures.as_dict()
    return row


def _built(kernel: Any) -> Row:
    """Return the compiler's figures of a kernel for `ARCH`, which needs no GPU."""
    figures: Row = kernel.compile_cuda(ARCH).figures.as_dict()
    return figures


def latency(dry: bool) -> Iterator[Work]:
    """Measure launches of few runs, from the call to the end of the kernel."""

    def prepared(runs: int, target: str) -> tuple[Any, Entry]:
        case = timing_case("rk4", "float32", runs)
        first = evolve(case.entries[0], dt=1.0)
        return make_kernel(case, first, target), first

    def one(runs: int) -> Row:
        from cuda.bindings import driver

        from benchmarks.device import check
        from benchmarks.peers.cuda_kernel import captured

        kernel, first = prepared(runs, "cuda")
        values = {"rho": np.full(runs, 21.0)}
        program: Any = kernel.product.program
        batch = captured(kernel, values, runs, limits(first))
        launches, calls = [], []
        with program.loaded(batch) as held:
            for _ in range(200):
                began = perf_counter()
                held.launch()
                check(driver.cuCtxSynchronize())
                launches.append(perf_counter() - began)
        for _ in range(50):
            began = perf_counter()
            kernel.solve(values, runs, limits(first))
            calls.append(perf_counter() - began)
        return {
            "launch_us": 1e6 * float(np.median(launches)),
            "solve_us": 1e6 * float(np.median(calls)),
        }

    if dry:
        yield "compile", lambda: _built(prepared(64, "simulator")[0])
    for runs in () if dry else (1, 32, 1024):
        yield f"{runs} runs", lambda runs=runs: one(runs)  # type: ignore[misc]


def refill(dry: bool) -> Iterator[Work]:
    """Compare threads that take further runs with one run per thread, for steps spread 100 to 1."""

    about = problem("lorenz")

    def kernel_for(target: str) -> Any:
        from cubie_flow.integrators.run import DURATION, RunSettings
        from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel

        run = RunSettings(about.system, ("rho", DURATION), "tsit5", "float32")
        return BatchSolverKernel(run, BatchSolverConfig(target, "float32"))

    def both() -> Row:
        from benchmarks.device import description
        from benchmarks.peers.cuda_kernel import captured
        from cubie_flow.integrators.run import DURATION
        from cubie_flow.integrators.tolerances import Tolerances

        count, kernel = 2**20, kernel_for("cuda")
        spans = np.geomspace(0.1, 10.0, count)
        random.seed(0)
        np.random.default_rng(0).shuffle(spans)
        values = {"rho": about.values(count), DURATION: spans}
        batch = captured(kernel, values, count, Tolerances(1e-6, 1e-6))
        several = 4 * description()["multiprocessors"]
        row: Row = {}
        for name, blocks in (("plain", None), ("refill", several), ("refill_more", 4 * several)):
            row[f"{name}_ms"] = 1e3 * launch_seconds(kernel, batch, blocks)
        return row | {"gain": row["plain_ms"] / min(row["refill_ms"], row["refill_more_ms"])}

    yield ("compile", lambda: _built(kernel_for("simulator"))) if dry else ("100 to 1", both)


def roofline(dry: bool) -> Iterator[Work]:
    """Compare times with two bounds: the instructions of an attempt, and the least of a step."""

    def prepared(method: str, precision: str, fixed: bool, runs: int, target: str) -> Any:
        case = timing_case(method, precision, runs)
        first = case.entries[0]
        if fixed:
            first = evolve(first, dt=problem("lorenz").duration / STEPS)
        kernel = make_kernel(case, first, target)
        counted = sum(operations(kernel).values())
        return kernel, limits(first), counted

    def one(method: str, precision: str, fixed: bool) -> Row:
        from benchmarks.device import description, operations_a_second
        from benchmarks.peers.cuda_kernel import captured

        runs = 2**23
        kernel, chosen, counted = prepared(method, precision, fixed, runs, "cuda")
        values = {"rho": problem("lorenz").values(runs)}
        answer = kernel.solve(values, runs, chosen)
        attempts = int(answer.steps.sum(dtype=np.int64) + answer.rejected.sum(dtype=np.int64))
        del answer
        took = launch_seconds(kernel, captured(kernel, values, runs, chosen))
        rate = operations_a_second(description(), precision)
        row = {"instructions_an_attempt": counted, "attempts": attempts, "ms": 1e3 * took,
               "fraction": counted * attempts / rate / took}  # fmt: skip
        if fixed:
            floor = LEAST[method] * attempts / rate
            row |= {"least_ms": 1e3 * floor, "fraction_of_least": floor / took}
        return row

    def counted_only(method: str, precision: str, fixed: bool) -> Row:
        counted = prepared(method, precision, fixed, 64, "simulator")[2]
        return {"instructions_an_attempt": counted, "unmeasured": "no GPU"}

    for method, fixed in (("rk4", True), ("tsit5", True), ("tsit5", False), ("taylor_12", False)):
        for precision in ("float32", "float64"):
            work, kind = counted_only if dry else one, "fixed" if fixed else "adaptive"
            yield (
                f"{method} {kind} {precision}",
                lambda w=work, m=method, p=precision, f=fixed: w(m, p, f),  # type: ignore[misc]
            )


def launch_seconds(kernel: Any, batch: Any, blocks: int | None = None) -> float:
    """Return the median seconds of a launch on the device."""
    from benchmarks.device import Stopwatch

    watch, times = Stopwatch(), []
    with kernel.product.program.loaded(batch, blocks) as held:
        for _ in range(6):
            watch.time(held.launch)
            times.append(watch.seconds)
    return float(np.median(times[1:]))


def overlap(dry: bool) -> Iterator[Work]:
    """Compare a batch in pieces, copied while the next is integrated, with a batch in one piece."""

    about = problem("lorenz")

    def kernel_for(target: str) -> Any:
        from cubie_flow.integrators.run import RunSettings
        from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel

        names = tuple(state.name for state in about.system.states)
        run = RunSettings(
            about.system, ("rho",), "rk4", "float32", controller="fixed", saved=names,
            sampling=True, duration=about.duration,
        )  # fmt: skip
        return BatchSolverKernel(run, BatchSolverConfig(target, "float32"))

    def both(steps: int) -> Row:
        from cubie_flow.integrators.tolerances import Tolerances
        from cubie_flow.kernels.targets.cuda_program import CudaProgram

        count, kernel = 2**20, kernel_for("cuda")
        values, times = {"rho": about.values(count)}, np.linspace(0.0, about.duration, 50)
        row: Row = {"megabytes": 3 * 4 * 50 * count / 1e6, "steps": steps}
        pieces = CudaProgram._piece
        for _ in range(2):
            for name, cut in (("whole", lambda _, batch: batch.count), ("pieces", pieces)):
                CudaProgram._piece = cut  # type: ignore[method-assign, assignment]
                taken = []
                for _ in range(6):
                    dt = about.duration / steps
                    answer = kernel.solve(values, count, Tolerances(dt=dt), times)
                    taken.append(answer.seconds)
                    exposed = answer.measured["transfer_seconds"]
                    del answer
                row |= {f"{name}_ms": 1e3 * float(np.median(taken[2:])),
                        f"{name}_not_hidden_ms": 1e3 * exposed}  # fmt: skip
        CudaProgram._piece = pieces  # type: ignore[method-assign]
        return row | {"gain": row["whole_ms"] / row["pieces_ms"]}

    if dry:
        yield "compile", lambda: _built(kernel_for("simulator"))
    for steps in () if dry else (1000, 5000):
        yield f"{steps} steps", lambda steps=steps: both(steps)  # type: ignore[misc]


def placement(dry: bool) -> Iterator[Work]:
    """Run the placement study, timed on the GPU."""

    def study() -> Row:
        done = subprocess.run(
            [sys.executable, "-m", "cubie_flow", "experiment=buffer_locations", "target=cuda"],
            capture_output=True, text=True, timeout=450,
        )  # fmt: skip
        return {"status": done.returncode, "says": (done.stdout or done.stderr).splitlines()[-40:]}

    if not dry:
        yield "buffer_locations", study


PARTS: dict[str, Callable[[bool], Iterator[Work]]] = {
    "correctness": correctness,
    "fixed": _timing("rk4"),
    "adaptive": _timing("tsit5"),
    "taylor": _timing("taylor_12"),
    "latency": latency,
    "roofline": roofline,
    "refill": refill,
    "overlap": overlap,
    "placement": placement,
}


def command(
    parts: Sequence[str], out: Path, dry: bool, minutes: float = 8.0, in_all: float = 20.0
) -> int:
    """Run the parts, without the cases that the record holds.

    Parameters
    ----------
    parts : sequence of str
        By default all.
    out : Path
        The record, written after every case.
    dry : bool
    minutes, in_all : float
        Time after which a part, or the command, starts no further case.

    Raises
    ------
    FlowError
        If a part is unknown or there is no GPU.
    """
    for name in parts:
        if name not in PARTS:
            raise FlowError(f"there is no part '{name}'{nearest(name, PARTS)}")
    if dry and not toolkit_installed():
        raise FlowError("the dry run compiles for CUDA; install the extra cuda13 first")
    if not dry and not (cuda_devices() and toolkit_installed()):
        raise FlowError("there is no usable GPU here; --dry simulates and compiles instead")
    # By default JAX allocates three quarters of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    record, started = _opened(out, dry), perf_counter()
    for part in parts or PARTS:
        began = perf_counter()
        done = record["parts"].setdefault(part, {})
        for name, work in PARTS[part](dry):
            if "failed_with" not in done.get(name, {"failed_with": ""}):
                continue
            case = now = perf_counter()
            if now - began > 60 * minutes or now - started > 60 * in_all:
                limit = minutes if now - began > 60 * minutes else in_all
                print(f"{part}: stopped after {limit:g} minutes; run it again to continue")
                break
            try:
                done[name] = work()
            except Exception as error:
                done[name] = {"failed_with": f"{type(error).__name__}: {error}"[:300]}
            done[name]["took_s"] = round(perf_counter() - case, 1)
            print(f"{part}, {name}: {_short(done[name])}", flush=True)
            write(record, out)
    return 0


def _opened(out: Path, dry: bool) -> dict[str, Any]:
    from benchmarks.machine import machine

    if out.is_file():
        record: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        if record.get("dry") != dry:
            kind = "real" if dry else "dry"
            raise FlowError(f"'{out.name}' is of a {kind} run; give another --out")
        return record
    device: dict[str, Any] = {"name": "none: simulated, and compiled for " + ARCH}
    if not dry:
        from benchmarks.device import description

        device = description()
    return {"machine": machine(), "device": device, "dry": dry, "parts": {}}


def _short(row: Row) -> str:
    if "rows" not in row:
        return ", ".join(f"{key} {value}" for key, value in row.items() if key != "says")
    return "; ".join(
        f"{each['entry']} {each.get('device_us', each.get('us', each.get('missing')))}"
        for each in row["rows"]
    )
