"""Smooth pulses in time whose size is not known at the start of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve

ALGORITHMS = ["tsit5", "rodas5p", "bdf", "taylor_12"]
#: Integral of ``exp(-(t/0.05)**2)``.
AREA = 0.05 * np.sqrt(np.pi)


def model(equation: str, **more: Any) -> OdeSystem:
    return OdeSystem.from_mapping({"states": {"x": 0.0}, "equations": {"x": equation}, **more})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_a_switch_brings_in_later_does_not_shorten_every_step(algorithm: str) -> None:
    ramp = model("p*max(t - c, 0)**2/(1 + (t - c)**2)", parameters={"p": 2.0, "c": 12.0})
    data = solve(
        ramp, parameters={"c": [8.0, 12.0, 30.0]}, t_start=10.0, duration=10.0, algorithm=algorithm
    )
    assert (data.status == 0).all()
    assert (data.steps < 1000).all()

    def whole(t: float) -> float:
        return 2.0 * (t - np.arctan(t))

    right = [whole(12.0) - whole(2.0), whole(8.0), 0.0]
    np.testing.assert_allclose(data.x_final, right, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("begins", [0.0, 1000.0])
def test_periodic_pulses_are_seen_whenever_a_run_starts(algorithm: str, begins: float) -> None:
    daily = model("exp(-((t - 24*floor(t/24) - 5)/0.05)**2)")
    data = solve(daily, t_start=begins, duration=96.0, algorithm=algorithm)
    assert data.status.item() == 0
    assert data.x_final.item() == pytest.approx(4 * AREA, rel=1e-4)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_functions_of_a_driver_that_rests_at_first(algorithm: str) -> None:
    driver = {"times": [0, 1, 2, 4, 10], "values": [0, 0, 1, 0, 0], "interpolation": "linear"}
    driven = model("exp(d)", drivers={"d": driver})
    data = solve(driven, duration=10.0, algorithm=algorithm)
    assert data.status.item() == 0
    assert data.steps.item() < 1000
    assert data.x_final.item() == pytest.approx(7.0 + 3.0 * (np.e - 1.0), rel=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_pulses_that_an_event_moves_are_seen(algorithm: str) -> None:
    moved = model(
        "a*exp(-((t - c)/0.05)**2)",
        parameters={"a": 1.0, "c": 1e6},
        events={"set": {"at": 3, "set": {"c": "20"}}, "more": {"at": 4, "set": {"a": "2"}}},
    )
    data = solve(moved, duration=40.0, algorithm=algorithm)
    assert data.status.item() == 0
    assert data.steps.item() < 1000
    assert data.x_final.item() == pytest.approx(2 * AREA, rel=1e-4)
