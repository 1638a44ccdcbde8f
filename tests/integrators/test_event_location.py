"""Where events are: quantities that are large beside what they change, restarts, and ends."""

from __future__ import annotations

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve

METHODS = ("tsit5", "rodas5p", "bdf", "taylor_8")


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("algorithm", METHODS)
def test_large_quantities_that_move_slowly(algorithm: str, precision: str) -> None:
    """A body temperature, ramps of every size, and a decay just below its start."""
    model = OdeSystem.from_mapping(
        {
            "states": {"T": 37.0, "x": 15.0, "y": 1.0},
            "parameters": {"a": 0.6, "w": 0.26, "s": 0.1, "th": 15.3, "low": 0.999},
            "equations": {"T": "a*w*cos(w*t)", "x": "s", "y": "-y"},
            "events": {
                "warm": {"when": "T > 37.3"},
                "ramp": {"root": "x - th"},
                "down": {"when": "y < low"},
            },
        }
    )
    count = 400
    th = np.linspace(15.01, 15.9, count)
    low = np.linspace(0.9985, 0.9999, count)
    data = solve(
        model, parameters={"th": th, "low": low}, duration=10.0, algorithm=algorithm,
        precision=precision, rtol=1e-6 if precision == "float64" else 1e-5,
    )  # fmt: skip
    assert (data.status == 0).all()
    for name in ("warm", "ramp", "down"):
        assert (data[f"{name}_count"] == 1).all(), name
    close = 1e-5 if precision == "float64" else 5e-4
    np.testing.assert_allclose(
        data.warm_times.values[:, 0], np.arcsin(0.5) / 0.26, atol=100 * close
    )
    np.testing.assert_allclose(data.ramp_times.values[:, 0], (th - 15) / 0.1, atol=close)
    np.testing.assert_allclose(data.down_times.values[:, 0], -np.log(low), atol=close)


@pytest.mark.parametrize("algorithm", ["tsit5", "rodas5p", "bdf"])
def test_slopes_and_offsets_of_every_size(algorithm: str) -> None:
    rng = np.random.default_rng(5)
    offset = 10.0 ** rng.uniform(-3, 6, 1000)
    slope = 10.0 ** rng.uniform(-6, 6, 1000)
    share = rng.uniform(0.05, 0.95, 1000)
    model = OdeSystem.from_mapping(
        {
            "states": {"x": 1.0},
            "parameters": {"s": 1.0, "th": 1.5},
            "equations": {"x": "s"},
            "events": {"up": {"when": "x > th"}},
        }
    )
    th = offset + share * slope
    inside = (th > offset) & (th < offset + slope)
    data = solve(
        model, parameters={"s": slope, "th": th}, initial_values={"x": offset}, duration=1.0,
        algorithm=algorithm,
    )  # fmt: skip
    assert (data.status == 0).all()
    # Slopes that rounding of the offset swallows have no answer.
    clear = inside & (slope > 1e-9 * offset)
    assert (data.up_count.values[clear] == 1).all()
    resolution = 1e-5 + 1e-12 * offset / slope
    assert (np.abs(data.up_times.values[:, 0] - share)[clear] < resolution[clear]).all()


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_bdf_goes_on_after_a_located_event(precision: str) -> None:
    model = OdeSystem.from_mapping(
        {
            "states": {"x": 1.0},
            "parameters": {"k": 1.0, "th": 0.5},
            "equations": {"x": "-k*x"},
            "events": {"low": {"when": "x < th"}},
        }
    )
    th = np.linspace(0.05, 0.95, 2000)
    tight = (
        {"rtol": 1e-8, "atol": 1e-10} if precision == "float64" else {"rtol": 1e-5, "atol": 1e-6}
    )
    data = solve(
        model, parameters={"th": th}, duration=5.0, algorithm="bdf", precision=precision,
        save_every=0.5, **tight,
    )  # fmt: skip
    assert (data.status == 0).all()
    assert (data.low_count == 1).all()
    close = 1e-6 if precision == "float64" else 1e-3
    np.testing.assert_allclose(data.low_times.values[:, 0], -np.log(th), atol=close)
    exact = np.broadcast_to(np.exp(-data.time.values), data.x.shape)
    np.testing.assert_allclose(data.x, exact, atol=close)


@pytest.mark.parametrize("algorithm", METHODS)
@pytest.mark.parametrize("kind", ["when", "root", "at", "clock"])
def test_events_at_the_end_and_at_saved_times(kind: str, algorithm: str) -> None:
    """One on a saved time is in what is saved; one exactly at the end happens if it can be told."""
    when = {"when": "x >= 1", "root": "x - 1", "at": 1.0, "clock": "t >= 1"}[kind]
    key = "when" if kind == "clock" else kind
    model = OdeSystem.from_mapping(
        {
            "states": {"x": 0.0, "n": 0.0},
            "equations": {"x": "1", "n": "0"},
            "events": {"one": {key: when, "set": {"n": "n + 1"}}},
        }
    )
    data = solve(
        model, parameters=None, initial_values={"x": [0.0, 0.5]}, duration=2.0, save_every=0.5,
        algorithm=algorithm,
    )  # fmt: skip
    assert data.one_count.values.tolist() == [1, 1]
    first = [0, 0, 1, 1, 1]
    assert data.n.values[0].tolist() == first
    assert data.n.values[1].tolist() == (first if kind in ("at", "clock") else [0, 1, 1, 1, 1])
    # The end of a run belongs to it.
    ends = solve(model, duration=1.0, save_every=0.5, algorithm=algorithm)
    assert ends.one_count.values.tolist() == [1]
    assert ends.n_final.values.tolist() == [1]
    assert ends.n.values[0].tolist() == [0, 0, 1]
