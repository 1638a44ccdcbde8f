"""The library entry: a model and a batch in, a labelled dataset or store out.

`solve` is for notebooks, `run_study` writes a store while it solves; the command line uses it too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from time import time as wall_time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from attrs import evolve, field, frozen

from cubie_flow.batches import Design, make_design
from cubie_flow.choosing import AUTO, choose
from cubie_flow.engines import Account, Engine, LocalEngine, Record, Seat, pick_devices
from cubie_flow.errors import FlowError, nearest
from cubie_flow.integrators.comparison import residuals
from cubie_flow.integrators.drivers import check_choices
from cubie_flow.integrators.loop import METRICS, STATUS
from cubie_flow.integrators.run import DURATION, RunSettings
from cubie_flow.kernels.cache import source_digest
from cubie_flow.kernels.kernel import (
    BatchSolverConfig,
    BatchSolverKernel,
    Built,
    Tolerances,
)
from cubie_flow.kernels.launch import BatchResult
from cubie_flow.kernels.targets.detect import cuda_devices, install_hint, toolkit_installed
from cubie_flow.memory.factory import stable_hash
from cubie_flow.ordering import cost_order
from cubie_flow.planning import Plan, make_plan
from cubie_flow.profiling import stopwatch
from cubie_flow.rescue import Attempt, Rescue, read_rescue
from cubie_flow.restate import restated
from cubie_flow.screening import Screen
from cubie_flow.storage import (
    Location,
    ResultStore,
    StoreSchema,
    Variable,
    plan_shards,
)
from cubie_flow.storage.layout import SHARD_BYTES, ShardPlan
from cubie_flow.storage.provenance import cpu_name, provenance, utc_now
from cubie_flow.storage.schema import (
    PER_RUN,
    PER_RUN_AND_OCCURRENCE,
    PER_RUN_AND_TIME,
    REJECTED,
    STEPS,
)
from cubie_flow.systems import OdeSystem
from cubie_flow.systems.events import Event
from cubie_flow.systems.measurements import Measurements, read_measurements
from cubie_flow.systems.sensitivities import initial_name, with_sensitivities

if TYPE_CHECKING:
    import xarray

Array = Any
#: Bytes of one shard's arrays over all variables; four shards may be in memory at once.
SHARD_MEMORY = 160_000_000
#: Where a rescued run comes from.
ATTEMPT = Variable(
    "attempt", PER_RUN, "uint8", "1", "number of the rescue attempt that solved the run, 0 for none"
)

#: Which runs a condition chose.
KEPT = Variable(
    "trajectory_saved", PER_RUN, "uint8", "1", "whether the trajectory of the run is saved"
)


@frozen
class ControllerChoice:
    """Step control: the kind and its constants (compiled in), tolerances and bounds (run time)."""

    kind: str = "default"
    rtol: float | Mapping[str, float] = 1e-6
    atol: float | Mapping[str, float] = 1e-6
    dt: float | None = None
    dt_min: float = 0.0
    dt_max: float | None = None
    max_steps: int = 1_000_000
    safety: float | None = None
    min_factor: float | None = None
    max_factor: float | None = None


@frozen
class OutputChoice:
    """What is kept of every run.

    Parameters
    ----------
    save_every : float, optional
        Interval between saved times, from the start on.
    times : sequence of float, optional
        Saved times, relative to the start; instead of `save_every`.
    variables : sequence of str, optional
        States and observables saved at those times; None saves all states.
    summaries : sequence of str, optional
        States and observables whose min, max, mean, rms, std and number of peaks over the whole
        run are kept; None keeps none.
    sensitivities : sequence of str, optional
        Parameters, and states for their initial values, with respect to which the derivatives of
        all states are integrated too; see `cubie_flow.systems.sensitivities`.
    compare : path or mapping, optional
        Measured data whose misfit is kept of every run; see `cubie_flow.systems.measurements`.
    where : str, optional
        A condition on what is kept of every run, by the names of the store, such as
        ``"x_max > 20"``: a second pass saves the trajectories of the runs that satisfy it, those
        of the others are NaN; see `cubie_flow.screening`.
    event_times : int
        First times that are kept of every event of the model, beside how often it happened.
    """

    save_every: float | None = None
    times: Sequence[float] | None = None
    variables: Sequence[str] | None = None
    summaries: Sequence[str] | None = None
    sensitivities: Sequence[str] | None = None
    compare: Any = field(default=None, eq=False)
    where: str | None = None
    event_times: int = 10

    def saved_times(self, duration: float) -> Array:
        """Return the saved times relative to the start, float64; empty for the final state only.

        Raises
        ------
        FlowError
            If both ways are used, or times are negative, repeated or not increasing.
        """
        if self.save_every is not None and self.times is not None:
            raise FlowError("output.save_every and output.times exclude each other; give one")
        if self.save_every is not None:
            if not self.save_every > 0:
                raise FlowError(f"output.save_every is {self.save_every}; it must be positive")
            count = int(np.floor(duration / self.save_every * (1 + 1e-12)))
            if count >= 10_000_000:
                raise FlowError(
                    f"output.save_every={self.save_every} makes {count + 1} saved times over a "
                    f"duration of {duration}; allowed are 10,000,000"
                )
            return self.save_every * np.arange(count + 1)
        given = np.asarray([] if self.times is None else list(self.times), np.float64)
        if given.size and (
            not np.isfinite(given).all() or given[0] < 0 or (np.diff(given) <= 0).any()
        ):
            raise FlowError(
                "output.times must be finite, not negative and increasing, such as [0, 0.5, 1]"
            )
        return given


@frozen
class TargetChoice:
    """Where and how the batch runs; see `BatchSolverConfig`.

    ``device`` is the GPU to use, several of them, or None for all: shards spread over them.
    """

    kind: str = "auto"
    threads: int | None = None
    lanes: int | None = None
    math: str = "portable"
    arch: str | None = None
    block_size: int = 128
    device: int | tuple[int, ...] | None = None

    @property
    def first_device(self) -> int:
        """The GPU that a study is planned for."""
        if isinstance(self.device, int):
            return self.device
        return self.device[0] if self.device else 0


@frozen
class Study:
    """A model, a batch over it, and how to integrate and save it.

    ``shard_runs`` is the number of runs a shard, the unit of writing and of resuming; None
    follows `cubie_flow.storage.plan_shards`. ``order`` is how the runs of a shard are solved:
    ``given``, or ``cost`` for runs of like cost side by side (see `cubie_flow.ordering`); what is
    kept does not depend on it.
    """

    system: OdeSystem
    design: Design
    name: str = "study"
    duration: float | None = None
    t_start: float = 0.0
    algorithm: str = "tsit5"
    precision: str = "float32"
    controller: ControllerChoice = field(factory=ControllerChoice)
    output: OutputChoice = field(factory=OutputChoice)
    target: TargetChoice = field(factory=TargetChoice)
    locations: Mapping[str, str] = field(factory=dict)
    linear_solver: str = "auto"
    rescue: tuple[Attempt, ...] = ()
    shard_runs: int | None = None
    order: str = "given"

    @cached_property
    def integrated(self) -> OdeSystem:
        """The system that is integrated: that of the study, with sensitivities if asked for."""
        return with_sensitivities(self.system, tuple(self.output.sensitivities or ()))

    @cached_property
    def spans(self) -> tuple[float, float]:
        """Shortest and longest duration of a run."""
        if DURATION in self.design.names:
            columns = [columns[DURATION] for columns in _parts(self.design, {DURATION})]
            return min(float(c.min()) for c in columns), max(float(c.max()) for c in columns)
        span = float(self.system.duration if self.duration is None else self.duration)
        return span, span

    @property
    def span(self) -> float:
        """Duration of a run; the longest one where durations vary."""
        return self.spans[1]

    @cached_property
    def times(self) -> Array:
        """Saved times relative to the start."""
        times = self.output.saved_times(self.span)
        if times.size and times[-1] > self.span * (1 + 1e-12):
            raise FlowError(
                f"output.times ends at {times[-1]:g}, after the duration of {self.span:g}"
            )
        return times

    @cached_property
    def measured(self) -> Measurements | None:
        """Data that runs are compared with."""
        if self.output.compare is None:
            return None
        system = self.integrated
        known = [item.name for item in (*system.states, *system.observables)]
        data = read_measurements(self.output.compare, known)
        first, last = self.t_start, self.t_start + self.span
        for time in data.times:
            if not first <= time <= last + 1e-12 * abs(last):
                raise FlowError(
                    f"output.compare has a value at time {time:g}, but runs go from {first:g} to "
                    f"{last:g}; change duration or t_start, or leave it out"
                )
        return data

    @cached_property
    def sampled(self) -> Array | None:
        """Times at which runs are sampled, relative to the start: saved ones and the data's."""
        if self.measured is None:
            return self.times if self.times.size else None
        return np.union1d(self.times, np.asarray(self.measured.times) - self.t_start)

    @property
    def saved(self) -> tuple[str, ...]:
        """Names of what is saved over time."""
        if not self.times.size:
            return ()
        if self.output.variables is not None and not self.output.variables:
            raise FlowError("output.variables is empty; name at least one, or null for all states")
        if self.output.variables is None:
            return tuple(state.name for state in self.integrated.states)
        return tuple(self.output.variables)

    @cached_property
    def screen(self) -> Screen | None:
        """The condition for which runs trajectories are saved; None saves those of all."""
        if self.output.where is None:
            return None
        if not self.saved:
            raise FlowError(
                f"output.trajectories.where is '{self.output.where}', but no trajectories are "
                "saved; give output.save_every or output.times"
            )
        first = self.screened
        known = [variable.name for variable in variables(first)]
        known += [
            coordinate_name(first, name) for name in (*first.design.names, *first.design.labels)
        ]
        known += ["status", "steps", "rejected", *(["attempt"] if first.rescue else [])]
        return Screen.read(self.output.where, known)

    @property
    def screened(self) -> Study:
        """The study of the first pass: what is kept of every run, and no trajectories."""
        none: dict[str, Any] = dict.fromkeys(("save_every", "times", "variables", "where"))
        return evolve(self, output=evolve(self.output, **none))

    @property
    def summarised(self) -> tuple[str, ...]:
        """Names of what is summarised."""
        return tuple(self.output.summaries or ())

    @property
    def recorded(self) -> tuple[Event, ...]:
        """The events whose number and times are kept."""
        return tuple(event for event in self.system.events if event.record)


