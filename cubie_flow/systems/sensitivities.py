"""Forward sensitivities: a system together with its variational equations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NoReturn

from attrs import evolve, frozen

from cubie_flow.errors import FlowError, nearest
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
from cubie_flow.systems.events import Event, Times, margin
from cubie_flow.systems.quantities import Described, Observable, Quantity
from cubie_flow.systems.starts import start_levels
from cubie_flow.systems.switch_jumps import SwitchJumps
from cubie_flow.systems.system import OdeSystem

#: Stands for a condition that is never near changing; as large as float32 can hold.
_FAR = 1e30


@frozen
class Sensitivity(Quantity):
    """A state that is the derivative of another one.

    Parameters
    ----------
    of : str
        The other state. Its relative tolerance holds here too.
    scale : float
        What the other state's absolute tolerance is multiplied by here.
    """

    of: str = ""
    scale: float = 1.0


def initial_name(state: str) -> str:
    """Return the name of a state's initial value."""
    return f"{state}_initial"


def sensitivity_name(quantity: str, source: str) -> str:
    """Return the name of ``d quantity / d source``."""
    return f"d{quantity}_d{source}"


@lru_cache(maxsize=8)
def with_sensitivities(system: OdeSystem, names: tuple[str, ...]) -> OdeSystem:
    """Return a system that also integrates how its states depend on chosen quantities.

    For a parameter p the sensitivities ``s = dy/dp`` obey ``M ds/dt = (df/dy) s + df/dp`` from
    ``s = 0``; for an initial value they obey ``M ds/dt = (df/dy) s`` from 1 in that state and 0
    in the others (Hairer, Norsett and Wanner, Solving ODEs I, section I.14). Start values that
    are expressions add their derivatives: ``s`` begins with that of the initial value, and a
    parameter q computed from p adds ``(df/dq) (dq/dp)``. What is differentiated by is free
    itself, whatever it is computed from. All is differentiated in the graph. Sensitivities are
    states like others: integrated, saved and part of the error estimate, with the relative
    tolerance of y and its absolute one divided by the size of p, so that ``p*dy/dp`` is as
    accurate as y.

    Parameters
    ----------
    system : OdeSystem
    names : tuple of str
        Parameters, and states for their initial values.

    Returns
    -------
    OdeSystem
        With a state ``d<state>_d<parameter>`` or ``d<state>_d<state>_initial`` for each pair,
        and an observable named likewise for every observable.

    Raises
    ------
    FlowError
        If a name is no state or parameter, given twice, or makes a name that is taken, or what
        an event does to a sensitivity is not known.
    """
    if not names:
        return system
    states = {state.name: state for state in system.states}
    known = {**states, **{one.name: one for one in system.parameters}}
    for name in names:
        if name not in known:
            raise FlowError(
                f"output.sensitivities names '{name}', which is no parameter or state of system "
                f"'{system.name}'{nearest(name, known)}"
            )
        if names.count(name) > 1:
            raise FlowError(f"output.sensitivities names '{name}' twice")
    taken = {*known, *(item.name for item in system.observables)}
    variables = [symbol(name) for name in states]
    ways = {name: _Ways(system, name) for name in names}
    augmented: list[Quantity] = []
    parameters: list[Quantity] = []
    derivatives: list[Node] = []
    observables: list[Observable] = []
    for name in names:
        source = known[name]
        start = name in states
        way = ways[name]
        made = {item: way.made(item) for item in (*states, *_names(system))}
        for item in (*made.values(), *(one.name for one in way.parameters)):
            if item in taken:
                raise FlowError(
                    f"output.sensitivities={name} makes '{item}', but system '{system.name}' "
                    "has a quantity of that name; rename it"
                )
        inputs = [*variables, *map(symbol, way.directions)]
        direction = [*(symbol(made[state]) for state in states), *way.directions.values()]
        parameters += way.parameters
        scale = 1.0 / abs(source.value) if source.value else 1.0
        for state in system.states:
            slope = way.slopes.get(state.name, ZERO)
            augmented.append(
                Sensitivity(
                    name=made[state.name],
                    value=float(slope.value) if slope.op == "const" else math.nan,
                    unit=_ratio(state.unit, source.unit),
                    long_name=_label(state, source, start),
                    start=None if slope.op == "const" else slope,
                    of=state.name,
                    scale=scale,
                )
            )
        derivatives += directional(system.derivatives, inputs, direction)
        expressions = [item.expression for item in system.observables]
        slopes = directional(expressions, inputs, direction)
        for observable, node in zip(system.observables, slopes, strict=True):
            unit, label = _ratio(observable.unit, source.unit), _label(observable, source, start)
            observables.append(Observable(made[observable.name], node, unit, label))
    return evolve(
        system,
        events=_Jumps(system, ways).events(),
        parameters=(*system.parameters, *parameters),
        states=(*system.states, *augmented),
        derivatives=(*system.derivatives, *derivatives),
        observables=(*system.observables, *observables),
        mass=system.mass * (1 + len(names)),
    )


