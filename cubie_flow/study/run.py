"""Running a study: into a new store, or on where an earlier run of it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from attrs import evolve, frozen

from cubie_flow.engines import Engine, LocalEngine, Part, RunStatistics, pick_devices
from cubie_flow.errors import FlowError
from cubie_flow.integrators.status import STATUS, WELL
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.targets.detect import cuda_devices, install_hint, toolkit_installed
from cubie_flow.process.machine import cpu_name, peak_memory
from cubie_flow.process.profile import stopwatch
from cubie_flow.storage import Location, ResultStore
from cubie_flow.storage.provenance import provenance, utc_now
from cubie_flow.study.kernel import kernel_digest, lent_kernel, threads_of, tolerances
from cubie_flow.study.plan import plan_with, shard_plan
from cubie_flow.study.shards import ShardWork
from cubie_flow.study.store_schema import schema
from cubie_flow.study.study import Study
from cubie_flow.study.tolerance_record import (
    Faint,
    added,
    faint_attribute,
    faint_sentence,
    recorded_faint,
)

#: Said of a store that another version began.
OTHER_NUMERICS = (
    "another version of cubie_flow began this study: runs solved now may differ from what it would "
    "have given in their last digits"
)


@frozen
class Progress:
    """How far a study is.

    Attributes
    ----------
    done, total, failures : int
        Runs done and in all, and those that failed so far.
    seconds : float
        Since the start.
    parts : tuple of Part
        What each of those that work side by side has done.
    told : str
        What else there is to say.
    """

    done: int
    total: int
    failures: int
    seconds: float
    parts: tuple[Part, ...] = ()
    told: str = ""


@frozen
class RunReport:
    """What a study came to.

    Attributes
    ----------
    location : Location
    runs, solved : int
        Runs of the study, and those that were integrated now.
    statuses : dict
        Runs by status name.
    mean_steps, mean_rejected : float
    seconds : dict
        Phase to seconds: build, kernel, write, total; ``solver_waited`` for the writer and
        ``writer_waited`` for the solver.
    runs_per_second : float
        Runs by kernel seconds, times the workers.
    peak_memory_bytes, store_bytes : int
    device : str
    rescued : tuple of int
        Runs that each attempt of the rescue solved.
    notes : tuple of str
    """

    location: Location
    runs: int
    solved: int
    statuses: dict[str, int]
    mean_steps: float
    mean_rejected: float
    seconds: dict[str, float]
    runs_per_second: float
    peak_memory_bytes: int
    store_bytes: int
    device: str
    rescued: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def failed(self) -> int:
        """Runs that did not end well."""
        return sum(count for name, count in self.statuses.items() if name not in WELL)

    @property
    def path(self) -> Path:
        """The store's folder."""
        if self.location.folder is None:
            raise FlowError(f"'{self.location.name}' is no folder")
        return self.location.folder / self.location.group


#: How a study begins: into a place where nothing is, in place of a store that is there, with what
#: a store lacks, or with what it lacks and what is damaged.
Start = Literal["new", "overwrite", "resume", "recheck"]


