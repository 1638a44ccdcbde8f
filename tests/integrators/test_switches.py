"""Switches and pulses in explicit time, against closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import erf

from cubie_flow import OdeSystem, solve
from cubie_flow.kernels.targets.detect import toolkit_installed

FAMILIES = (
    "tsit5", "vern7", "rodas5p", "kvaerno5", "radau_iia_5", "bdf", "taylor_12", "rk4", "auto",
)  # fmt: skip
CLOSE = {"rtol": 1e-9, "atol": 1e-10}
Array = Any


def pulsed(start: Array, k: float = 0.1, end: float = 30.0) -> Array:
    """Return x(30) of x' = -k*x + 3000 between start and start + 0.5."""
    return 3000 / k * (np.exp(-k * (end - start - 0.5)) - np.exp(-k * (end - start)))


@pytest.mark.parametrize("algorithm", FAMILIES)
def test_a_pulse_is_not_stepped_over(algorithm: str) -> None:
    text = "x' = -k*x + where((t >= start) and (t <= start + 0.5), 3000, 0)"
    model = OdeSystem.from_equations(text, {"x": 0.0}, {"k": 0.1, "start": 1.0})
    start = np.array([1.0, 5.0, 10.0, 20.0])
    step = {"dt": 0.01} if algorithm == "rk4" else {}
    data = solve(model, parameters={"start": start}, duration=30.0, algorithm=algorithm, **step)
    assert (data.status == 0).all()
    np.testing.assert_allclose(data.x_final, pulsed(start), rtol=1e-5)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("algorithm", ["tsit5", "rodas5p", "bdf", "taylor_12"])
def test_conditions_of_every_form(algorithm: str, precision: str) -> None:
    """Every state integrates a condition of its own, so its end is how long that one holds."""
    conditions = {
        "day": ("t - 24*floor(t/24) < 0.2", 10 * 0.2),
        "period": ("mod(t, P) < D", 48 * 0.1),
        "upper": ("ceil(t/24) - t/24 < 0.01", 10 * 0.24),
        "wave": ("sin(w*t) > 0.5", 240 / 3),
        "decay": ("exp(-t/100) < 0.2", 240 - 100 * np.log(5)),
        "square": ("(t - 100)**2 < r", 2 * np.sqrt(2.0)),
        "size": ("abs(t - 50) < 0.01", 0.02),
        "both": ("abs(t - 50) < 0.01 or (t > 60 and not (t > 60.5))", 0.52),
        "nested": ("mod(floor(t/24), 2) == 1 and mod(t, 24) < 1", 5.0),
        "least": ("min(abs(t - 70), abs(t - 80)) < 0.01", 0.04),
        "root": ("sqrt(t) > 9", 240 - 81.0),
        "domain": ("sqrt(t - 100) > 1", 139.0),
        "inside": ("log(t - 100) < 0", 1.0),
        "quotient": ("1/(1 + (t - 33)**2) > 0.5", 2.0),
    }
    model = OdeSystem.from_mapping(
        {
            "states": dict.fromkeys(conditions, 0.0),
            "parameters": {"P": 5.0, "D": 0.1, "w": 2 * np.pi / 10, "r": 2.0},
            "equations": {name: f"where({text}, 1, 0)" for name, (text, _) in conditions.items()},
        }
    )
    # The batch varies parameters of the conditions, so nothing is known when they are compiled.
    data = solve(
        model, parameters={"r": [2.0, 0.5], "D": [0.1, 0.3]}, duration=240.0,
        algorithm=algorithm, precision=precision,
    )  # fmt: skip
    assert (data.status == 0).all()
    bound = 1e-9 if precision == "float64" else 2e-3
    for name, (_, holds) in conditions.items():
        first, second = data[f"{name}_final"].values
        assert abs(first - holds) < bound, name
        if name not in ("square", "period"):
            assert abs(second - holds) < bound, name
    assert abs(data.square_final.values[1] - 2 * np.sqrt(0.5)) < bound
    assert abs(data.period_final.values[1] - 48 * 0.3) < bound