def _parts(design: Design, names: Collection[str]) -> Iterator[dict[str, Array]]:
    """Yield the values of all runs, some runs at a time, if any of `names` varies."""
    part = 65536
    for start in range(0, design.size if {*names} & {*design.names} else 0, part):
        yield design.columns(start, min(start + part, design.size))


def build_kernel(study: Study) -> BatchSolverKernel:
    """Return the kernel of a study, not yet compiled.

    Raises
    ------
    FlowError
        If the study asks for what its system, method or target does not have.
    """
    _check_kernel(study)
    return BatchSolverKernel(*compiled_in(study), study.locations)


def _check_kernel(study: Study) -> None:
    _check_study(study)
    for columns in _parts(study.design, {driver.series for driver in study.system.drivers}):
        check_choices(study.system.drivers, columns)


#: Kernels that `solve` used last: a notebook calls it again and again with other values.
_recent: dict[object, BatchSolverKernel] = {}
_RECENT = 4


@contextmanager
def _lent_kernel(study: Study) -> Iterator[BatchSolverKernel]:
    """Lend the kernel of a study, which an earlier call may have built; nobody else has it."""
    _check_kernel(study)
    run, config = compiled_in(study)
    places = tuple(sorted(study.locations.items()))
    key = stable_hash(run), stable_hash(config), config.resolved_target(), places
    kernel = _recent.pop(key, None) or BatchSolverKernel(run, config, study.locations)
    yield kernel
    _recent[key] = kernel
    for oldest in list(_recent)[:-_RECENT]:
        _recent.pop(oldest, None)


