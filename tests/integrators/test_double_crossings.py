"""Switches on states that a solution passes for a moment, between the ends of a long step."""

from __future__ import annotations

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.expressions.graph import call, compare, load, logical_and, logical_or, where
from cubie_flow.integrators.switching_functions import (
    constant_width,
    find_switching_functions,
    find_windows,
)

LEVELS = np.array([0.9, 0.99, 0.999, 0.9999])


@pytest.mark.parametrize("algorithm", ["tsit5", "vern7", "rodas5p", "radau_iia_5", "taylor_12"])
def test_short_passages_are_seen(algorithm: str) -> None:
    """A sine is above the level for a part of its period, down to a two-hundredth."""
    model = OdeSystem.from_mapping(
        {
            "states": {"s": 0.0, "c": 1.0, "above": 0.0, "apart": 0.0, "most": 0.0},
            "parameters": {"level": 0.9},
            "equations": {
                "s": "c",
                "c": "-s",
                "above": "where(s > level, 1, 0)",
                "apart": "where(abs(s) > level, 1, 0)",
                "most": "where(max(s, -2*c) > level and t < 100, 1, 0)",
            },
        }
    )
    data = solve(model, parameters={"level": LEVELS}, duration=8 * np.pi, algorithm=algorithm)
    assert (data.status == 0).all()
    once = 2 * np.arccos(LEVELS)
    # The error of s, some 1e-6, beside how far it goes beyond the level.
    bound = 1e-5 / (1 - LEVELS) + 1e-3
    assert (np.abs(data.above_final / (4 * once) - 1) < bound).all()
    assert (np.abs(data.apart_final / (8 * once) - 1) < bound).all()
    angle = np.linspace(0, 2 * np.pi, 2_000_001)
    most = [4 * 2 * np.pi * np.mean(np.maximum(np.sin(angle), -2 * np.cos(angle)) > one)
            for one in LEVELS]  # fmt: skip
    np.testing.assert_allclose(data.most_final, most, rtol=1e-3)


def test_which_conditions_are_looked_at() -> None:
    x, y, k = load("u", 0), load("u", 1), load("p", 0)
    conditions = {
        "plain": (compare(">", x, k), 1),
        "product": (compare("<", x * y, 1.0), 1),
        "two forms": (compare(">", abs(x), k), 2),
        "of parameters": (compare(">", k, 1.0), 0),
        "equal": (compare("==", x, 1.0), 0),
        "in steps": (compare(">", call("floor", x), k), 0),
    }
    for name, (truth, count) in conditions.items():
        assert len(find_switching_functions([where(truth, x, y)])) == count, name


@pytest.mark.parametrize("algorithm", ["tsit5", "rodas5p", "taylor_12"])
def test_short_events_are_counted(algorithm: str) -> None:
    model = OdeSystem.from_mapping(
        {
            "states": {"s": 0.0, "c": 1.0},
            "parameters": {"level": 0.9},
            "equations": {"s": "c", "c": "-s"},
            "events": {
                "up": {"when": "s > level"},
                "down": {"root": "s + level", "direction": "falling"},
            },
        }
    )
    data = solve(model, parameters={"level": LEVELS}, duration=8 * np.pi, algorithm=algorithm)
    assert data.up_count.values.tolist() == [4] * 4
    assert data.down_count.values.tolist() == [4] * 4


WINDOWS = {
    "and": "where(x < high and x > low, 1, 0)",
    "or": "where(x > high or x < low, 0, 1)",
    "not": "where(not (x > high or x < low) and w > 0, 1, 0)",
    "chosen twice": "where(x > high, 0, where(x > low, 1, 0))",
    "product": "where(x < high, 1, 0) * where(x > low, 1, 0)",
}


