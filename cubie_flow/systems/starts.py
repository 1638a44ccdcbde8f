"""Start values that are expressions: their order, and their numbers at the default values.

The initial value of a state and the value of a parameter may be an expression of parameters,
drivers, initial values of states (by the state's name) and ``t``, the time of the start. A run
evaluates it once, when it starts; the parameter is constant from then on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from attrs import evolve

from cubie_flow.errors import FlowError
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.expressions.traversal import free_symbols, substitute
from cubie_flow.systems.drivers import Driver
from cubie_flow.systems.quantities import Quantity, finite
from cubie_flow.systems.trace import check_graph

if TYPE_CHECKING:
    from cubie_flow.systems.system import OdeSystem

_Group = tuple[Quantity, ...]


def with_start(quantity: Quantity, node: Node) -> Quantity:
    """Return the quantity with the value of a graph: a number, or an expression for every run."""
    if node.op == "const":
        return evolve(quantity, value=float(node.value), start=None)
    return evolve(quantity, value=math.nan, start=node)


def start_levels(quantities: Iterable[Quantity], where: str) -> Iterator[_Group]:
    """Yield the quantities whose values are expressions, in groups after those that they use.

    Parameters
    ----------
    quantities : iterable of Quantity
        States and parameters.
    where : str
        Names the system in errors.

    Raises
    ------
    FlowError
        If they use each other in a circle.
    """
    computed = {item.name: item for item in quantities if item.start is not None}
    uses = {
        name: [used for used in free_symbols([item.start]) if used in computed]
        for name, item in computed.items()
        if item.start is not None
    }
    sorter = TopologicalSorter(uses)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise FlowError(f"{where}: start values use each other in a circle: {circle}") from None
    while sorter.is_active():
        ready = sorter.get_ready()
        yield tuple(computed[name] for name in ready)
        sorter.done(*ready)


def computed_starts(system: OdeSystem, varied: Collection[str]) -> dict[str, Node]:
    """Return the values that every run computes when it starts.

    The values of all other expressions are the same in every run: the system has their numbers.
    Parameters that only start values use are left out.

    Parameters
    ----------
    system : OdeSystem
    varied : collection of str
        Quantities that have a value per run.

    Returns
    -------
    dict
        Expressions by name, in symbols of `varied`, of drivers and of ``t``.
    """
    if all(item.start is None for item in system.quantities):
        return {}
    moving = {"t", *varied, *(driver.name for driver in system.drivers)}
    known = {
        symbol(item.name): const(item.value)
        for item in system.quantities
        if item.name not in varied
    }
    wanted = {state.name for state in system.states} | {*free_symbols(system.expressions)}
    starts: dict[str, Node] = {}
    fixed = [item for item in system.quantities if item.name not in varied]
    for level in start_levels(fixed, f"system {system.name}"):
        computed = {
            item.name: item.start
            for item in level
            if item.start is not None and moving.intersection(free_symbols([item.start]))
        }
        nodes = substitute(list(computed.values()), known)
        starts |= zip(computed, nodes, strict=True)
        known |= {symbol(name): starts[name] for name in computed}
        moving |= computed.keys()
    return {name: node for name, node in starts.items() if name in wanted}


def start_numbers(
    quantities: Sequence[Quantity], drivers: Sequence[Driver], where: str
) -> dict[str, float]:
    """Return the values at time 0 of quantities, of the drivers that they use, and of ``t``.

    Values of expressions come last, each after those that it uses; they may not be finite.

    Parameters
    ----------
    quantities : sequence of Quantity
    drivers : sequence of Driver
    where : str
        Names the system in errors.

    Raises
    ------
    FlowError
        If an expression uses an unknown name, or itself.
    """
    from cubie_flow.expressions.evaluate import evaluate

    starts: list[tuple[str, Node]] = [
        (f"start value of {item.name}", item.start) for item in quantities if item.start is not None
    ]
    known = {"t", *(item.name for item in quantities), *(driver.name for driver in drivers)}
    check_graph(starts, known, where)
    values = {item.name: float(item.value) for item in quantities if item.start is None}
    values["t"] = 0.0
    for driver in drivers:
        if driver.name in free_symbols(node for _, node in starts):
            values[driver.name] = driver.value_at(0.0, int(values.get(driver.series, 0.0)))
    for level in start_levels(quantities, where):
        numbers = evaluate([item.start for item in level if item.start is not None], values)
        values |= {item.name: float(x) for item, x in zip(level, numbers, strict=True)}
    return values


def with_numbers(
    groups: Sequence[_Group], drivers: Sequence[Driver], where: str
) -> tuple[_Group, ...]:
    """Return groups of quantities with the number of every expression at time 0.

    Parameters
    ----------
    groups : sequence of tuple of Quantity
    drivers : sequence of Driver
    where : str
        Names the system in errors.

    Raises
    ------
    FlowError
        If an expression uses an unknown name or itself, or has no finite value.
    """
    quantities = [item for group in groups for item in group]
    if all(item.start is None for item in quantities):
        return tuple(groups)
    values = start_numbers(quantities, drivers, where)
    for name, number in values.items():
        finite(number, f"{where}: the start value of '{name}'")
    return tuple(
        tuple(
            evolve(item, value=values[item.name]) if item.start is not None else item
            for item in group
        )
        for group in groups
    )
