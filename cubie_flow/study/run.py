"""Running a study into a new store, or finishing the store of an earlier run of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from attrs import evolve, frozen

from cubie_flow.console.progress import Progress
from cubie_flow.engines import Engine, LocalEngine, RunStatistics, pick_devices
from cubie_flow.errors import FlowError
from cubie_flow.integrators.status import STATUS, WELL
from cubie_flow.kernels.kernel import BatchSolverKernel
from cubie_flow.kernels.targets.detect import cuda_devices, unused_gpu
from cubie_flow.process.machine import cpu_name, peak_memory
from cubie_flow.process.profile import stopwatch
from cubie_flow.process.signals import stop_if_asked
from cubie_flow.storage import Location, ResultStore
from cubie_flow.storage.provenance import provenance, utc_now
from cubie_flow.study.kernel import kernel_digest, lent_kernel, threads_of
from cubie_flow.study.plan import Plan, plan_with
from cubie_flow.study.plan_text import rounded_shards
from cubie_flow.study.shards import ShardWork
from cubie_flow.study.store_schema import compiled_schema
from cubie_flow.study.study import Study
from cubie_flow.study.tolerance_record import (
    Faint,
    faint_attribute,
    faint_sentence,
    join_faint,
    recorded_faint,
)

#: A note about a store that another version began.
OTHER_NUMERICS = (
    "another version of cubie_flow began this study: runs solved now may differ from what it would "
    "have given in their last digits"
)


@frozen
class RunReport:
    """The outcome of a run of a study.

    Attributes
    ----------
    location : Location
    runs, solved : int
        Runs of the study, and those that were integrated now.
    statuses : dict
        Runs by status name.
    mean_steps, mean_rejected : float
    seconds : dict
        Phase to seconds: plan, build, store, solve and finish, which add up to total. Within
        solve, kernel and write, over all workers; ``solver_waited`` for the writer and
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
            raise FlowError(f"'{self.location.name}' is not a folder")
        return self.location.folder / self.location.group


#: How a study begins: where nothing exists yet, in place of an existing store, with the shards that
#: a store lacks, or with those and the damaged ones.
Start = Literal["new", "overwrite", "resume", "recheck"]


@frozen
class RunOptions:
    """How a plan is run; see `run_study`."""

    start: Start = "new"
    config_yaml: str = ""
    overrides: Sequence[str] = ()
    engine: Engine | None = None
    before_creation: Callable[[], None] | None = None
    on_created: Callable[[], None] | None = None
    on_progress: Callable[[Progress], None] | None = None
    between_shards: Callable[[float], None] | None = None

    @property
    def resumes(self) -> bool:
        """Whether the store of an earlier run is finished."""
        return self.start in ("resume", "recheck")


