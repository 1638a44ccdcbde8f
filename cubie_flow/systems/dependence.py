"""How the start values and parameters of a system depend on one quantity."""

from __future__ import annotations

import math

from cubie_flow.expressions.derivatives import directional
from cubie_flow.expressions.graph import ONE, ZERO, Node, symbol
from cubie_flow.expressions.traversal import free_symbols
from cubie_flow.systems.quantities import Described, Quantity
from cubie_flow.systems.starts import start_levels
from cubie_flow.systems.system import OdeSystem


def initial_name(state: str) -> str:
    """Return the name of a state's initial value."""
    return f"{state}_initial"


def sensitivity_name(quantity: str, source: str) -> str:
    """Return the name of ``d quantity / d source``."""
    return f"d{quantity}_d{source}"


class Dependence:
    """How the start values and parameters of a system depend on one quantity.

    Parameters
    ----------
    system : OdeSystem
    name : str
        A parameter, or a state for its initial value.

    Attributes
    ----------
    slopes : dict
        Derivatives of start values by name, at the start, without those that are 0.
    directions : dict
        Derivatives of parameters during a run.
    parameters : list of Quantity
        Those of the directions that are not constant numbers.
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
            # It uses initial values by the names of states, or an event may set it.
            one, source = quantities[item], quantities[name]
            added = Quantity(
                self.derivative_name(item),
                float(slope.value) if constant else math.nan,
                ratio_unit(one.unit, source.unit),
                derivative_label(one, source, name in states),
                None if constant else slope,
            )
            self.parameters.append(added)
            self.directions[item] = symbol(added.name)

    def derivative_name(self, quantity: str) -> str:
        """Return the name of the derivative of a quantity."""
        return sensitivity_name(quantity, self.own)


def derivative_label(item: Described, source: Described, start: bool) -> str:
    """Return the long name of the derivative of `item` by `source`, or by its initial value.

    Parameters
    ----------
    item, source : Described
    start : bool
        Whether the derivative is by the initial value of `source`.
    """
    of = source.long_name or source.name
    return f"derivative of {item.long_name or item.name} with respect to " + (
        f"the initial value of {of}" if start else of
    )


def ratio_unit(upper: str, lower: str) -> str:
    """Return the unit of a derivative; empty if one of the units is not known."""
    if not upper or not lower:
        return ""
    if upper == lower:
        return "1"
    if lower == "1":
        return upper
    return f"{upper}/{lower if lower.isalpha() else f'({lower})'}"
