"""``task=placement``: compile every placement of some buffers, compare and rank them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, field, fields, frozen

from cubie_flow.console.tables import text_table
from cubie_flow.errors import FlowError
from cubie_flow.kernels.targets.detect import cuda_devices, install_hint, toolkit_installed
from cubie_flow.memory import LOCATIONS, fit_block
from cubie_flow.memory.occupancy import limits, occupancy
from cubie_flow.placement import equivalence
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
from cubie_flow.storage.provenance import provenance
from cubie_flow.study.kernel import build_kernel, tolerances
from cubie_flow.study.study import Study
from cubie_flow.systems import OdeSystem

if TYPE_CHECKING:
    from xarray import Dataset

    from cubie_flow.kernels.kernel import BatchSolverKernel

Array = Any
ARCH = "sm_90"
#: Fraction of the warps below which a multiprocessor has too few to hide the latency of memory.
ENOUGH = 0.25
#: Batches timed a placement: half in order and half in reverse, so that drift cancels.
ROUNDS, TIMED_RUNS = 6, 65536
#: Bytes of spills and of stack that a search holds against a placement that does not fit.
HOPELESS = 1e9


@frozen
class CompilerStats:
    """One placement as the compiler sees it.

    Attributes
    ----------
    placement : dict
        Location by buffer.
    shared_run : int
        Bytes of shared memory from one run to the next, padding included.
    problem : str
        Why the placement cannot be launched; then there are no figures below. Empty where it can.
    registers, stack, spill_stores, spill_loads : int
        A thread, from the assembler; spills and stack in bytes.
    shared_block : int
        Bytes of shared memory of a block.
    block_size : int
        After fitting shared memory.
    occupancy : float
        Active warps by those there is room for, predicted.
    limiter : str
        What limits it.
    ld_shared, st_shared : int
        Instructions in the PTX that read and write shared memory.
    ptx_hash : str
        Of the PTX without the names that the compiler counts up.
    trajectories : tuple of Trajectories
        For the gate.
    """

    placement: Placement
    shared_run: int
    problem: str = ""
    registers: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    shared_block: int = 0
    block_size: int = 0
    occupancy: float = 0.0
    limiter: str = ""
    ld_shared: int = 0
    st_shared: int = 0
    ptx_hash: str = ""
    trajectories: tuple[equivalence.Trajectories, ...] = field(default=(), repr=False, eq=False)

    @property
    def spills(self) -> int:
        """Bytes of registers that a thread stores to and loads from memory."""
        return self.spill_stores + self.spill_loads

    @property
    def cost(self) -> tuple[float, ...]:
        """What ranks a placement that was not timed, the smallest first."""
        accesses = self.ld_shared + self.st_shared
        return (
            bool(self.problem), self.spills, self.occupancy < ENOUGH, self.stack, accesses,
            -self.occupancy, self.registers, self.shared_run,
        )  # fmt: skip

    def reason(self) -> str:
        """Say the figures in a few words."""
        if self.problem:
            return f"does not fit: {self.problem}"
        return (
            f"{self.spills} bytes spilled, {self.stack} of stack, {self.registers} registers, "
            f"{self.shared_run} bytes of shared memory a run, occupancy {self.occupancy:.0%} "
            f"({self.limiter})"
        )


_COMMUTATIVE = re.compile(r"((?:mul|add|fma)\.rn\.\w+\s+%\w+, )(%\w+), (%\w+)")


def ptx_hash(ptx: str) -> str:
    """Return a hash of what PTX does.

    Left out are comments, names that numba counts up, and the order of the factors and summands
    of one operation, which the compiler picks freely.
    """
    numbers: dict[str, str] = {}
    text = re.sub(r"//.*", "", ptx)
    text = re.sub(r"\b_Z[\w$]+", lambda m: numbers.setdefault(m[0], f"n{len(numbers)}"), text)
    text = _COMMUTATIVE.sub(lambda m: m[1] + ", ".join(sorted(m.group(2, 3))), text)
    return hashlib.sha256(text.encode()).hexdigest()


def shared_accesses(ptx: str) -> tuple[int, int]:
    """Return how many instructions read and how many write shared memory."""
    loads, stores = (len(re.findall(rf"\b{op}(?:\.\w+)*?\.shared\b", ptx)) for op in ("ld", "st"))
    return loads, stores


#: How far each target of the gate integrates; None is the whole duration.
Gate = Mapping[str, float | None]


def one_arch(study: Study) -> str:
    """Return the architecture that placements are compiled for.

    Raises
    ------
    FlowError
        If there are several, or it is not known.
    """
    arch = study.target.arch or ARCH
    if "," in arch:
        raise FlowError(
            f"target.arch is '{arch}'; placements are ranked for one architecture, so give one "
            f"(task=plan compares several)"
        )
    limits(arch)
    return arch


def measure(study: Study, gate: Gate, placement: Placement) -> CompilerStats:
    """Compile one placement and integrate a few runs with it (runs in a process of its own).

    Parameters
    ----------
    study : Study
        Its ``target.arch`` decides what is compiled for.
    gate : mapping
        Targets to integrate on.
    placement : dict
    """
    moved = evolve(study, locations={**study.locations, **placement})
    kernel = build_kernel(moved)
    kernel.check_locations()
    try:
        found = _compiled(kernel, placement, one_arch(study), study.target.block_size)
    except FlowError as error:
        found = CompilerStats(placement, kernel.shared_memory_bytes, str(error))
    # A CPU and the simulator run what no GPU has room for.
    results = (equivalence.integrate(moved, target, span) for target, span in gate.items())
    return evolve(found, trajectories=tuple(results))


def _compiled(
    kernel: BatchSolverKernel, placement: Placement, arch: str, block: int
) -> CompilerStats:
    """Return what the compiler says.

    Raises
    ------
    FlowError
        If shared memory has no room for one run, or the kernel cannot be assembled.
    """
    fit = fit_block(
        block, kernel.shared_memory_bytes, limits(arch).shared_block, layout=kernel.layout
    )
    code = kernel.compile_cuda(arch)
    filled = occupancy(arch, code.figures.registers, fit.shared_bytes, fit.block_size)
    loads, stores = shared_accesses(code.ptx)
    return CompilerStats(
        placement=placement,
        shared_run=kernel.shared_memory_bytes,
        registers=code.figures.registers,
        stack=code.figures.stack,
        spill_stores=code.figures.spill_stores,
        spill_loads=code.figures.spill_loads,
        shared_block=fit.shared_bytes,
        block_size=fit.block_size,
        occupancy=filled.fraction,
        limiter=filled.limiter,
        ld_shared=loads,
        st_shared=stores,
        ptx_hash=ptx_hash(code.ptx),
    )


def _measure_elsewhere(
    system: Mapping[str, Any], rest: Mapping[str, Any], gate: Gate, placement: Placement
) -> CompilerStats:
    return measure(Study(OdeSystem.from_mapping(system), **rest), gate, placement)


Many = Callable[[Sequence[Placement]], Iterator[CompilerStats]]


@contextmanager
def _processes(study: Study, gate: Gate, workers: int) -> Iterator[Many]:
    """Yield what measures many placements, in `workers` processes."""
    if workers == 1:
        yield lambda placements: map(partial(measure, study, gate), placements)
        return
    # Nodes of expressions are told apart by identity, so a system travels as plain values.
    rest = {f.name: getattr(study, f.name) for f in fields(Study) if f.name != "system"}
    work = partial(_measure_elsewhere, study.system.to_mapping(), rest, dict(gate))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield lambda placements: pool.map(work, placements)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def figures_of(
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
        Targets on which a few runs are integrated, and how far.
    workers : int, optional
        Processes; None takes the cores.
    on_progress : callable, optional
        Called with how many are done and how many there are.

    Raises
    ------
    FlowError
        For a buffer that is not there, a search that is not possible, or if no placement can be
        launched.
    """
    if not toolkit_installed():
        raise FlowError(f"task=placement needs the CUDA compiler: {install_hint()}")
    one_arch(study)
    kernel = build_kernel(study)
    space = search_space(kernel, list(sweep) if sweep else largest_buffers(kernel))
    chosen = candidates(space, search, limit)
    total = limit if chosen is None else len(chosen)
    workers = max(1, min(workers or usable_cores(study.target.threads), total))
    found: list[CompilerStats] = []
    with _processes(study, gate, workers) as many:

        def several(placements: Sequence[Placement]) -> list[CompilerStats]:
            part = []
            for figures in many(placements):
                part.append(figures)
                found.append(figures)
                if on_progress is not None:
                    on_progress(len(found), total)
            return part

        if chosen is not None:
            several(chosen)
        else:
            pareto(space, limit, workers, lambda p: [_objectives(f) for f in several(p)], 3)
    if all(figures.problem for figures in found):
        raise FlowError(f"no placement can be launched: {found[0].problem}")
    return found


