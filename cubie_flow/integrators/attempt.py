"""One attempt of a step: its statements, in the order in which they run in every lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cubie_flow.expressions.block import Block, BlockBuilder
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
    where,
)
from cubie_flow.integrators import landing
from cubie_flow.integrators.controllers import (
    DT_MAX,
    DT_MIN,
    EPSILON,
    MAX_STEPS,
    StepController,
)
from cubie_flow.integrators.double_crossings import DoubleCrossings
from cubie_flow.integrators.events import Events
from cubie_flow.integrators.lane import (
    CODE,
    RUNNING,
    STEPS,
    T_END,
    T_LOW,
    T_NEXT,
    T_PREVIOUS,
    TRIED,
    H,
    T,
    clock,
    counter,
)
from cubie_flow.integrators.past import Past
from cubie_flow.integrators.status import STATUS
from cubie_flow.integrators.steps import Step
from cubie_flow.integrators.steps.base import any_of
from cubie_flow.integrators.steps.implicit import element

if TYPE_CHECKING:
    from cubie_flow.integrators.loop import IVPLoop

# Error of a step whose equations were not solved: the step is cut as far as allowed.
_UNSOLVED = 1e19


class Attempt:
    """Writes the block ``attempt``; each method adds the statements of one stage.

    Parameters
    ----------
    loop : IVPLoop
    step : Step
    controller : StepController
    dense : bool
        Whether the step is interpolated at the times that are sampled.
    """

    # What the stages hand on to later ones.
    active: Node
    t: Node
    end: Node
    stop: Node
    dt: Node
    h: Node
    last: Node
    smallest: Node
    error: Node
    ok: Node
    accept: Node
    t_new: Node

    def __init__(self, loop: IVPLoop, step: Step, controller: StepController, dense: bool) -> None:
        self.loop, self.step, self.controller, self.dense = loop, step, controller, dense
        self.settings = loop.settings
        self.events = loop.events
        self.block = BlockBuilder()
        #: Conditions that end the run, with the name of its status; later ones win.
        self.failures: list[tuple[Node, str]] = []
        self.cut: Node = FALSE
        self.landed: Node = FALSE

    def build(self) -> Block:
        """Return the block."""
        self._select_lanes()
        self._look_back()
        self._choose_length()
        self.step.attempt(self.block, self.h, self.t, self.active)
        self._judge()
        self._locate_events()
        self._adapt_length()
        self._advance_time()
        self._keep_step()
        if self.settings.summarised_numbers:
            self.loop.summarise(self.block, self.step, self.h, self.t, self.t_new, self.accept)
        self._move_state()
        return self._end()

    def _select_lanes(self) -> None:
        """Find the lanes that step; lanes that wait keep their state."""
        running = compare("==", counter(CODE), float(RUNNING))
        # A lane of its own, as on a GPU, calls the block only while it is running.
        self.active = self.block.let("active", logical_or(ALONE, running))
        if self.loop.batches_steps(self.step, self.controller):
            self._take_batch()
        self.t = self.block.let("t", clock(T))

    def _look_back(self) -> None:
        """Find the longest step that delays allow, and the next time that they make special."""
        past = self.settings.past
        if past is None:
            return
        past.open(self.block)
        if past.rhs.lags:
            self.longest_back = past.longest(self.block, self.t)
            past.find_next(self.block, self.t, self.active)

    def _keep_step(self) -> None:
        """Keep the step just tried for delays if it counts."""
        past, block = self.settings.past, self.block
        if past is None:
            return
        if self.step.dense_output is not None:
            self.step.densify(block, self.h, self.t, "state")
        terms = self.step.terms(block, self.h)
        rows = [[element(term, j) for term in terms] for j in past.delayed_states]
        past.keep(block, self.t, self.h, rows, self.accept)

    def _choose_length(self) -> None:
        """Choose the length of the step and the time that it must not pass."""
        block, step = self.block, self.step
        longest = load("settings", DT_MAX)
        self.end = clock(T_END)
        stops = self.end
        if self.settings.sampling and not self.dense:
            stops = minimum(self.end, clock(T_NEXT))
        for knot in self.loop.knots:
            stops = minimum(stops, knot)
        if self.events is not None:
            stops = minimum(stops, self.events.next_stop())
        self.stop = block.let("stop", stops)
        remaining = block.let("remaining", (self.stop - self.t) - clock(T_LOW))
        dt = block.let("dt", minimum(self.controller.proposal(), longest))
        if self.settings.landings:
            dt = block.let("dt", minimum(dt, landing.limit(self.t)))
        rounding = 4.0 * EPSILON[self.settings.precision] * fabs(self.t)
        self.smallest = block.let("smallest", maximum(load("settings", DT_MIN), rounding))
        if step.settings.chooses:
            length = step.propose(block, dt, self.t, self.smallest, self.controller.settings)
            dt = block.let("chosen_dt", minimum(length, longest))
        if self.settings.pulses:
            pulses = self.loop.pulsing
            dt = pulses.shorten(block, dt, self.t, remaining, self.smallest, self.active)
        past = self.settings.past
        if past is not None and past.rhs.lags:
            dt = block.let("dt_back", maximum(minimum(dt, self.longest_back), self.smallest))
            # A step must have a length, so a delay without one is read from the step itself.
            gone = logical_or(Past.ahead(), compare("<=", self.longest_back, self.smallest))
            block.assign([("past_ahead", 0)], [gone])
        # The last step may be a little longer than proposed, so that no sliver is left.
        self.last = block.let("last", compare("<=", remaining, 1.01 * dt))
        self.h = block.let("h", where(self.last, remaining, dt))
        self.dt = dt
        if past is not None:
            block.assign([("past_middle", 0)], [0.5 * self.h + self.t])

    def _judge(self) -> None:
        """Decide whether the step is good, and how the run ends if it cannot be repeated."""
        block, step = self.block, self.step
        unconverged = step.unconverged()
        unsolved = block.let("unsolved_step", any_of(unconverged)) if unconverged else FALSE
        if self.controller.adaptive:
            error = step.error(block, self.h, self.t)
            if unconverged:
                error = block.let("error", where(unsolved, const(_UNSOLVED), error))
            if self.settings.switching_functions:
                self._distrust(error)
                error = load("error", 0)
            unread = self._unread()
            if unread:
                step.distrust(block, error, any_of([truth for truth, _ in unread]))
                error = load("error", 0)
            self.error = error
            self.ok = block.let("ok", compare("<=", error, 1.0))
            # NaN and infinity anywhere in the step end in the error estimate.
            finite = compare("<", error, 1e38)
            stuck = logical_and(logical_not(self.ok), compare("<=", self.h, self.smallest))
            self.failures += [
                (logical_and(stuck, finite), "step_too_small"),
                (logical_and(stuck, logical_not(finite)), "non_finite"),
                (logical_and(stuck, unsolved), "solver_failed"),
                *((logical_and(stuck, truth), name) for truth, name in unread if name),
            ]
        else:
            finite = self._finite("proposed_state")
            self.ok = block.let("ok", logical_and(finite, logical_not(unsolved)))
            self.failures += [(logical_not(self.ok), "non_finite"), (unsolved, "solver_failed")]
            for truth, name in self._unread():
                if name:
                    self.ok = block.let("ok", logical_and(self.ok, logical_not(truth)))
                    self.failures.append((truth, name))
        accept = logical_and(self.ok, self.active)
        self.accept = block.let("accept", logical_and(accept, logical_not(self.landed)))

    def _distrust(self, error: Node) -> None:
        """Increase the error of a step that passed a switch on states unseen."""
        s, block = self.settings, self.block
        crossings = DoubleCrossings(
            s.switching_functions, s.windows, s.event_windows, block, self.step, s.states,
            self.h, self.t,
        )  # fmt: skip
        suspect = crossings.suspect(self.active)
        if s.landings:
            place = landing.Landing(block, self.step, s.states, self.h, self.t, self.smallest)
            self.landed = crossings.landing(place, s.landings, self.active, error)
        with block.when(suspect, rare=True):
            self.step.distrust(block, error, crossings.examine(suspect))

    def _unread(self) -> list[tuple[Node, str]]:
        """Return why the delayed values of the step are wrong, with the name of a status.

        A step without such a name is repeated: it went past a discontinuity.
        """
        past, block = self.settings.past, self.block
        if past is None or not past.rhs.lags:
            return []
        lost, ahead = block.let("step_lost", Past.lost()), block.let("step_ahead", Past.ahead())
        missed = past.missed(block, self.h, self.t)
        varying = [] if missed is FALSE else [(missed, "")]
        return [(lost, "history_overflow"), (ahead, "short_delay"), *varying]

    def _locate_events(self) -> None:
        """Look for events within the step; a step that passes one is cut."""
        if self.events is None:
            return
        block = self.block
        t_end = where(self.last, self.stop, (self.h + clock(T_LOW)) + self.t)
        t_end = block.let("t_end", t_end)
        ending = compare(">=", t_end, self.end)
        self.cut, lost = self.events.locate(
            block, self.step, self.h, self.t, t_end, self.last, self.accept, ending
        )
        self.failures.append((lost, "event_limit"))
        self.accept = block.let("accept", logical_and(self.accept, logical_not(self.cut)))

    def _adapt_length(self) -> None:
        """Choose the length of the next step."""
        block, step, controller = self.block, self.step, self.controller
        longest = load("settings", DT_MAX)
        if step.settings.chooses:
            controller.follow(block, step.expected(self.dt, self.h, controller.settings))
        elif controller.adaptive:
            cut = logical_or(self.cut, self.landed)
            copy = controller.backup(block) if cut is not FALSE else []
            last = self.last
            if self.settings.landings:
                last = block.let("shortened", logical_or(last, landing.is_limited(self.t)))
            controller.advance(block, self.error, self.ok, self.h, last, longest)
            if copy:
                # A step that is only cut says nothing about the step that is possible.
                cut = block.let("is_cut", cut) if self.settings.landings else cut
                with block.when(cut):
                    controller.restore(block, cut, copy)
            step.advance(block, self.error, self.ok, self.accept, self.h, self.last, longest)

    def _advance_time(self) -> None:
        """Move the clock of lanes whose step counts."""
        block, s = self.block, self.settings
        total, rounding = self._later(self.t, self.h)
        # Time stands still where a step is cut, and where a sample might be taken of one that
        # failed.
        waits = self.controller.adaptive or s.sampling or self.events is not None
        passing = self.accept if waits else self.active
        reached = block.let("reached", logical_and(passing, self.last))
        t_new, low = where(passing, total, self.t), where(passing, rounding, clock(T_LOW))
        if not self.loop.unwatched:
            t_new = where(reached, self.stop, t_new)
            low = where(reached, const(0.0), low)
        self.t_new = block.let("t_new", t_new)
        block.assign([("clock", T), ("clock", T_LOW)], [self.t_new, low])
        if self.dense:
            block.assign(
                [("clock", T_PREVIOUS), ("clock", H)],
                [
                    where(self.accept, self.t, clock(T_PREVIOUS)),
                    where(self.accept, self.h, clock(H)),
                ],
            )

    def _move_state(self) -> None:
        """Replace the state of accepted steps by the one at their end."""
        # Without step control a step that is not accepted ends the run, and its state is not used.
        chosen = self.controller.adaptive or self.events is not None
        moving = self.accept if chosen else self.active
        new, old = load("proposed_state", 0, 1), load("state", 0, 1)
        moves = [("state", 0, 1, where(moving, new, old))]
        if self.step.needs_derivative:
            new, rate = self.step.end_derivative, load("derivative", 0, 1)
            moves.append(("derivative", 0, 1, where(moving, new, rate)))
        if self.settings.sampling:
            before = load("previous_state", 0, 1)
            moves.append(("previous_state", 0, 1, where(moving, old, before)))
        self.block.sweep(self.settings.states, moves)

    def _refuse_summary(self, ended: Node) -> tuple[Node, tuple[Node, Node]]:
        """Return `ended` without runs whose observables failed, and these by reason."""
        lost, ahead = (logical_and(self.accept, one) for one in (Past.lost(), Past.ahead()))
        lost, ahead = self.block.let("sum_lost", lost), self.block.let("sum_ahead", ahead)
        good = logical_and(ended, logical_not(logical_or(lost, ahead)))
        return good, (lost, ahead)

    def _end(self) -> Block:
        """Count the attempt, write the status and return the finished block.

        Its mask is true for lanes that the batch loop has to look at.
        """
        block = self.block
        tried = block.let("tried", where(self.active, counter(TRIED) + 1.0, counter(TRIED)))
        block.assign([("counters", TRIED)], [tried])
        if self.loop.counts_accepted(self.controller):
            steps = where(self.accept, counter(STEPS) + 1.0, counter(STEPS))
            block.assign([("counters", STEPS)], [steps])
        code: Node = const(RUNNING)
        limit = block.let("limit", compare(">=", tried, load("settings", MAX_STEPS)))
        code = where(limit, const(STATUS["step_limit"]), code)
        for condition, name in self.failures:
            code = where(condition, const(STATUS[name]), code)
        ended = self.last if self.loop.unwatched else compare(">=", self.t_new, self.end)
        past = self.settings.past
        if past is not None and past.observables.lags and self.settings.summarised_numbers:
            ended, failed = self._refuse_summary(ended)
            code = where(failed[0], const(STATUS["history_overflow"]), code)
            code = where(failed[1], const(STATUS["short_delay"]), code)
        done = block.let("done", logical_and(self.accept, ended))
        code = where(done, const(STATUS["success"]), code)
        code = where(self.active, code, counter(CODE))
        block.assign([("counters", CODE)], [code])
        # The mask repeats the conditions, so that the code is not computed before the run ends.
        attention = any_of([limit, done, *(condition for condition, _ in self.failures)])
        if past is not None:
            attention = logical_or(attention, compare("!=", code, float(RUNNING)))
        if self.settings.sampling:
            attention = logical_or(attention, compare(">=", self.t_new, clock(T_NEXT)))
        if self.events is not None:
            attention = logical_or(attention, Events.pending())
        for knot in self.loop.knots:
            attention = logical_or(attention, compare(">=", self.t_new, knot))
        return block.build("attempt", ("settings",), mask=logical_and(self.active, attention))

    # parts ------------------------------------------------------------------------------------

    def _later(self, t: Node, h: Node) -> tuple[Node, Node]:
        """Return the time after `h`, and its rounding (compensated: Kahan, CACM 8, 1965)."""
        moved = self.block.let("moved", h + clock(T_LOW))
        total = self.block.let("total", t + moved)
        return total, moved - (total - t)

    def _finite(self, buffer: str) -> Node:
        """Return whether all states in a buffer are finite."""
        n, block = self.settings.states, self.block
        block.assign([("magnitude", 0)], [fabs(load(buffer, 0))])
        if n > 1:
            size = fabs(load(buffer, 1, 1)) + load("magnitude", 0)
            block.sweep(n - 1, [("magnitude", 0, 0, size)])
        largest = 1e308 if self.settings.precision == "float64" else 1e38
        return compare("<", load("magnitude", 0), largest)

    def _take_batch(self) -> None:
        """Take several steps of fixed size without asking after each whether the run is over.

        A run takes them if it has more than that many steps left. A batch that does not stay
        finite is undone, so that single steps find the last good one. Whether a run takes a batch
        depends on that run alone, so results do not depend on the lanes next to it.
        """
        block, step = self.block, self.step
        n, count = self.settings.states, step.batched_steps
        dt = block.let("leap_dt", minimum(self.controller.proposal(), load("settings", DT_MAX)))
        remaining = (clock(T_END) - clock(T)) - clock(T_LOW)
        far = compare(">", remaining, (count + 1.5) * dt)
        free = compare("<", counter(TRIED) + float(count), load("settings", MAX_STEPS))
        batching = block.let("leaping", logical_and(self.active, logical_and(far, free)))
        saved = [("clock", T), ("clock", T_LOW), ("counters", TRIED)]
        saved += [(name, i) for name in ("state", "derivative") for i in range(n)]
        with block.when(batching):
            before = [block.let(f"before_{i}", load(*element)) for i, element in enumerate(saved)]
            for _ in range(count):
                t = block.let("t", clock(T))
                step.attempt(block, dt, t, self.active)
                total, rounding = self._later(t, dt)
                block.assign([("clock", T), ("clock", T_LOW)], [total, rounding])
                moves = {"state": load("proposed_state", 0, 1), "derivative": step.end_derivative}
                block.sweep(n, moves)
            block.assign([("counters", TRIED)], [counter(TRIED) + float(count)])
            good = block.let("good", logical_and(batching, self._finite("state")))
            new = [load(*element) for element in saved]
            after = [where(good, *pair) for pair in zip(new, before, strict=True)]
            block.assign(saved, after)