def compiled_in(study: Study) -> tuple[RunSettings, BatchSolverConfig]:
    """Return what is compiled into the kernel of a study, besides the locations of buffers."""
    c, t = study.controller, study.target
    saved = study.saved
    run = RunSettings(
        system=study.integrated,
        varied=study.design.names,
        algorithm=study.algorithm,
        linear_solver=study.linear_solver,
        precision=study.precision,
        controller=c.kind,
        safety=c.safety,
        min_factor=c.min_factor,
        max_factor=c.max_factor,
        saved=saved,
        summarised=study.summarised,
        sampling=study.sampled is not None,
        measured=study.measured,
        t_start=study.t_start,
        duration=study.span,
        event_times=study.output.event_times,
    )
    config = BatchSolverConfig(
        target=t.kind,
        lanes=t.lanes,
        math=t.math,
        arch=t.arch,
        block_size=t.block_size,
        device=t.first_device,
    )
    return run, config


def settled(study: Study) -> tuple[Study, str]:
    """Return a study with ``algorithm=auto`` decided, and why; other studies as they are.

    Raises
    ------
    FlowError
        If the study asks for what its system or target does not have.
    """
    if study.algorithm != AUTO:
        return study, ""

    def pilot(algorithm: str, runs: Array, limit: int) -> tuple[BatchResult, Any]:
        parts = [study.design.columns(int(run), int(run) + 1) for run in runs]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        trial = evolve(
            study,
            algorithm=algorithm,
            controller=evolve(study.controller, kind="default", max_steps=limit),
            output=OutputChoice(sensitivities=study.output.sensitivities),
            locations={},
        )
        kernel = build_kernel(trial)
        limits = tolerances(trial.controller)
        result = kernel.solve(columns, len(runs), limits, threads=_threads(trial))
        return result, kernel.run.product["attempt"].statements

    algorithm, reason = choose(study, pilot)
    return evolve(study, algorithm=algorithm), reason


def _check_study(study: Study) -> None:
    """Refuse a condition that reads nothing, and times that are no times or not told apart."""
    if study.screen is not None and not study.screen.names:
        raise FlowError(
            f"output.trajectories.where is '{study.output.where}', which is the same for all runs"
        )
    if not isinstance(study.t_start, int | float) or not np.isfinite(study.t_start):
        raise FlowError(f"t_start is {study.t_start!r}; it must be a finite number")
    shortest, span = study.spans
    if not (shortest >= 0 and np.isfinite(span)):
        wrong = span if shortest >= 0 else shortest
        raise FlowError(f"duration is {wrong}; it must be a finite number of at least 0")
    resolution = float(np.finfo(study.precision).eps) * max(abs(study.t_start), span)
    if 0 < span < 1000 * resolution:
        raise FlowError(
            f"t_start={study.t_start:g} with duration={span:g} leaves times that "
            f"{study.precision} cannot tell apart; start nearer to 0 or use precision=float64"
        )


def tolerances(choice: ControllerChoice) -> Tolerances:
    """Return the run-time settings of a controller, checked.

    Raises
    ------
    FlowError
        If a bound is not positive or the step limit is below 1.
    """
    for key, value in (("dt", choice.dt), ("dt_max", choice.dt_max)):
        if value is not None and not value > 0:
            raise FlowError(f"controller.{key} is {value}; it must be positive, or null")
    if not choice.dt_min >= 0:
        raise FlowError(f"controller.dt_min is {choice.dt_min}; it must be at least 0")
    if choice.dt_max is not None and choice.dt_min > choice.dt_max:
        raise FlowError(
            f"controller.dt_min={choice.dt_min:g} is above controller.dt_max={choice.dt_max:g}"
        )
    if choice.max_steps < 1:
        raise FlowError(f"controller.max_steps is {choice.max_steps}; it must be at least 1")
    return Tolerances(
        choice.rtol, choice.atol, choice.dt, choice.dt_min, choice.dt_max, choice.max_steps
    )


# what a store holds ---------------------------------------------------------------------------


def coordinate_name(study: Study, quantity: str) -> str:
    """Return the name of a swept quantity in the store; an initial value is ``<state>_initial``."""
    states = {state.name for state in study.system.states}
    return initial_name(quantity) if quantity in states else quantity


def _labels(system: OdeSystem) -> dict[str, tuple[str, str]]:
    quantities = (*system.states, *system.parameters, *system.observables)
    return {item.name: (item.unit, item.long_name) for item in quantities}


def variables(study: Study) -> tuple[Variable, ...]:
    """Return every data variable of the study, in the order of `shard_arrays`."""
    labels, real = _labels(study.integrated), study.precision
    found = []
    for name in study.saved:
        unit, text = labels[name]
        found.append(Variable(name, PER_RUN_AND_TIME, real, unit, text))
    for state in study.integrated.states:
        text = f"final value of {state.long_name or state.name}"
        found.append(Variable(f"{state.name}_final", PER_RUN, real, state.unit, text))
    for name in study.summarised:
        unit, text = labels[name]
        for metric in METRICS:
            label = f"{_METRIC_LABELS[metric]} of {text or name} over the run"
            own = "1" if metric == "peaks" else unit
            found.append(Variable(f"{name}_{metric}", PER_RUN, real, own, label))
    found += _misfit_variables(study, labels)
    if study.output.where is not None:
        found.append(KEPT)
    kept = study.output.event_times
    for event in study.recorded:
        text = f"how often {event.name} happened"
        found.append(Variable(f"{event.name}_count", PER_RUN, "int32", "1", text))
        if kept:
            text, unit = f"first times of {event.name}", study.system.time_unit
            dims = PER_RUN_AND_OCCURRENCE
            found.append(Variable(f"{event.name}_times", dims, real, unit, text, length=kept))
    return tuple(found)


