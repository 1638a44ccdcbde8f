"""Taylor series methods as compiled: order, dense output, tolerance, statuses, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve

from cubie_flow import OdeSystem, solve
from cubie_flow.api import ControllerChoice, TargetChoice
from cubie_flow.errors import FlowError
from cubie_flow.expressions.graph import symbol
from cubie_flow.integrators.steps import taylor
from cubie_flow.integrators.tableaus import TAYLOR
from cubie_flow.systems.events import Event


def fixed(system: OdeSystem, algorithm: str, duration: float, steps: int, **more: Any) -> Any:
    return solve(
        system, parameters={"c": [0.5]}, duration=duration, algorithm=algorithm,
        controller=ControllerChoice(kind="fixed", dt=duration / steps), **more,
    )  # fmt: skip


# As far apart as float64 can show: one step and two.
SPANS = {"taylor_8": 1.0, "taylor_12": 2.0, "taylor_16": 2.0, "taylor_20": 3.5}


@pytest.mark.parametrize("algorithm", TAYLOR)
def test_order_of_convergence(smooth: OdeSystem, algorithm: str) -> None:
    span, order = SPANS[algorithm], TAYLOR[algorithm].order
    errors = []
    for steps in (1, 2):
        result = fixed(smooth, algorithm, span, steps)
        found = float(result.x_final[0]) - math.sin(span), float(result.y_final[0])
        errors.append(math.hypot(found[0], found[1] - math.exp(-span)))
    assert errors[1] > 1e-15, "the test has no resolution left"
    observed = math.log2(errors[0] / errors[1])
    assert order - 0.35 < observed < order + 1.8, (observed, errors)


@pytest.mark.parametrize("algorithm", TAYLOR)
def test_dense_output_is_as_good_as_the_step(smooth: OdeSystem, algorithm: str) -> None:
    span, order = SPANS[algorithm], TAYLOR[algorithm].order
    worst = []
    for steps in (1, 2):
        result = fixed(smooth, algorithm, span, steps, times=np.linspace(0, span, 41))
        error = np.abs(result.x[0].values - np.sin(result.time.values))
        assert error[0] == 0.0
        assert float(result.x[0, -1]) == float(result.x_final[0])
        worst.append(error.max())
    assert math.log2(worst[0] / worst[1]) > order - 1.5, worst


@pytest.mark.parametrize("algorithm", TAYLOR)
def test_error_follows_tolerance(lorenz: OdeSystem, algorithm: str) -> None:
    exact = np.array([-6.450579147318919, -8.895211478667811, 14.649145866604451])
    errors, steps = [], []
    for tolerance in (1e-6, 1e-9, 1e-12):
        result = solve(
            lorenz, parameters={"rho": [21.0]}, duration=1.0, algorithm=algorithm,
            rtol=tolerance, atol=tolerance,
        )  # fmt: skip
        assert int(result.status[0]) == 0
        found = np.array([float(result[f"{name}_final"][0]) for name in "xyz"])
        errors.append(np.abs(found - exact).max())
        steps.append(int(result.steps[0]))
    assert errors[0] < 1e-2
    assert errors[1] < 1e-5
    assert errors[2] < 1e-8
    assert errors == sorted(errors, reverse=True)
    assert steps == sorted(steps)


def test_a_term_that_vanishes_is_no_sign_of_accuracy() -> None:
    # The tangent around 0 has no even terms.
    system = OdeSystem.from_equations("dx/dt = 1 + x**2", states={"x": 0.0}, parameters={})
    result = solve(
        system, initial_values={"x": [0.0]}, duration=1.5, algorithm="taylor_8", rtol=1e-9,
        atol=1e-9,
    )  # fmt: skip
    assert float(result.x_final[0]) == pytest.approx(math.tan(1.5), rel=1e-7)


def test_a_run_into_a_pole_is_told(lorenz: OdeSystem) -> None:
    system = OdeSystem.from_equations("dx/dt = x**2", states={"x": 1.0}, parameters={})
    result = solve(system, initial_values={"x": [0.1, 1.0]}, duration=2.0, algorithm="taylor_12")
    assert list(result.status.values > 0) == [False, True]
    assert float(result.x_final[0]) == pytest.approx(0.125, rel=1e-6)
    assert math.isnan(float(result.x_final[1]))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_lanes_and_the_simulator_give_the_same_bits(precision: str) -> None:
    system = OdeSystem.from_equations(
        """
        dx/dt = y*exp(-0.1*t)
        dy/dt = -sin(x)/(1 + 0.1*sqrt(1 + y**2)) - c*y**3
        """,
        states={"x": 1.0, "y": 0.2},
        parameters={"c": 0.1},
    )

    def run(target: TargetChoice) -> Any:
        return solve(
            system, parameters={"c": np.linspace(0.0, 0.5, 5)}, duration=1.5, algorithm="taylor_8",
            precision=precision, times=[0.4, 1.5], target=target,
        )  # fmt: skip

    expected = run(TargetChoice("cpu", lanes=1))
    for target in (TargetChoice("cpu"), TargetChoice("simulator")):
        found = run(target)
        for name in ("x", "y", "x_final", "y_final", "steps", "rejected"):
            assert found[name].values.tobytes() == expected[name].values.tobytes(), name


def test_events_end_where_they_happen() -> None:
    system = OdeSystem.from_equations(
        "dx/dt = v\ndv/dt = -9.81", states={"x": 1.0, "v": 0.0}, parameters={},
    )  # fmt: skip
    ball = evolve(system, events=(Event("ground", root=-symbol("x"), stop=True),))
    result = solve(ball, initial_values={"x": [1.0, 2.0]}, duration=5.0, algorithm="taylor_8")
    times = result.ground_times.values[:, 0]
    np.testing.assert_allclose(times, np.sqrt(2 * np.array([1.0, 2.0]) / 9.81), atol=1e-9)


def test_a_large_system_is_compiled_as_a_function_of_its_own(conf: Path) -> None:
    system = OdeSystem.from_file(conf / "system" / "lorenz96.yaml", {"size": 20})
    found, right = (
        solve(system, parameters={"F": [8.0]}, duration=0.5, algorithm=name, rtol=1e-10, atol=1e-10)
        for name in ("taylor_12", "dormand_prince_853")
    )
    assert float(found.x_3_final[0]) == pytest.approx(float(right.x_3_final[0]), abs=1e-7)


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taylor, "LARGEST", 500)
    # A model of its own: kernels that are already compiled are kept.
    system = OdeSystem.from_equations("dx/dt = tan(x) - 0.321*x", states={"x": 0.1}, parameters={})
    with pytest.raises(FlowError, match=r"'taylor_20', whose coefficients take \d+ operations"):
        solve(system, initial_values={"x": [0.1]}, duration=1.0, algorithm="taylor_20")


def test_it_solves_no_linear_systems(lorenz: OdeSystem) -> None:
    with pytest.raises(FlowError, match="algorithm 'taylor_8' is explicit"):
        solve(
            lorenz, parameters={"rho": [21.0]}, duration=1.0, algorithm="taylor_8",
            linear_solver="sparse",
        )  # fmt: skip


def test_no_step_is_tried_in_vain(lorenz: OdeSystem) -> None:
    result = solve(
        lorenz, parameters={"rho": np.linspace(0.0, 21.0, 40)}, duration=5.0,
        algorithm="taylor_12", rtol=1e-9, atol=1e-9,
    )  # fmt: skip
    assert (result.status.values == 0).all()
    assert (result.rejected.values == 0).all()
    # A judged step of the same tolerance takes as many and one more for the first.
    assert 40 < result.steps.values.mean() < 120


@pytest.mark.parametrize(("precision", "dt"), [("float32", 1.0), ("float64", 1e12)])
def test_coefficients_that_overflow_shorten_the_step(precision: str, dt: float) -> None:
    system = OdeSystem.from_equations(
        "dx/dt = k*y\ndy/dt = -k*x", states={"x": 0.0, "y": 1.0}, parameters={"k": 1.0}
    )
    k = 2.0 * math.pi * 1e7
    result = solve(
        system, parameters={"k": [k]}, duration=2e-6, algorithm="taylor_12", precision=precision,
        controller=ControllerChoice(dt=dt, rtol=1e-6, atol=1e-6),
    )  # fmt: skip
    assert int(result.status[0]) == 0
    assert int(result.rejected[0]) > 0
    assert float(result.y_final[0]) == pytest.approx(1.0, abs=1e-3)


def test_a_state_that_starts_at_zero_needs_no_absolute_tolerance() -> None:
    system = OdeSystem.from_equations(
        "dx/dt = y\ndy/dt = -x", states={"x": 0.0, "y": 1.0}, parameters={}
    )
    result = solve(
        system, initial_values={"x": [0.0]}, duration=1.0, algorithm="taylor_8",
        controller=ControllerChoice(rtol=1e-9, atol=0.0),
    )  # fmt: skip
    assert int(result.status[0]) == 0
    assert float(result.x_final[0]) == pytest.approx(math.sin(1.0), rel=1e-8)


@pytest.mark.parametrize(
    ("controller", "said"),
    [
        (ControllerChoice(kind="pi"), "controller.kind is 'pi'.*default, i or fixed"),
        (ControllerChoice(min_factor=0.5), "controller.min_factor is '0.5'.*leave it at null"),
    ],
)
def test_what_a_taylor_method_cannot_use_is_refused(
    lorenz: OdeSystem, controller: ControllerChoice, said: str
) -> None:
    with pytest.raises(FlowError, match=said):
        solve(
            lorenz, parameters={"rho": [21.0]}, duration=1.0, algorithm="taylor_8",
            controller=controller,
        )  # fmt: skip


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", ["taylor_8", "taylor_16"])
@pytest.mark.parametrize(
    ("equation", "right", "rejected"),
    [
        ("where(x < 1, 1, 3)", 4.0, 1),
        # A sigmoid that its derivatives at the start know nothing of; in time alone, so that steps
        # are shortened before it.
        ("1/(1 + exp(-40*(t - 1))) - 0.2*x", 0.906177885, 0),
    ],
)
def test_what_happens_within_a_step_is_seen(
    equation: str, right: float, rejected: int, algorithm: str, precision: str
) -> None:
    system = OdeSystem.from_equations(f"dx/dt = {equation}", states={"x": 0.0}, parameters={})
    tolerance = 1e-8 if precision == "float64" else 1e-5
    result = solve(
        system, initial_values={"x": [0.0]}, duration=2.0, algorithm=algorithm,
        precision=precision, rtol=tolerance, atol=tolerance,
    )  # fmt: skip
    assert int(result.status[0]) == 0
    assert float(result.x_final[0]) == pytest.approx(right, abs=10 * tolerance)
    assert rejected <= int(result.rejected[0]) < 100