def test_kinks_in_time_keep_the_order() -> None:
    text = "x' = max(0, sin(t)) + min(t, 2)*abs(t - 1)"
    model = OdeSystem.from_equations(text, {"x": 0.0})
    data = solve(model, duration=4 * np.pi, algorithm="vern7", **CLOSE)
    end = 4 * np.pi
    linear = (1 / 2 - 1 / 3) + (8 / 3 - 2 - (1 / 3 - 1 / 2)) + 2 * (end**2 / 2 - end - (2 - 2))
    assert abs(data.x_final.values[0] - (4 + linear)) < 1e-8


def test_narrow_windows_far_away() -> None:
    """A window of a millionth of the run is found, in closed form or not."""
    model = OdeSystem.from_mapping(
        {
            "states": {"x": 0.0, "y": 0.0},
            "parameters": {"c": 1.0},
            "equations": {
                "x": "where(t > c and t < c + 1e-3, 1e3, 0)",
                "y": "where((t - c)*(t - c) < 0.25e-6, 1e3, 0)",
            },
        }
    )
    data = solve(model, parameters={"c": [3.3, 517.0, 999.0]}, duration=1000.0, algorithm="tsit5")
    np.testing.assert_allclose(data.x_final, 1.0, rtol=1e-8)
    np.testing.assert_allclose(data.y_final, 1.0, rtol=1e-6)


@pytest.mark.parametrize("algorithm", ["tsit5", "vern7", "rodas5p", "bdf", "taylor_12", "auto"])
def test_smooth_pulses_are_seen(algorithm: str) -> None:
    text = "x' = 10/w*exp(-((t - c)/w)**2)"
    model = OdeSystem.from_equations(text, {"x": 0.0}, {"c": 20.0, "w": 0.05})
    c = np.array([3.0, 20.0, 25.7, 29.9, 20.0, 1.2])
    w = np.array([0.05, 0.05, 1e-2, 0.05, 1e-4, 1e-5])
    data = solve(model, parameters={"c": c, "w": w}, duration=30.0, algorithm=algorithm)
    exact = 5 * np.sqrt(np.pi) * (erf((30 - c) / w) + erf(c / w))
    assert (data.status == 0).all()
    np.testing.assert_allclose(data.x_final, exact, rtol=2e-5)


def test_other_shapes_of_pulses() -> None:
    model = OdeSystem.from_mapping(
        {
            "states": {"bell": 0.0, "lorentz": 0.0, "ramp": 0.0, "comb": 0.0},
            "parameters": {"c": 61.0},
            "equations": {
                "bell": "exp(-(mod(t, 25) - 7)**2/0.0002)",
                "lorentz": "0.001/(1e-6 + (t - c)**2)",
                "ramp": "tanh((t - c)/0.001) - tanh((t - c - 0.01)/0.001)",
                "comb": "cos(0.2*t)**128",
            },
        }
    )
    data = solve(model, parameters={"c": [61.0, 88.8]}, duration=100.0, algorithm="tsit5")
    np.testing.assert_allclose(data.bell_final, 4 * np.sqrt(np.pi * 0.0002), rtol=1e-4)
    for run, c in enumerate((61.0, 88.8)):
        exact = np.arctan((100 - c) / 0.001) + np.arctan(c / 0.001)
        assert abs(data.lorentz_final.values[run] - exact) < 1e-4
        assert abs(data.ramp_final.values[run] - 0.02) < 1e-5
    fine = np.linspace(0, 100, 2_000_001)
    comb = np.trapezoid(np.cos(0.2 * fine) ** 128, fine)
    np.testing.assert_allclose(data.comb_final, comb, rtol=1e-4)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_triggers_in_time_alone_are_counted(precision: str) -> None:
    model = OdeSystem.from_mapping(
        {
            "states": {"x": 1.0},
            "parameters": {"w": 2 * np.pi},
            "equations": {"x": "-x"},
            "events": {
                "wave": {"when": "sin(w*t) > 0.5"},
                "root": {"root": "sin(w*t) - 0.5", "direction": "both"},
                "clock": {"when": "mod(t, 0.5) >= 0.25"},
            },
        }
    )
    data = solve(
        model, parameters={"w": [2 * np.pi, 20 * np.pi]}, duration=5.0, algorithm="tsit5",
        precision=precision, event_times=5,
    )  # fmt: skip
    assert data.wave_count.values.tolist() == [5, 50]
    assert data.root_count.values.tolist() == [10, 100]
    assert data.clock_count.values.tolist() == [10, 10]
    close = 1e-12 if precision == "float64" else 1e-5
    np.testing.assert_allclose(data.wave_times.values[0], 1 / 12 + np.arange(5), rtol=close)
    np.testing.assert_allclose(data.clock_times.values[1], 0.25 + 0.5 * np.arange(5), rtol=close)


