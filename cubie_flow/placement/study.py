"""``task=placement``: compile every placement of some buffers, compare and rank them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from statistics import median
from types import MappingProxyType

from attrs import evolve, fields

from cubie_flow.errors import FlowError
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.targets.detect import cuda_devices, install_hint, toolkit_installed
from cubie_flow.placement import equivalence
from cubie_flow.placement.compiler_stats import (
    CompilerStats,
    Gate,
    measure,
    measure_elsewhere,
    single_arch,
)
from cubie_flow.placement.ranking import ROUNDS, PlacementStudy
from cubie_flow.placement.search import (
    Placement,
    candidates,
    label,
    largest_buffers,
    one_at_a_time,
    pareto,
    search_space,
)
from cubie_flow.process.machine import usable_cores
from cubie_flow.process.python_path import safe_children
from cubie_flow.study.kernel import build_kernel, tolerances
from cubie_flow.study.study import Study

#: Runs of a batch that is timed.
TIMED_RUNS = 65536
#: Bytes of spills and of stack that a search holds against a placement that does not fit.
HOPELESS = 1e9


MeasureAll = Callable[[Sequence[Placement]], Iterator[CompilerStats]]


@contextmanager
def _processes(study: Study, gate: Gate, workers: int) -> Iterator[MeasureAll]:
    """Yield a function that measures many placements in `workers` processes."""
    if workers == 1:
        yield lambda placements: map(partial(measure, study, gate), placements)
        return
    # Nodes of expressions are compared by identity, so a system is sent as plain values.
    rest = {f.name: getattr(study, f.name) for f in fields(Study) if f.name != "system"}
    work = partial(measure_elsewhere, study.system.to_mapping(), rest, dict(gate))
    context = get_context("spawn")
    with safe_children(), ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield lambda placements: pool.map(work, placements)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def measure_placements(
    study: Study,
    sweep: Sequence[str] | None,
    search: str = "all",
    limit: int = 64,
    gate: Gate = MappingProxyType({}),
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[CompilerStats]:
    """Measure the placements that a search looks at, the present one first.

    Parameters
    ----------
    study : Study
    sweep : sequence of str, optional
        Buffers to move; None takes the largest.
    search : {"all", "one_at_a_time", "pareto"}
    limit : int
        Most placements.
    gate : mapping
        Targets on which a few runs are integrated, with the duration.
    workers : int, optional
        Processes; None takes the cores.
    on_progress : callable, optional
        Called with the numbers of finished and of all placements.

    Raises
    ------
    FlowError
        For a buffer that does not exist, a search that is not possible, or if no placement can be
        launched.
    """
    if not toolkit_installed():
        raise FlowError(f"task=placement needs the CUDA compiler: {install_hint()}")
    single_arch(study)
    kernel = build_kernel(study)
    space = search_space(kernel, list(sweep) if sweep else largest_buffers(kernel))
    chosen = candidates(space, search, limit)
    total = limit if chosen is None else len(chosen)
    workers = max(1, min(workers or usable_cores(study.target.threads), total))
    stats: list[CompilerStats] = []
    with _processes(study, gate, workers) as measure_all:

        def several(placements: Sequence[Placement]) -> list[CompilerStats]:
            part = []
            for figures in measure_all(placements):
                part.append(figures)
                stats.append(figures)
                if on_progress is not None:
                    on_progress(len(stats), total)
            return part

        if chosen is not None:
            several(chosen)
        else:
            pareto(space, limit, workers, lambda p: [_objectives(f) for f in several(p)], 3)
    if all(figures.problem for figures in stats):
        raise FlowError(f"no placement can be launched: {stats[0].problem}")
    return stats


def _objectives(figures: CompilerStats) -> tuple[float, ...]:
    if figures.problem:
        return (HOPELESS, HOPELESS, 0.0)
    return (figures.spills, figures.stack, -figures.occupancy)


# timing ---------------------------------------------------------------------------------------


def time_interleaved(
    solvers: Mapping[str, Callable[[], float]], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Time each solver `rounds` times: once to warm it up, then in turns, ABBA.

    Parameters
    ----------
    solvers : mapping
        Each returns the seconds it took.
    """
    seconds: dict[str, list[float]] = {name: [] for name in solvers}
    for solver in solvers.values():
        solver()
    for number in range(rounds):
        order = list(solvers)[:: 1 if number % 2 == 0 else -1]
        for name in order:
            seconds[name].append(solvers[name]())
    return seconds