class _Ways:
    """How start values and parameters depend on what is differentiated by.

    Parameters
    ----------
    system : OdeSystem
    name : str
        A parameter, or a state for its initial value.

    Attributes
    ----------
    slopes : dict
        Derivatives of start values by name, those that are not 0, as they are at the start.
    directions : dict
        Derivatives of parameters in the course of a run.
    parameters : list of Quantity
        The directions that are not the same number all the time.
    """

    def __init__(self, system: OdeSystem, name: str) -> None:
        states = {state.name: state for state in system.states}
        quantities = {**states, **{one.name: one for one in system.parameters}}
        self.own = initial_name(name) if name in states else name
        self.slopes = {name: ONE}
        others = [item for item in quantities.values() if item.name != name]
        for level in start_levels(others, f"system {system.name}"):
            nodes = directional(
                [item.start for item in level if item.start is not None],
                [symbol(one) for one in self.slopes],
                list(self.slopes.values()),
            )
            pairs = zip(level, nodes, strict=True)
            self.slopes |= {item.name: node for item, node in pairs if node is not ZERO}
        directions = {item: node for item, node in self.slopes.items() if item not in states}
        self.directions: dict[str, Node] = {}
        self.parameters: list[Quantity] = []
        computed = directions.keys() - {name}
        used = set(free_symbols(system.expressions)) if computed else set()
        reset = {target for event in system.events for target, _ in event.resets}
        for item, slope in directions.items():
            constant = slope.op == "const"
            if item in computed and item not in used:
                continue
            self.directions[item] = slope
            if item not in computed or (constant and item not in reset):
                continue
            # The names of states mean their initial values in it, and events may set it.
            one, source = quantities[item], quantities[name]
            added = Quantity(
                self.made(item),
                float(slope.value) if constant else math.nan,
                _ratio(one.unit, source.unit),
                _label(one, source, name in states),
                None if constant else slope,
            )
            self.parameters.append(added)
            self.directions[item] = symbol(added.name)

    def made(self, quantity: str) -> str:
        """Return the name of the derivative of a quantity."""
        return sensitivity_name(quantity, self.own)