def run_study(
    study: Study,
    path: str | Path | Location,
    *,
    start: Start = "new",
    config_yaml: str = "",
    overrides: Sequence[str] = (),
    engine: Engine | None = None,
    before_creation: Callable[[], None] | None = None,
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
        ``new``: the store must not exist. ``overwrite``: an existing store is deleted once the
        study is ready to start. ``resume``: only the shards that the store lacks are integrated,
        in its own layout, and it is lengthened if the study has more runs. ``recheck``: the same,
        and shards that differ from their checksums are integrated again.
    config_yaml : str
        The composed config, unresolved, kept in a new store.
    overrides : sequence of str
        The command line, kept in the store.
    engine : Engine, optional
        The engine that solves the shards; None: this process.
    before_creation : callable, optional
        Called when a new store is about to be made; what it raises ends the study. Its folder may
        have been moved while the kernel was compiled.
    on_created : callable, optional
        Called once a new store exists.
    on_progress : callable, optional
        Called several times per second.
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
    began, location = perf_counter(), Location.of(path)
    options = RunOptions(
        start, config_yaml, overrides, engine, before_creation, on_created, on_progress,
        between_shards,
    )  # fmt: skip
    with lent_kernel(study, large=True) as kernel:
        with stopwatch.phase("plan"):
            plan = plan_with(study, kernel, location, compiling=False)
        return _Execution(plan, kernel, options, began).run()


def run(plan: Plan, options: RunOptions | None = None) -> RunReport:
    """Execute a plan: what was printed is what happens.

    Parameters
    ----------
    plan : Plan
        What `cubie_flow.study.plan.plan_study` returned.
    options : RunOptions, optional

    Raises
    ------
    FlowError, KeyboardInterrupt
        See `run_study`.
    """
    began, solver = perf_counter(), plan.solver
    lent = lent_kernel(plan.study, large=True) if solver is None else nullcontext(solver)
    with lent as kernel:
        return _Execution(plan, kernel, options or RunOptions(), began).run()


class _Execution:
    """One run of a plan: prepare, open the store, solve, report.

    Parameters
    ----------
    plan : Plan
    kernel : BatchSolverKernel
        The kernel of the plan's study.
    options : RunOptions
    began : float
        Reading of the clock when the command began the study.
    """

    store: ResultStore
    account: RunStatistics

    def __init__(
        self, plan: Plan, kernel: BatchSolverKernel, options: RunOptions, began: float
    ) -> None:
        self.plan, self.kernel, self.options, self.began = plan, kernel, options, began
        self.study, self.location = plan.study, plan.location
        self.threads = threads_of(plan.study)
        self.engine = options.engine or LocalEngine()
        unused = unused_gpu() if plan.study.target.kind == "auto" else ""
        self.notes = [unused] if unused else []
        self.complete: set[int] = set()

    def run(self) -> RunReport:
        """Run the study and return its report."""
        self._prepare()
        stop_if_asked("the kernel was compiled, which the cache keeps")
        self._open_store()
        self._solve()
        return self._report()

    def _prepare(self) -> None:
        """Refuse what cannot run, and compile."""
        if not self.options.resumes:
            self.plan.refuse()
        if self.kernel.target == "cuda":
            pick_devices(self.study.target.device, len(cuda_devices()))
        with stopwatch.phase("compile"):
            building = perf_counter()
            self.plan_seconds = building - self.began
            self._tell(Progress(0, self.study.design.size, 0, 0.0, compiling=True))
            self.built = self.kernel.product
            self.build_seconds = perf_counter() - building
        self.origin = provenance(self.options.overrides)
        self.device = _device(self.kernel, self.threads)
        self.numerics = kernel_digest(self.kernel)

    def _open_store(self) -> None:
        if not self.options.resumes:
            self._create_store()
            return
        store = ResultStore.open(self.location)
        if store.attrs.get("numerics") != self.numerics:
            self.notes.append(OTHER_NUMERICS)
        if self.study.design.size != store.plan.runs:
            # Should this be interrupted, the store itself says how many runs it is to have.
            design = {"design": json.dumps(self.study.design.describe())}
            store = store.grown(self.study.design.size, design)
        self.store, self.complete = store, store.completed()
        if self.options.start == "recheck":
            self.complete -= set(store.damaged())

    def _create_store(self) -> None:
        """Create the store that the plan describes."""
        attrs: dict[str, Any] = {"config": self.options.config_yaml, "device": self.device}
        attrs = {**self.origin, **attrs, "numerics": self.numerics}
        if self.options.before_creation is not None:
            self.options.before_creation()
        with stopwatch.phase("write"):
            self.store = ResultStore.create(
                self.location,
                compiled_schema(self.plan.schema, attrs, self.built),
                self.plan.shard_plan,
                overwrite=self.options.start == "overwrite",
            )
        if rounded := rounded_shards(self.plan):
            self.notes.append(rounded)
        if self.options.on_created is not None:
            self.options.on_created()

    def _solve(self) -> None:
        """Let the engine solve and write the shards that the store lacks."""
        # All workers use the target that is used here, whatever other devices they have.
        target = evolve(self.study.target, kind=self.kernel.target)
        study = evolve(self.study, target=target)
        work = ShardWork(study, self.location, self.store.plan, self.kernel)
        well = [STATUS[name] for name in WELL]
        self.account = RunStatistics(
            _statuses(self.store, self.complete), self._show, self.options.between_shards, well
        )
        missing = [i for i in range(len(self.store.plan.shards)) if i not in self.complete]
        self.solving = perf_counter()
        # What the store had before counts as done, and not for the pace.
        self.account.tick()
        try:
            with stopwatch.phase("solve"):
                self.engine.run(work, missing, self.account)
            self.solved = perf_counter()
        except BaseException:
            # The statistics of complete shards are kept, but must not hide why the study stopped.
            with suppress(FlowError):
                self._finalise(faint_attribute(self._faint()))
            raise
        _charge(self.account, isinstance(self.engine, LocalEngine) and len(work.devices) < 2)

    def _show(self, done: int, failures: int) -> None:
        seconds, total = perf_counter() - self.solving, self.study.design.size
        self._tell(Progress(done, total, failures, seconds, self.account.parts))

    def _tell(self, state: Progress) -> None:
        if self.options.on_progress is not None:
            self.options.on_progress(state)

    def _faint(self) -> dict[str, Faint]:
        """Return the states that stayed below their tolerance, including those of earlier runs."""
        faint = recorded_faint(self.store.attrs) if self.options.resumes else {}
        for record in self.account.records.values():
            faint = join_faint(faint, {name: Faint(*one) for name, one in record.faint.items()})
        return faint

    def _finalise(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Write attributes and what was measured, and return the latter."""
        measured = {
            **self.plan.measurable(self.threads),
            **_measured(self.account, self.location),
            "compile_seconds": self.built.seconds,
        }
        self.store.finalise(attrs, memory=measured, shards=self.account.rows())
        return measured

    def _seconds(self) -> dict[str, float]:
        """Return the seconds of every phase; see `RunReport`."""
        account, total = self.account, perf_counter() - self.began
        prepared = self.solving - self.began
        return {
            "plan": self.plan_seconds,
            "build": self.build_seconds,
            "store": prepared - self.plan_seconds - self.build_seconds,
            "solve": self.solved - self.solving,
            "finish": total - (self.solved - self.began),
            "kernel": account.total("seconds"),
            "write": account.total("encode_seconds") + account.total("write_seconds"),
            "total": total,
            "solver_waited": account.solver_waited,
            "writer_waited": account.writer_waited,
        }

    def _report(self) -> RunReport:
        """Complete the store and return the report of the run."""
        account, study = self.account, self.study
        seconds = self._seconds()
        codes = account.statuses
        statuses = {name: codes[code] for name, code in STATUS.items() if code in codes}
        # A design that grew is the store's design from now on.
        design = json.dumps(study.design.describe())
        grown = {"resumed_by": self.origin, "design": design} if self.options.resumes else {}
        faint = self._faint()
        sentence = faint_sentence(faint, self.store.attrs, study.design.size)
        with stopwatch.phase("write"):
            measured = self._finalise(
                {
                    **faint_attribute(faint),
                    "completed": utc_now(),
                    **grown,
                    "statuses": json.dumps(statuses),
                    **{f"seconds_{phase}": value for phase, value in seconds.items()},
                }
            )
        solved = int(account.total("runs"))
        workers = account.workers
        return RunReport(
            location=self.location,
            runs=study.design.size,
            statuses=statuses,
            solved=solved,
            mean_steps=account.total("steps") / max(solved, 1),
            mean_rejected=account.total("rejected") / max(solved, 1),
            seconds=seconds,
            runs_per_second=workers * solved / max(seconds["kernel"], 1e-9),
            peak_memory_bytes=measured["measured_host_bytes"],
            store_bytes=measured["measured_store_bytes"],
            device=self.device if workers == 1 else f"{workers} workers: {self.device}",
            rescued=tuple(account.rescued(len(study.rescue))),
            notes=(*self.notes, *([sentence] if sentence else [])),
        )


def _statuses(store: ResultStore, shards: Collection[int]) -> dict[int, int]:
    """Return the number of runs of some shards by status code."""
    counts = np.zeros(256, np.int64)
    for start, stop in (store.plan.shards[index] for index in shards):
        counts += np.bincount(store.status(start, stop), minlength=256)
    return {code: count for code, count in enumerate(counts.tolist()) if count}


def _measured(account: RunStatistics, location: Location) -> dict[str, Any]:
    """Return what was measured of the whole run, by its names in the store."""
    return {
        **{f"measured_{name}": int(value) for name, value in account.measured().items()},
        "measured_host_bytes": peak_memory(),
        "measured_store_bytes": location.size(),
        "solver_waited_seconds": account.solver_waited,
        "writer_waited_seconds": account.writer_waited,
    }


def _charge(account: RunStatistics, alone: bool) -> None:
    """Split the time of an engine for ``--profile``; `alone` if this process alone solves."""
    for phase in ("encode", "write"):
        stopwatch.beside(phase, account.total(f"{phase}_seconds"))
    # Where several solve at once, their transfers and waits do not add up to wall time.
    if alone:
        stopwatch.move("solve", "transfer", account.total("transfer_seconds"))
        stopwatch.move("solve", "write", account.solver_waited)


def _device(kernel: BatchSolverKernel, threads: int) -> str:
    """Return the name of the device that solves a kernel's batches."""
    if kernel.target == "cuda":
        return cuda_devices()[kernel.settings.device].name
    if kernel.target == "simulator":
        return "CUDA simulator"
    lanes = kernel.dialect.lanes
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''} x {lanes} lanes"
