"""Error estimates see linear equations, whose stages are functions of ``h*lambda`` alone."""

from __future__ import annotations

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.integrators.tableaus import METHODS, DiagonallyImplicit, Rosenbrock, Tableau

DECAY = OdeSystem.from_equations("x' = -0.2923*x", {"x": 4.55485e-4})
ESTIMATING = sorted(
    name
    for name, method in METHODS.items()
    if isinstance(method, Rosenbrock | DiagonallyImplicit | Tableau) and method.error
)


def stages(name: str, z: float) -> np.ndarray:
    """Return the stages of ``x' = z*x`` from 1 for a step of 1, with the derivative at its end."""
    method = METHODS[name]
    count = len(method.b)
    if isinstance(method, Rosenbrock):
        u = np.zeros(count)
        for i in range(count):
            start = 1.0 + np.dot(method.a[i], u[:i]) if i else 1.0
            coupled = np.dot(method.coupling[i], u[:i]) if i else 0.0
            u[i] = (z * start + coupled) / (1.0 / method.gamma - z)
        return u
    a = np.zeros((count, count))
    for i, row in enumerate(method.a):
        a[i, : len(row)] = row[:count]
    k = np.linalg.solve(np.eye(count) - z * a, np.full(count, z))
    return np.append(k, z * (1.0 + np.dot(method.b, k)))


@pytest.mark.parametrize("name", ESTIMATING)
def test_an_embedded_estimate_vanishes_only_where_another_is_added(name: str) -> None:
    method = METHODS[name]
    values = stages(name, -0.5)[: len(method.error)]
    vanishes = abs(float(np.dot(method.error, values))) < 1e-12
    assert vanishes is getattr(method, "trapezoidal", False)


@pytest.mark.parametrize("rtol", [1e-6, 1e-9])
def test_ros3p_decays_within_its_tolerance(rtol: float) -> None:
    result = solve(DECAY, duration=16.53, algorithm="ros3p", rtol=rtol, atol=1e-6 * rtol)
    exact = 4.55485e-4 * np.exp(-0.2923 * 16.53)
    assert float(result.x_final[0]) == pytest.approx(exact, rel=30.0 * rtol)
