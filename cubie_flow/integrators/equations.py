"""A model's equations as the functions that blocks call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import evolve

from cubie_flow.expressions.block import Function, operations
from cubie_flow.expressions.graph import Node, const, load, symbol
from cubie_flow.expressions.traversal import substitute
from cubie_flow.integrators.drivers import polynomials, width
from cubie_flow.integrators.switches import SwitchFinder
from cubie_flow.systems import OdeSystem
from cubie_flow.systems.events import Event

#: Operations above which a model's equations are a function of their own even if they are few
#: equations; measured in docs/performance.md.
HEAVY = 500


def finder(system: OdeSystem, varied: Sequence[str]) -> SwitchFinder:
    """Return what finds switches in time; their slots in ``p`` follow those of the drivers."""
    drivers = range(len(varied), len(varied) + width(system.drivers))
    return SwitchFinder(drivers.stop, drivers)


def bind(system: OdeSystem, nodes: Sequence[Node], varied: Sequence[str]) -> list[Node]:
    """Return `nodes` reading states from ``u`` and varied parameters from ``p``.

    Parameters that no run varies are folded in as literals; drivers are polynomials of time.
    """
    mapping: dict[Node, Node] = {}
    for i, state in enumerate(system.states):
        mapping[symbol(state.name)] = load("u", i)
    for parameter in system.parameters:
        mapping[symbol(parameter.name)] = (
            load("p", varied.index(parameter.name))
            if parameter.name in varied
            else const(parameter.value)
        )
    for name, value in polynomials(system.drivers, len(varied), symbol("t")).items():
        mapping[symbol(name)] = value
    return substitute(nodes, mapping)


def right_hand_side(system: OdeSystem, varied: Sequence[str], switches: SwitchFinder) -> Function:
    """Return ``du = f(t, u, p)``, divided by the mass where that is not 0."""
    masses = system.mass or (1.0,) * len(system.states)
    nodes = [
        node / mass if mass not in (0.0, 1.0) else node
        for node, mass in zip(system.derivatives, masses, strict=True)
    ]
    return _function("rhs", "du", switches.replace(bind(system, nodes, varied)))


def mass_pattern(system: OdeSystem) -> tuple[int, ...]:
    """Return 1 for a differential and 0 for an algebraic equation; nothing if none is."""
    return tuple(int(mass != 0.0) for mass in system.mass) if 0.0 in system.mass else ()


def observables(
    system: OdeSystem, varied: Sequence[str], names: Sequence[str], switches: SwitchFinder
) -> Function:
    """Return the observables `names` of ``(t, u, p)``."""
    known = {item.name: item.expression for item in system.observables}
    nodes = switches.replace(bind(system, [known[name] for name in names], varied))
    return _function("observables", "g", nodes)


def starts(system: OdeSystem, varied: Sequence[str], computed: Mapping[str, Node]) -> Function:
    """Return what a run computes when it starts, as a function that writes ``u`` and ``p``.

    It reads what is given of them: varied values, and the drivers at the time ``t``.
    """
    places = {state.name: ("u", i) for i, state in enumerate(system.states)}
    places |= {name: ("p", i) for i, name in enumerate(varied)}
    wanted = {name: node for name, node in computed.items() if name in places}
    nodes = bind(system, list(wanted.values()), varied)
    outputs = tuple(places[name] for name in wanted)
    apart = operations(nodes) > HEAVY
    return Function("starts", ("u", "p"), ("t",), outputs, tuple(nodes), apart)


def bound_events(
    system: OdeSystem, varied: Sequence[str], switches: SwitchFinder
) -> tuple[Event, ...]:
    """Return the events reading ``u`` and ``p``, with slots for the switches that decide them."""
    return tuple(_bound_event(system, event, varied, switches) for event in system.events)


def _bound_event(
    system: OdeSystem, event: Event, varied: Sequence[str], switches: SwitchFinder
) -> Event:
    event = event.replaced(lambda nodes: bind(system, nodes, varied))
    if event.condition is not None:
        return evolve(event, condition=switches.replace([event.condition])[0])
    if event.root is None:
        return event
    if switches.is_timed(event.root):
        # A slot tells the side; the slope of a root that may jump does not.
        return evolve(event, condition=switches.replace([event.truth])[0], root=None)
    return evolve(event, root=switches.replace([event.root])[0])


def event_targets(system: OdeSystem, varied: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return where what events set is: its element of ``u`` or ``p``."""
    names = {name for event in system.events for name, _ in event.resets}
    found = {state.name: ("u", i) for i, state in enumerate(system.states)}
    found |= {name: ("p", i) for i, name in enumerate(varied)}
    return {name: place for name, place in found.items() if name in names}


def _function(name: str, output: str, nodes: Sequence[Node]) -> Function:
    outputs = tuple((output, i) for i in range(len(nodes)))
    return Function(name, ("u", "p"), ("t",), outputs, tuple(nodes), operations(nodes) > HEAVY)