def _objectives(figures: CompilerStats) -> tuple[float, ...]:
    if figures.problem:
        return (HOPELESS, HOPELESS, 0.0)
    return (figures.spills, figures.stack, -figures.occupancy)


# timing ---------------------------------------------------------------------------------------


def interleaved(
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
    study: Study, found: Sequence[CompilerStats]
) -> tuple[list[float], dict[str, str]]:
    """Return the median seconds of every placement on the GPU, and the gate's verdicts there."""
    limits_, count = tolerances(study.controller), min(study.design.size, TIMED_RUNS)
    columns, times = study.design.columns(0, count), study.sampled
    solvers: dict[str, Callable[[], float]] = {}
    results = {}
    for figures in found:
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
    timed = {name: median(seconds) for name, seconds in interleaved(solvers).items()}
    names = [label(figures.placement) for figures in found]
    return (
        [timed.get(name, float("nan")) for name in names],
        {name: verdicts.get(name, equivalence.NOT_COMPARED) for name in names},
    )


# the study ------------------------------------------------------------------------------------


@frozen(eq=False)
class PlacementStudy:
    """Placements in order of rank.

    Attributes
    ----------
    found : list of CompilerStats
    seconds : list of float
        Median on the device; NaN where nothing was timed.
    verdicts : dict
        Target to the verdicts of the gate, in the order of `found`.
    baseline : int
        Where the study's own placement ranks.
    device : str or None
        The GPU that timed them.
    """

    found: list[CompilerStats]
    seconds: list[float]
    verdicts: dict[str, list[str]]
    baseline: int
    device: str | None

    def dataset(self, study: Study, overrides: Sequence[str] = (), config: str = "") -> Dataset:
        """Return everything as one dataset with the dimension ``placement``, the best first."""
        import xarray

        first = self.found[0].placement
        data: dict[str, Any] = {}
        for name in first:
            places = [LOCATIONS.index(figures.placement[name]) for figures in self.found]
            data[f"location_{name}"] = _flags(places, LOCATIONS, f"where {name} lives")
        for target, verdicts in self.verdicts.items():
            codes = [equivalence.VERDICTS.index(verdict) for verdict in verdicts]
            text = f"bits of the trajectories on {target}, against the baseline"
            data[f"equivalence_{target}"] = _flags(codes, equivalence.VERDICTS, text)
        data["time"] = _array(self.seconds, "s", "median time of a batch on the device")
        for name, (unit, text) in _QUANTITIES.items():
            values = [
                float("nan") if f.problem and name != "shared_run" else getattr(f, name)
                for f in self.found
            ]
            data[name] = _array(values, unit, text)
        for name in ("limiter", "ptx_hash", "problem"):
            data[name] = ("placement", np.asarray([getattr(f, name) for f in self.found], object))
        words = np.asarray([label(figures.placement) for figures in self.found], object)
        attrs = {
            "title": f"buffer placements of {study.system.name}, {study.algorithm}",
            "study": study.name,
            "system": json.dumps(study.system.to_mapping()),
            "algorithm": study.algorithm,
            "precision": study.precision,
            "arch": one_arch(study),
            "ranked_by": self.ranked_by,
            "baseline": label(self.found[self.baseline].placement),
            "device": self.device or "none",
            **provenance(overrides),
            "config": config,
        }
        coords = {"placement": ("placement", words, {"long_name": "placement, best first"})}
        return xarray.Dataset(data, coords, attrs)

    @property
    def ranked_by(self) -> str:
        """Say what the order follows."""
        if self.device is not None:
            return f"the median time of {ROUNDS} interleaved batches on {self.device}"
        return (
            "compiler figures, because nothing was timed (no GPU): spilled bytes, an occupancy "
            f"below {ENOUGH:.0%}, stack, shared accesses, occupancy, registers"
        )

    def table(self) -> str:
        """Return the ranking as text."""
        head = ["rank", "placement", "time", "spill", "stack", "regs", "shared/run", "block",
                "occupancy", "limiter", "ld/st.shared", *self.verdicts]  # fmt: skip
        rows = []
        base = self.found[self.baseline].ptx_hash
        for i, f in enumerate(self.found):
            time = "-" if np.isnan(self.seconds[i]) else f"{1e3 * self.seconds[i]:.3f} ms"
            mark = " *" if i == self.baseline else " =" if f.ptx_hash == base else ""
            verdict = [verdicts[i].replace("_", " ") for verdicts in self.verdicts.values()]
            cells = [
                str(f.spills), str(f.stack), str(f.registers), str(f.shared_run),
                str(f.block_size), f"{f.occupancy:.0%}", f.limiter, f"{f.ld_shared}/{f.st_shared}",
            ]  # fmt: skip
            if f.problem:
                cells = ["-", "-", "-", str(f.shared_run), "-", "-", "does not fit", "-"]
                mark = " *" if i == self.baseline else ""
            cells = [str(i + 1), label(f.placement) + mark, time, *cells, *verdict]
            rows.append(dict(zip(head, cells, strict=True)))
        notes = [
            f"ranked by {self.ranked_by}",
            "* the placement the study has; = the same PTX, so no difference is possible on a GPU",
            "spill, stack and shared/run in bytes",
        ]
        notes += [
            f"rank {i + 1} does not fit: {f.problem}" for i, f in enumerate(self.found) if f.problem
        ]
        return "\n".join([text_table(rows), *notes])


