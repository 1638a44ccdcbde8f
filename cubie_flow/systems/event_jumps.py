"""Jumps of sensitivities at the events of a system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from attrs import evolve

from cubie_flow.errors import FlowError
from cubie_flow.expressions.derivatives import directional
from cubie_flow.expressions.graph import (
    ONE,
    ZERO,
    Node,
    compare,
    floor,
    maximum,
    minimum,
    symbol,
    where,
)
from cubie_flow.expressions.traversal import free_symbols, substitute
from cubie_flow.systems.dependence import Dependence
from cubie_flow.systems.events import Event, Times, margin
from cubie_flow.systems.switch_jumps import SwitchJumps
from cubie_flow.systems.system import OdeSystem

#: Margin of a condition that never changes; float32 can hold it.
_FAR = 1e30


class EventJumps:
    """The events of a system, with the jumps of sensitivities at them.

    Consider an event at the time tau(p) at which ``r(t, y, p)`` goes through zero, with the reset
    ``y+ = g(t, y-, p)``. At a fixed time, ``s = dy/dp`` jumps to::

        s+ = g_y s- + g_p + (g_y f- + g_t - f+) dtau/dp
        dtau/dp = -(r_y s- + r_p) / (r_y f- + r_t)

    with the derivatives f- and f+ just before and after it (E. N. Rozenvasser, General sensitivity
    equations of discontinuous systems, Automation and Remote Control 28 (1967) 400-404;
    I. A. Hiskens and M. A. Pai, Trajectory sensitivity analysis of hybrid systems, IEEE
    Transactions on Circuits and Systems I 47 (2000) 204-220). Where the root only touches zero,
    no derivative exists and the quotient is not finite.

    Parameters
    ----------
    system : OdeSystem
    dependences : mapping
        Dependence of the system on every quantity of the sensitivities, by its name.
    """

    def __init__(self, system: OdeSystem, dependences: Mapping[str, Dependence]) -> None:
        self.system = system
        self.dependences = dependences
        self.states = [state.name for state in system.states]
        masses = system.mass or (1.0,) * len(self.states)
        self.algebraic = 0.0 in masses
        self.flow = [
            node / mass if mass else ZERO
            for node, mass in zip(system.derivatives, masses, strict=True)
        ]
        self.moving = {*self.states, "t", *(driver.name for driver in system.drivers)}

    def events(self) -> tuple[Event, ...]:
        """Return the events, which also reset the sensitivities.

        Raises
        ------
        FlowError
            For the first event whose effect has no derivative, or an unknown one.
        """
        return (*map(self._event, self.system.events), *self._switches())

    def _switches(self) -> tuple[Event, ...]:
        """Return the events at which equations change form.

        Raises
        ------
        FlowError
            If the jump of the sensitivities there is not known.
        """
        named = (*self.system.states, *self.system.parameters)
        events = SwitchJumps(
            self.flow,
            self.states,
            tuple(self.dependences),
            lambda state, name: self.dependences[name].derivative_name(state),
            self._slopes,
            {one.name: one.value for one in named},
        ).events()
        drivers = {driver.name for driver in self.system.drivers}
        for event in events:
            assert event.root is not None
            used = drivers & set(free_symbols([event.root]))
            if used or self.algebraic:
                why = f"the driver '{min(used)}'" if used else "algebraic equations"
                raise FlowError(
                    f"output.sensitivities: the equations of system '{self.system.name}' change "
                    f"form where {event.root} is 0; sensitivities do not go across such a switch "
                    f"with {why}"
                )
        return events

    def _refuse(self, event: Event, reason: str) -> NoReturn:
        raise FlowError(
            f"output.sensitivities: event '{event.name}' of system '{self.system.name}' {reason}"
        )

    def _event(self, event: Event) -> Event:
        if not event.resets:
            return event
        if event.delay is not None:
            self._refuse(event, "has a delay, which sensitivities do not go across")
        set_to = [dict(event.resets).get(name, symbol(name)) for name in self.states]
        moments = {name: self._moment(event, name) for name in self.dependences}
        added: list[tuple[str, Node]] = []
        moves = [ZERO] * len(self.states)
        if event.times is None:
            self._check_alone(event)
        if any(moment is not ZERO for moment in moments.values()):
            event = self._checked(event)
            after = {symbol(name): node for name, node in event.resets}
            pairs = zip(self._along(set_to), substitute(self.flow, after), strict=True)
            moves = [before - new for before, new in pairs]
        for name, dependence in self.dependences.items():
            slopes = self._slopes(set_to, name)
            for i, state in enumerate(self.states):
                slopes[i] = slopes[i] + moves[i] * moments[name]
                own = symbol(dependence.derivative_name(state))
                if slopes[i] is not own:
                    added.append((str(own.value), slopes[i]))
            added += self._set_parameters(event, name, moments[name])
        return evolve(event, resets=(*event.resets, *added))

    def _slopes(self, nodes: Sequence[Node], name: str) -> list[Node]:
        """Return the derivatives of nodes at a fixed time with respect to the quantity `name`."""
        dependence = self.dependences[name]
        inputs = [*map(symbol, self.states), *map(symbol, dependence.directions)]
        direction = [symbol(dependence.derivative_name(state)) for state in self.states]
        return directional(nodes, inputs, [*direction, *dependence.directions.values()])

    def _along(self, nodes: Sequence[Node]) -> list[Node]:
        """Return the time derivatives of nodes along a solution."""
        inputs = [*(symbol(state) for state in self.states), symbol("t")]
        return directional(nodes, inputs, [*self.flow, ONE])

    def _set_parameters(self, event: Event, name: str, moment: Node) -> list[tuple[str, Node]]:
        """Return new derivatives of the parameters that an event sets.

        A parameter that did not depend on the quantity `name` must not depend on it afterwards.
        """
        dependence = self.dependences[name]
        followed = {one.name for one in dependence.parameters}
        derivatives = []
        for target, node in event.resets:
            if target in self.states:
                continue
            slope = self._slopes([node], name)[0]
            if moment is not ZERO:
                slope = slope + self._along([node])[0] * moment
            if target != name and dependence.derivative_name(target) in followed:
                derivatives.append((dependence.derivative_name(target), slope))
            elif target == name or slope is not ZERO:
                self._refuse(
                    event,
                    f"sets the parameter '{target}', which then depends on '{name}'; make it a "
                    "state with the equation 0",
                )
        return derivatives

    # when -----------------------------------------------------------------------------------

    def _moment(self, event: Event, name: str) -> Node:
        """Return the derivative of an event's time with respect to the quantity `name`."""
        if event.times is not None:
            return self._scheduled(event.times, name)
        crossing = event.root
        if crossing is None:
            assert event.condition is not None
            crossing = self._crossing(event, event.condition)
        gained, along = self._slopes([crossing], name)[0], self._along([crossing])[0]
        return ZERO if gained is ZERO else -(gained / along)

    def _scheduled(self, times: Times, name: str) -> Node:
        """Return the derivative of the time of a schedule that is the current time."""
        t = symbol("t")
        given = (times.lag, times.start, times.every, *times.listed)
        lag, start, every, *slopes = self._slopes(given, name)
        if not times.listed:
            time = start + lag
            if every is not ZERO:
                time = time + every * floor((t - times.lag - times.start) / times.every + 0.5)
            return time
        derivative = slopes[0]
        for earlier, time, slope in zip(times.listed, times.listed[1:], slopes[1:], strict=False):
            between = 0.5 * (earlier + time) + times.lag
            derivative = where(compare(">", t, between), slope, derivative)
        return derivative + lag

    def _crossing(self, event: Event, truth: Node) -> Node:
        """Return an expression that goes through zero when a condition changes."""
        if not self.moving & set(free_symbols([truth])):
            return where(truth, _FAR, -_FAR)  # constant during a run
        match truth.op:
            case "and":
                return minimum(*(self._crossing(event, arg) for arg in truth.args))
            case "or":
                return maximum(*(self._crossing(event, arg) for arg in truth.args))
            case "not":
                return -self._crossing(event, truth.args[0])
            case "compare" if truth.value not in ("==", "!="):
                return margin(truth)
        self._refuse(event, "has a condition without a crossing; write it with <, <=, > and >=")

    def _check_alone(self, event: Event) -> None:
        """Refuse an event that another event may cause, at the time of that event."""
        decides = set(free_symbols([event.truth]))
        for other in self.system.events:
            for target, _ in other.resets if other is not event else ():
                if target in decides:
                    self._refuse(
                        event,
                        f"depends on '{target}', which '{other.name}' sets; sensitivities do not "
                        "go across events that may happen because of others",
                    )

    def _checked(self, event: Event) -> Event:
        """Return an event whose time depends on the quantities; refuse one with an unknown jump."""
        beyond = "at a time that depends on the run, which sensitivities do not go across"
        if self.algebraic:
            self._refuse(event, f"sets values of a system with algebraic equations {beyond}")
        if event.initially is False:
            self._refuse(event, f"may happen at the start (initially: false) or {beyond}")
        used = set(free_symbols(event.nodes))
        for driver in self.system.drivers:
            if driver.name in used:
                self._refuse(event, f"uses the driver '{driver.name}' {beyond}")
        if event.early:
            gives = set(free_symbols([node for _, node in event.resets]))
            for other in self.system.events:
                if other is not event and any(target in gives for target, _ in other.resets):
                    self._refuse(event, f"uses values from before '{other.name}' {beyond}")
        return evolve(event, early=False)
