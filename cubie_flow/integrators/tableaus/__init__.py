"""The explicit Runge-Kutta methods, by name."""

from __future__ import annotations

from cubie_flow.errors import FlowError, nearest
from cubie_flow.integrators.tableaus import high_order, low_order
from cubie_flow.integrators.tableaus.definition import Dense, Tableau

__all__ = ["TABLEAUS", "Dense", "Tableau", "tableau"]

#: Every method, in order of increasing order.
TABLEAUS: dict[str, Tableau] = {
    method.name: method for method in (*low_order.METHODS, *high_order.METHODS)
}


def tableau(name: str) -> Tableau:
    """Return the method called `name`.

    Raises
    ------
    FlowError
        If there is no such method; the sentence names the nearest one.
    """
    if name not in TABLEAUS:
        raise FlowError(
            f"algorithm is '{name}'; it must be one of {', '.join(TABLEAUS)}"
            f"{nearest(name, TABLEAUS)}"
        )
    return TABLEAUS[name]