@pytest.mark.parametrize("text", WINDOWS.values(), ids=list(WINDOWS))
@pytest.mark.parametrize(
    "algorithm", ["tsit5", "rodas5p", "kvaerno5", "radau_iia_5", "bdf", "taylor_12"]
)
def test_windows_of_a_state_are_seen(algorithm: str, text: str) -> None:
    """A decaying state is in the window for ``log(high/low)``, much less than a step."""
    model = OdeSystem.from_mapping(
        {
            "states": {"x": 1.0, "w": 1.0, "inside": 0.0},
            "parameters": {"low": 0.18, "high": 0.2},
            "equations": {"x": "-x", "w": "-w", "inside": text},
        }
    )
    low = np.array([0.1, 0.15, 0.19, 0.199, 0.1999])
    data = solve(model, parameters={"low": low}, duration=6.0, algorithm=algorithm)
    assert (data.status == 0).all()
    np.testing.assert_allclose(data.inside_final, np.log(0.2 / low), rtol=0.02, atol=2e-5)


@pytest.mark.parametrize("algorithm", ["vern7", "rodas5p", "taylor_16"])
def test_windows_of_one_comparison_are_seen(algorithm: str) -> None:
    """A step passes the window of each condition, and a step from the limit returns to it."""
    model = OdeSystem.from_mapping(
        {
            "states": {"x": 1.0, "y": 0.0, "a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0},
            "parameters": {"w": 0.01},
            "equations": {
                "x": "-x",
                "y": "w - 2*t",
                "a": "where(abs(x - 0.19) < w, 1, 0)",
                "b": "where((x - 0.19)**2 < w**2, 1, 0)",
                "c": "where(max(x - 0.19, 0.19 - x) > w, 0, 1)",
                "d": "where(y > 0, 1, 0)",
            },
        }
    )
    w = np.array([0.05, 0.01, 1e-3, 1e-4])
    data = solve(model, parameters={"w": w}, duration=6.0, algorithm=algorithm, dt=1.0)
    assert (data.status == 0).all()
    for name in "abc":
        exact = np.log((0.19 + w) / (0.19 - w))
        np.testing.assert_allclose(data[f"{name}_final"], exact, rtol=2e-4, atol=1e-8)
    np.testing.assert_allclose(data.d_final, w, rtol=2e-2)


def test_events_within_a_window_are_counted() -> None:
    model = OdeSystem.from_mapping(
        {
            "states": {"x": 1.0},
            "parameters": {"low": 0.18},
            "equations": {"x": "-x"},
            "events": {"inside": {"when": "x < 0.2 and x > low"}},
        }
    )
    for algorithm in ("tsit5", "radau_iia_5", "bdf"):
        low = np.array([0.1, 0.19, 0.1999])
        data = solve(model, parameters={"low": low}, duration=6.0, algorithm=algorithm)
        assert data.inside_count.values.tolist() == [1, 1, 1]


def test_which_comparisons_are_a_window() -> None:
    x, y = load("u", 0), load("u", 1)
    low, high, other = compare(">", x, 0.1), compare("<", x, 0.2), compare("<", y, 0.2)
    guard = compare("<", abs(x + 40.0), 1e-6)
    assert constant_width(*find_switching_functions([where(guard, x, y)])) == pytest.approx(2e-6)
    for truth, count in (
        (logical_and(low, high), 1),
        (logical_and(low, logical_or(high, other)), 1),
        (logical_and(low, other), 0),
        (guard, 1),
        (low, 0),
    ):
        nodes = [where(truth, x, y)]
        assert len(find_windows(nodes, find_switching_functions(nodes))) == count


@pytest.mark.parametrize("kink", ["abs(y)", "max(y, -y)", "-min(y, -y)"])
def test_a_taylor_step_sees_both_crossings_of_a_kink(kink: str) -> None:
    # y = (t - 1)**2 - 0.01 is negative for |t - 1| < 0.1.
    model = OdeSystem.from_equations(f"x' = {kink}\ny' = 2*(t - 1)", {"x": 0.0, "y": 0.99})
    exact = 2 / 3 - 0.02 + 2 * (0.002 - 0.002 / 3)
    result = solve(model, duration=2.0, algorithm="taylor_12", rtol=1e-9, atol=1e-12)
    assert float(result.x_final[0]) == pytest.approx(exact, rel=1e-7)
