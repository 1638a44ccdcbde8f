"""The integration loop: time, acceptance, saving and status, as blocks.

`IVPLoop` builds the blocks that a driver calls in order (``kernels/targets/driver.py``): start a
run in a lane, begin, attempt a step, sample what is due, finish. All state of a run lives in
registered buffers, so a lane can be handed the next run at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import field, frozen

from cubie_flow.errors import one_of
from cubie_flow.expressions.bit_operations import to_int
from cubie_flow.expressions.block import UNROLL_LIMIT, Block, BlockBuilder, Function
from cubie_flow.expressions.graph import (
    ALONE,
    FALSE,
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
from cubie_flow.integrators.comparison import SUMS, Comparison
from cubie_flow.integrators.controllers import (
    DT,
    DT_MAX,
    DT_MIN,
    EPSILON,
    MAX_STEPS,
    StepController,
    approximate_power,
)
from cubie_flow.integrators.dips import missed
from cubie_flow.integrators.drivers import HEADER, DriverBlocks, DriverSlot
from cubie_flow.integrators.event_schedule import NEAR
from cubie_flow.integrators.events import Events
from cubie_flow.integrators.pulses import Pulse, PulseBlocks
from cubie_flow.integrators.status import STATUS, WELL
from cubie_flow.integrators.steps import Step
from cubie_flow.integrators.steps.base import any_of
from cubie_flow.integrators.steps.taylor import FIRST_PART
from cubie_flow.integrators.switches import Switch, SwitchBlocks, parameters_read
from cubie_flow.memory import CUDAFactory, buffer_registry
from cubie_flow.systems.events import Event

RUNNING, IDLE = 100, 101
# Error of a step whose equations were not solved: the step is cut as far as allowed.
_UNSOLVED = 1e19

# Elements of the buffers `clock` and `counters`. Counts are floats: exact up to 2**24 in float32,
# and one vector width serves all.
T, T_LOW, T_START, T_END, T_NEXT, T_PREVIOUS, H, CLOCK = range(8)
CODE, STEPS, TRIED, SAVED, COUNTERS = range(5)

#: Rows of the counts of a run: status, accepted and rejected steps, right-hand sides.
COUNTS = 4

#: Summary metrics, over the whole run from its start.
METRICS = ("min", "max", "mean", "rms", "std", "peaks")
# Elements of the buffer `metrics` for one variable.
LAST, REFERENCE, LOWEST, HIGHEST, INTEGRAL, SQUARE, PEAKS, BEFORE, METRIC_ROWS = range(9)


@frozen
class LoopSettings:
    """Compile-time choices of the loop.

    Parameters
    ----------
    rhs : Function
        Right-hand side of the model.
    observables : Function or None
        The observables that are saved or summarised.
    states, parameters : int
        States of the model; parameters that vary between runs.
    saved_numbers : tuple of int
        What is sampled: below `states` a state, above an observable.
    summarised_numbers : tuple of int
        What metrics are kept of, numbered alike.
    start : tuple of (int, float or None)
        For each state its literal initial value, the row of the inputs (int) it comes from, or
        None where `starts` computes it.
    start_from, duration_from : int or float
        Likewise.
    drivers : tuple of DriverSlot
        What acts on the model as a series over time.
    compared_numbers : tuple of int
        What is compared with data at the samples, numbered alike.
    sampling : bool
        Whether there are times to sample at.
    switches : tuple of Switch
        What changes at times that parameters alone decide.
    pulses : tuple of Pulse
        Parts of the equations that may rise and fall within a step.
    dips : tuple of Node
        What changes sign at switches on states.
    events : tuple of Event
        Bound to ``u`` and ``p``, see `cubie_flow.integrators.events`.
    event_targets : tuple of (str, (str, int))
        What they set: its name, and its place in ``u`` or ``p``.
    event_times : int
        First times that are kept of every recorded event.
    promoted : tuple of (float or None)
        Parameters after the varied ones that events change or that differ between runs: their
        values at the start, None where `starts` computes them.
    starts : Function, optional
        What a run computes when it starts; it reads and writes ``u`` and ``p``.
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
    dips: tuple[Node, ...] = field(default=(), metadata={"hash": False})
    events: tuple[Event, ...] = ()
    event_targets: tuple[tuple[str, tuple[str, int]], ...] = ()
    event_times: int = 0
    promoted: tuple[float | None, ...] = ()
    starts: Function | None = None


def _flag(name: int) -> Node:
    return load("counters", name)


def _clock(name: int) -> Node:
    return load("clock", name)


