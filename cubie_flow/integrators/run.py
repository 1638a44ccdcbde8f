"""One integration run: loop, step and controller put together for a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from cubie_flow.errors import FlowError, between, nearest, one_of
from cubie_flow.expressions.block import Block, Function
from cubie_flow.expressions.graph import Node
from cubie_flow.expressions.traversal import content_hash, free_symbols
from cubie_flow.integrators.controllers import MEMORY, ControllerSettings, StepController
from cubie_flow.integrators.drivers import DriverSlot
from cubie_flow.integrators.equations import (
    bind,
    bound_events,
    event_targets,
    finder,
    histories,
    mass_pattern,
    observables,
    right_hand_side,
    starts,
)
from cubie_flow.integrators.loop import IVPLoop, LoopSettings
from cubie_flow.integrators.past import KEPT, DelayFinder, LookUps, Past, reads_delays
from cubie_flow.integrators.pulses import find_pulses
from cubie_flow.integrators.records import COVER, ROWS, SET, Effect, Records, RecordSlots
from cubie_flow.integrators.residual_errors import ResidualError
from cubie_flow.integrators.steps import (
    LINEAR_SOLVERS,
    Step,
    StepSettings,
    solves_algebraic,
    step_class,
)
from cubie_flow.integrators.switching_functions import (
    MOST_KINKS,
    find_kinks,
    find_switching_functions,
    find_windows,
)
from cubie_flow.integrators.tableaus import Method, Multistep, Tableau, Taylor, method
from cubie_flow.memory import CUDAFactory
from cubie_flow.systems import OdeSystem
from cubie_flow.systems.measurements import Measurements
from cubie_flow.systems.starts import computed_starts

DURATION = "duration"
#: Largest number of times that one event with a delay can wait at once.
MOST_PENDING = 256


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@frozen
class RunSettings:
    """Compile-time choices of a run.

    Parameters
    ----------
    system : OdeSystem
    varied : tuple of str
        Quantities that runs are given: states (their initial values), parameters, and
        ``duration``. All others are compiled in, or computed from these when a run starts.
    algorithm : str
    precision : {"float32", "float64"}
    controller : str
        ``default`` takes what the literature gives for the method.
    safety, min_factor, max_factor, gains
        Of the controller; None for the method's own.
    saved : tuple of str
        States and observables that are sampled.
    summarised : tuple of str
        States and observables whose metrics are kept.
    linear_solver : {"auto", "sparse", "pivoted", "bicgstab"}
        Of implicit methods.
    sampling : bool
        Whether there are times to sample at.
    measured : Measurements, optional
        Data that runs are compared with.
    t_start, duration : float
        In the model's unit of time.
    event_times : int
        First times that are kept of every event of the model.
    pending_events : int
        How often one event with a delay can wait at once.
    records : Records, optional
        Records that every run has of its own.
    errors : tuple of (str, ResidualError)
        Quantities that the observations of runs are compared with.
    history : int
        Largest number of steps that are kept for delays.
    """

    system: OdeSystem
    varied: tuple[str, ...] = field(default=(), converter=_names)
    algorithm: str = "tsit5"
    precision: str = field(default="float64", validator=one_of("float32", "float64"))
    controller: str = field(
        default="default",
        validator=one_of("default", *MEMORY),
        metadata={"key": "controller.kind"},
    )
    safety: float | None = None
    min_factor: float | None = None
    max_factor: float | None = None
    gains: tuple[float, float, float] | None = None
    saved: tuple[str, ...] = field(default=(), converter=_names)
    summarised: tuple[str, ...] = field(default=(), converter=_names)
    linear_solver: str = field(default="auto", validator=one_of(*LINEAR_SOLVERS))
    sampling: bool = False
    measured: Measurements | None = None
    t_start: float = 0.0
    duration: float = 1.0
    event_times: int = field(
        default=0,
        validator=between(-1, 10_001, "a whole number from 0 to 10000"),
        metadata={"key": "output.event_times"},
    )
    pending_events: int = field(
        default=16,
        validator=between(0, MOST_PENDING, f"a whole number from 1 to {MOST_PENDING}"),
        metadata={"key": "controller.pending_events"},
    )
    history: int = field(
        default=KEPT,
        validator=between(1, 2**20, f"a whole number from 2 to {2**20 - 1}"),
        metadata={"key": "controller.history"},
    )
    records: Records | None = None
    errors: tuple[tuple[str, ResidualError], ...] = ()


class SingleIntegratorRun(CUDAFactory[RunSettings]):
    """Composes a loop, a step and a controller, and keeps them in step with its settings."""

    @property
    def step(self) -> Step:
        """The step of the chosen method."""
        return self.children["step"]  # type: ignore[return-value]

    @property
    def controller(self) -> StepController:
        """The step controller."""
        return self.children["controller"]  # type: ignore[return-value]

    @property
    def loop(self) -> IVPLoop:
        """The integration loop."""
        return self.children["loop"]  # type: ignore[return-value]

    def arrange_children(self) -> None:
        s = self.settings
        chosen, kind = method(s.algorithm), self._controller_kind
        mass = mass_pattern(s.system)
        _refuse_controller(s, chosen, kind)
        _refuse_method(s, chosen, mass)
        loop = self._loop_settings()
        past = loop.past
        step = StepSettings(
            algorithm=s.algorithm,
            rhs=loop.rhs,
            states=len(s.system.states),
            mass=mass,
            precision=s.precision,
            dense=(s.sampling or past is not None) and chosen.continuous,
            ends=bool(s.summarised or s.system.events or loop.switching_functions or past),
            chooses=isinstance(chosen, Taylor) and kind != "fixed",
            linear_solver=s.linear_solver,
            distrusted=bool(loop.switching_functions),
            past=past,
        )
        wanted: dict[str, tuple[type[CUDAFactory[Any]], Any]] = {
            "loop": (IVPLoop, loop),
            "step": (step_class(chosen), step),
            "controller": (StepController, self._controller_settings(kind)),
        }
        for name, (factory, settings) in wanted.items():
            present = self.children.get(name)
            if type(present) is not factory or present.settings != settings:
                self.adopt(name, factory(settings))

    @property
    def _controller_kind(self) -> str:
        """The kind of step control, the method's own by default."""
        s = self.settings
        return method(s.algorithm).controller if s.controller == "default" else s.controller

    @property
    def _adapts(self) -> bool:
        """Whether steps follow an error estimate."""
        return self._controller_kind != "fixed"

    def _controller_settings(self, kind: str) -> ControllerSettings:
        s, chosen = self.settings, method(self.settings.algorithm)
        own = kind == chosen.controller
        gains = {"i": (1.0, 0.0, 0.0), "pi": (0.7, -0.4, 0.0), "pid": (0.49, -0.34, 0.10)}
        return ControllerSettings(
            precision=s.precision,
            kind=kind,
            order=(chosen.embedded_order or 0) + 1,
            gains=s.gains or (chosen.gains if own else gains.get(kind, (1.0, 0.0, 0.0))),
            safety=chosen.safety if s.safety is None else s.safety,
            min_factor=chosen.min_factor if s.min_factor is None else s.min_factor,
            max_factor=chosen.max_factor if s.max_factor is None else s.max_factor,
        )

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows of the run-time inputs, in order."""
        s = self.settings
        names = [state.name for state in s.system.states]
        parameters = [parameter.name for parameter in s.system.parameters]
        for name in s.varied:
            if name not in (*names, *parameters, DURATION):
                known = (*names, *parameters, DURATION)
                raise FlowError(
                    f"'{name}' is not a state, a parameter or the duration of system "
                    f"'{s.system.name}'{nearest(name, known)}"
                )
        rows = [name for name in (*names, DURATION) if name in s.varied]
        rows += ROWS if s.records is not None else ()
        return tuple(rows + [name for name in parameters if name in s.varied])

    def _loop_settings(self) -> LoopSettings:
        s, rows = self.settings, self.rows
        s.system.refuse_unknown_outputs((*s.saved, *s.summarised))
        states = [state.name for state in s.system.states]
        compared = s.measured.names if s.measured is not None else ()
        compared = (*compared, *(name for name, _ in s.errors))
        observed = {item.name for item in s.system.observables}
        observed &= {*s.saved, *s.summarised, *compared}
        watched = [item.name for item in s.system.observables if item.name in observed]
        numbers = {name: i for i, name in enumerate((*states, *watched))}
        computed = computed_starts(s.system, rows)
        varied = [p.name for p in s.system.parameters if p.name in rows]
        promoted = self._promoted(computed)
        parameters = [*varied, *promoted]
        switches = finder(s.system, parameters)
        delays = DelayFinder(0)
        rhs = right_hand_side(s.system, parameters, switches, delays)
        seen = DelayFinder(len(delays.lags))
        outputs = observables(s.system, parameters, watched, switches, seen) if watched else None
        events = bound_events(s.system, parameters, switches)
        truths = [event.truth for event in events if event.times is None]
        functions = self._switching_functions((*rhs.nodes, *truths))
        return LoopSettings(
            rhs=rhs,
            observables=outputs,
            states=len(states),
            parameters=len(parameters),
            start=tuple(
                rows.index(name) if name in rows else None if name in computed else float(value)
                for name, value in ((state.name, state.value) for state in s.system.states)
            ),
            start_from=float(s.t_start),
            duration_from=rows.index(DURATION) if DURATION in rows else float(s.duration),
            first_parameter=len(rows) - len(varied),
            drivers=self._driver_slots(),
            saved_numbers=tuple(numbers[name] for name in s.saved) if s.sampling else (),
            summarised_numbers=tuple(numbers[name] for name in s.summarised),
            compared_numbers=tuple(numbers[name] for name in compared),
            sampling=s.sampling,
            precision=s.precision,
            switches=tuple(switches.switches),
            switching_functions=functions,
            landings=self._landings(rhs.nodes, functions),
            windows=find_windows(rhs.nodes, functions),
            event_windows=find_windows(truths, functions),
            pulses=find_pulses(rhs.nodes, switches) if self._adapts else (),
            events=events,
            event_targets=tuple(event_targets(s.system, parameters).items()),
            event_times=s.event_times,
            pending_events=s.pending_events if any(e.delay is not None for e in events) else 1,
            promoted=tuple(promoted.values()),
            starts=starts(s.system, parameters, computed) if computed else None,
            records=self._record_slots(parameters, computed),
            errors=tuple(
                error.bound(bind(s.system, error.nodes, parameters)) for _, error in s.errors
            ),
            past=self._past(parameters, delays.look_ups, seen.look_ups),
        )

    def _record_slots(
        self, parameters: Sequence[str], computed: Mapping[str, Node]
    ) -> RecordSlots | None:
        """Return how the records of runs are compiled in; `parameters` are those in ``p``."""
        s, rows = self.settings, self.rows
        if s.records is None:
            return None
        states = [state.name for state in s.system.states]

        def target(kind: int, name: str) -> int:
            if not name:
                return -1
            return parameters.index(name) if kind in (SET, COVER) else states.index(name)

        def function(names: Iterable[str]) -> Function | None:
            chosen = {name: node for name, node in computed.items() if name in names}
            return starts(s.system, parameters, chosen) if chosen else None

        moved = [
            name
            for name, node in computed.items()
            if name not in states and s.records.covariates & {*free_symbols([node])}
        ]
        return RecordSlots(
            effects=tuple(Effect(kind, target(kind, name)) for kind, name in s.records.effects),
            start=rows.index(ROWS[0]),
            first_record=rows.index(ROWS[1]),
            first_sample=rows.index(ROWS[2]),
            again=function(states),
            derived=function(moved),
        )

    def _past(self, parameters: Sequence[str], rhs: LookUps, observed: LookUps) -> Past | None:
        """Return how the past of a run is kept, None if nothing reads it."""
        s, chosen = self.settings, method(self.settings.algorithm)
        if not (rhs.slots or observed.slots):
            return None
        _refuse_delays(s, chosen)
        history = histories(s.system, parameters)
        return Past(
            rhs=rhs,
            observables=observed,
            history=history,
            history_hash=content_hash([node for _, node in history]),
            states=len(s.system.states),
            kept=s.history,
            degree=chosen.interpolated_degree,
            order=chosen.order,
            restarts=isinstance(chosen, Multistep),
            precision=s.precision,
        )

    def _switching_functions(self, nodes: Sequence[Node]) -> tuple[Node, ...]:
        """Return the switching functions that steps are examined for, see `find_windows`."""
        if not self._adapts:
            return ()
        functions = find_switching_functions(nodes, kinks=True)
        switches = find_switching_functions(nodes)
        taylor = isinstance(method(self.settings.algorithm), Taylor)
        if not taylor and len(functions) - len(switches) > MOST_KINKS:
            functions = switches
        return tuple(one for one in functions if not reads_delays([one]))

    def _landings(self, nodes: Sequence[Node], functions: Sequence[Node]) -> tuple[int, ...]:
        """Return the numbers of the switching functions on which steps land."""
        # Taylor methods see kinks by their own comparison; a method with a memory gains nothing.
        if isinstance(method(self.settings.algorithm), Taylor | Multistep) or not self._adapts:
            return ()
        kinks = find_kinks(nodes, functions)
        return kinks if len(kinks) <= MOST_KINKS else ()

    def _promoted(self, computed: Mapping[str, Node]) -> dict[str, float | None]:
        """Return the parameters that differ between runs although the batch does not vary them.

        Events or records set them, or runs compute them at their start; the latter have the value
        None.
        """
        system, rows = self.settings.system, self.rows
        changed = {name for event in system.events for name, _ in event.resets} | computed.keys()
        if self.settings.records is not None:
            changed |= self.settings.records.parameters
        return {
            p.name: None if p.name in computed else float(p.value)
            for p in system.parameters
            if p.name in changed and p.name not in rows
        }

    def _driver_slots(self) -> tuple[DriverSlot, ...]:
        """Return how each driver of the model is compiled in."""
        s, rows = self.settings, self.rows
        values = {p.name: float(p.value) for p in s.system.parameters}
        multistep = isinstance(method(s.algorithm), Multistep)
        return tuple(
            DriverSlot(
                degree=driver.order,
                # A method that remembers steps is restarted at kinks as well.
                restarts=driver.jumps or (multistep and driver.order < 2),
                series=rows.index(driver.series)
                if driver.series in rows
                else values.get(driver.series, 0.0),
            )
            for driver in s.system.drivers
        )

    def build(self) -> dict[str, Block]:
        return self.loop.blocks(self.step, self.controller)


def _refuse_controller(s: RunSettings, chosen: Method, kind: str) -> None:
    """Refuse a step control that the method does not support."""
    if kind != "fixed" and chosen.embedded_order is None:
        raise FlowError(
            f"controller '{kind}' needs an error estimate, which algorithm '{s.algorithm}' "
            "does not have; use controller=fixed, or a method with an embedded error such as tsit5"
        )
    if isinstance(chosen, Multistep) and kind == "fixed":
        raise FlowError(
            f"controller.kind is 'fixed', but algorithm '{s.algorithm}' changes its order with "
            "its step; use controller.kind=default, or a one-step method such as rodas5p"
        )
    if isinstance(chosen, Taylor) and kind not in ("i", "fixed"):
        raise FlowError(
            f"controller.kind is '{kind}', but algorithm '{s.algorithm}' takes the step that "
            "its own terms allow; use controller.kind=default, i or fixed"
        )
    if isinstance(chosen, Taylor) and s.min_factor is not None:
        raise FlowError(
            f"controller.min_factor is '{s.min_factor:g}', but algorithm '{s.algorithm}' takes "
            "the step that its own terms allow; leave it at null"
        )


def _refuse_delays(s: RunSettings, chosen: Method) -> None:
    """Refuse a method that cannot solve equations with delays."""
    state = min(s.system.delayed)
    if isinstance(chosen, Taylor):
        raise FlowError(
            f"algorithm is '{s.algorithm}', which takes no delayed values (the past of '{state}' "
            "is read); use a Runge-Kutta method such as tsit5, or a stiff one such as rodas5p"
        )
    if s.records is not None:
        raise FlowError(
            f"batch is a table of subjects, but the equations read the past of '{state}', into "
            "which records are not followed; give doses as events, and vary their times"
        )
    # The error estimate must see errors of the values that are looked up.
    needed = chosen.embedded_order or chosen.order - 1
    if chosen.interpolated_order < needed:
        better = "tsit5 or vern7" if isinstance(chosen, Tableau) else "rodas5p or radau_iia_5"
        raise FlowError(
            f"algorithm is '{s.algorithm}', whose values within a step, of order "
            f"{chosen.interpolated_order}, are too inaccurate for its order {chosen.order} where "
            f"the past of '{state}' is read; use {better}"
        )


def _refuse_method(s: RunSettings, chosen: Method, mass: tuple[int, ...]) -> None:
    """Refuse a method that cannot solve the equations, or a solver that it does not use."""
    if isinstance(chosen, Tableau | Taylor) and s.linear_solver != "auto":
        raise FlowError(
            f"algorithm.linear_solver is '{s.linear_solver}', but algorithm '{s.algorithm}' is "
            "explicit and solves no linear systems; leave it at auto"
        )
    if mass and not solves_algebraic(chosen):
        state = s.system.states[mass.index(0)].name
        raise FlowError(
            f"algorithm is '{s.algorithm}', which cannot solve the algebraic equation of "
            f"'{state}' (its mass is 0); use a stiffly accurate method such as rodas5p or "
            "radau_iia_5"
        )
