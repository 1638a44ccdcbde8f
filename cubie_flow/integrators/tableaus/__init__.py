"""The integration methods, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from cubie_flow.errors import FlowError, nearest
from cubie_flow.integrators.tableaus import (
    collocation,
    diagonal,
    high_order,
    low_order,
    multistep,
    rosenbrock,
    taylor,
)
from cubie_flow.integrators.tableaus.collocation import Collocation
from cubie_flow.integrators.tableaus.definition import Dense, Method, Tableau
from cubie_flow.integrators.tableaus.diagonal import DiagonallyImplicit
from cubie_flow.integrators.tableaus.multistep import Multistep
from cubie_flow.integrators.tableaus.rosenbrock import Rosenbrock
from cubie_flow.integrators.tableaus.taylor import Taylor

__all__ = [
    "COLLOCATION",
    "DIAGONAL",
    "EXPLICIT",
    "METHODS",
    "MULTISTEP",
    "ROSENBROCK",
    "TABLEAUS",
    "TAYLOR",
    "Collocation",
    "Dense",
    "DiagonallyImplicit",
    "Method",
    "Multistep",
    "Rosenbrock",
    "Tableau",
    "Taylor",
    "method",
    "tableau",
]

#: The explicit methods, in order of increasing order.
TABLEAUS: dict[str, Tableau] = {
    known.name: known for known in (*low_order.METHODS, *high_order.METHODS)
}
#: The Rosenbrock methods.
ROSENBROCK: dict[str, Rosenbrock] = {known.name: known for known in rosenbrock.METHODS}
#: The diagonally implicit Runge-Kutta methods.
DIAGONAL: dict[str, DiagonallyImplicit] = {known.name: known for known in diagonal.METHODS}
#: The fully implicit Runge-Kutta methods.
COLLOCATION: dict[str, Collocation] = {known.name: known for known in collocation.METHODS}
#: The multistep methods.
MULTISTEP: dict[str, Multistep] = {known.name: known for known in multistep.METHODS}
#: The Taylor series methods.
TAYLOR: dict[str, Taylor] = {known.name: known for known in taylor.METHODS}
#: The methods that solve no equations within a step.
EXPLICIT: dict[str, Method] = {**TABLEAUS, **TAYLOR}
#: Every method.
METHODS: dict[str, Method] = {
    **EXPLICIT, **ROSENBROCK, **DIAGONAL, **COLLOCATION, **MULTISTEP
}  # fmt: skip

Kind = TypeVar("Kind", bound=Method)


def tableau(name: str) -> Tableau:
    """Return the explicit method called `name`.

    Raises
    ------
    FlowError
        If no method has this name; the message contains the nearest name.
    """
    return _named(name, TABLEAUS)


def method(name: str) -> Method:
    """Return the method called `name`.

    Raises
    ------
    FlowError
        If no method has this name; the message contains the nearest name.
    """
    return _named(name, METHODS)


def _named(name: str, known: Mapping[str, Kind]) -> Kind:
    if name not in known:
        raise FlowError(
            f"algorithm is '{name}'; it must be one of {', '.join(known)}{nearest(name, known)}"
        )
    return known[name]