def run_study(
    study: Study,
    path: str | Path | Location,
    *,
    start: Start = "new",
    config_yaml: str = "",
    overrides: Sequence[str] = (),
    engine: Engine | None = None,
    on_created: Callable[[], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    between_shards: Callable[[float], None] | None = None,
) -> RunReport:
    """Integrate a study into a new store, or finish the store of an earlier run of it.

    Parameters
    ----------
    study : Study
    path : path, URL or Location
        Where the store goes.
    start : {"new", "overwrite", "resume", "recheck"}
        ``new``: there must be nothing yet. ``overwrite``: a store that is there is deleted once
        the study is ready to start. ``resume``: only the shards that the store lacks are
        integrated, in the layout that it has, and it is lengthened if the study has more runs.
        ``recheck``: the same, and shards that differ from their checksums are integrated again.
    config_yaml : str
        The composed config, unresolved, kept in a new store.
    overrides : sequence of str
        The command line, kept in the store.
    engine : Engine, optional
        Who solves the shards; None: this process.
    on_created : callable, optional
        Called when a new store is there.
    on_progress : callable, optional
        Called several times a second.
    between_shards : callable, optional
        Called after every shard with the seconds it took; what it raises stops the study once
        that shard is written.

    Raises
    ------
    FlowError
        For whatever makes the study impossible, in one sentence.
    KeyboardInterrupt
        After Ctrl-C; the shards already solved are written and readable.

    Examples
    --------
    >>> from cubie_flow import OdeSystem
    >>> from cubie_flow.api import Study, run_study
    >>> from cubie_flow.batches import make_design
    >>> decay = OdeSystem.from_equations("dx/dt = -k*x", {"x": 1.0}, {"k": 1.0})
    >>> study = Study(decay, make_design("zip", {"k": [0.5, 1.0, 2.0]}), duration=1.0)
    >>> report = run_study(study, "decay.zarr")
    >>> report.runs
    3
    """
    began, place = perf_counter(), Location.of(path)
    resumed = start in ("resume", "recheck")
    with lent_kernel(study, large=True) as kernel:
        with stopwatch.phase("plan"):
            kernel.run_time_settings(tolerances(study.controller))
            planned = plan_with(study, kernel, place, compiling=False)
            if not resumed:
                planned.refuse()
            if kernel.target == "cuda":
                pick_devices(study.target.device, len(cuda_devices()))
        with stopwatch.phase("compile"):
            building = perf_counter()
            built = kernel.product
            building = perf_counter() - building
        origin = provenance(overrides)
        device = _device(kernel, threads_of(study))
        numerics, notes = kernel_digest(kernel), list(_notes(study))
        if resumed:
            store = ResultStore.open(place)
            if store.attrs.get("numerics") != numerics:
                notes.append(OTHER_NUMERICS)
            if study.design.size != store.plan.runs:
                store = store.grown(study.design.size)
        else:
            with stopwatch.phase("write"):
                attrs = {**origin, "config": config_yaml, "device": device, "numerics": numerics}
                held = schema(study, kernel, attrs, built)
                cut = shard_plan(study, held)
                store = ResultStore.create(place, held, cut, overwrite=start == "overwrite")
            if on_created is not None:
                on_created()
        complete = store.completed() if resumed else set()
        if start == "recheck":
            complete -= set(store.damaged())
        # All workers use the target that is used here, whatever they have beside it.
        settled_target = evolve(study.target, kind=kernel.target)
        work = ShardWork(evolve(study, target=settled_target), place, store.plan, kernel)

        def show(done: int, failures: int) -> None:
            if on_progress is not None:
                seconds = perf_counter() - began
                on_progress(Progress(done, study.design.size, failures, seconds, account.parts))

        well = [STATUS[name] for name in WELL]
        account = RunStatistics(_statuses(store, complete), show, between_shards, well)

        def memory() -> dict[str, Any]:
            measurable = planned.measurable(threads_of(study))
            return {**measurable, **_measured(account, place), "compile_seconds": built.seconds}

        def faint() -> dict[str, Faint]:
            """Return the states that stayed below their tolerance, those of earlier runs too."""
            found = recorded_faint(store.attrs) if resumed else {}
            for record in account.records.values():
                found = added(found, {name: Faint(*one) for name, one in record.faint.items()})
            return found

        todo = [index for index in range(len(store.plan.shards)) if index not in complete]
        engine = engine or LocalEngine()
        try:
            with stopwatch.phase("solve"):
                engine.run(work, todo, account)
        except BaseException:
            # What is complete keeps its figures; why it stopped is more important than they are.
            with suppress(FlowError):
                store.finalise(faint_attribute(faint()), memory(), account.rows())
            raise
    _charge(account, isinstance(engine, LocalEngine) and len(work.devices) < 2)
    seconds = _seconds(account, building, perf_counter() - began)
    statuses = {
        name: account.statuses[code] for name, code in STATUS.items() if code in account.statuses
    }
    # A design that grew is the store's design from now on.
    grown = {"resumed_by": origin, "design": json.dumps(study.design.describe())}
    faint_now = faint()
    sentence = faint_sentence(faint_now, store.attrs, study.design.size)
    with stopwatch.phase("write"):
        held_memory = memory()
        store.finalise(
            {
                **faint_attribute(faint_now),
                "completed": utc_now(),
                **(grown if resumed else {}),
                "statuses": json.dumps(statuses),
                **{f"seconds_{phase}": value for phase, value in seconds.items()},
            },
            memory=held_memory,
            shards=account.rows(),
        )
    solved = int(account.total("runs"))
    return RunReport(
        location=place,
        runs=study.design.size,
        statuses=statuses,
        solved=solved,
        mean_steps=account.total("steps") / max(solved, 1),
        mean_rejected=account.total("rejected") / max(solved, 1),
        seconds=seconds,
        runs_per_second=account.workers * solved / max(seconds["kernel"], 1e-9),
        peak_memory_bytes=held_memory["measured_host_bytes"],
        store_bytes=held_memory["measured_store_bytes"],
        device=device if account.workers == 1 else f"{account.workers} workers: {device}",
        rescued=tuple(account.rescued(len(study.rescue))),
        notes=(*notes, *([sentence] if sentence else [])),
    )


def _statuses(store: ResultStore, shards: Collection[int]) -> dict[int, int]:
    """Return how many runs of some shards ended how, by status code."""
    found = np.zeros(256, np.int64)
    for start, stop in (store.plan.shards[index] for index in shards):
        found += np.bincount(store.status(start, stop), minlength=256)
    return {code: count for code, count in enumerate(found.tolist()) if count}


def _measured(account: RunStatistics, place: Location) -> dict[str, Any]:
    """Return what was measured of the whole run, as the store keeps it beside the plan."""
    return {
        **{f"measured_{name}": int(value) for name, value in account.measured().items()},
        "measured_host_bytes": peak_memory(),
        "measured_store_bytes": place.size(),
        "solver_waited_seconds": account.solver_waited,
        "writer_waited_seconds": account.writer_waited,
    }


def _seconds(account: RunStatistics, build: float, total: float) -> dict[str, float]:
    """Return the seconds of every phase; see `RunReport`."""
    return {
        "build": build,
        "kernel": account.total("seconds"),
        "write": account.total("encode_seconds") + account.total("write_seconds"),
        "total": total,
        "solver_waited": account.solver_waited,
        "writer_waited": account.writer_waited,
    }


def _charge(account: RunStatistics, alone: bool) -> None:
    """Split the time of an engine for ``--profile``; `alone` if one seat solves, here."""
    for phase in ("encode", "write"):
        stopwatch.beside(phase, account.total(f"{phase}_seconds"))
    # Where several solve at once, their transfers and waits do not add up to wall time.
    if alone:
        stopwatch.move("solve", "transfer", account.total("transfer_seconds"))
        stopwatch.move("solve", "write", account.solver_waited)


def _device(kernel: BatchSolverKernel, threads: int) -> str:
    if kernel.target == "cuda":
        return cuda_devices()[kernel.settings.device].name
    if kernel.target == "simulator":
        return "CUDA simulator"
    lanes = kernel.dialect.lanes
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''} x {lanes} lanes"


def _notes(study: Study) -> tuple[str, ...]:
    if study.target.kind == "auto" and cuda_devices() and not toolkit_installed():
        name = cuda_devices()[0].name
        return (f"GPU found ({name}) but not used: {install_hint()}",)
    return ()
