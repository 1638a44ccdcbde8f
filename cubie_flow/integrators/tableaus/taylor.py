"""Taylor series methods."""

from __future__ import annotations

from attrs import frozen

from cubie_flow.integrators.tableaus.definition import Method


@frozen(kw_only=True)
class Taylor(Method):
    """The Taylor polynomial of the solution, with coefficients computed from the equations.

    The last term estimates the error: it is the difference to the polynomial without it. A
    twentieth of the term before is added, so that the estimate is not zero where the last term
    happens to vanish.
    """

    #: Weight of the last but one term in the error estimate.
    guard: float = 0.05

    @property
    def continuous(self) -> bool:
        return True


_SOURCE = (
    "A. Jorba and M. Zou, A software package for the numerical integration of ODEs by means of "
    "high-order Taylor methods, Experimental Mathematics 14, 99-117 (2005)"
)

METHODS = tuple(
    Taylor(
        name=f"taylor_{order}",
        title=f"Taylor series of order {order}",
        order=order,
        embedded_order=order - 1,
        controller="i",
        safety=0.8,
        source=_SOURCE,
    )
    for order in (8, 12, 16, 20)
)
