"""The integration loop: time, acceptance, saving and status, as blocks.

`IVPLoop` builds the blocks that the batch loop calls in order (``kernels/targets/batch_loop.py``):
start a run in a lane, begin, attempt a step, sample, finish. All state of a run is in registered
buffers, so a lane can take the next run at any time.
"""

from __future__ import annotations

from attrs import field, frozen

from cubie_flow.errors import one_of
from cubie_flow.expressions.bit_operations import to_int
from cubie_flow.expressions.block import UNROLL_LIMIT, Block, BlockBuilder, Function
from cubie_flow.expressions.graph import (
    Node,
    compare,
    const,
    fabs,
    load,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    sqrt,
    where,
)
from cubie_flow.integrators import landing
from cubie_flow.integrators.attempt import Attempt
from cubie_flow.integrators.comparison import Comparison
from cubie_flow.integrators.controllers import (
    DT,
    DT_MAX,
    EPSILON,
    StepController,
    approximate_power,
)
from cubie_flow.integrators.drivers import HEADER, DriverBlocks, DriverSlot
from cubie_flow.integrators.event_schedule import NEAR
from cubie_flow.integrators.events import Events
from cubie_flow.integrators.lane import (
    CLOCK,
    CODE,
    COUNTERS,
    COUNTS,
    IDLE,
    RUNNING,
    SAVED,
    STEPS,
    T_END,
    T_LOW,
    T_NEXT,
    T_PREVIOUS,
    T_START,
    TRIED,
    H,
    T,
    clock,
    counter,
)
from cubie_flow.integrators.metrics import Metrics
from cubie_flow.integrators.past import Past
from cubie_flow.integrators.pulses import Pulse, PulseBlocks
from cubie_flow.integrators.records import SIZE as RECORD_CLOCK
from cubie_flow.integrators.records import RecordBlocks, RecordSlots
from cubie_flow.integrators.residual_errors import ObservationComparison, ResidualError
from cubie_flow.integrators.sampling import Outputs, Sampling
from cubie_flow.integrators.status import STATUS, WELL
from cubie_flow.integrators.steps import Step
from cubie_flow.integrators.steps.base import any_of
from cubie_flow.integrators.steps.taylor import FIRST_PART
from cubie_flow.integrators.switches import Switch, SwitchBlocks, parameters_read
from cubie_flow.memory import CUDAFactory, buffer_registry
from cubie_flow.systems.events import Event