def _misfit_variables(study: Study, labels: Mapping[str, tuple[str, str]]) -> list[Variable]:
    """Return what the comparison with data gives, float64: differences of it are small."""
    if study.measured is None:
        return []
    found = []
    for one in study.measured.series:
        unit, text = labels[one.name]
        kinds = [
            ("sse", "sum of squared residuals", f"({unit})2" if unit != "1" and unit else unit)
        ]
        if one.sigmas:
            kinds.append(("wls", "sum of squared residuals by their variance", "1"))
        for kind, label, own in kinds:
            name, label = f"{one.name}_{kind}", f"{label} of {text or one.name}"
            found.append(Variable(name, PER_RUN, "float64", own, label))
    label = "logarithm of the Gaussian likelihood of the data"
    return [*found, Variable("loglik", PER_RUN, "float64", "1", label)]


_METRIC_LABELS = {
    "min": "minimum",
    "max": "maximum",
    "mean": "time mean",
    "rms": "root mean square",
    "std": "standard deviation",
    "peaks": "number of local maxima",
}


def schema(
    study: Study,
    kernel: BatchSolverKernel,
    config: Mapping[str, Any],
    built: Built | None = None,
) -> StoreSchema:
    """Return what the store of a study holds; without a built kernel nothing is compiled."""
    labels = _labels(study.system)
    coordinates = []
    for name in study.design.names:
        unit, text = labels.get(name, (study.system.time_unit, "duration of the run"))
        text = f"initial value of {text or name}" if coordinate_name(study, name) != name else text
        coordinates.append(
            Variable(coordinate_name(study, name), PER_RUN, "float64", unit, text or name)
        )
    for name in study.design.labels:
        coordinates.append(Variable(name, PER_RUN, "float64", "1", name.replace("_", " ")))
    times = study.times
    layout = kernel.layout
    plan = {
        "target": kernel.target,
        "lanes": kernel.dialect.lanes,
        "precision": study.precision,
        "shared_bytes_per_run": layout.bytes("shared"),
        "shared_bytes_padded": kernel.shared_memory_bytes,
        "local_bytes_per_run": layout.bytes("local") + layout.bytes("persistent"),
        "kernel_hash": kernel.config_hash,
    }
    if built is not None:
        plan["kernel_from_cache"] = built.cached
        plan["compile_seconds"] = built.seconds
        plan.update({f"compiler_{name}": value for name, value in built.figures.items()})
    return StoreSchema(
        runs=study.design.size,
        variables=variables(study),
        status_flags={code: name for name, code in STATUS.items()},
        time=study.t_start + times if times.size else None,
        coordinates=tuple(coordinates),
        counters=(STEPS, REJECTED, ATTEMPT) if study.rescue else (STEPS, REJECTED),
        time_unit=study.system.time_unit,
        attrs={
            "title": study.system.title or study.system.name,
            "study": study.name,
            "algorithm": study.algorithm,
            "design": json.dumps(study.design.describe()),
            "system": json.dumps(study.system.to_mapping()),
            "system_hash": study.system.content_hash,
            **_driver_hashes(study.system),
            **_data(study),
            **config,
        },
        memory=[
            {
                "buffer": entry.name,
                "owner": entry.path,
                "location": entry.location,
                "dtype": entry.dtype.name,
                "elements": entry.elements,
                "bytes": entry.bytes,
                "offset": entry.offset,
                "persistent": int(entry.persistent),
                "alias": entry.alias or "",
            }
            for entry in layout.entries
        ],
        plan=plan,
    )


def _driver_hashes(system: OdeSystem) -> dict[str, str]:
    hashes = {driver.name: driver.content_hash for driver in system.drivers}
    return {"drivers": json.dumps(hashes)} if hashes else {}


def _data(study: Study) -> dict[str, str]:
    data = study.measured
    if data is None:
        return {}
    return {"compare": json.dumps(data.to_mapping()), "compare_hash": data.content_hash}


def shard_arrays(
    study: Study, columns: Mapping[str, Array], result: BatchResult
) -> dict[str, Array]:
    """Return the arrays of a shard by the names of the store."""
    samples = result.samples
    if study.saved and study.sampled is not None and len(study.sampled) > len(study.times):
        samples = samples[:, :, np.isin(study.sampled, study.times)]
    arrays = {name: samples[i] for i, name in enumerate(study.saved)}
    for i, state in enumerate(study.integrated.states):
        arrays[f"{state.name}_final"] = result.finals[i]
    for i, name in enumerate(study.summarised):
        for j, metric in enumerate(METRICS):
            arrays[f"{name}_{metric}"] = result.metrics[i, j]
    if study.measured is not None:
        arrays.update(residuals(study.measured, result.misfits))
    for i, event in enumerate(study.recorded):
        arrays[f"{event.name}_count"] = result.event_counts[i].astype(np.int32)
        if study.output.event_times:
            arrays[f"{event.name}_times"] = np.ascontiguousarray(result.event_times[i].T)
    for name, values in columns.items():
        arrays[coordinate_name(study, name)] = values
    arrays.update(steps=result.steps, rejected=result.rejected, status=result.status)
    if result.attempts is not None:
        arrays["attempt"] = result.attempts
    return arrays


