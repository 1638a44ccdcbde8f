"""A study: a model, a batch over it, and how to integrate and save it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

from attrs import evolve, field, frozen

from cubie_flow.batches import Design
from cubie_flow.errors import FlowError
from cubie_flow.integrators.run import DURATION
from cubie_flow.study.attempts import Attempt
from cubie_flow.study.options import ControllerChoice, OutputChoice, TargetChoice
from cubie_flow.study.subjects import BoundSubjects, bind_subjects
from cubie_flow.systems import OdeSystem
from cubie_flow.systems.events import Event
from cubie_flow.systems.measurements import Measurements, read_measurements
from cubie_flow.systems.sensitivities import with_sensitivities

Array = Any


@frozen
class Study:
    """A model, a batch over it, and how to integrate and save it.

    Parameters
    ----------
    system : OdeSystem
    design : Design
        The batch.
    name : str
    duration : float, optional
        In the system's unit of time; None takes that of the system.
    t_start : float
        Time at which runs start.
    algorithm : str
        Name of a method, or ``auto``.
    precision : {"float32", "float64"}
    controller : ControllerChoice
    output : OutputChoice
    target : TargetChoice
    locations : mapping
        ``{buffer: location}``.
    linear_solver : str
    rescue : tuple of Attempt
        Attempts with which failed runs are solved again.
    shard_runs : int, optional
        Runs per shard, the unit of writing and of resuming; None follows
        `cubie_flow.storage.plan_shards`.
    order : {"given", "cost"}
        Order in which the runs of a shard are solved, see `cubie_flow.study.cost_order`; results
        do not depend on it.
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
        """The system that is integrated: that of the study, with sensitivities if requested.

        A quantity that the batch gives is not computed from others.
        """
        system = self.system if self.subjects is None else self.subjects.system
        given = system.with_given(self.design.names)
        return with_sensitivities(given, tuple(self.output.sensitivities or ()))

    @cached_property
    def subjects(self) -> BoundSubjects | None:
        """The table of subjects that the runs follow, for the model; None without."""
        design, output = self.design.subjects, self.output
        if design is None:
            if output.error:
                raise FlowError("output.error is given, but only batch.kind 'subjects' uses it")
            return None
        own = "each run of batch.kind 'subjects' has its own"
        for key, given, has in (
            ("duration", self.duration is not None, "start and end"),
            ("t_start", self.t_start != 0.0, "start and end"),
            ("output.save_every", output.save_every is not None, "times to save at"),
            ("output.times", output.times is not None, "times to save at"),
            ("output.compare", output.compare is not None, "observations"),
            ("output.trajectories.where", output.where is not None, "times to save at"),
        ):
            if given:
                raise FlowError(f"{key} is given, but {own} {has}; leave it out")
        bound = bind_subjects(design, self.system, output.error or {})
        if output.sensitivities and bound.records.covariates:
            name = min(bound.records.covariates)
            raise FlowError(
                f"output.sensitivities cannot be used with covariates that change, such as '{name}'"
            )
        if output.summaries and bound.steady:
            raise FlowError(
                "output.summaries cannot be used with doses of SS=1 or 2, whose repeated doses "
                "would count; leave it out"
            )
        return bound

    @property
    def record_bytes(self) -> int:
        """Bytes of the doses and observations of subjects in the working precision."""
        own = self.subjects
        return 0 if own is None else own.records.size * (8 if self.precision == "float64" else 4)

    @cached_property
    def spans(self) -> tuple[float, float]:
        """Shortest and longest duration of a run."""
        if DURATION in self.design.names:
            return self.design.bounds(DURATION)
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
        """The data that runs are compared with; None without."""
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

    @property
    def sampling(self) -> bool:
        """Whether runs are sampled at times: to save them, or to compare them with data."""
        if self.subjects is not None:
            return self.subjects.records.most_samples > 0
        return self.measured is not None or bool(self.times.size)

    @property
    def saved(self) -> tuple[str, ...]:
        """Names of what is saved over time, or at the observations of subjects."""
        subjects = self.subjects
        if not (self.times.size if subjects is None else self.sampling):
            return ()
        if self.output.variables is not None and not self.output.variables:
            raise FlowError("output.variables is empty; name at least one, or null for all states")
        if subjects is not None and subjects.observed and self.output.variables is None:
            return subjects.observed
        if self.output.variables is None:
            return tuple(state.name for state in self.integrated.states)
        return tuple(self.output.variables)

    @property
    def first_pass(self) -> Study:
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


def parts(design: Design, names: Collection[str]) -> Iterator[dict[str, Array]]:
    """Yield the values of all runs, 65,536 runs at a time, if any of `names` varies."""
    part = 65536
    for start in range(0, design.size if {*names} & {*design.names} else 0, part):
        yield design.columns(start, min(start + part, design.size))
