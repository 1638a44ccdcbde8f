"""Forward sensitivities: a system together with its variational equations."""

from __future__ import annotations

from functools import lru_cache

from attrs import evolve, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions.graph import ONE, ZERO, Node, directional, free_symbols, symbol
from cubie_flow.systems.events import Event
from cubie_flow.systems.quantities import Described, Observable, Quantity
from cubie_flow.systems.system import OdeSystem


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
    in the others (Hairer, Norsett and Wanner, Solving ODEs I, section I.14). Both are
    differentiated in the graph. They are states like others: integrated, saved and part of the
    error estimate, with the relative tolerance of y and its absolute one divided by the size of
    p, so that ``p*dy/dp`` is as accurate as y.

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
        If a name is no state or parameter, given twice, or makes a name that is taken, or an
        event happens at a time that depends on the run.
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
    augmented: list[Quantity] = []
    derivatives: list[Node] = []
    observables: list[Observable] = []
    for name in names:
        source = known[name]
        start = name in states
        own = initial_name(name) if start else name
        made = {item: sensitivity_name(item, own) for item in (*states, *_names(system))}
        for item in made.values():
            if item in taken:
                raise FlowError(
                    f"output.sensitivities={name} makes '{item}', but system '{system.name}' "
                    "has a quantity of that name; rename it"
                )
        inputs = list(variables)
        direction = [symbol(made[state]) for state in states]
        if not start:
            inputs.append(symbol(name))
            direction.append(ONE)
        scale = 1.0 / abs(source.value) if source.value else 1.0
        for state in system.states:
            augmented.append(
                Sensitivity(
                    name=made[state.name],
                    value=1.0 if state.name == name else 0.0,
                    unit=_ratio(state.unit, source.unit),
                    long_name=_label(state, source, start),
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
        events=tuple(_event(system, event, names) for event in system.events),
        states=(*system.states, *augmented),
        derivatives=(*system.derivatives, *derivatives),
        observables=(*system.observables, *observables),
        mass=system.mass * (1 + len(names)),
    )


def _event(system: OdeSystem, event: Event, names: tuple[str, ...]) -> Event:
    """Return an event that resets the sensitivities too.

    At a time that depends on nothing a reset ``y = g(y, p)`` makes ``s`` become
    ``(dg/dy) s + dg/dp``. Where the time depends on the state or a quantity, or where a parameter
    comes to depend on them, there is more to it, which is refused.
    """
    states = [state.name for state in system.states]
    where = f"output.sensitivities: event '{event.name}' of system '{system.name}'"
    if not event.resets:
        return event
    if event.times is None:
        raise FlowError(
            f"{where} sets values at a time that depends on the run; sensitivities go across "
            "scheduled events only"
        )
    t = event.times
    decides = set(free_symbols([t.start, t.every, t.count, t.lag, *t.listed]))
    added: list[tuple[str, Node]] = []
    for name in names:
        start = name in states
        own = initial_name(name) if start else name
        inputs = [symbol(state) for state in states]
        direction = [symbol(sensitivity_name(state, own)) for state in states]
        if not start:
            inputs.append(symbol(name))
            direction.append(ONE)
        if not start and name in decides:
            raise FlowError(f"{where} happens at a time that depends on '{name}'")
        for target, node in event.resets:
            (slope,) = directional([node], inputs, direction)
            if target in states:
                added.append((sensitivity_name(target, own), slope))
            elif target == name or slope is not ZERO:
                raise FlowError(
                    f"{where} sets the parameter '{target}', which then depends on '{name}'"
                )
    return evolve(event, resets=(*event.resets, *added))


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