class IVPLoop(CUDAFactory[LoopSettings]):
    """Owns time, acceptance, saving and status of a run.

    Buffers: ``state``, ``derivative``, ``parameters``, ``clock``, ``counters``, and as needed
    ``previous_state``, ``sample``, ``metrics``, ``observables``, ``driver_clock``,
    ``switch_clock``, ``pulse_range``, ``misfit``, ``agenda`` (next times to land on) and
    ``event_memory`` (what is known of every event).
    """

    def register_buffers(self) -> None:
        s = self.settings
        n, precision = s.states, s.precision

        def keep(name: str, size: int) -> None:
            buffer_registry.register(name, self, size, "local", precision, persistent=True)

        keep("state", n)
        keep("derivative", n)
        keep("parameters", max(1, self._first_switch + len(s.switches)))
        keep("clock", CLOCK)
        keep("counters", COUNTERS)
        if self.events is not None:
            keep("agenda", self.events.agenda_size)
            keep("event_memory", self.events.memory_size)
        if s.drivers:
            keep("driver_clock", self.driving.size)
        if s.switches:
            keep("switch_clock", self.switching.size)
        if s.pulses:
            keep("pulse_range", len(s.pulses))
        if s.sampling:
            keep("previous_state", n)
            scratch = "local"
            buffer_registry.register("sample", self, self.outputs, scratch, precision)
        if s.compared_numbers:
            keep("misfit", self.comparison.size)
        if s.summarised_numbers:
            keep("metrics", METRIC_ROWS * len(s.summarised_numbers))
            scratch = "register" if n <= UNROLL_LIMIT and not self._observes_apart else "local"
            buffer_registry.register("middle_state", self, n, scratch, precision)
        if s.observables is not None:
            size = len(s.observables.outputs)
            scratch = "register" if size <= UNROLL_LIMIT and not self._observes_apart else "local"
            buffer_registry.register("observables", self, size, scratch, precision)

    @property
    def events(self) -> Events | None:
        """The events of the run, None where nothing can happen in it."""
        s = self.settings
        if not s.events:
            return None
        targets = dict(s.event_targets)
        changed = {place for buffer, place in targets.values() if buffer == "p"}
        return Events(
            s.events,
            targets,
            s.event_times,
            s.states + len(METRICS) * len(s.summarised_numbers) + SUMS * len(s.compared_numbers),
            s.precision,
            bool(changed & parameters_read(s.switches)),
        )

    @property
    def _first_switch(self) -> int:
        """Place in ``parameters`` of the first switch, behind the numbers of the drivers."""
        s = self.settings
        return s.parameters + sum(slot.width for slot in s.drivers)

    @property
    def switching(self) -> SwitchBlocks:
        """What keeps a run in the right piece between switching times."""
        s = self.settings
        return SwitchBlocks(s.switches, self._first_switch, s.precision)

    @property
    def _knots(self) -> list[Node]:
        """Next times at which what acts on a run changes form."""
        s = self.settings
        found = [self.driving.next_knot()] if s.drivers else []
        return found + ([SwitchBlocks.next_time()] if s.switches else [])

    @property
    def _restarts(self) -> list[Node]:
        """What tells that a run begins anew at a knot."""
        found = [self.driving.restarting()] if self.driving.restarts else []
        return found + ([SwitchBlocks.restarting()] if self.settings.switches else [])

    @property
    def driving(self) -> DriverBlocks:
        """What keeps a run in the right segments of its drivers."""
        s = self.settings
        return DriverBlocks(s.drivers, s.states, s.parameters)

    @property
    def comparison(self) -> Comparison:
        """What sums up the misfit to data; its table's place is told behind the drivers' heads."""
        s = self.settings
        return Comparison(s.compared_numbers, load("initial", s.states + HEADER * len(s.drivers)))

    @property
    def _observes_apart(self) -> bool:
        """Whether the observables are a function of their own, which reads and writes memory."""
        return self.settings.observables is not None and self.settings.observables.apart

    @property
    def outputs(self) -> int:
        """Elements of a sample: all states, then what else is saved."""
        count = self.settings.states
        if self.settings.observables is not None:
            count += len(self.settings.observables.outputs)
        return count

    def build(self) -> LoopSettings:
        return self.settings

    # blocks

    def blocks(self, step: Step, controller: StepController) -> dict[str, Block]:
        """Return every block of the run, by the name the driver calls it."""
        dense = self.settings.sampling and step.settings.dense
        built: dict[str, Block] = {
            "start": self._start(),
            "park": self._park(),
            "begin": self._begin(step, controller),
            "attempt": self._attempt(step, controller, dense),
            "finished": self._mask("finished", self._finished()),
            "finish": self._finish(step, controller),
        }
        if self.settings.sampling:
            built["due"] = self._mask("due", self._due())
            built["sample"] = self._sample(step, dense)
            built["store_sample"] = self._store_sample()
            built["store_missing"] = self._store_missing()
            if self.settings.compared_numbers:
                built["compare"] = self.comparison.compare(_flag(SAVED))
            built["saved"] = Block("saved", (), (), True, to_int(_flag(SAVED)))
            extension = step.dense_output
            if dense and extension is not None and extension.extra_a:
                block = BlockBuilder()
                step.densify(block, _clock(H), _clock(T_PREVIOUS))
                built["densify"] = block.build("densify")
        events = self.events
        if events is not None:
            flags = {
                "running": float(RUNNING),
                **{n: float(STATUS[n]) for n in ("success", "event_stop", "event_limit")},
            }
            built["waiting"] = self._mask("waiting", self._waiting())
            built["jumping"] = self._mask("jumping", Events.jumped())
            built["react"] = events.react(_flag(CODE), CODE, _clock(T), flags)
            if events.times_kept:
                built |= events.record_blocks(_clock(T))
        if self._knots:
            built["at_knot"] = self._mask("at_knot", self._at_knot())
            built["following"] = self._following()
            if self._restarts:
                built["restarting"] = self._mask("restarting", any_of(self._restarts))
        return built

    def _at_knot(self) -> Node:
        """Return whether a lane is at a knot of a driver, or at a switch, which may be its end."""
        s = self.settings
        running = compare("==", _flag(CODE), float(RUNNING))
        found = []
        if s.drivers:
            reached = compare(">=", _clock(T), self.driving.next_knot())
            found.append(logical_and(running, reached))
        if s.switches:
            alive = logical_or(running, compare("==", _flag(CODE), float(STATUS["success"])))
            found.append(logical_and(alive, compare(">=", _clock(T), SwitchBlocks.next_time())))
        return any_of(found)

    def _following(self) -> Block:
        """Return the block that takes a run at a knot into the piece after it."""
        s = self.settings
        block = BlockBuilder()
        t = block.let("t", _clock(T))
        if s.drivers:
            self.driving.follow(block, t)
        if s.switches:
            knot = self.driving.next_knot() if s.drivers else None
            self.switching.update(block, t, _clock(T_START), _clock(T_END), knot)
        if self.events is not None:
            Events.look(block)
        return block.build("following", ("inputs", "initial"), per_lane=True)

    def _mask(self, name: str, truth: Node) -> Block:
        return Block(name, (), (), False, truth)

    @staticmethod
    def _finished() -> Node:
        code = _flag(CODE)
        return compare("<", code, float(RUNNING))

    def _due(self) -> Node:
        occupied = compare("!=", _flag(CODE), float(IDLE))
        due = logical_and(occupied, compare(">=", _clock(T), _clock(T_NEXT)))
        restless = [self._waiting(), Events.jumped()] if self.events is not None else []
        restless += [self._at_knot()] if self._knots else []
        if not restless:
            return due
        # What is saved at the time of a knot or an event is what it leaves.
        calm = logical_not(any_of(restless))
        earlier = compare(">", _clock(T) - self._doubt(), _clock(T_NEXT))
        due = logical_and(due, logical_or(calm, earlier))
        if self.events is None:
            return due
        # A run that ends at an event may miss by rounding a time that it reaches.
        stopped = compare("==", _flag(CODE), float(STATUS["event_stop"]))
        met = compare(">=", _clock(T) + self._doubt(), _clock(T_NEXT))
        return logical_or(due, logical_and(stopped, met))

    @property
    def _stirred(self) -> bool:
        """Whether a run may begin anew within it."""
        return self.events is not None or bool(self._knots)

    def _doubt(self) -> Node:
        """Return how long before the time of a lane counts as that time."""
        t = _clock(T)
        if self.events is not None:
            return self.events.doubt(t)
        return (NEAR * EPSILON[self.settings.precision]) * fabs(t)

    @staticmethod
    def _waiting() -> Node:
        """Return whether events are due in a lane that can go on."""
        running, ended = float(RUNNING), float(STATUS["success"])
        alive = logical_or(compare("==", _flag(CODE), running), compare("==", _flag(CODE), ended))
        return logical_and(alive, Events.pending())

    def _start(self) -> Block:
        s = self.settings
        block = BlockBuilder()

        def given(value: int | float) -> Node:
            return load("inputs", value) if isinstance(value, int) else const(value)

        rows = [value for value in s.start if isinstance(value, int)]
        if len(rows) == s.states and rows == list(range(rows[0], rows[0] + s.states)):
            block.sweep(s.states, {"state": load("inputs", rows[0], 1)})
        elif s.states > UNROLL_LIMIT and not rows:
            block.sweep(s.states, {"state": load("initial", 0, 1)})
        else:
            known = {i: given(value) for i, value in enumerate(s.start) if value is not None}
            block.assign([("state", i) for i in known], list(known.values()))
        varied = s.parameters - len(s.promoted)
        if varied:
            block.sweep(varied, {"parameters": load("inputs", s.first_parameter, 1)})
        known = {varied + i: const(v) for i, v in enumerate(s.promoted) if v is not None}
        block.assign([("parameters", i) for i in known], list(known.values()))
        t_start = block.let("t_start", given(s.start_from))
        t_end = block.let("t_end", t_start + given(s.duration_from))
        zero = const(0.0)
        clock = {T: t_start, T_LOW: zero, T_START: t_start, T_END: t_end}
        if s.sampling:
            clock |= {T_PREVIOUS: t_start, H: zero, T_NEXT: self._next_time(t_start, t_end)}
        block.assign([("clock", i) for i in clock], list(clock.values()))
        block.assign(
            [("counters", i) for i in range(COUNTERS)],
            [const(RUNNING), zero, zero, zero],
        )
        if s.drivers:
            self.driving.find(block, t_start)
        if s.starts is not None:
            block.evaluate(s.starts, {"u": ("state", 0), "p": ("parameters", 0)}, t=t_start)
        if self.events is not None:
            self.events.start(block, t_start)
        if s.switches:
            self.switching.start(block)
        if s.pulses:
            PulseBlocks(s.pulses).start(block, t_start, t_end)
        if s.compared_numbers:
            self.comparison.start(block)
        return block.build("start", ("inputs", "times", "initial"), per_lane=True)

    def _next_time(self, t_start: Node, t_end: Node) -> Node:
        """Return the time to sample at next; one that rounding put beside the end is the end."""
        wanted = load("times", 0) + t_start
        close = 4.0 * EPSILON[self.settings.precision] * fabs(t_end)
        return where(compare("<=", fabs(wanted - t_end), close), t_end, wanted)

    def _park(self) -> Block:
        block = BlockBuilder()
        block.assign([("counters", CODE)], [const(IDLE)])
        return block.build("park", per_lane=True)

    def _jumped(self) -> Node | None:
        """Return whether a lane begins anew behind a jump; None where nothing jumps."""
        jumps = [Events.jumped()] if self.events is not None else []
        jumps += self._restarts
        return any_of(jumps) if jumps else None

    def _begin(self, step: Step, controller: StepController) -> Block:
        # One lane at a time: lanes finish one by one, and a vector of which one lane is wanted
        # costs as much as a lane.
        s, n = self.settings, self.settings.states
        block = BlockBuilder()
        t = block.let("t", _clock(T))
        inconsistent = step.initialise(block, t)
        if step.needs_derivative:
            step.evaluate(block, "state", step.end_place, t)
            block.sweep(n, {"derivative": step.end_derivative})
        if s.sampling:
            block.sweep(n, {"previous_state": load("state", 0, 1)})
        if self.events is not None:
            self.events.settle(block, t)
        dt = self._first_step(block, step, controller, t)
        controller.reset(block, dt)
        jumped = self._jumped()
        iterates = jumped is not None and step.evaluations[1] > 0
        counted = block.let("counted", load("iterations", 0)) if iterates else None
        step.reset(block, dt)
        if counted is not None and jumped is not None:
            kept = where(jumped, counted, load("iterations", 0))
            block.assign([("iterations", 0)], [kept])
        if s.summarised_numbers:
            self._observe(block, "state", t)
            for position, variable in enumerate(s.summarised_numbers):
                value = self._variable(variable, "state")
                base = METRIC_ROWS * position
                started = {
                    LAST: value, REFERENCE: value, LOWEST: value, HIGHEST: value,
                    INTEGRAL: const(0.0), SQUARE: const(0.0), PEAKS: const(0.0), BEFORE: value,
                }  # fmt: skip
                values = dict(started)
                if jumped is not None:
                    # A jump is no part of the integrals and no peak, but may be an extreme; what
                    # happens at the start comes before it.
                    older = {i: load("metrics", base + i) for i in started}
                    met = older | {
                        LAST: value, BEFORE: value, LOWEST: minimum(value, older[LOWEST]),
                        HIGHEST: maximum(value, older[HIGHEST]),
                    }  # fmt: skip
                    new = logical_or(
                        logical_not(jumped),
                        compare("==", _clock(T), _clock(T_START)),
                    )
                    values = {i: where(new, v, met[i]) for i, v in started.items()}
                block.assign([("metrics", base + i) for i in values], list(values.values()))
        empty = logical_not(compare(">", _clock(T_END), _clock(T)))
        code = where(empty, const(STATUS["success"]), _flag(CODE))
        if inconsistent is not None:
            code = where(inconsistent, const(STATUS["solver_failed"]), code)
        block.assign([("counters", CODE)], [code])
        if self.events is not None:
            Events.landed(block)
        if self.driving.restarts:
            self.driving.restarted(block)
        if s.switches:
            SwitchBlocks.restarted(block)
        return block.build("begin", ("settings",), per_lane=True)

    def _first_step(
        self, block: BlockBuilder, step: Step, controller: StepController, t: Node
    ) -> Node:
        given = block.let("given_dt", load("settings", DT))
        if not controller.adaptive:
            return given
        if step.settings.chooses:
            span = _clock(T_END) - _clock(T)
            part = FIRST_PART * minimum(span, load("settings", DT_MAX))
            return block.let("first_dt", where(compare(">", given, 0.0), given, part))
        # Hairer, Norsett and Wanner, Solving ODEs I, section II.4, "Starting step size".
        s, n = self.settings, self.settings.states
        state, rate = load("state", 0, 1), load("derivative", 0, 1)
        d0 = block.let("norm0", sqrt(step.norm_at_start(block, "d0", state) * step.mean))
        d1 = block.let("norm1", sqrt(step.norm_at_start(block, "d1", rate) * step.mean))
        span = block.let("span", _clock(T_END) - _clock(T))
        flat = logical_or(compare("<", d0, 1e-5), compare("<", d1, 1e-5))
        h0 = where(flat, 1e-4 * minimum(span, const(1.0)), 0.01 * (d0 / d1))
        h0 = block.let("h0", minimum(h0, span))
        block.sweep(n, {"stage_state": h0 * rate + state})
        step.evaluate(block, "stage_state", step.end_place, t + h0)
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

    @property
    def _unwatched(self) -> bool:
        """Whether nothing asks what time it is between steps, only whether the end is reached."""
        s = self.settings
        told = s.sampling or s.summarised_numbers or self._knots or self.events is not None
        return not told

    def batches_steps(self, step: Step, controller: StepController) -> bool:
        """Return whether steps of fixed size are taken several at a time."""
        return self._unwatched and not controller.adaptive and step.batched_steps > 0

    def _counts_apart(self, controller: StepController) -> bool:
        """Whether accepted steps are counted too; else only the last attempt can have failed."""
        return controller.adaptive or self.events is not None

    def _attempt(self, step: Step, controller: StepController, dense: bool) -> Block:
        s, n = self.settings, self.settings.states
        real = s.precision
        block = BlockBuilder()
        # Who is alone is here only while running; others wait in their lane for their neighbours.
        running = compare("==", _flag(CODE), float(RUNNING))
        active = block.let("active", logical_or(ALONE, running))
        if self.batches_steps(step, controller):
            self._leap(block, step, controller, active)
        t = block.let("t", _clock(T))
        landing = s.sampling and not dense
        end = _clock(T_END)
        stops = minimum(end, _clock(T_NEXT)) if landing else end
        for knot in self._knots:
            stops = minimum(stops, knot)
        events = self.events
        if events is not None:
            stops = minimum(stops, events.stop())
        stop = block.let("stop", stops)
        remaining = (stop - t) - _clock(T_LOW)
        remaining = block.let("remaining", remaining)
        longest = load("settings", DT_MAX)
        dt = block.let("dt", minimum(controller.proposal(), longest))
        smallest = maximum(load("settings", DT_MIN), 4.0 * EPSILON[real] * fabs(t))
        smallest = block.let("smallest", smallest)
        if step.settings.chooses:
            length = step.propose(block, dt, t, smallest, controller.settings)
            dt = block.let("chosen_dt", minimum(length, longest))
        if s.pulses:
            dt = PulseBlocks(s.pulses).shorten(block, dt, t, remaining, smallest, active)
        # The last stretch may be a little longer than a step, never a sliver of one.
        last = block.let("last", compare("<=", remaining, 1.01 * dt))
        h = block.let("h", where(last, remaining, dt))
        step.attempt(block, h, t, active)
        failed: list[tuple[Node, str]] = []
        unconverged = step.unconverged()
        unsolved = block.let("unsolved_step", any_of(unconverged)) if unconverged else FALSE
        if controller.adaptive:
            error = step.error(block, h, t)
            if unconverged:
                error = block.let("error", where(unsolved, const(_UNSOLVED), error))
            if s.dips:
                error = step.distrust(block, error, missed(block, s.dips, n, h, t, step.end_place))
            ok = block.let("ok", compare("<=", error, 1.0))
            # NaN and infinity anywhere in the step end in the error estimate.
            finite = compare("<", error, 1e38)
            stuck = logical_and(logical_not(ok), compare("<=", h, smallest))
            failed.append((logical_and(stuck, finite), "step_too_small"))
            failed.append((logical_and(stuck, logical_not(finite)), "non_finite"))
            failed.append((logical_and(stuck, unsolved), "solver_failed"))
        else:
            finite = self._finite(block, "proposed_state")
            ok = block.let("ok", logical_and(finite, logical_not(unsolved)))
            failed.append((logical_not(ok), "non_finite"))
            failed.append((unsolved, "solver_failed"))
        accept = block.let("accept", logical_and(ok, active))
        cut = happens = FALSE
        if events is not None:
            t_end = block.let("t_end", where(last, stop, (h + _clock(T_LOW)) + t))
            ending = compare(">=", t_end, end)
            cut, happens, lost = events.watch(block, step, h, t, t_end, last, accept, ending)
            failed.append((lost, "event_limit"))
            accept = block.let("accept", logical_and(accept, logical_not(cut)))
        if step.settings.chooses:
            controller.follow(block, step.expected(dt, h, controller.settings))
        elif controller.adaptive:
            held = controller.hold(block) if cut is not FALSE else []
            controller.advance(block, error, ok, h, last, load("settings", DT_MAX))
            # A step that is only cut at an event says nothing about the step that is possible.
            controller.restore(block, cut, held)
            step.advance(block, error, ok, accept, h, last, load("settings", DT_MAX))
        total, rounding = self._later(block, t, h)
        # Time stands still where a step is cut, and where a sample might be taken of one that
        # failed.
        passing = accept if controller.adaptive or s.sampling or events is not None else active
        reached = block.let("reached", logical_and(passing, last))
        t_new, low = where(passing, total, t), where(passing, rounding, _clock(T_LOW))
        if not self._unwatched:
            t_new, low = where(reached, stop, t_new), where(reached, const(0.0), low)
        t_new = block.let("t_new", t_new)
        block.assign([("clock", T), ("clock", T_LOW)], [t_new, low])
        if dense:
            block.assign(
                [("clock", T_PREVIOUS), ("clock", H)],
                [where(accept, t, _clock(T_PREVIOUS)), where(accept, h, _clock(H))],
            )
        if s.summarised_numbers:
            self._summarise(block, step, h, t, t_new, accept)
        if events is not None:
            events.note(block, accept, happens, reached, t_new)
        # Without step control a step that is not accepted ends the run, and its state is not used.
        moving = accept if controller.adaptive or events is not None else active
        new, old = load("proposed_state", 0, 1), load("state", 0, 1)
        moves = [("state", 0, 1, where(moving, new, old))]
        if step.needs_derivative:
            new, old = step.end_derivative, load("derivative", 0, 1)
            moves.append(("derivative", 0, 1, where(moving, new, old)))
        if s.sampling:
            kept = where(moving, load("state", 0, 1), load("previous_state", 0, 1))
            moves.append(("previous_state", 0, 1, kept))
        block.sweep(n, moves)
        tried = block.let("tried", where(active, _flag(TRIED) + 1.0, _flag(TRIED)))
        block.assign([("counters", TRIED)], [tried])
        if self._counts_apart(controller):
            steps = where(accept, _flag(STEPS) + 1.0, _flag(STEPS))
            block.assign([("counters", STEPS)], [steps])
        code: Node = const(RUNNING)
        limit = block.let("limit", compare(">=", tried, load("settings", MAX_STEPS)))
        code = where(limit, const(STATUS["step_limit"]), code)
        for condition, name in failed:
            code = where(condition, const(STATUS[name]), code)
        ended = last if self._unwatched else compare(">=", t_new, end)
        done = block.let("done", logical_and(accept, ended))
        code = where(done, const(STATUS["success"]), code)
        code = where(active, code, _flag(CODE))
        block.assign([("counters", CODE)], [code])
        # The code is not asked, so that it need not be computed before the run ends.
        attention = any_of([limit, done, *(condition for condition, _ in failed)])
        if s.sampling:
            attention = logical_or(attention, compare(">=", t_new, _clock(T_NEXT)))
        if events is not None:
            attention = logical_or(attention, Events.pending())
        for knot in self._knots:
            attention = logical_or(attention, compare(">=", t_new, knot))
        return block.build("attempt", ("settings",), mask=logical_and(active, attention))

    def _later(self, block: BlockBuilder, t: Node, h: Node) -> tuple[Node, Node]:
        """Return the time after `h`, and its rounding (compensated: Kahan, CACM 8, 1965)."""
        moved = block.let("moved", h + _clock(T_LOW))
        total = block.let("total", t + moved)
        return total, moved - (total - t)

    def _finite(self, block: BlockBuilder, at: str) -> Node:
        """Return whether all states in a buffer are finite."""
        n = self.settings.states
        block.assign([("magnitude", 0)], [fabs(load(at, 0))])
        if n > 1:
            size = fabs(load(at, 1, 1)) + load("magnitude", 0)
            block.sweep(n - 1, [("magnitude", 0, 0, size)])
        largest = 1e308 if self.settings.precision == "float64" else 1e38
        return compare("<", load("magnitude", 0), largest)

    def _leap(
        self, block: BlockBuilder, step: Step, controller: StepController, active: Node
    ) -> None:
        """Take several steps of fixed size without asking after each whether the run is over.

        For runs that have more than that many to go; one that does not stay finite is put back,
        so that its last step is found one by one. Whether a run leaps depends on it alone.
        """
        n, count = self.settings.states, step.batched_steps
        dt = block.let("leap_dt", minimum(controller.proposal(), load("settings", DT_MAX)))
        remaining = (_clock(T_END) - _clock(T)) - _clock(T_LOW)
        far = compare(">", remaining, (count + 1.5) * dt)
        free = compare("<", _flag(TRIED) + float(count), load("settings", MAX_STEPS))
        leaping = block.let("leaping", logical_and(active, logical_and(far, free)))
        kept = [("clock", T), ("clock", T_LOW), ("counters", TRIED)]
        kept += [(name, i) for name in ("state", "derivative") for i in range(n)]
        with block.when(leaping):
            before = [block.let(f"before_{i}", load(*place)) for i, place in enumerate(kept)]
            for _ in range(count):
                t = block.let("t", _clock(T))
                step.attempt(block, dt, t, active)
                total, rounding = self._later(block, t, dt)
                block.assign([("clock", T), ("clock", T_LOW)], [total, rounding])
                moves = {"state": load("proposed_state", 0, 1), "derivative": step.end_derivative}
                block.sweep(n, moves)
            block.assign([("counters", TRIED)], [_flag(TRIED) + float(count)])
            good = block.let("good", logical_and(leaping, self._finite(block, "state")))
            new = [load(*place) for place in kept]
            after = [where(good, *pair) for pair in zip(new, before, strict=True)]
            block.assign(kept, after)

    # saving

    def _observe(self, block: BlockBuilder, at: str, t: Node) -> None:
        function = self.settings.observables
        if function is not None:
            arrays = {"u": (at, 0), "p": ("parameters", 0), "g": ("observables", 0)}
            block.evaluate(function, arrays, t=t)

    def _variable(self, number: int, at: str) -> Node:
        n = self.settings.states
        return load(at, number) if number < n else load("observables", number - n)

    def _sample(self, step: Step, dense: bool) -> Block:
        s, n = self.settings, self.settings.states
        block = BlockBuilder()
        t = block.let("t", _clock(T_NEXT))
        state, previous = load("state", 0, 1), load("previous_state", 0, 1)
        if dense:
            theta = block.let("theta", (t - _clock(T_PREVIOUS)) / _clock(H))
            value = step.interpolate(block, theta, _clock(H))
            # At the ends the step itself is exact; a run that has not moved has no step.
            reached = _clock(T) - self._doubt() if self._stirred else _clock(T)
            inside = block.let("inside", compare("<", t, reached))
            before = block.let("before", compare("<=", t, _clock(T_PREVIOUS)))
            value = where(inside, where(before, previous, value), state)
            block.sweep(n, {"sample": value})
        else:
            block.sweep(n, {"sample": state})
        if s.observables is not None:
            self._observe(block, "sample", t)
            size = len(s.observables.outputs)
            block.sweep(size, [("sample", n, 1, load("observables", 0, 1))])
        return block.build("sample")

    def _store_sample(self) -> Block:
        block = BlockBuilder()
        self._copy_out(block, lambda number: load("sample", number))
        block.assign([("clock", T_NEXT)], [self._next_time(_clock(T_START), _clock(T_END))])
        block.assign([("counters", SAVED)], [_flag(SAVED) + 1.0])
        return block.build("store_sample", ("samples", "times"), per_lane=True)

    def _store_missing(self) -> Block:
        block = BlockBuilder()
        self._copy_out(block, lambda number: const(float("nan")))
        return block.build("store_missing", ("samples",), per_lane=True)

    def _copy_out(self, block: BlockBuilder, value: Callable[[int], Node]) -> None:
        saved = self.settings.saved_numbers
        if len(saved) > UNROLL_LIMIT and saved == tuple(range(len(saved))):
            node = value(0)
            node = load("sample", 0, 1) if node.op == "load" else node
            block.sweep(len(saved), [("samples", 0, 1, node)])
        else:
            block.assign([("samples", i) for i in range(len(saved))], [value(v) for v in saved])

    def _summarise(
        self, block: BlockBuilder, step: Step, h: Node, t: Node, t_new: Node, accept: Node
    ) -> None:
        """Update the metrics over a step from its cubic Hermite midpoint and its end."""
        s, n = self.settings, self.settings.states
        start, end = load("state", 0, 1), load("proposed_state", 0, 1)
        slopes = load("derivative", 0, 1) - step.end_derivative
        middle = 0.125 * h * slopes + 0.5 * (start + end)
        block.sweep(n, {"middle_state": middle})

        def values(at: str, time: Node, prefix: str) -> list[Node]:
            if any(variable >= n for variable in s.summarised_numbers):
                self._observe(block, at, time)
            return [
                block.let(f"{prefix}_{i}", self._variable(variable, at))
                for i, variable in enumerate(s.summarised_numbers)
            ]

        middles = values("middle_state", 0.5 * h + t, "middle")
        ends = values("proposed_state", t_new, "end")
        for position, (mid, new) in enumerate(zip(middles, ends, strict=True)):
            base = METRIC_ROWS * position

            def old(row: int, base: int = base) -> Node:
                return load("metrics", base + row)

            last, reference = old(LAST), old(REFERENCE)
            a, m, b = last - reference, mid - reference, new - reference
            sixth = block.let("sixth", h * (1.0 / 6.0))
            one = const(1.0)
            zero = const(0.0)
            peak_at_start = logical_and(compare(">", last, old(BEFORE)), compare(">=", last, mid))
            peak_at_middle = logical_and(compare(">", mid, last), compare(">=", mid, new))
            found = where(peak_at_start, one, zero) + where(peak_at_middle, one, zero)
            updated = {
                LAST: new,
                LOWEST: minimum(minimum(mid, new), old(LOWEST)),
                HIGHEST: maximum(maximum(mid, new), old(HIGHEST)),
                INTEGRAL: sixth * (4.0 * m + (a + b)) + old(INTEGRAL),
                SQUARE: sixth * (4.0 * (m * m) + (a * a + b * b)) + old(SQUARE),
                PEAKS: old(PEAKS) + found,
                BEFORE: mid,
            }
            block.assign(
                [("metrics", base + row) for row in updated],
                [where(accept, value, old(row)) for row, value in updated.items()],
            )

    def _finish(self, step: Step, controller: StepController) -> Block:
        """Write the final state, the metrics, the status and the counts of a run."""
        s, n = self.settings, self.settings.states
        block = BlockBuilder()
        ends = ("success",) if self.events is None else WELL
        ended = [compare("==", _flag(CODE), float(STATUS[name])) for name in ends]
        if self.events is not None:
            self.events.counts(block)
        good = block.let("good", any_of(ended))
        nan = const(float("nan"))
        block.sweep(n, {"finals": where(good, load("state", 0, 1), nan)})
        until = _clock(T_END if self.events is None else T)
        span = block.let("elapsed", until - _clock(T_START))
        some = block.let("some", compare(">", span, 0.0))
        for position in range(len(s.summarised_numbers)):

            def row(name: int, base: int = METRIC_ROWS * position) -> Node:
                return load("metrics", base + name)

            zero = const(0.0)
            shift = block.let("shift", where(some, row(INTEGRAL) / span, zero))
            power = where(some, row(SQUARE) / span, zero)
            variance = block.let("variance", maximum(power - shift * shift, zero))
            mean = block.let("mean", row(REFERENCE) + shift)
            computed: Mapping[str, Node] = {
                "min": row(LOWEST),
                "max": row(HIGHEST),
                "mean": mean,
                "rms": sqrt(mean * mean + variance),
                "std": sqrt(variance),
                "peaks": row(PEAKS),
            }
            block.assign(
                [("finals", n + len(METRICS) * position + i) for i in range(len(METRICS))],
                [where(good, computed[name], nan) for name in METRICS],
            )
        externals = ["finals", "counts"]
        if s.compared_numbers:
            first = n + len(METRICS) * len(s.summarised_numbers)
            self.comparison.finish(block, good, _flag(SAVED), first)
            externals.append("initial")
        each, iteration = step.evaluations
        evaluated = float(each) * _flag(TRIED)
        if iteration:
            evaluated = float(iteration) * load("iterations", 0) + evaluated
        steps = _flag(STEPS)
        if not self._counts_apart(controller):
            codes = (STATUS["non_finite"], STATUS["solver_failed"])
            failed = any_of([compare("==", _flag(CODE), float(code)) for code in codes])
            steps = _flag(TRIED) - where(failed, const(1.0), const(0.0))
        counted = (_flag(CODE), steps, _flag(TRIED) - steps, evaluated)
        block.assign([("counts", i) for i in range(COUNTS)], [to_int(count) for count in counted])
        return block.build("finish", externals, per_lane=True)