def plan(study: Study, held: StoreSchema) -> ShardPlan:
    """Return how the study's runs are cut into shards that bound the memory in use."""
    largest = held.bytes_per_run_largest_variable
    per_run = max(1, held.total_bytes // held.runs)
    limit = min(SHARD_BYTES, max(largest, SHARD_MEMORY * largest // per_run))
    return plan_shards(held.runs, largest, shard_runs=study.shard_runs, shard_bytes=limit)


def result_bytes(study: Study) -> int:
    """Return the bytes of a study's results before compression; no kernel is made for it."""
    numbers = study.times.size * len(study.saved) + len(study.system.states)
    numbers += len(METRICS) * len(study.summarised)
    design = study.design
    counted = 9 + bool(study.rescue) + 8 * (len(design.names) + len(design.labels))
    return design.size * int(counted + numbers * np.dtype(study.precision).itemsize)


def shards_of(study: Study) -> int:
    """Return into how many shards a study is cut; no kernel is made for it."""
    names = (*study.design.names, *study.design.labels)
    held = StoreSchema(
        runs=study.design.size,
        variables=variables(study),
        status_flags={},
        time=study.times if study.times.size else None,
        coordinates=tuple(Variable(coordinate_name(study, name), PER_RUN) for name in names),
    )
    return len(plan(study, held).shards)


def plan_study(
    study: Study, folder: str | Path | Location = ".", *, compiling: bool = True
) -> Plan:
    """Return the plan of a study: every byte it will take, without running it.

    Parameters
    ----------
    study : Study
    folder : path, URL or Location
        Where the result would go.
    compiling : bool
        Ask the CUDA compiler for its figures of every architecture in ``target.arch``.
    """
    kernel = build_kernel(study)
    kernel.run_time_settings(tolerances(study.controller))
    return _plan(study, kernel, Location.of(folder), compiling)


def _plan(study: Study, kernel: BatchSolverKernel, place: Location, compiling: bool) -> Plan:
    title = f"{study.name}: {study.system.title or study.system.name}, {study.algorithm}, "
    return make_plan(
        title + study.precision,
        kernel,
        schema(study, kernel, {}),
        lambda held: plan(study, held),
        study.span,
        place,
        compiling,
    )


# running --------------------------------------------------------------------------------------

#: Said of a store that another version began.
OTHER_NUMERICS = (
    "another version of cubie_flow began this study: runs solved now may differ from what it would "
    "have given in their last digits"
)


@frozen
class Progress:
    """How far a study is: runs done and in all, runs that failed so far, seconds since start."""

    done: int
    total: int
    failures: int
    seconds: float


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
    def path(self) -> Path:
        """The store's folder."""
        if self.location.folder is None:
            raise FlowError(f"'{self.location.name}' is no folder")
        return self.location.folder / self.location.group


def _threads(study: Study) -> int:
    from cubie_flow.kernels.targets.cpu import usable_threads

    return usable_threads(study.target.threads)


@frozen(eq=False)
class _Pass:
    """Solves batches of a study with one kernel."""

    study: Study
    kernel: BatchSolverKernel
    threads: int

    @cached_property
    def _rescue(self) -> Rescue | None:
        return Rescue(self.study, build_kernel, tolerances) if self.study.rescue else None

    def solve(
        self, columns: Mapping[str, Array], count: int, tick: Callable[[int], None] | None = None
    ) -> tuple[dict[str, Array], BatchResult]:
        """Return the arrays of a batch by the names of the store, and its result."""
        times, limits = self.study.sampled, tolerances(self.study.controller)
        order, seconds = self._order(columns, count)
        given = columns if order is None else {n: v[order] for n, v in columns.items()}
        result = self.kernel.solve(given, count, limits, times, self.threads, tick)
        if order is not None:
            result = evolve(result.put_back(order), seconds=result.seconds + seconds)
        if self._rescue is not None:
            result = self._rescue.apply(columns, result, times, self.threads)
        return shard_arrays(self.study, columns, result), result

    def _order(self, columns: Mapping[str, Array], count: int) -> tuple[Array | None, float]:
        """Return the order in which runs are solved, and the seconds of the pilot."""
        if self.study.order != "cost":
            return None, 0.0
        limits, seconds = tolerances(self.study.controller), 0.0

        def attempts(runs: Array) -> Array:
            nonlocal seconds
            chosen = {name: values[runs] for name, values in columns.items()}
            found = self.kernel.solve(chosen, len(runs), limits, None, self.threads)
            seconds += found.seconds
            return found.steps + found.rejected

        return cost_order(columns, count, attempts), seconds

    def chosen(self, columns: Mapping[str, Array], chosen: Array) -> tuple[dict[str, Array], float]:
        """Return trajectories, those of runs that are not chosen NaN, and the seconds it took."""
        study, count = self.study, int(chosen.sum())
        shape = (len(chosen), len(study.times))
        kept = {name: np.full(shape, np.nan, study.precision) for name in study.saved}
        if not count:
            return kept, 0.0
        arrays, result = self.solve({n: v[chosen] for n, v in columns.items()}, count)
        for name, values in kept.items():
            values[chosen] = arrays[name]
        return kept, result.seconds


@frozen(eq=False)
class ShardSolver:
    """Solves the shards of a study with one kernel; see `cubie_flow.engines.base.Solver`.

    Parameters
    ----------
    study : Study
    kernel : BatchSolverKernel
    shards : sequence of (int, int)
        First run and the one after the last, by shard.
    threads : int
        CPU threads.
    """

    study: Study
    kernel: BatchSolverKernel
    shards: Sequence[tuple[int, int]]
    threads: int

    @cached_property
    def _passes(self) -> list[_Pass]:
        """What solves every run, and what saves the trajectories of those that are chosen."""
        whole = _Pass(self.study, self.kernel, self.threads)
        if self.study.screen is None:
            return [whole]
        first = self.study.screened
        return [_Pass(first, build_kernel(first), self.threads), whole]

    def solve(
        self, index: int, tick: Callable[[int], None] | None = None
    ) -> tuple[dict[str, Array], Record]:
        """Return the arrays of a shard, by the names of the store, and what is told of it."""
        began = wall_time()
        study, (start, stop) = self.study, self.shards[index]
        columns = study.design.columns(start, stop)
        first, *second = self._passes
        arrays, result = first.solve(columns, stop - start, tick)
        if study.screen is not None:
            chosen = study.screen.holds(arrays, stop - start)
            kept, more = second[0].chosen(columns, chosen)
            arrays = {**kept, **arrays, KEPT.name: chosen.astype(np.uint8)}
            result = evolve(result, seconds=result.seconds + more)
        measured = {**result.measured, "shard_bytes": sum(a.nbytes for a in arrays.values())}
        transfer = measured.pop("transfer_seconds", 0.0)
        codes, counts = np.unique(result.status, return_counts=True)
        record = Record(
            index=index,
            runs=stop - start,
            statuses={int(code): int(n) for code, n in zip(codes, counts, strict=True)},
            steps=int(result.steps.sum(dtype=np.int64)),
            rejected=int(result.rejected.sum(dtype=np.int64)),
            rescued=()
            if result.attempts is None
            else tuple(np.bincount(result.attempts, minlength=len(study.rescue) + 1).tolist()),
            seconds=result.seconds,
            measured=measured,
            row={
                "start": start,
                "runs": stop - start,
                "transfer_seconds": transfer,
                "kernel_seconds": result.seconds - transfer,
                "solve_began": began,
            },
        )
        return arrays, record


@frozen(eq=False)
class ShardWork:
    """The shards of a study and the store they go to; see `cubie_flow.engines.base.Work`.

    Where it travels its kernel stays: it is built there, from the cache if it is there. Only
    what computes the same is let in: `digest` tells the blocks of the kernel.
    """

    study: Study
    location: Location
    cut: ShardPlan
    kernel: BatchSolverKernel | None = None
    token: str = field(factory=lambda: uuid4().hex)
    digest: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        here = _digest(self.kernel) if self.kernel is not None else self.digest
        return ShardWork, (self.study, self.location, self.cut, None, self.token, here)

    @property
    def devices(self) -> tuple[int, ...]:
        """Numbers of the GPUs of this machine that the study may use."""
        if self.study.target.kind != "cuda":
            return ()
        return pick_devices(self.study.target.device, len(cuda_devices()))

    @property
    def where(self) -> str:
        """Where the store is."""
        return self.location.name

    def solver(self, seat: Seat) -> ShardSolver:
        """Return a solver for a seat."""
        study, kernel = self.study, self.kernel
        if seat.device is not None:
            study = evolve(study, target=evolve(study.target, device=seat.device))
        if kernel is None or kernel.settings.device != study.target.first_device:
            kernel = build_kernel(study)
        if self.digest and self.digest != _digest(kernel):
            raise FlowError(
                "a worker would compute something else than the command: their versions of "
                "cubie_flow differ; install the same on both"
            )
        threads = max(1, _threads(study) // seat.share)
        threads = threads if seat.limit is None else min(threads, seat.limit)
        return ShardSolver(study, kernel, self.cut.shards, threads)

    def store(self) -> ResultStore:
        """Return the store, open."""
        return ResultStore.open(self.location)

    def runs(self, index: int) -> tuple[int, int]:
        """Return the first run of a shard and the one after its last."""
        return self.cut.shards[index]


def _digest(kernel: BatchSolverKernel) -> str:
    """Return a hash of the operations that a kernel is made of, wherever its buffers lie."""
    blocks = [f"{name} {block.digest}" for name, block in sorted(kernel.run.product.items())]
    return sha256("\n".join([source_digest(), *blocks]).encode()).hexdigest()


def run_study(
    study: Study,
    path: str | Path | Location,
    *,
    config_yaml: str = "",
    overrides: Sequence[str] = (),
    on_progress: Callable[[Progress], None] | None = None,
    resume: bool = False,
    between_shards: Callable[[float], None] | None = None,
    recheck: bool = False,
    overwrite: bool = False,
    on_created: Callable[[], None] | None = None,
    engine: Engine | None = None,
) -> RunReport:
    """Integrate a study into a new store, or finish the store of an earlier run of it.

    Parameters
    ----------
    study : Study
    path : path, URL or Location
        Where the store goes; there must be nothing yet.
    config_yaml : str
        The composed config, unresolved, kept in the store.
    overrides : sequence of str
        The command line, kept in the store.
    on_progress : callable, optional
        Called several times a second.
    resume : bool
        Whether the store is there: only the shards that it lacks are integrated, in the layout
        that it has, and it is lengthened if the study has more runs.
    between_shards : callable, optional
        Called after every shard with the seconds it took; what it raises stops the study once
        that shard is written.
    recheck : bool
        Whether a resumed store's shards are read and compared with their checksums first; those
        that differ are integrated again.
    overwrite : bool
        Whether a store that is there is deleted once the study is ready to start.
    on_created : callable, optional
        Called when a new store is there.
    engine : Engine, optional
        Who solves the shards; None: this process.

    Raises
    ------
    FlowError
        For whatever makes the study impossible, in one sentence.
    KeyboardInterrupt
        After Ctrl-C; the shards already solved are written and readable.
    """
    began = perf_counter()
    place = Location.of(path)
    with stopwatch.phase("plan"):
        kernel = build_kernel(study)
        kernel.run_time_settings(tolerances(study.controller))
        planned = _plan(study, kernel, place, compiling=False)
        if not resume:
            planned.refuse()
    with stopwatch.phase("compile"):
        built = kernel.product
    origin = provenance(overrides)
    device = _device(kernel, _threads(study))
    numerics, notes = _digest(kernel), list(_notes(study))
    attrs = {**origin, "config": config_yaml, "device": device, "numerics": numerics}
    if resume:
        store = ResultStore.open(place)
        if store.attrs.get("numerics") != numerics:
            notes.append(OTHER_NUMERICS)
        if study.design.size != store.plan.runs:
            store = store.grown(study.design.size)
    else:
        with stopwatch.phase("write"):
            held = schema(study, kernel, attrs, built)
            store = ResultStore.create(place, held, plan(study, held), overwrite)
        if on_created is not None:
            on_created()
    complete = store.completed() if resume else set()
    if recheck:
        complete -= set(store.damaged())
    # All workers use the target that is used here, whatever they have beside it.
    settled_target = evolve(study.target, kind=kernel.target)
    work = ShardWork(evolve(study, target=settled_target), place, store.plan, kernel)
    before = np.zeros(256, np.int64)
    for start, stop in map(work.runs, complete):
        before += np.bincount(store.status(start, stop), minlength=256)

    def show(done: int, failures: int) -> None:
        if on_progress is not None:
            on_progress(Progress(done, study.design.size, failures, perf_counter() - began))

    counts = {code: count for code, count in enumerate(before.tolist()) if count}
    account = Account(counts, show, between_shards)

    def memory() -> dict[str, Any]:
        """Return what was measured of the whole run, beside what was predicted."""
        return {
            **planned.measurable(_threads(study)),
            **{f"measured_{name}": int(value) for name, value in account.measured().items()},
            "measured_host_bytes": peak_memory(),
            "measured_store_bytes": place.size(),
            "compile_seconds": built.seconds,
            "solver_waited_seconds": account.solver_waited,
            "writer_waited_seconds": account.writer_waited,
        }

    todo = [index for index in range(len(store.plan.shards)) if index not in complete]
    engine = engine or LocalEngine()
    try:
        with stopwatch.phase("solve"):
            engine.run(work, todo, account)
    except BaseException:
        # What is complete keeps its figures; why it stopped is more important than they are.
        with suppress(FlowError):
            store.finalise(memory=memory(), shards=account.rows())
        raise
    _charge(account, isinstance(engine, LocalEngine) and len(work.devices) < 2)
    kernel_seconds, solved = account.total("seconds"), int(account.total("runs"))
    statuses = account.statuses
    seconds = {
        "build": built.seconds,
        "kernel": kernel_seconds,
        "write": account.total("encode_seconds") + account.total("write_seconds"),
        "total": perf_counter() - began,
        "solver_waited": account.solver_waited,
        "writer_waited": account.writer_waited,
    }
    # A design that grew is the store's design from now on.
    grown = {"resumed_by": origin, "design": json.dumps(study.design.describe())}
    later = grown if resume else {}
    counted = {name: statuses[code] for name, code in STATUS.items() if code in statuses}
    with stopwatch.phase("write"):
        held_memory = memory()
        store.finalise(
            {
                "completed": utc_now(),
                **later,
                "statuses": json.dumps(counted),
                **{f"seconds_{phase}": value for phase, value in seconds.items()},
            },
            memory=held_memory,
            shards=account.rows(),
        )
    runs = study.design.size
    return RunReport(
        location=place,
        runs=runs,
        statuses=counted,
        solved=solved,
        mean_steps=account.total("steps") / max(solved, 1),
        mean_rejected=account.total("rejected") / max(solved, 1),
        seconds=seconds,
        runs_per_second=account.workers * solved / max(kernel_seconds, 1e-9),
        peak_memory_bytes=held_memory["measured_host_bytes"],
        store_bytes=place.size(),
        device=device if account.workers == 1 else f"{account.workers} workers: {device}",
        rescued=tuple(account.rescued(len(study.rescue))),
        notes=tuple(notes),
    )


def _charge(account: Account, alone: bool) -> None:
    """Split the time of an engine for ``--profile``; `alone` if one seat solves, here."""
    for phase in ("encode", "write"):
        stopwatch.beside(phase, account.total(f"{phase}_seconds"))
    # Where several solve at once, their transfers and waits do not add up to wall time.
    if alone:
        stopwatch.move("solve", "transfer", account.total("transfer_seconds"))
        stopwatch.move("solve", "write", account.solver_waited)


def solve(
    system: OdeSystem,
    *,
    parameters: Mapping[str, Any] | None = None,
    initial_values: Mapping[str, Any] | None = None,
    drivers: Mapping[str, Any] | None = None,
    batch: str | Design | None = None,
    duration: float | Any | None = None,
    t_start: float = 0.0,
    algorithm: str = "tsit5",
    precision: str = "float64",
    save_every: float | None = None,
    times: Sequence[float] | None = None,
    variables: Sequence[str] | None = None,
    summaries: Sequence[str] | None = None,
    sensitivities: Sequence[str] | None = None,
    compare: Any = None,
    event_times: int = 10,
    controller: ControllerChoice | None = None,
    rtol: float | Mapping[str, float] | None = None,
    atol: float | Mapping[str, float] | None = None,
    dt: float | None = None,
    target: str | TargetChoice = "auto",
    locations: Mapping[str, str] | None = None,
    linear_solver: str = "auto",
    rescue: Any = "off",
) -> xarray.Dataset:
    """Integrate a batch of runs of a model in memory.

    Parameters
    ----------
    system : OdeSystem
    parameters, initial_values : mapping, optional
        Values by name: a number for all runs, or an array with one value a run.
    drivers : mapping, optional
        Series by the name of a driver of the model, or of a parameter that becomes one, such as
        ``{"u": {"times": t, "values": v, "interpolation": "cubic"}}``; see
        `OdeSystem.with_drivers`. With one series a run, shape (runs, times), the parameter that
        chooses the series varies by itself.
    batch : {"zip", "grid"} or Design, optional
        How arrays combine: run by run (the default), or every combination. A design replaces
        the arrays.
    duration : float or array, optional
        In the model's unit of time; the model's own by default.
    t_start : float
    algorithm : str
        Name of a method.
    precision : {"float32", "float64"}
    save_every, times, variables, summaries, sensitivities, compare, event_times
        See `OutputChoice`; without times only final values are kept.
    controller : ControllerChoice, optional
        Step control in full; `rtol`, `atol` and `dt` change single choices of it.
    target : str or TargetChoice
    locations : mapping, optional
        ``{buffer: location}``.
    linear_solver : {"auto", "sparse", "pivoted", "bicgstab"}
        Of an implicit method.
    rescue : "off", "default" or list
        How failed runs are solved again, see `cubie_flow.rescue`.

    Returns
    -------
    xarray.Dataset
        With the names, dimensions and attributes of a store.

    Raises
    ------
    FlowError
        For whatever makes the batch impossible, in one sentence.
    """
    if not isinstance(system, OdeSystem):
        raise FlowError(f"solve needs an OdeSystem, not {type(system).__name__}")
    if controller is not None and not isinstance(controller, ControllerChoice):
        raise FlowError(f"controller must be a ControllerChoice, not {type(controller).__name__}")
    if isinstance(batch, str):
        make_design(batch, {"check": [0.0]} if batch in ("grid", "zip") else {})
    choices: dict[str, list[float]] = {}
    if drivers is not None:
        system = system.with_drivers(drivers)
        choices = {
            one.series: [float(i) for i in range(len(one.values))]
            for one in system.drivers
            if one.name in drivers and one.series and one.series not in (parameters or {})
        }
    fixed: dict[str, dict[str, float]] = {"parameters": {}, "states": {}}
    varied: dict[str, Any] = {}
    given = (
        ("parameters", "parameters", parameters, system.parameters),
        ("states", "initial_values", initial_values, system.states),
    )
    for group, argument, values, quantities in given:
        if not isinstance(values, Mapping | None):
            raise FlowError(f"{argument} must map names to values, not be {values!r}")
        known = [quantity.name for quantity in quantities]
        for name, value in (values or {}).items():
            if name not in known:
                raise FlowError(
                    f"{argument}: system '{system.name}' has no '{name}'{nearest(name, known)}"
                )
            array = _numbers(f"{argument}['{name}']", value)
            if array.ndim == 0:
                fixed[group][name] = float(array)
            else:
                varied[name] = array
    if duration is not None:
        spans = _numbers("duration", duration)
        duration = float(spans) if spans.ndim == 0 else None
        if duration is None:
            varied[DURATION] = spans
    varied.update({} if isinstance(batch, Design) else choices)
    if times is not None:
        times = np.atleast_1d(_numbers("times", times)).tolist()
    if isinstance(batch, Design):
        design = batch
    else:
        design = make_design((batch or "zip") if varied else "single", varied)
    chosen = controller or ControllerChoice(rtol=1e-6, atol=1e-9)
    changes: dict[str, Any] = {"rtol": rtol, "atol": atol, "dt": dt}
    chosen = evolve(chosen, **{key: value for key, value in changes.items() if value is not None})
    study = Study(
        system=system.with_values(**fixed) if any(fixed.values()) else system,
        design=design,
        duration=duration,
        t_start=t_start,
        algorithm=algorithm,
        precision=precision,
        controller=chosen,
        output=OutputChoice(
            save_every,
            times,
            variables,
            summaries,
            sensitivities,
            compare,
            event_times=event_times,
        ),
        target=TargetChoice(target) if isinstance(target, str) else target,
        locations=dict(locations or {}),
        linear_solver=linear_solver,
        rescue=read_rescue(rescue),
    )
    return solve_study(study)


def _numbers(key: str, value: Any) -> Array:
    """Return a number or a list of numbers as float64, shape () or (n,)."""
    if isinstance(value, np.ma.MaskedArray):
        raise FlowError(f"{key} is a masked array; give plain numbers")
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise FlowError(f"{key} must be a number or a list of numbers, not {value!r:.60}")
    if array.ndim > 1:
        raise FlowError(f"{key} has shape {array.shape}; it must be a number or one value a run")
    return array.astype(np.float64)


def solve_study(study: Study) -> xarray.Dataset:
    """Integrate a study in memory; see `solve`."""
    import xarray

    study, _ = settled(study)
    with _lent_kernel(study) as kernel:
        held = schema(study, kernel, {"config": restated(study)})
        shards = plan(study, held).shards
        solver = ShardSolver(study, kernel, shards, _threads(study))
        parts = [solver.solve(index)[0] for index in range(len(shards))]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    described = {v.name: v for v in held.arrays}
    data = {}
    for name, values in joined.items():
        known = described.get(name)
        dims = known.dims if known else PER_RUN
        flags = {
            "flag_values": list(held.status_flags),
            "flag_meanings": " ".join(held.status_flags.values()),
        }
        data[name] = (dims, values, known.attributes if known else flags)
    coordinates = {v.name: data.pop(v.name) for v in held.coordinates}
    if held.time is not None:
        coordinates["time"] = (("time",), held.time, {"units": held.time_unit})
    return xarray.Dataset(data, coordinates, dict(held.attrs))


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


def peak_memory() -> int:
    """Return the largest resident memory this process has had, in bytes (0 if unknown)."""
    try:
        # Linux counts into ru_maxrss what the parent had when it forked; this line does not.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