def test_an_event_moves_a_switch() -> None:
    """What an event sets decides when the next switch is."""
    model = OdeSystem.from_mapping(
        {
            "states": {"x": 0.0},
            "parameters": {"c": 100.0},
            "equations": {"x": "where(t > c, 1, 0)"},
            "events": {"earlier": {"at": 2.0, "set": {"c": 5.0}}},
        }
    )
    data = solve(model, duration=10.0, algorithm="rodas5p")
    assert abs(data.x_final.values[0] - 5.0) < 1e-9


def test_saved_values_and_metrics_at_switches() -> None:
    """What is saved at a switch is what holds from then on; means know both sides."""
    model = OdeSystem.from_mapping(
        {
            "states": {"x": 0.0},
            "equations": {"x": "where(t >= 2, 1, 0)"},
            "observables": {"on": "where(t >= 2 and t < 3, 4, 0)"},
        }
    )
    data = solve(
        model, duration=8.0, save_every=1.0, variables=["x", "on"], summaries=["on"],
        algorithm="tsit5",
    )  # fmt: skip
    assert data.on.values[0].tolist() == [0, 0, 4, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(data.x.values[0], np.maximum(data.time - 2, 0), atol=1e-12)
    assert abs(data.on_mean.values[0] - 0.5) < 1e-12
    assert data.on_max.values[0] == 4


def test_conditions_on_drivers() -> None:
    model = OdeSystem.from_mapping(
        {
            "states": {"x": 0.0, "y": 0.0},
            "parameters": {"level": 0.5},
            "drivers": {
                "u": {"times": [0, 4, 8], "values": [0, 1, 0]},
                "v": {"times": [0, 1, 2, 3, 4], "values": [0, 1, 0, -1, 0],
                      "interpolation": "cubic", "outside": "periodic"},
            },
            "equations": {"x": "where(u > level, 1, 0)", "y": "where(v > 0, 1, 0)"},
        }
    )  # fmt: skip
    data = solve(model, parameters={"level": [0.5, 0.9]}, duration=8.0, algorithm="tsit5")
    np.testing.assert_allclose(data.x_final, [4.0, 0.8], atol=1e-9)
    np.testing.assert_allclose(data.y_final, 4.0, atol=1e-9)


@pytest.mark.skipif(not toolkit_installed(), reason="needs the CUDA toolkit wheels")
def test_the_simulator_gives_the_same_bits() -> None:
    text = "x' = -x + where(sin(3*t) > s, 1, 0) + where(mod(t, 0.7) < 0.1, 2, 0)"
    model = OdeSystem.from_equations(text, {"x": 0.0}, {"s": 0.3})
    options: dict[str, Any] = {"parameters": {"s": [0.3, -0.2]}, "duration": 2.0}
    cpu, simulated = (
        solve(model, target=target, algorithm="tsit5", **options) for target in ("cpu", "simulator")
    )
    for name in cpu.data_vars:
        np.testing.assert_array_equal(cpu[name].values, simulated[name].values, err_msg=name)


def test_models_without_time_have_no_slots() -> None:
    from cubie_flow.integrators.run import RunSettings, SingleIntegratorRun

    model = OdeSystem.from_equations("x' = where(x > 1, -x, floor(k))", {"x": 0.0}, {"k": 2.0})
    loop = SingleIntegratorRun(RunSettings(model, varied=("k",))).loop.settings
    assert loop.switches == ()
    assert loop.pulses == ()
