"""Every method as compiled: order of convergence, reference solutions, tolerance, statuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.api import ControllerChoice
from cubie_flow.errors import FlowError
from cubie_flow.integrators.tableaus import TABLEAUS

EMBEDDED = [name for name, method in TABLEAUS.items() if method.error is not None]
DENSE = [name for name, method in TABLEAUS.items() if method.dense is not None]


def error_at_end(system: OdeSystem, algorithm: str, dt: float) -> float:
    result = solve(
        system,
        parameters={"c": [0.5]},
        duration=1.0,
        algorithm=algorithm,
        controller=ControllerChoice(kind="fixed", dt=dt),
    )
    exact = math.sin(1.0), math.exp(-1.0)
    return math.hypot(float(result.x_final[0]) - exact[0], float(result.y_final[0]) - exact[1])


@pytest.mark.parametrize("algorithm", TABLEAUS)
def test_order_of_convergence(smooth: OdeSystem, algorithm: str) -> None:
    order = TABLEAUS[algorithm].order
    coarse = 2 if order >= 8 else 4 if order >= 7 else 16 if order >= 4 else 32
    errors = [error_at_end(smooth, algorithm, 1.0 / n) for n in (coarse, 2 * coarse)]
    assert errors[1] > 1e-15, "the test has no resolution left"
    observed = math.log2(errors[0] / errors[1])
    assert observed > order - 0.35, (observed, errors)
    assert observed < order + 1.8, (observed, errors)


@pytest.mark.parametrize("algorithm", DENSE)
def test_dense_output_is_as_good_as_the_step(smooth: OdeSystem, algorithm: str) -> None:
    method = TABLEAUS[algorithm]
    assert method.dense is not None
    worst = []
    steps = (3, 6) if method.order >= 7 else (10, 20)
    for n in steps:
        result = solve(
            smooth,
            parameters={"c": [0.5]},
            duration=1.0,
            algorithm=algorithm,
            controller=ControllerChoice(kind="fixed", dt=1.0 / n),
            times=np.linspace(0, 1, 41),
        )
        error = np.abs(result.x[0].values - np.sin(result.time.values))
        assert error[0] == 0.0
        assert float(result.x[0, -1]) == float(result.x_final[0])
        worst.append(error.max())
    observed = math.log2(worst[0] / worst[1])
    assert observed > min(method.dense.order + 1, method.order) - 0.8, (observed, worst)


@pytest.mark.parametrize("algorithm", EMBEDDED)
def test_error_follows_tolerance(lorenz: OdeSystem, algorithm: str) -> None:
    exact = np.array([-6.450579147318919, -8.895211478667811, 14.649145866604451])
    errors, steps = [], []
    for tolerance in (1e-4, 1e-6, 1e-8):
        result = solve(
            lorenz, parameters={"rho": [21.0]}, duration=1.0, algorithm=algorithm,
            rtol=tolerance, atol=tolerance,
        )  # fmt: skip
        assert int(result.status[0]) == 0
        found = np.array([float(result[f"{name}_final"][0]) for name in "xyz"])
        errors.append(np.abs(found - exact).max())
        steps.append(int(result.steps[0]))
    assert errors[0] < 0.2
    assert errors[2] < 3e-5
    assert errors[2] < errors[0] / 30
    assert steps == sorted(steps)


def test_lorenz_fixed_step_digits(lorenz: OdeSystem) -> None:
    result = solve(
        lorenz, parameters={"rho": [20.0]}, duration=0.1, algorithm="rk4", dt=0.01,
        times=[0.05, 0.1],
    )  # fmt: skip
    expected = {
        "x": [0.79141377720844, 0.97144134548558],
        "y": [0.83096867911251, 1.62462842621362],
        "z": [0.01707171222098, 0.06471070444029],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(result[name].values[0], values, rtol=0, atol=6e-15)
    other = solve(
        lorenz, parameters={"rho": [28.0]}, initial_values={"x": 1.1}, duration=0.1,
        algorithm="rk4", dt=0.01,
    )  # fmt: skip
    finals = [float(other[f"{name}_final"][0]) for name in "xyz"]
    np.testing.assert_allclose(
        finals, [1.39843755689814, 2.80432799195478, 0.13807640861572], rtol=0, atol=6e-15
    )


def test_lorenz_without_forcing_decays_exactly(lorenz: OdeSystem) -> None:
    result = solve(
        lorenz, parameters={"rho": [0.0]}, duration=1.0, algorithm="dormand_prince_853",
        rtol=1e-12, atol=1e-14,
    )  # fmt: skip
    assert float(result.x_final[0]) == pytest.approx(math.exp(-10.0), rel=1e-9)


@pytest.mark.parametrize("algorithm", ["dormand_prince_853", "vern7"])
def test_arenstorf_orbit_closes(conf, algorithm: str) -> None:  # type: ignore[no-untyped-def]
    system = OdeSystem.from_file(conf / "system" / "arenstorf.yaml")
    result = solve(
        system, duration=17.0652165601579625588917206249, algorithm=algorithm,
        rtol=1e-13, atol=1e-13,
    )  # fmt: skip
    assert int(result.status[0]) == 0
    for state in system.states:
        assert float(result[f"{state.name}_final"][0]) == pytest.approx(state.value, abs=2e-5)


def test_float32_keeps_time_through_many_steps() -> None:
    """Time is compensated: a million small steps do not drift in single precision."""
    system = OdeSystem.from_equations("dx/dt = k", states={"x": 0.0}, parameters={"k": 1.0})
    result = solve(
        system, duration=100.0, algorithm="euler", dt=1e-3, precision="float32",
        times=[25.0, 50.0, 100.0],
    )  # fmt: skip
    assert int(result.steps[0]) == pytest.approx(100_000, abs=2)


def test_each_failure_has_its_status() -> None:
    blowing = OdeSystem.from_equations("dx/dt = k*x**2", states={"x": 1.0}, parameters={"k": 1.0})
    result = solve(blowing, parameters={"k": [0.5, 2.0, 0.1]}, duration=1.0, save_every=0.25)
    assert result.status.values[0] == 0
    assert result.status.values[2] == 0
    assert int(result.status[1]) in (2, 3)
    assert np.isnan(result.x_final.values[1])
    assert np.isfinite(result.x.values[[0, 2]]).all()
    # The blow-up is at t = 0.5: what was before it stays, what is after it is missing.
    assert np.isfinite(result.x.values[1, :2]).all()
    assert np.isnan(result.x.values[1, 3:]).all()
    limited = solve(
        blowing, parameters={"k": [0.5]}, duration=1.0, controller=ControllerChoice(max_steps=2)
    )
    assert int(limited.status[0]) == 1
    fixed = solve(blowing, parameters={"k": [2.0]}, duration=2.0, algorithm="rk4", dt=0.01)
    assert int(fixed.status[0]) == 3


def test_metrics_of_a_known_curve() -> None:
    circle = OdeSystem.from_equations(
        "dx/dt = w*y\ndy/dt = -w*x", states={"x": 0.0, "y": 1.0}, parameters={"w": 1.0}
    )
    result = solve(
        circle, parameters={"w": [1.0, 2.0]}, duration=8 * math.pi, rtol=1e-8, atol=1e-8,
        summaries=["x"], initial_values={"x": 0.0},
    )  # fmt: skip
    np.testing.assert_allclose(result.x_min, -1, atol=2e-3)
    np.testing.assert_allclose(result.x_max, 1, atol=2e-3)
    np.testing.assert_allclose(result.x_mean, 0, atol=1e-6)
    np.testing.assert_allclose(result.x_rms, math.sqrt(0.5), atol=1e-6)
    np.testing.assert_allclose(result.x_std, math.sqrt(0.5), atol=1e-6)
    np.testing.assert_array_equal(result.x_peaks, [4, 8])


def test_metrics_include_the_start() -> None:
    decay = OdeSystem.from_equations("dx/dt = -k*x", states={"x": 3.0}, parameters={"k": 1.0})
    result = solve(decay, duration=1.0, summaries=["x"])
    assert float(result.x_max[0]) == 3.0
    assert float(result.x_min[0]) == float(result.x_final[0])


def test_per_run_duration(lorenz: OdeSystem) -> None:
    spans = np.array([0.25, 1.0, 0.5, 0.0])
    result = solve(lorenz, duration=spans, save_every=0.25, rtol=1e-9, atol=1e-9)
    whole = solve(lorenz, duration=1.0, save_every=0.25, rtol=1e-9, atol=1e-9)
    assert (result.status.values == 0).all()
    for run, span in enumerate(spans):
        count = round(span / 0.25) + 1
        np.testing.assert_allclose(result.x[run, :count], whole.x[0, :count], atol=1e-6)
        assert np.isnan(result.x[run, count:]).all()
    assert result.duration.values.tolist() == spans.tolist()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", ["tsit5", "rk4"])
def test_a_saved_time_beside_the_end_is_the_end(
    lorenz: OdeSystem, algorithm: str, precision: str
) -> None:
    """0.1 * 3 is more than 0.3: the last sample must not fall off the end for that."""
    options = {"save_every": 0.1, "algorithm": algorithm, "precision": precision, "dt": 0.01}
    for start in (0.0, 5.3):
        once = solve(lorenz, duration=0.3, t_start=start, **options)
        assert np.isfinite(once.x.values).all()
        assert once.x.shape == (1, 4)
        assert float(once.x[0, -1]) == float(once.x_final[0])
        many = solve(lorenz, duration=[0.7, 0.3, 0.6], t_start=start, **options)
        assert np.isfinite(many.x.values).sum(axis=1).tolist() == [8, 4, 7]


def test_start_time_reaches_the_equations(pendulum: OdeSystem) -> None:
    late = solve(pendulum, t_start=2.0, duration=1.0, save_every=0.5, rtol=1e-9, atol=1e-9)
    assert late.time.values.tolist() == [2.0, 2.5, 3.0]
    early = solve(pendulum, duration=1.0, rtol=1e-9, atol=1e-9)
    assert abs(float(late.angle_final[0]) - float(early.angle_final[0])) > 0.1


def test_tolerance_per_state(lorenz: OdeSystem) -> None:
    loose = solve(lorenz, rtol=1e-3, atol=1e-3)
    mixed = solve(lorenz, rtol={"x": 1e-9, "y": 1e-3, "z": 1e-3}, atol=1e-9)
    assert int(mixed.steps[0]) > int(loose.steps[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "tsit6"}, "tsit5"),
        ({"algorithm": "rk4"}, r"controller\.dt"),
        ({"algorithm": "rk4", "dt": 0.1, "controller": ControllerChoice(kind="pi")}, "tsit5"),
        ({"rtol": -1.0}, r"controller\.rtol is -1"),
        ({"rtol": {"w": 1e-3}}, "no state 'w'"),
        ({"variables": ["zz"], "save_every": 0.1}, "zz"),
        ({"save_every": 0.0}, "save_every"),
        ({"times": [1.0, 0.5]}, "increasing"),
        ({"times": [0.5, 1.5]}, "after the duration"),
        ({"parameters": {"rhoo": [1.0]}}, "did you mean 'rho'"),
        ({"precision": "float16"}, "float16"),
        ({"target": "gpu"}, "target.kind is 'gpu'"),
        ({"duration": -1.0}, "duration is -1"),
        ({"t_start": 1e9, "precision": "float32"}, "cannot tell apart"),
        ({"t_start": math.nan}, "t_start is nan"),
        ({"duration": [1.0, -1.0]}, "duration is -1"),
        ({"initial_values": {"rho": 1.0}}, "no 'rho'"),
        ({"parameters": {"rho": np.ones((2, 3))}}, "shape"),
        ({"parameters": {"rho": "abc"}}, "must be a number"),
        ({"parameters": {"rho": np.ma.array([1.0, 2.0], mask=[0, 1])}}, "masked"),
        ({"parameters": [1.0]}, "must map names"),
        ({"rtol": "a"}, r"controller\.rtol is 'a'"),
        ({"batch": "grdi"}, "grid"),
        ({"controller": ControllerChoice(safety=2.0)}, r"controller\.safety is 2\.0"),
        ({"controller": ControllerChoice(dt_min=2.0, dt_max=1.0)}, "above controller.dt_max"),
        ({"variables": [], "save_every": 0.1}, "output.variables is empty"),
        ({"locations": {"stat": "shared"}}, "state"),
        ({"locations": {"state": "global"}}, "shared"),
        ({"locations": {"state": "register"}}, "outlive"),
    ],
)
def test_mistakes_are_one_sentence(lorenz: OdeSystem, change: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(FlowError, match=message) as caught:
        solve(lorenz, **{"duration": 1.0, **change})
    assert "\n" not in str(caught.value)
