"""The stiff models in conf/system are the ones of the literature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.expressions.derivatives import jacobian
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.graph import symbol

ROOT = Path(__file__).parents[2]
FOLDER, SUITE = ROOT / "conf" / "system", ROOT / "experiments" / "stiff_suite"


def load(name: str, **settings: int) -> OdeSystem:
    return OdeSystem.from_file(FOLDER / f"{name}.yaml", settings)


def finals(system: OdeSystem, **settings: Any) -> np.ndarray:
    result = solve(system, algorithm="rodas5p", **settings)
    assert int(result.status[0]) == 0
    return np.array([float(result[f"{state.name}_final"][0]) for state in system.states])


def test_pollution() -> None:
    published = json.loads((SUITE / "published.json").read_text(encoding="utf-8"))
    about = published["problems"]["pollu"]
    found = finals(load("pollu"), duration=about["duration"], rtol=1e-8, atol=1e-20)
    np.testing.assert_allclose(found, about["finals"], rtol=1e-8)


def test_medical_akzo_nobel() -> None:
    """End values of the IVP Test Set (Bari/CWI), problem Medical Akzo Nobel, 400 states."""
    expected = {
        79: 0.2339942217046434e-3, 149: 0.3595616017506735e-3, 199: 0.11737412926802e-3,
        200: 0.61908071460151e-5, 239: 0.68600948191191e-11, 240: 0.99999973258552,
    }  # fmt: skip
    found = finals(load("medakzo"), rtol=1e-7, atol=1e-9)
    by_number = np.ravel(np.column_stack([found[:200], found[200:]]))
    for number, value in expected.items():
        assert by_number[number - 1] == pytest.approx(value, rel=2e-5), number


def test_beeler_reuter_action_potential() -> None:
    """Rest, overshoot and duration as in figures 4 and 5 of the paper."""
    times = np.arange(0.0, 401.0)
    result = solve(
        load("beeler_reuter"), algorithm="rodas5p", rtol=1e-7, atol=1e-9, times=times,
    )  # fmt: skip
    potential = result.V[0].values
    assert -85.0 < potential[9] < -84.0
    assert 20.0 < potential.max() < 45.0
    duration = np.count_nonzero(potential > -74.0)
    assert 250 < duration < 320
    assert potential[-1] < -80.0
    silent = solve(
        load("beeler_reuter"), parameters={"stimulus": 0.0}, algorithm="rodas5p", times=times
    )
    assert np.ptp(silent.V[0].values) < 0.5


def test_brusselator_agrees_with_another_method() -> None:
    system = load("brusselator_1d", size=20)
    other = solve(system, algorithm="radau_iia_9", rtol=1e-9, atol=1e-11)
    expected = [float(other[f"{state.name}_final"][0]) for state in system.states]
    np.testing.assert_allclose(finals(system, rtol=1e-8, atol=1e-10), expected, rtol=1e-6)


def test_hires_has_the_published_coefficients() -> None:
    system = load("hires")
    values = {item.name: item.value for item in system.parameters}
    values |= {f"y{i}": 0.0 for i in range(1, 9)}
    rows = jacobian(system.derivatives, [symbol(f"y{i}") for i in range(1, 9)])
    found = [[float(evaluate([node], values)[0]) for node in row] for row in rows]
    printed = {
        (0, 0): -1.71, (0, 1): 0.43, (0, 2): 8.32, (1, 1): -8.75, (2, 2): -10.03, (2, 4): 0.035,
        (3, 3): -1.12, (4, 4): -1.745, (5, 3): 0.69, (6, 6): -1.81, (7, 6): 1.81,
    }  # fmt: skip
    for (i, j), value in printed.items():
        assert found[i][j] == pytest.approx(value, rel=1e-15)
    assert evaluate([system.derivatives[0]], values)[0] == 0.0007


@pytest.mark.parametrize(
    "name", ["robertson", "hires", "oregonator", "pollu", "beeler_reuter", "van_der_pol"]
)
def test_jacobians_are_exact(name: str) -> None:
    """The Jacobian from the graph against central differences, at a point off the start."""
    system = load(name)
    names = [state.name for state in system.states]
    rng = np.random.default_rng(5)
    values: dict[str, float] = {"t": 0.3}
    values |= {item.name: item.value for item in system.parameters}
    for state in system.states:
        values[state.name] = state.value * rng.uniform(0.9, 1.1) + (state.value == 0.0) * 0.01
    rows = jacobian(system.derivatives, [symbol(name) for name in names])
    for j, changed in enumerate(names):
        step = 1e-6 * max(abs(values[changed]), 1e-9)
        sides = [
            np.array(evaluate(system.derivatives, {**values, changed: values[changed] + s}))
            for s in (step, -step)
        ]
        slopes = (sides[0] - sides[1]) / (2 * step)
        exact = np.array([float(evaluate([row[j]], values)[0]) for row in rows])
        scale = np.abs(sides[0]).max() / step * 1e-10 + 1e-6 * np.abs(exact).max()
        np.testing.assert_allclose(exact, slopes, rtol=1e-5, atol=scale)
