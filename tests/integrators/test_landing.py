"""Kinks of states: a step that crosses one is cut there."""

from __future__ import annotations

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.expressions.graph import compare, const, load, maximum, where
from cubie_flow.integrators.run import RunSettings, SingleIntegratorRun
from cubie_flow.integrators.switching_functions import find_kinks, find_switching_functions

KINKS = OdeSystem.from_mapping(
    {
        "states": {"s": 0.0, "c": 1.0, "a": 0.0, "m": 0.0, "w": 0.0},
        "parameters": {"k": 1.0},
        "equations": {
            "s": "k*c",
            "c": "-k*s",
            "a": "abs(s)",
            "m": "max(s, 0) - min(c, 0)",
            "w": "where(s > 0, s, 0.5*s)",
        },
    }
)


def _integral_of_abs_sine(angle: np.ndarray) -> np.ndarray:
    halves = np.floor(angle / np.pi)
    return 2 * halves + 1 - np.cos(angle - np.pi * halves)


@pytest.mark.parametrize("algorithm", ["tsit5", "vern7", "rodas5p", "radau_iia_5"])
def test_kinks_cost_no_accuracy(algorithm: str) -> None:
    """Error estimates see so little of a kink that errors were 500 to 5000 tolerances."""
    k, duration, rtol = np.linspace(0.8, 1.2, 9), 20.3, 1e-8
    angle = k * duration
    data = solve(KINKS, parameters={"k": k}, duration=duration, algorithm=algorithm,
                 rtol=rtol, atol=rtol)  # fmt: skip
    assert (data.status == 0).all()
    of_abs, of_sine = _integral_of_abs_sine(angle), 1 - np.cos(angle)
    # abs(cos) begins in the middle of its period.
    of_cosine = _integral_of_abs_sine(angle + np.pi / 2) - 1
    exact = {
        "a": of_abs,
        "m": 0.5 * (of_abs + of_sine) + 0.5 * (of_cosine - np.sin(angle)),
        "w": 0.75 * of_sine + 0.25 * of_abs,
    }
    for name, value in exact.items():
        np.testing.assert_allclose(data[f"{name}_final"], value / k, rtol=0, atol=100 * rtol)


def test_every_target_lands_on_the_same_times() -> None:
    made = [
        solve(KINKS, parameters={"k": [0.9, 1.1]}, duration=4.0, target=target, precision="float32",
              rtol=1e-5)
        for target in ("cpu", "simulator")
    ]  # fmt: skip
    for name in made[0].data_vars:
        np.testing.assert_array_equal(made[0][name], made[1][name])


def test_models_of_many_kinks_stay_small() -> None:
    for count, landings in ((40, 40), (41, 0)):
        equations = {f"x{i}": f"-abs(x{i} - 1)" for i in range(count)}
        model = OdeSystem.from_mapping({"states": dict.fromkeys(equations, 0.0),
                                        "equations": equations})  # fmt: skip
        settings = SingleIntegratorRun(RunSettings(model)).loop.settings
        assert len(settings.landings) == len(settings.switching_functions) == landings


def test_what_is_a_kink() -> None:
    x, y = load("u", 0), load("u", 1)
    above = compare(">", 2.0 * x, 1.0)
    for node, kinks in (
        (abs(x - y), 1),
        (maximum(x * y, y), 1),
        (where(above, 4.0 * x, const(2.0)), 1),
        (where(above, y, const(2.0)), 0),
        (where(compare("<", abs(x + 40.0), 1e-6), x, y), 0),
    ):
        functions = find_switching_functions([node], kinks=True)
        assert len(find_kinks([node], functions)) == kinks
