"""Switches on states that a solution passes for a moment, between the ends of a long step."""

from __future__ import annotations

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.expressions.graph import call, compare, load, where
from cubie_flow.integrators.dips import find_dips

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
        assert len(find_dips([where(truth, x, y)])) == count, name


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
