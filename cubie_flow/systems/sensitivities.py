"""Forward sensitivities: a system together with its variational equations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from attrs import evolve, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions.derivatives import directional
from cubie_flow.expressions.graph import ZERO, Node, symbol
from cubie_flow.systems.dependence import Dependence, derivative_label, ratio_unit
from cubie_flow.systems.event_jumps import EventJumps
from cubie_flow.systems.quantities import Observable, Quantity
from cubie_flow.systems.system import OdeSystem


@frozen
class Sensitivity(Quantity):
    """A state that is the derivative of another state.

    Parameters
    ----------
    of : str
        The other state, whose relative tolerance also holds for this one.
    scale : float
        Factor on the absolute tolerance of the other state.
    """

    of: str = ""
    scale: float = 1.0


@lru_cache(maxsize=8)
def with_sensitivities(system: OdeSystem, names: tuple[str, ...]) -> OdeSystem:
    """Return a system that also integrates the sensitivities of its states to some quantities.

    For a parameter p the sensitivities ``s = dy/dp`` obey ``M ds/dt = (df/dy) s + df/dp`` from
    ``s = 0``. For an initial value they obey ``M ds/dt = (df/dy) s``, from 1 in that state and 0
    in the others (Hairer, Norsett and Wanner, Solving ODEs I, section I.14). Start values that
    are expressions add their derivatives: ``s`` begins with the derivative of the initial value,
    and a parameter q computed from p adds ``(df/dq) (dq/dp)``. The quantity p itself is free,
    even if an expression gives its value. All derivatives are exact.

    Sensitivities are states like others: integrated, saved and part of the error estimate. Their
    relative tolerance is that of y, and their absolute tolerance is that of y divided by the size
    of p, so that ``p*dy/dp`` is as accurate as y.

    Parameters
    ----------
    system : OdeSystem
    names : tuple of str
        Parameters, and states for their initial values.

    Returns
    -------
    OdeSystem
        With a state ``d<state>_d<parameter>`` or ``d<state>_d<state>_initial`` for each pair,
        and such an observable for every observable.

    Raises
    ------
    FlowError
        If a name is not a state or parameter, or is given twice, if the name of a sensitivity is
        taken, or if the jump of a sensitivity at an event is not known.
    """
    if not names:
        return system
    _check_names(system, names)
    if system.delayed:
        raise FlowError(
            f"output.sensitivities names '{names[0]}', but the equations of '{system.name}' have "
            f"delays (of '{min(system.delayed)}'), whose sensitivities are not computed; vary the "
            "quantity in a batch and take differences"
        )
    sensitivities = [_Sensitivities(system, name) for name in names]
    return evolve(
        system,
        events=EventJumps(system, {one.name: one.dependence for one in sensitivities}).events(),
        parameters=(
            *system.parameters,
            *(item for one in sensitivities for item in one.dependence.parameters),
        ),
        states=(*system.states, *(item for one in sensitivities for item in one.states())),
        derivatives=(
            *system.derivatives,
            *(node for one in sensitivities for node in one.derivatives(system.derivatives)),
        ),
        observables=(
            *system.observables,
            *(item for one in sensitivities for item in one.observables()),
        ),
        mass=system.mass * (1 + len(names)),
    )


def _check_names(system: OdeSystem, names: Sequence[str]) -> None:
    known = [item.name for item in (*system.states, *system.parameters)]
    for name in names:
        if name not in known:
            raise FlowError(
                f"output.sensitivities names '{name}', which is not a parameter or state of system "
                f"'{system.name}'{nearest(name, known)}"
            )
        if names.count(name) > 1:
            raise FlowError(f"output.sensitivities names '{name}' twice")


class _Sensitivities:
    """Sensitivities of a system to one quantity.

    Raises
    ------
    FlowError
        If the name of a sensitivity is taken.
    """

    def __init__(self, system: OdeSystem, name: str) -> None:
        self.system = system
        self.name = name
        self.dependence = Dependence(system, name)
        self.is_initial = any(state.name == name for state in system.states)
        self.source = next(item for item in system.quantities if item.name == name)
        outputs = [item.name for item in (*system.states, *system.observables)]
        self.names = {item: self.dependence.derivative_name(item) for item in outputs}
        taken = {item.name for item in (*system.quantities, *system.observables)}
        for item in (*self.names.values(), *(one.name for one in self.dependence.parameters)):
            if item in taken:
                raise FlowError(
                    f"output.sensitivities={name} makes '{item}', but system '{system.name}' "
                    "has a quantity of that name; rename it"
                )

    def states(self) -> list[Sensitivity]:
        """Return the sensitivities of the states."""
        scale = 1.0 / abs(self.source.value) if self.source.value else 1.0
        sensitivities = []
        for state in self.system.states:
            slope = self.dependence.slopes.get(state.name, ZERO)
            sensitivities.append(
                Sensitivity(
                    name=self.names[state.name],
                    value=float(slope.value) if slope.op == "const" else math.nan,
                    unit=ratio_unit(state.unit, self.source.unit),
                    long_name=derivative_label(state, self.source, self.is_initial),
                    start=None if slope.op == "const" else slope,
                    of=state.name,
                    scale=scale,
                )
            )
        return sensitivities

    def observables(self) -> list[Observable]:
        """Return the sensitivities of the observables."""
        items = self.system.observables
        nodes = self.derivatives([item.expression for item in items])
        return [
            Observable(
                self.names[item.name],
                node,
                ratio_unit(item.unit, self.source.unit),
                derivative_label(item, self.source, self.is_initial),
            )
            for item, node in zip(items, nodes, strict=True)
        ]

    def derivatives(self, nodes: Sequence[Node]) -> list[Node]:
        """Return the derivatives of expressions with respect to the quantity."""
        states = [state.name for state in self.system.states]
        directions = self.dependence.directions
        inputs = [*map(symbol, states), *map(symbol, directions)]
        direction = [*(symbol(self.names[state]) for state in states), *directions.values()]
        return directional(nodes, inputs, direction)
