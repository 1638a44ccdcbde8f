"""Start values that are expressions: their order, and their numbers at the default values.

The initial value of a state and the value of a parameter may be an expression of parameters, of
other states, meaning their initial values, of drivers and of ``t``, the time a run starts at. A
run evaluates it once, when it starts; its parameter is constant from then on.
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
    """Return the state or parameter with a value that is an expression, or a number."""
    if node.op == "const":
        return evolve(quantity, value=float(node.value), start=None)
    return evolve(quantity, value=math.nan, start=node)


def start_levels(quantities: Iterable[Quantity], where: str) -> Iterator[_Group]:
    """Yield the quantities whose values are expressions, in groups, each after those it uses.

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
    """Return what a run computes when it starts: values that the model alone does not decide.

    Other expressions give the same in every run, the numbers that the system has; parameters that
    only other start values use are part of those.

    Parameters
    ----------
    system : OdeSystem
    varied : collection of str
        Quantities whose values a run is given.

    Returns
    -------
    dict
        By name, in symbols of `varied`, of drivers and of ``t``.
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
    found: dict[str, Node] = {}
    open_ones = [item for item in system.quantities if item.name not in varied]
    for level in start_levels(open_ones, f"system {system.name}"):
        computed = {
            item.name: item.start
            for item in level
            if item.start is not None and moving.intersection(free_symbols([item.start]))
        }
        nodes = substitute(list(computed.values()), known)
        found |= zip(computed, nodes, strict=True)
        known |= {symbol(name): found[name] for name in computed}
        moving |= computed.keys()
    return {name: node for name, node in found.items() if name in wanted}


def start_numbers(
    quantities: Sequence[Quantity], drivers: Sequence[Driver], where: str
) -> dict[str, float]:
    """Return the values of quantities, of drivers that starts use and of ``t`` at the time 0.

    Those that are expressions come last, each after what it uses; they need not be finite.

    Raises
    ------
    FlowError
        If an expression uses what there is not, or itself.
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
    """Return groups of quantities, the value of each expression computed.

    That is its number at the values of the others and at the time 0.

    Raises
    ------
    FlowError
        If an expression uses what there is not, itself, or has no finite value.
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