_QUANTITIES = {
    "registers": ("1", "registers a thread"),
    "spill_stores": ("byte", "registers stored to memory, a thread"),
    "spill_loads": ("byte", "registers loaded from memory, a thread"),
    "stack": ("byte", "stack frame of a thread"),
    "shared_run": ("byte", "shared memory from one run to the next, padded"),
    "shared_block": ("byte", "dynamic shared memory of a block"),
    "block_size": ("1", "threads a block, after fitting shared memory"),
    "occupancy": ("1", "predicted fraction of active warps"),
    "ld_shared": ("1", "instructions in the PTX that read shared memory"),
    "st_shared": ("1", "instructions in the PTX that write shared memory"),
}


def _array(values: Sequence[float], unit: str, text: str) -> tuple[Any, ...]:
    return ("placement", np.asarray(values), {"units": unit, "long_name": text})


def _flags(codes: Sequence[int], words: Sequence[str], text: str) -> tuple[Any, ...]:
    attrs = {
        "flag_values": list(range(len(words))),
        "flag_meanings": " ".join(words),
        "long_name": text,
    }
    return ("placement", np.asarray(codes, np.int8), attrs)


def study_placements(
    study: Study,
    sweep: Sequence[str] | None = None,
    search: str = "all",
    limit: int = 64,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PlacementStudy:
    """Compile, check, time where there is a GPU, and rank the placements of some buffers.

    Raises
    ------
    FlowError
        If a placement changes a bit of a trajectory, naming the first; or see `figures_of`.
    """
    one_arch(study)
    timed = bool(cuda_devices()) and study.target.kind in ("auto", "cuda")
    if timed and study.target.arch is None:
        arch = cuda_devices()[study.target.first_device].arch
        study = evolve(study, target=evolve(study.target, arch=arch))
    gate = {"simulator": equivalence.brief(study), "cpu": None}
    found = figures_of(study, sweep, search, limit, gate, workers, on_progress)
    names = [label(figures.placement) for figures in found]
    verdicts = {}
    for i, target in enumerate(gate):
        results = {n: f.trajectories[i] for n, f in zip(names, found, strict=True)}
        verdicts[target] = equivalence.gate(results, names[0])
    seconds, device = [float("nan")] * len(found), None
    if timed:
        device = cuda_devices()[study.target.first_device].name
        seconds, verdicts["cuda"] = _time_on_device(study, found)

    def cost(i: int) -> tuple[float, ...]:
        problem, *figures = found[i].cost
        return (problem, seconds[i], *figures) if timed and not problem else (problem, *figures)

    order = sorted(range(len(found)), key=cost)
    return PlacementStudy(
        found=[found[i] for i in order],
        seconds=[seconds[i] for i in order],
        verdicts={t: [v[names[i]] for i in order] for t, v in verdicts.items()},
        baseline=order.index(0),
        device=device,
    )


def automatic(study: Study, workers: int | None = None) -> tuple[Study, str]:
    """Return the study with the placement that the compiler's figures speak for, and why.

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
    found = figures_of(study, list(space), "one_at_a_time", count, workers=workers)
    best = min(found, key=lambda figures: figures.cost)
    tried = f"of {len(found)} placements compiled for {one_arch(study)}"
    if best is found[0]:
        return study, f"buffers=auto keeps the placement there is, the best {tried}: " + (
            best.reason()
        )
    moved = {n: p for n, p in best.placement.items() if found[0].placement[n] != p}
    note = (
        f"buffers=auto chose {label(moved)}, the best {tried}: {best.reason()}; before: "
        f"{found[0].reason()}"
    )
    return evolve(study, locations={**study.locations, **best.placement}), note


def save(dataset: Dataset, path: Path) -> None:
    """Write the dataset as one Zarr store.

    Raises
    ------
    FlowError
        If it cannot be written.
    """
    import warnings

    try:
        with warnings.catch_warnings():
            # Zarr 3 has no final specification of strings yet and says so.
            warnings.simplefilter("ignore")
            dataset.to_zarr(path, mode="w-", zarr_format=3, consolidated=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlowError(f"the result '{path}' cannot be written: {reason}") from error