@frozen
class LoopSettings:
    """Compile-time choices of the loop.

    Parameters
    ----------
    rhs : Function
        Right-hand side of the model.
    observables : Function or None
        Observables that are saved, summarised or compared with data.
    states, parameters : int
        States of the model; parameters that vary between runs.
    saved_numbers : tuple of int
        Variables that are saved: numbers below `states` are states, the rest observables.
    summarised_numbers : tuple of int
        Variables of which metrics are kept.
    start : tuple of (int, float or None)
        Initial value of each state: a number, the row of the inputs (int) that holds it, or None
        where `starts` computes it.
    start_from, duration_from : int or float
        Start and duration of the run: a number, or the row of the inputs (int) that holds it.
    first_parameter : int
        Row of the inputs that holds the first varied parameter.
    drivers : tuple of DriverSlot
        Series over time that act on the model.
    compared_numbers : tuple of int
        Variables that are compared with data at the samples.
    sampling : bool
        Whether the run is sampled at given times.
    switches : tuple of Switch
        Conditions that change at times which depend on parameters alone.
    pulses : tuple of Pulse
        Parts of the equations that may rise and fall within a step.
    switching_functions : tuple of Node
        Functions whose signs decide the switches on states.
    landings : tuple of int
        Those of `switching_functions` on which steps land.
    windows, event_windows : tuple of (int, int)
        Pairs of `switching_functions` that are the ends of a window, in the equations and in the
        conditions of events.
    events : tuple of Event
        Bound to ``u`` and ``p``, see `cubie_flow.integrators.events`.
    event_targets : tuple of (str, (str, int))
        Names of the quantities that events set, each with its place in ``u`` or ``p``.
    event_times : int
        Number of times that are kept of every recorded event, the first ones.
    pending_events : int
        How often one event with a delay can wait at once.
    promoted : tuple of (float or None)
        Values at the start of the parameters that follow the varied ones, because events change
        them or runs differ in them; None where `starts` computes them.
    starts : Function, optional
        Start values that every run computes; the function reads and writes ``u`` and ``p``.
    records : RecordSlots, optional
        Records that every run has of its own, see `cubie_flow.integrators.records`.
    errors : tuple of ResidualError
        Of the compared variables, where runs have observations of their own; bound to ``p``.
    past : Past, optional
        How the past of a run is kept, if equations or observables read it.
    """

    rhs: Function
    observables: Function | None
    states: int
    parameters: int
    start: tuple[int | float | None, ...]
    start_from: int | float
    duration_from: int | float
    first_parameter: int
    drivers: tuple[DriverSlot, ...] = ()
    saved_numbers: tuple[int, ...] = ()
    summarised_numbers: tuple[int, ...] = ()
    compared_numbers: tuple[int, ...] = ()
    sampling: bool = False
    precision: str = field(default="float64", validator=one_of("float32", "float64"))
    switches: tuple[Switch, ...] = ()
    pulses: tuple[Pulse, ...] = ()
    switching_functions: tuple[Node, ...] = field(default=(), metadata={"hash": False})
    landings: tuple[int, ...] = field(default=(), metadata={"hash": False})
    windows: tuple[tuple[int, int], ...] = field(default=(), metadata={"hash": False})
    event_windows: tuple[tuple[int, int], ...] = field(default=(), metadata={"hash": False})
    events: tuple[Event, ...] = ()
    event_targets: tuple[tuple[str, tuple[str, int]], ...] = ()
    event_times: int = 0
    pending_events: int = 1
    promoted: tuple[float | None, ...] = ()
    starts: Function | None = None
    records: RecordSlots | None = None
    errors: tuple[ResidualError, ...] = ()
    past: Past | None = None