def _time_on_device(
    study: Study, stats: Sequence[CompilerStats]
) -> tuple[list[float], dict[str, str]]:
    """Return the median seconds of every placement on the GPU, and the gate's verdicts there."""
    limits_, count = tolerances(study), min(study.design.size, TIMED_RUNS)
    columns, times = study.design.columns(0, count), study.times
    solvers: dict[str, Callable[[], float]] = {}
    results = {}
    for figures in stats:
        if figures.problem:
            continue
        target = evolve(study.target, kind="cuda")
        moved = evolve(study, target=target, locations={**study.locations, **figures.placement})
        kernel = build_kernel(moved)
        name = label(figures.placement)
        results[name] = equivalence.integrate(moved, "cuda", code=figures.ptx_hash)

        def solver(kernel: BatchSolverKernel = kernel) -> float:
            result = kernel.solve(columns, count, limits_, times)
            return result.seconds - result.measured["transfer_seconds"]

        solvers[name] = solver
    verdicts = equivalence.gate(results, next(iter(results)))
    timed = {name: median(seconds) for name, seconds in time_interleaved(solvers).items()}
    names = [label(figures.placement) for figures in stats]
    return (
        [timed.get(name, float("nan")) for name in names],
        {name: verdicts.get(name, equivalence.NOT_COMPARED) for name in names},
    )


def study_placements(
    study: Study,
    sweep: Sequence[str] | None = None,
    search: str = "all",
    limit: int = 64,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PlacementStudy:
    """Compile, check, time on a GPU if one is usable, and rank the placements of some buffers.

    Parameters
    ----------
    study, sweep, search, limit, workers, on_progress
        See `measure_placements`.

    Raises
    ------
    FlowError
        If a placement changes a bit of a trajectory, naming the first; or see `measure_placements`.
    """
    single_arch(study)
    timed = bool(cuda_devices()) and study.target.kind in ("auto", "cuda")
    if timed and study.target.arch is None:
        arch = cuda_devices()[study.target.first_device].arch
        study = evolve(study, target=evolve(study.target, arch=arch))
    gate = {"simulator": equivalence.short_duration(study), "cpu": None}
    stats = measure_placements(study, sweep, search, limit, gate, workers, on_progress)
    names = [label(figures.placement) for figures in stats]
    verdicts = {}
    for i, target in enumerate(gate):
        results = {n: f.trajectories[i] for n, f in zip(names, stats, strict=True)}
        verdicts[target] = equivalence.gate(results, names[0])
    seconds, device = [float("nan")] * len(stats), None
    if timed:
        device = cuda_devices()[study.target.first_device].name
        seconds, verdicts["cuda"] = _time_on_device(study, stats)

    def cost(i: int) -> tuple[float, ...]:
        problem, *figures = stats[i].cost
        return (problem, seconds[i], *figures) if timed and not problem else (problem, *figures)

    order = sorted(range(len(stats)), key=cost)
    return PlacementStudy(
        stats=[stats[i] for i in order],
        seconds=[seconds[i] for i in order],
        verdicts={t: [v[names[i]] for i in order] for t, v in verdicts.items()},
        baseline=order.index(0),
        device=device,
    )


def choose_placement(study: Study, workers: int | None = None) -> tuple[Study, str]:
    """Return the study with the placement that has the best compiler statistics, and why.

    The largest buffers are moved one at a time; the rules of the ranking decide. On a CPU all
    locations are the same memory, so nothing moves.
    """
    kernel = build_kernel(study)
    if kernel.target == "cpu":
        return study, (
            "buffers=auto moves nothing on a CPU, where every location is the same memory"
        )
    if kernel.target == "cuda" and study.target.arch is None and cuda_devices():
        arch = cuda_devices()[study.target.first_device].arch
        study = evolve(study, target=evolve(study.target, arch=arch))
    space = search_space(kernel, largest_buffers(kernel))
    count = len(list(one_at_a_time(space)))
    stats = measure_placements(study, list(space), "one_at_a_time", count, workers=workers)
    best = min(stats, key=lambda figures: figures.cost)
    tried = f"of {len(stats)} placements compiled for {single_arch(study)}"
    if best is stats[0]:
        return study, f"buffers=auto keeps the present placement, the best {tried}: " + (
            best.reason()
        )
    moved = {n: p for n, p in best.placement.items() if stats[0].placement[n] != p}
    note = (
        f"buffers=auto chose {label(moved)}, the best {tried}: {best.reason()}; before: "
        f"{stats[0].reason()}"
    )
    return evolve(study, locations={**study.locations, **best.placement}), note