class _Jumps:
    """What the events of a system do to the sensitivities of its states.

    An event at the time tau(p) at which ``r(t, y, p)`` goes through zero, with the reset
    ``y+ = g(t, y-, p)``, makes ``s = dy/dp`` at a fixed time jump to::

        s+ = g_y s- + g_p + (g_y f- + g_t - f+) dtau/dp
        dtau/dp = -(r_y s- + r_p) / (r_y f- + r_t)

    with the derivative f just before and after it (E. N. Rozenvasser, General sensitivity
    equations of discontinuous systems, Automation and Remote Control 28 (1967) 400-404;
    I. A. Hiskens and M. A. Pai, Trajectory sensitivity analysis of hybrid systems, IEEE
    Transactions on Circuits and Systems I 47 (2000) 204-220). Where the root only touches zero,
    no derivative exists and the quotient is not finite.

    Parameters
    ----------
    system : OdeSystem
    ways : mapping
        How everything depends on what is differentiated by, by the name of that.
    """

    def __init__(self, system: OdeSystem, ways: Mapping[str, _Ways]) -> None:
        self.system = system
        self.ways = ways
        self.states = [state.name for state in system.states]
        masses = system.mass or (1.0,) * len(self.states)
        self.algebraic = 0.0 in masses
        self.flow = [
            node / mass if mass else ZERO
            for node, mass in zip(system.derivatives, masses, strict=True)
        ]
        self.moving = {*self.states, "t", *(driver.name for driver in system.drivers)}

    def events(self) -> tuple[Event, ...]:
        """Return the events, resetting the sensitivities too.

        Raises
        ------
        FlowError
            For the first event whose effect has no derivative, or one that is not known here.
        """
        return (*map(self._event, self.system.events), *self._switches())

    def _switches(self) -> tuple[Event, ...]:
        """Return the events at which equations change form.

        Raises
        ------
        FlowError
            If they move the sensitivities of what is not known.
        """
        named = (*self.system.states, *self.system.parameters)
        found = SwitchJumps(
            self.flow,
            self.states,
            tuple(self.ways),
            lambda state, name: self.ways[name].made(state),
            self._slopes,
            {one.name: one.value for one in named},
        ).events()
        drivers = {driver.name for driver in self.system.drivers}
        for event in found:
            assert event.root is not None
            driven = drivers & set(free_symbols([event.root]))
            if driven or self.algebraic:
                why = f"the driver '{min(driven)}'" if driven else "algebraic equations"
                raise FlowError(
                    f"output.sensitivities: the equations of system '{self.system.name}' change "
                    f"form where {event.root} is 0; sensitivities do not go across such a switch "
                    f"with {why}"
                )
        return found

    def _refuse(self, event: Event, reason: str) -> NoReturn:
        raise FlowError(
            f"output.sensitivities: event '{event.name}' of system '{self.system.name}' {reason}"
        )

    def _event(self, event: Event) -> Event:
        if not event.resets:
            return event
        set_to = [dict(event.resets).get(name, symbol(name)) for name in self.states]
        moments = {name: self._moment(event, name) for name in self.ways}
        added: list[tuple[str, Node]] = []
        moves = [ZERO] * len(self.states)
        if event.times is None:
            self._check_alone(event)
        if any(moment is not ZERO for moment in moments.values()):
            event = self._checked(event)
            after = {symbol(name): node for name, node in event.resets}
            pairs = zip(self._along(set_to), substitute(self.flow, after), strict=True)
            moves = [before - new for before, new in pairs]
        for name, way in self.ways.items():
            slopes = self._slopes(set_to, name)
            for i, state in enumerate(self.states):
                slopes[i] = slopes[i] + moves[i] * moments[name]
                own = symbol(way.made(state))
                if slopes[i] is not own:
                    added.append((str(own.value), slopes[i]))
            added += self._set_parameters(event, name, moments[name])
        return evolve(event, resets=(*event.resets, *added))

    def _slopes(self, nodes: Sequence[Node], name: str) -> list[Node]:
        """Return the derivatives of nodes at a fixed time by what is differentiated by."""
        way = self.ways[name]
        inputs = [*map(symbol, self.states), *map(symbol, way.directions)]
        direction = [symbol(way.made(state)) for state in self.states]
        return directional(nodes, inputs, [*direction, *way.directions.values()])

    def _along(self, nodes: Sequence[Node]) -> list[Node]:
        """Return the time derivatives of nodes along a solution."""
        inputs = [*(symbol(state) for state in self.states), symbol("t")]
        return directional(nodes, inputs, [*self.flow, ONE])

    def _set_parameters(self, event: Event, name: str, moment: Node) -> list[tuple[str, Node]]:
        """Return what happens to the derivatives of parameters that an event sets.

        One that depended on nothing must not depend on what is differentiated by afterwards.
        """
        way = self.ways[name]
        followed = {one.name for one in way.parameters}
        found = []
        for target, node in event.resets:
            if target in self.states:
                continue
            slope = self._slopes([node], name)[0]
            if moment is not ZERO:
                slope = slope + self._along([node])[0] * moment
            if target != name and way.made(target) in followed:
                found.append((way.made(target), slope))
            elif target == name or slope is not ZERO:
                self._refuse(
                    event,
                    f"sets the parameter '{target}', which then depends on '{name}'; make it a "
                    "state with the equation 0",
                )
        return found

    # when -----------------------------------------------------------------------------------

    def _moment(self, event: Event, name: str) -> Node:
        """Return the derivative of an event's time by what is differentiated by."""
        if event.times is not None:
            return self._scheduled(event.times, name)
        crossing = event.root
        if crossing is None:
            assert event.condition is not None
            crossing = self._crossing(event, event.condition)
        gained, along = self._slopes([crossing], name)[0], self._along([crossing])[0]
        return ZERO if gained is ZERO else -(gained / along)

    def _scheduled(self, times: Times, name: str) -> Node:
        """Return the derivative of the time of a schedule that is now."""
        t = symbol("t")
        given = (times.lag, times.start, times.every, *times.listed)
        lag, start, every, *slopes = self._slopes(given, name)
        if not times.listed:
            found = start + lag
            if every is not ZERO:
                found = found + every * floor((t - times.lag - times.start) / times.every + 0.5)
            return found
        found = slopes[0]
        for earlier, time, slope in zip(times.listed, times.listed[1:], slopes[1:], strict=False):
            between = 0.5 * (earlier + time) + times.lag
            found = where(compare(">", t, between), slope, found)
        return found + lag

    def _crossing(self, event: Event, truth: Node) -> Node:
        """Return what goes through zero when a condition changes."""
        if not self.moving & set(free_symbols([truth])):
            return where(truth, _FAR, -_FAR)  # nothing on the way changes it
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
        """Refuse an event that may happen because of another one, so at the time of that one."""
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
        """Return an event whose time depends on what is differentiated by, if that is known."""
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


def _names(system: OdeSystem) -> tuple[str, ...]:
    return tuple(item.name for item in system.observables)


def _label(item: Described, source: Described, start: bool) -> str:
    of = source.long_name or source.name
    return f"derivative of {item.long_name or item.name} with respect to " + (
        f"the initial value of {of}" if start else of
    )


def _ratio(upper: str, lower: str) -> str:
    """Return the unit of a derivative, empty if one of the units is not known."""
    if not upper or not lower:
        return ""
    if upper == lower:
        return "1"
    if lower == "1":
        return upper
    return f"{upper}/{lower if lower.isalpha() else f'({lower})'}"