class IVPLoop(CUDAFactory[LoopSettings]):
    """Owns time, acceptance, saving and status of a run.

    Buffers: ``state``, ``derivative``, ``parameters``, ``clock``, ``counters``, and as needed
    ``previous_state``, ``sample``, ``metrics``, ``observables``, ``driver_clock``,
    ``switch_clock``, ``pulse_range``, ``misfit``, ``agenda`` (next times to land on),
    ``event_memory`` (sides and counts of events), ``event_queue`` (events with a delay),
    ``record_clock`` (the next record of a run), ``repeated_state`` and ``kept_state`` (of a steady
    state), and those of `cubie_flow.integrators.past`.
    """

    # memory -----------------------------------------------------------------------------------

    def register_buffers(self) -> None:
        s = self.settings
        n = s.states
        self._keep("state", n)
        self._keep("derivative", n)
        self._keep("parameters", max(1, self._first_switch + len(s.switches)))
        self._keep("clock", CLOCK)
        self._keep("counters", COUNTERS)
        if self.events is not None:
            self._keep("agenda", self.events.agenda_size)
            self._keep("event_memory", self.events.memory_size)
            if self.events.queues.size:
                self._keep("event_queue", self.events.queues.size)
        if s.drivers:
            self._keep("driver_clock", self.driving.size)
        if s.switches:
            self._keep("switch_clock", self.switching.size)
        if self.records is not None:
            self._keep("record_clock", RECORD_CLOCK)
            if self.records.steady:
                self._keep("repeated_state", n)
            if self.records.on_top:
                self._keep("kept_state", n)
        if s.pulses:
            self._keep("pulse_range", len(s.pulses))
        if s.landings:
            self._keep("landing", landing.SIZE)
        if s.past is not None:
            self._register_past(s.past)
        if s.windows:
            scratch = "register" if n <= UNROLL_LIMIT and not s.rhs.apart else "local"
            self._use("window_state", n, scratch)
            self._use("window_rate", n, scratch)
        if s.sampling:
            self._keep("previous_state", n)
            self._use("sample", self.outputs.size, "local")
        if s.compared_numbers:
            self._keep("misfit", self.comparison.size)
        if s.summarised_numbers:
            self._keep("metrics", self.metrics.size)
            self._use("middle_state", n, self.outputs.scratch(n))
        if s.observables is not None:
            size = self.outputs.observed
            self._use("observables", size, self.outputs.scratch(size))

    def _register_past(self, past: Past) -> None:
        """Register the buffers of the past."""
        s, size = self.settings, past.delayed_size
        self._keep("past", past.size)
        self._keep("past_clock", past.clock_size)
        self._keep("past_start", s.states)
        apart = s.rhs.apart or self.outputs.in_memory or s.states > UNROLL_LIMIT
        for name in ("delayed", "delayed_base"):
            self._use(name, size, "local" if apart else "register")

    def _keep(self, name: str, size: int) -> None:
        """Register a buffer that keeps its values between steps."""
        precision = self.settings.precision
        buffer_registry.register(name, self, size, "local", precision, persistent=True)

    def _use(self, name: str, size: int, location: str) -> None:
        """Register a buffer that is written before it is read in every block."""
        buffer_registry.register(name, self, size, location, self.settings.precision)

    # parts ------------------------------------------------------------------------------------

    @property
    def events(self) -> Events | None:
        """The events of the run, None where there are none."""
        s = self.settings
        if not s.events:
            return None
        targets = dict(s.event_targets)
        changed = {place for buffer, place in targets.values() if buffer == "p"}
        return Events(
            s.events,
            targets,
            s.event_times,
            s.states + self.metrics.rows + self.comparison.size,
            s.precision,
            bool(changed & parameters_read(s.switches)),
            s.pending_events,
        )

    @property
    def metrics(self) -> Metrics:
        """The summary metrics of the run."""
        return Metrics(len(self.settings.summarised_numbers))

    @property
    def outputs(self) -> Outputs:
        """The variables of the run that can be sampled or summarised."""
        return Outputs(self.settings.states, self.settings.observables, self.settings.past)

    @property
    def sampling(self) -> Sampling:
        """The blocks that sample the run."""
        s = self.settings
        first = None if s.records is None else RecordBlocks.first_sample()
        return Sampling(self.outputs, s.saved_numbers, s.precision, first)

    @property
    def driving(self) -> DriverBlocks:
        """The statements that keep a run in the right segments of its drivers."""
        s = self.settings
        return DriverBlocks(s.drivers, s.states, s.parameters)

    @property
    def switching(self) -> SwitchBlocks:
        """The statements that keep a run in the right piece between switching times."""
        s = self.settings
        return SwitchBlocks(s.switches, self._first_switch, s.precision)

    @property
    def pulsing(self) -> PulseBlocks:
        """The statements that shorten steps before pulses."""
        s = self.settings
        places = dict(s.event_targets).values()
        changed = {place for buffer, place in places if buffer == "p"}
        if s.records is not None:
            changed |= s.records.parameters
        return PulseBlocks(s.pulses, s.parameters, frozenset(changed))

    @property
    def records(self) -> RecordBlocks | None:
        """The statements that apply the records of a run; their table follows those of drivers."""
        s = self.settings
        if s.records is None:
            return None
        table = load("initial", s.states + HEADER * len(s.drivers))
        return RecordBlocks(s.records, s.states, table, self._start_states, s.sampling)

    @property
    def comparison(self) -> Comparison | ObservationComparison:
        """The statements that sum the misfit to data; their table follows those of drivers."""
        s = self.settings
        if self.records is not None:
            return ObservationComparison(s.compared_numbers, s.errors, self.records)
        return Comparison(s.compared_numbers, load("initial", s.states + HEADER * len(s.drivers)))

    @property
    def _first_switch(self) -> int:
        """Place in ``parameters`` of the first switch, behind the numbers of the drivers."""
        s = self.settings
        return s.parameters + sum(slot.width for slot in s.drivers)

    # facts ------------------------------------------------------------------------------------

    @property
    def knots(self) -> list[Node]:
        """Next times at which a driver or a switch in time changes form, or a record happens."""
        times = [self.driving.next_time()] if self.settings.drivers else []
        times += [SwitchBlocks.next_time()] if self.settings.switches else []
        times += [RecordBlocks.next_time()] if self.settings.records is not None else []
        return times + ([Past.next_time()] if self._lags else [])

    @property
    def _lags(self) -> Past | None:
        """The past if the right-hand side reads it, so that discontinuities come back."""
        past = self.settings.past
        return past if past is not None and past.rhs.lags else None

    @property
    def _restarts(self) -> list[Node]:
        """Conditions under which a run restarts at a knot."""
        conditions = [self.driving.restarting()] if self.driving.restarts else []
        conditions += [SwitchBlocks.restarting()] if self.settings.switches else []
        conditions += [RecordBlocks.restarting()] if self.settings.records else []
        return conditions + ([Past.restarting()] if self._lags else [])

    @property
    def _can_restart(self) -> bool:
        """Whether a run may restart before its end."""
        return self.events is not None or bool(self.knots)

    @property
    def unwatched(self) -> bool:
        """Whether nothing depends on the time between steps, only on the end of the run."""
        s = self.settings
        return not (s.sampling or s.summarised_numbers or self.knots or self.events is not None)

    def batches_steps(self, step: Step, controller: StepController) -> bool:
        """Return whether steps of fixed size are taken several at a time."""
        return self.unwatched and not controller.adaptive and step.batched_steps > 0

    def counts_accepted(self, controller: StepController) -> bool:
        """Return whether accepted steps are counted; else only the last attempt can fail."""
        return controller.adaptive or self.events is not None

    # blocks -----------------------------------------------------------------------------------

    def build(self) -> LoopSettings:
        return self.settings

    def blocks(self, step: Step, controller: StepController) -> dict[str, Block]:
        """Return every block of the run, by the name under which the batch loop calls it."""
        dense = self.settings.sampling and step.settings.dense
        built: dict[str, Block] = {
            "start": self._start(),
            "set_idle": self._set_idle(),
            "begin": self._begin(step, controller),
            "attempt": Attempt(self, step, controller, dense).build(),
            "finished": _mask("finished", compare("<", counter(CODE), float(RUNNING))),
            "finish": self._finish(step, controller),
        }
        if self.settings.sampling:
            doubt = self._doubt() if self._can_restart else None
            built["due"] = _mask("due", self._due())
            compared, saved = self.settings.compared_numbers, self.settings.saved_numbers
            comparison = self.comparison
            # Samples at times of the data alone are not stored.
            selects = bool(compared and saved) and isinstance(comparison, Comparison)
            built |= self.sampling.blocks(step, dense, doubt, selects)
            if compared:
                built["compare"] = comparison.compare(counter(SAVED))
            if selects and isinstance(comparison, Comparison):
                built["passed"] = comparison.passed(counter(SAVED))
        if self.events is not None:
            built |= self._event_blocks(self.events)
        if self.knots:
            built["at_knot"] = _mask("at_knot", self._at_knot())
            built["following"] = self._following()
            if self._restarts:
                built["restarting"] = _mask("restarting", any_of(self._restarts))
        return built

    def _event_blocks(self, events: Events) -> dict[str, Block]:
        ends = ("success", "event_stop", "event_limit", "event_queue")
        codes = {name: float(STATUS[name]) for name in ends}
        built = {
            "waiting": _mask("waiting", self._waiting()),
            "jumping": _mask("jumping", Events.restarts()),
            "react": events.react(
                counter(CODE), CODE, clock(T), {"running": float(RUNNING), **codes}
            ),
        }
        return built | (events.record_blocks(clock(T)) if events.times_kept else {})

    def _at_knot(self) -> Node:
        """Return whether a lane is at a knot of a driver, a switch or a record.

        The last two may be at the end of the run.
        """
        s = self.settings
        running = compare("==", counter(CODE), float(RUNNING))
        conditions = []
        if s.drivers:
            reached = compare(">=", clock(T), self.driving.next_time())
            conditions.append(logical_and(running, reached))
        if self._lags:
            conditions.append(logical_and(running, compare(">=", clock(T), Past.next_time())))
        if s.switches:
            alive = logical_or(running, compare("==", counter(CODE), float(STATUS["success"])))
            reached = compare(">=", clock(T), SwitchBlocks.next_time())
            conditions.append(logical_and(alive, reached))
        if s.records is not None:
            conditions.append(RecordBlocks.due())
        return any_of(conditions)

    def _following(self) -> Block:
        """Return the block that takes a run at a knot into the piece after it."""
        s = self.settings
        block = BlockBuilder()
        t = block.let("t", clock(T))
        if past := self._lags:
            past.open(block)
            past.arrive(block, t)
            if s.drivers:
                # The slope of a driver may jump at its knot.
                past.note(block, compare("<=", self.driving.next_time(), t), 2.0)
        if s.drivers:
            self.driving.follow(block, t)
        if self.records is not None:
            changed = self.records.slots.parameters
            self.records.apply(block, bool(changed & parameters_read(s.switches)))
        if s.switches:
            knot = self.driving.next_time() if s.drivers else None
            self.switching.update(block, t, clock(T_START), clock(T_END), knot)
        if piecewise := self.pulsing.piecewise:
            stop = clock(T_END)
            for one in self.knots:
                stop = minimum(stop, one)
            self.pulsing.widen(block, piecewise, t, stop)
        if self.events is not None:
            Events.request_check(block)
        return block.build("following", ("inputs", "initial"), per_lane=True)

    def _due(self) -> Node:
        """Return whether a lane has reached the next time to sample."""
        occupied = compare("!=", counter(CODE), float(IDLE))
        due = logical_and(occupied, compare(">=", clock(T), clock(T_NEXT)))
        unfinished = [self._waiting(), Events.restarts()] if self.events is not None else []
        unfinished += [self._at_knot()] if self.knots else []
        if not unfinished:
            return due
        # A sample at the time of a knot or an event shows the state after it.
        calm = logical_not(any_of(unfinished))
        earlier = compare(">", clock(T) - self._doubt(), clock(T_NEXT))
        due = logical_and(due, logical_or(calm, earlier))
        if self.events is None:
            return due
        # A run that ends at an event may miss a time that it reaches by rounding alone.
        stopped = compare("==", counter(CODE), float(STATUS["event_stop"]))
        met = compare(">=", clock(T) + self._doubt(), clock(T_NEXT))
        return logical_or(due, logical_and(stopped, met))

    def _doubt(self) -> Node:
        """Return how long before the time of a lane counts as that time."""
        if self.events is not None:
            return self.events.uncertainty(clock(T))
        return (NEAR * EPSILON[self.settings.precision]) * fabs(clock(T))

    @staticmethod
    def _waiting() -> Node:
        """Return whether events are due in a lane that can go on."""
        running = compare("==", counter(CODE), float(RUNNING))
        ended = compare("==", counter(CODE), float(STATUS["success"]))
        return logical_and(logical_or(running, ended), Events.pending())

    # start of a run ---------------------------------------------------------------------------

    def _start(self) -> Block:
        """Return the block that gives a lane its run."""
        s = self.settings
        block = BlockBuilder()
        self._start_values(block)
        start = s.start_from if s.records is None else s.records.start
        t_start = block.let("t_start", _given(start))
        t_end = block.let("t_end", t_start + _given(s.duration_from))
        zero = const(0.0)
        times = {T: t_start, T_LOW: zero, T_START: t_start, T_END: t_end}
        if s.sampling:
            first = None if s.records is None else load("inputs", s.records.first_sample)
            next_time = self.sampling.next_time(t_start, t_end, first)
            times |= {T_PREVIOUS: t_start, H: zero, T_NEXT: next_time}
        block.assign([("clock", i) for i in times], list(times.values()))
        block.assign(
            [("counters", i) for i in range(COUNTERS)],
            [const(RUNNING), zero, zero, zero],
        )
        if s.drivers:
            self.driving.find(block, t_start)
        if self.records is not None:
            self.records.start(block)
        if s.starts is not None:
            block.evaluate(s.starts, {"u": ("state", 0), "p": ("parameters", 0)}, t=t_start)
        if self.events is not None:
            self.events.start(block, t_start)
        if s.switches:
            self.switching.start(block)
        if s.pulses:
            self.pulsing.start(block, t_start, t_end)
            if s.drivers and not s.switches:
                # Slots of switches are computed after this block, with all that depends on them.
                first = minimum(t_end, self.driving.next_time())
                self.pulsing.widen(block, self.pulsing.piecewise, t_start, first)
        if s.compared_numbers:
            self.comparison.reset(block)
        if s.past is not None:
            s.past.start(block)
        return block.build("start", ("inputs", "times", "initial"), per_lane=True)

    def _start_values(self, block: BlockBuilder) -> None:
        """Write the states and parameters that are given."""
        s = self.settings
        self._start_states(block)
        varied = s.parameters - len(s.promoted)
        if varied:
            block.sweep(varied, {"parameters": load("inputs", s.first_parameter, 1)})
        known = {varied + i: const(v) for i, v in enumerate(s.promoted) if v is not None}
        block.assign([("parameters", i) for i in known], list(known.values()))

    def _start_states(self, block: BlockBuilder) -> None:
        """Write the states that are given."""
        s = self.settings
        rows = [value for value in s.start if isinstance(value, int)]
        if len(rows) == s.states and rows == list(range(rows[0], rows[0] + s.states)):
            block.sweep(s.states, {"state": load("inputs", rows[0], 1)})
        elif s.states > UNROLL_LIMIT and not rows:
            block.sweep(s.states, {"state": load("initial", 0, 1)})
        else:
            known = {i: _given(value) for i, value in enumerate(s.start) if value is not None}
            block.assign([("state", i) for i in known], list(known.values()))

    @staticmethod
    def _set_idle() -> Block:
        """Return the block that marks a lane as one without a run."""
        block = BlockBuilder()
        block.assign([("counters", CODE)], [const(IDLE)])
        return block.build("set_idle", per_lane=True)

    def _jumped(self) -> Node | None:
        """Return whether a lane restarts after a jump; None where nothing jumps."""
        jumps = [Events.restarts()] if self.events is not None else []
        jumps += self._restarts
        return any_of(jumps) if jumps else None

    def _begin(self, step: Step, controller: StepController) -> Block:
        """Return the block that prepares the first step, at the start and after jumps."""
        # One lane at a time: lanes finish one by one, and a vector of which one lane is wanted
        # costs as much as a lane.
        s = self.settings
        block = BlockBuilder()
        t = block.let("t", clock(T))
        self._note_jumps(block)
        inconsistent = step.initialise(block, t)
        if step.needs_derivative:
            step.evaluate(block, "state", step.end_element, t)
            block.sweep(s.states, {"derivative": step.end_derivative})
        if s.sampling:
            block.sweep(s.states, {"previous_state": load("state", 0, 1)})
        if self.events is not None:
            self.events.decide_sides(block, t)
        if changed := self.pulsing.event_dependent:
            self.pulsing.widen(block, changed, t, clock(T_END))
        jumped = self._jumped()
        failures = self._unread(block, "begin")
        self._reset_step(block, step, controller, t, jumped)
        if s.summarised_numbers:
            self.outputs.observe(block, "state", t)
            values = [self.outputs.variable(number, "state") for number in s.summarised_numbers]
            self.metrics.begin(block, values, jumped)
        empty = logical_not(compare(">", clock(T_END), clock(T)))
        code = where(empty, const(STATUS["success"]), counter(CODE))
        if inconsistent is not None:
            code = where(inconsistent, const(STATUS["solver_failed"]), code)
        for condition, name in failures:
            code = where(condition, const(STATUS[name]), code)
        block.assign([("counters", CODE)], [code])
        if self.events is not None:
            Events.clear_restart(block)
        if self.driving.restarts:
            self.driving.restarted(block)
        if s.switches:
            SwitchBlocks.restarted(block)
        if s.records is not None:
            RecordBlocks.restarted(block)
        if self._lags:
            Past.restarted(block)
        return block.build("begin", ("settings",), per_lane=True)

    def _note_jumps(self, block: BlockBuilder) -> None:
        """Note why a run restarts, for the delays that bring its jump back."""
        past, s = self.settings.past, self.settings
        if past is None:
            return
        past.open(block)
        if s.switches:
            past.note(block, SwitchBlocks.restarting(), 1.0)
        if self.driving.restarts:
            past.note(block, self.driving.restarting(), 1.0)
        if self.events is not None:
            past.note(block, Events.restarts(), 0.0)
            past.rescan(block, Events.restarts())

    def _unread(self, block: BlockBuilder, name: str) -> list[tuple[Node, str]]:
        """Return whether a look-up of the block failed, with the name of its status."""
        if self.settings.past is None:
            return []
        lost = block.let(f"{name}_lost", Past.lost())
        ahead = block.let(f"{name}_ahead", Past.ahead())
        return [(lost, "history_overflow"), (ahead, "short_delay")]

    def _reset_step(
        self,
        block: BlockBuilder,
        step: Step,
        controller: StepController,
        t: Node,
        jumped: Node | None,
    ) -> None:
        """Reset the step and its controller; a jump keeps the count of iterations."""
        dt = self._first_step(block, step, controller, t)
        controller.reset(block, dt)
        if self.settings.landings:
            landing.reset(block)
        iterates = jumped is not None and step.evaluations[1] > 0
        counted = block.let("counted", load("iterations", 0)) if iterates else None
        step.reset(block, dt)
        if counted is not None and jumped is not None:
            total = where(jumped, counted, load("iterations", 0))
            block.assign([("iterations", 0)], [total])

    def _first_step(
        self, block: BlockBuilder, step: Step, controller: StepController, t: Node
    ) -> Node:
        """Return the length of the first step.

        Source: Hairer, Norsett and Wanner, Solving ODEs I, section II.4, "Starting step size".
        """
        given = block.let("given_dt", load("settings", DT))
        if not controller.adaptive:
            return given
        if step.settings.chooses:
            span = clock(T_END) - clock(T)
            part = FIRST_PART * minimum(span, load("settings", DT_MAX))
            return block.let("first_dt", where(compare(">", given, 0.0), given, part))
        s, n = self.settings, self.settings.states
        state, rate = load("state", 0, 1), load("derivative", 0, 1)
        d0 = block.let("norm0", sqrt(step.norm_at_start(block, "d0", state) * step.mean))
        d1 = block.let("norm1", sqrt(step.norm_at_start(block, "d1", rate) * step.mean))
        span = block.let("span", clock(T_END) - clock(T))
        flat = logical_or(compare("<", d0, 1e-5), compare("<", d1, 1e-5))
        h0 = where(flat, 1e-4 * minimum(span, const(1.0)), 0.01 * (d0 / d1))
        h0 = minimum(h0, span)
        if self._lags:
            h0 = minimum(h0, self._lags.longest(block, t))
        h0 = block.let("h0", h0)
        block.sweep(n, {"stage_state": h0 * rate + state})
        step.evaluate(block, "stage_state", step.end_element, t + h0)
        change = step.norm_at_start(block, "d2", step.end_derivative - rate)
        d2 = sqrt(change * step.mean) / h0
        steepest = block.let("steepest", maximum(d1, d2))
        order = step.start_order + 1.0
        power = approximate_power(100.0 * steepest, -1.0 / order, s.precision)
        h1 = where(compare("<=", steepest, 1e-15), maximum(const(1e-6) * span, 1e-3 * h0), power)
        chosen = minimum(minimum(100.0 * h0, h1), minimum(span, load("settings", DT_MAX)))
        # A start where nothing is finite falls back to a small part of the run.
        chosen = where(compare(">", chosen, 0.0), chosen, 1e-6 * span)
        return block.let("first_dt", where(compare(">", given, 0.0), given, chosen))

    # within and at the end of a run -----------------------------------------------------------

    def summarise(
        self, block: BlockBuilder, step: Step, h: Node, t: Node, t_new: Node, accept: Node
    ) -> None:
        """Update the metrics over a step from its cubic Hermite midpoint and its end.

        Parameters
        ----------
        block : BlockBuilder
        step : Step
        h, t, t_new : Node
            Length, start and end of the step.
        accept : Node
            Whether the step counts.
        """
        start, end = load("state", 0, 1), load("proposed_state", 0, 1)
        slopes = load("derivative", 0, 1) - step.end_derivative
        middle = 0.125 * h * slopes + 0.5 * (start + end)
        block.sweep(self.settings.states, {"middle_state": middle})
        middles = self._summarised(block, "middle_state", 0.5 * h + t, "middle")
        ends = self._summarised(block, "proposed_state", t_new, "end")
        self.metrics.update(block, middles, ends, h, accept)

    def _summarised(self, block: BlockBuilder, state: str, t: Node, prefix: str) -> list[Node]:
        """Return the summarised variables for the states in a buffer."""
        numbers, outputs = self.settings.summarised_numbers, self.outputs
        if any(number >= outputs.states for number in numbers):
            outputs.observe(block, state, t)
        return [
            block.let(f"{prefix}_{i}", outputs.variable(number, state))
            for i, number in enumerate(numbers)
        ]

    def _finish(self, step: Step, controller: StepController) -> Block:
        """Return the block that writes the final state, metrics, status and counts of a run."""
        s, n = self.settings, self.settings.states
        block = BlockBuilder()
        ends = ("success",) if self.events is None else WELL
        ended = [compare("==", counter(CODE), float(STATUS[name])) for name in ends]
        if self.events is not None:
            self.events.write_counts(block)
        good = block.let("good", any_of(ended))
        nan = const(float("nan"))
        block.sweep(n, {"finals": where(good, load("state", 0, 1), nan)})
        until = clock(T_END if self.events is None else T)
        elapsed = block.let("elapsed", until - clock(T_START))
        self.metrics.finish(block, good, elapsed, n)
        externals = ["finals", "counts"]
        if s.compared_numbers:
            self.comparison.finish(block, good, counter(SAVED), n + self.metrics.rows)
            externals.append("initial")
        counts = self._counts(step, controller)
        block.assign([("counts", i) for i in range(COUNTS)], [to_int(count) for count in counts])
        return block.build("finish", externals, per_lane=True)

    def _counts(self, step: Step, controller: StepController) -> tuple[Node, Node, Node, Node]:
        """Return status, accepted steps, rejected steps and right-hand sides of a run."""
        per_attempt, per_iteration = step.evaluations
        evaluated = float(per_attempt) * counter(TRIED)
        if per_iteration:
            evaluated = float(per_iteration) * load("iterations", 0) + evaluated
        steps = counter(STEPS)
        if not self.counts_accepted(controller):
            codes = (STATUS["non_finite"], STATUS["solver_failed"])
            failed = any_of([compare("==", counter(CODE), float(code)) for code in codes])
            steps = counter(TRIED) - where(failed, const(1.0), const(0.0))
        return counter(CODE), steps, counter(TRIED) - steps, evaluated


def _given(value: int | float) -> Node:
    """Return a number, or the row of the inputs that holds it."""
    return load("inputs", value) if isinstance(value, int) else const(value)


def _mask(name: str, truth: Node) -> Block:
    """Return a block that only says in which lanes a condition holds."""
    return Block(name, (), (), False, truth)
