"""The equations of a model as functions that blocks call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import evolve

from cubie_flow.expressions.block import Function, operations
from cubie_flow.expressions.graph import Node, const, load, symbol
from cubie_flow.expressions.traversal import substitute, topological
from cubie_flow.integrators.drivers import polynomials, width
from cubie_flow.integrators.past import DelayFinder
from cubie_flow.integrators.switches import SwitchFinder
from cubie_flow.systems import OdeSystem
from cubie_flow.systems.events import Event

#: Number of operations above which the equations of a model become a separate function even if they
#: are few; measured in docs/lab-book.md.
HEAVY = 500


def finder(system: OdeSystem, varied: Sequence[str]) -> SwitchFinder:
    """Return the finder of switches in time; their slots in ``p`` follow those of the drivers."""
    drivers = range(len(varied), len(varied) + width(system.drivers))
    return SwitchFinder(drivers.stop, drivers)


def bind(system: OdeSystem, nodes: Sequence[Node], varied: Sequence[str]) -> list[Node]:
    """Return expressions that read states from ``u`` and varied parameters from ``p``.

    Other parameters become constants, and drivers become polynomials of time.

    Parameters
    ----------
    system : OdeSystem
    nodes : sequence of Node
        Expressions in symbols of the system.
    varied : sequence of str
        Names of the parameters in ``p``, in its order.
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


def right_hand_side(
    system: OdeSystem, varied: Sequence[str], switches: SwitchFinder, delays: DelayFinder
) -> Function:
    """Return the function ``du = f(t, u, p, d)``, divided by the mass where that is not 0.

    Parameters
    ----------
    system : OdeSystem
    varied : sequence of str
        See `bind`.
    switches : SwitchFinder
        Receives the switches in time, and replaces them by slots.
    delays : DelayFinder
        Receives the delayed values, and replaces them by elements of ``d``.
    """
    masses = system.mass or (1.0,) * len(system.states)
    nodes = [
        node / mass if mass not in (0.0, 1.0) else node
        for node, mass in zip(system.derivatives, masses, strict=True)
    ]
    bound = delays.replace(bind(system, nodes, varied))
    return _function("rhs", "du", switches.replace(bound))


def mass_pattern(system: OdeSystem) -> tuple[int, ...]:
    """Return 1 for a differential and 0 for an algebraic equation; empty if none is algebraic."""
    return tuple(int(mass != 0.0) for mass in system.mass) if 0.0 in system.mass else ()


def observables(
    system: OdeSystem,
    varied: Sequence[str],
    names: Sequence[str],
    switches: SwitchFinder,
    delays: DelayFinder,
) -> Function:
    """Return the function of ``(t, u, p, d)`` that writes the observables `names`.

    Parameters
    ----------
    system : OdeSystem
    varied : sequence of str
        See `bind`.
    names : sequence of str
        Observables, in the order of the outputs ``g``.
    switches : SwitchFinder
    delays : DelayFinder
        See `right_hand_side`.
    """
    known = {item.name: item.expression for item in system.observables}
    bound = delays.replace(bind(system, [known[name] for name in names], varied))
    nodes = switches.replace(bound)
    return _function("observables", "g", nodes)


def histories(system: OdeSystem, varied: Sequence[str]) -> tuple[tuple[int, Node], ...]:
    """Return the histories by the numbers of their states; ``u`` stands for start values."""
    numbers = {state.name: i for i, state in enumerate(system.states)}
    nodes = bind(system, [node for _, node in system.history], varied)
    pairs = zip(system.history, nodes, strict=True)
    return tuple((numbers[name], node) for (name, _), node in pairs)


def starts(system: OdeSystem, varied: Sequence[str], computed: Mapping[str, Node]) -> Function:
    """Return the function that computes start values of a run in ``u`` and ``p``.

    It reads the other values of ``u`` and ``p``, and the drivers at the time ``t``.

    Parameters
    ----------
    system : OdeSystem
    varied : sequence of str
        See `bind`.
    computed : mapping
        Expressions of the start values by name.
    """
    elements = {state.name: ("u", i) for i, state in enumerate(system.states)}
    elements |= {name: ("p", i) for i, name in enumerate(varied)}
    wanted = {name: node for name, node in computed.items() if name in elements}
    nodes = bind(system, list(wanted.values()), varied)
    outputs = tuple(elements[name] for name in wanted)
    apart = operations(nodes) > HEAVY
    return Function("starts", ("u", "p"), ("t",), outputs, tuple(nodes), apart)


def bound_events(
    system: OdeSystem, varied: Sequence[str], switches: SwitchFinder
) -> tuple[Event, ...]:
    """Return events that read ``u`` and ``p``, with slots for their switches in time.

    The parameters are those of `right_hand_side`.
    """
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
        # The root may be discontinuous, so that its slot decides the side, not its slope.
        return evolve(event, condition=switches.replace([event.truth])[0], root=None)
    return evolve(event, root=switches.replace([event.root])[0])


def event_targets(system: OdeSystem, varied: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return the element of ``u`` or ``p`` of every quantity that events set, by name."""
    names = {name for event in system.events for name, _ in event.resets}
    elements = {state.name: ("u", i) for i, state in enumerate(system.states)}
    elements |= {name: ("p", i) for i, name in enumerate(varied)}
    return {name: element for name, element in elements.items() if name in names}


def _function(name: str, output: str, nodes: Sequence[Node]) -> Function:
    outputs = tuple((output, i) for i in range(len(nodes)))
    inputs = ("u", "p", "d") if any(one.op == "past" for one in topological(nodes)) else ("u", "p")
    return Function(name, inputs, ("t",), outputs, tuple(nodes), operations(nodes) > HEAVY)
