"""What tests of methods share."""

from __future__ import annotations

import pytest

from cubie_flow import OdeSystem


@pytest.fixture(scope="session")
def smooth() -> OdeSystem:
    """A nonlinear, time-dependent problem with the solution ``x = sin(t), y = exp(-t)``."""
    return OdeSystem.from_equations(
        """
        dx/dt = cos(t) + c*(x**2 + y - sin(t)**2 - exp(-t))
        dy/dt = -y + c*(x - sin(t))*y
        """,
        states={"x": 0.0, "y": 1.0},
        parameters={"c": 0.5},
    )
