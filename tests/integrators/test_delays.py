"""Delay differential equations: closed forms, orders, discontinuities, bits and refusals."""

from __future__ import annotations

from math import factorial, floor
from typing import Any

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.api import TargetChoice
from cubie_flow.errors import FlowError
from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.status import STATUS
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.maths import delay

DECAY = {
    "name": "decay",
    "states": {"x": 1.0},
    "parameters": {"tau": 1.0},
    "equations": {"x": "-delay(x, tau)"},
    "observables": {"before": "delay(x, 0.3)"},
}
MIXED = {
    "name": "mixed",
    "states": {"x": 1.0, "y": 0.5},
    "parameters": {"tau": 1.0, "a": 0.3},
    "equations": {
        "x": "a*y - delay(x, tau)",
        "y": "delay(x, 0.4) - y*delay(y, 0.5 + 0.1*x**2)",
    },
    "history": {"x": "cos(t)"},
    "observables": {"z": "delay(x*y, 0.2)"},
}


def model(description: dict[str, Any], **more: Any) -> OdeSystem:
    return OdeSystem.from_mapping({**description, **more})


def by_steps(t: float, tau: float) -> float:
    """Return the solution of ``x' = -x(t - tau)`` with x = 1 before 0 (method of steps)."""
    if t < 0:
        return 1.0
    terms = range(floor(t / tau) + 2)
    return sum((-1) ** k * (t - (k - 1) * tau) ** k / factorial(k) for k in terms)


def test_solution_is_that_of_the_method_of_steps() -> None:
    delays = [0.05, 0.31, 0.5, 1.0, 2.0, 7.0]
    options: dict[str, Any] = {"save_every": 0.25, "variables": ["x", "before"]}
    data, loose = (
        solve(model(DECAY), parameters={"tau": delays}, duration=5.0, rtol=rtol, atol=rtol / 1000,
              **options)
        for rtol in (1e-9, 1e-3)
    )  # fmt: skip
    assert (data.status.values == 0).all()
    for run, tau in enumerate(delays):
        for name, back in (("x", 0.0), ("before", 0.3)):
            exact = [by_steps(t - back, tau) for t in data.time.values]
            np.testing.assert_allclose(data[name].values[run], exact, rtol=0, atol=3e-9)
    # The solution is a polynomial of degree k between k - 1 and k delays, so that steps which end
    # there are exact at any tolerance, as long as the degree is at most four.
    np.testing.assert_allclose(loose.x.values[4], data.x.values[4], rtol=0, atol=1e-12)


def test_delay_of_a_state_has_a_closed_form() -> None:
    # W. H. Enright and H. Hayashi, Numer. Algorithms 16, 1997: y' = y(t)*y(ln y(t))/t from y(1) = 1
    # and before. The solution is t up to e, where its second derivative jumps, then exp(t/e).
    own = model(
        {
            "states": {"y": 1.0},
            "equations": {"y": "y*delay(y, t - log(y))/t + sin(delay(t, 1) - t + 1)"},
        }
    )
    data = solve(own, duration=6.0, t_start=1.0, rtol=1e-9, atol=1e-12)
    assert data.status.values[0] == 0
    assert abs(float(data.y_final[0]) - np.exp(7 / np.e)) < 1e-7


def test_order_of_a_method_with_delays() -> None:
    # Mackey and Glass, Science 197, 1977: a smooth start (t > 4 delays) does not matter, since
    # steps land on all discontinuities up to the order.
    glass = model(
        {
            "states": {"x": 0.5},
            "equations": {"x": "0.2*delay(x, 2)/(1 + delay(x, 2)**10) - 0.1*x"},
        }
    )
    ends = [
        float(solve(glass, duration=20.0, algorithm="tsit5", kind="fixed", dt=dt).x_final[0])
        for dt in (0.5, 0.25, 0.125, 1 / 64)
    ]
    # Longer steps than the delay are as long as the delay while discontinuities come back, five
    # times, and then 1 % shorter.
    longest = solve(glass, duration=20.0, algorithm="tsit5", kind="fixed", dt=5.0)
    assert longest.steps.values.tolist() == [5 + 6]
    errors = np.abs(np.array(ends[:-1]) - ends[-1])
    assert (np.log2(errors[:-1] / errors[1:]) > 4.5).all(), errors


#: The ends of `MIXED` at t = 3 for tau = 0.5 and 1.3, a = 0.3 and 0.1, by vern7 and
#: dormand_prince_853 at a tolerance of 1e-12, which agree to these digits.
ENDS = {
    "x_final": (0.1537133170198, -0.6104197097528),
    "y_final": (0.4694245166992, -0.0506257508361),
}


@pytest.mark.parametrize(
    ("algorithm", "rtol", "allowed"),
    [("rodas5p", 1e-7, 2e-7), ("radau_iia_5", 1e-7, 1e-6), ("bdf", 1e-6, 1e-4)],
)  # fmt: skip
def test_several_and_varying_delays(algorithm: str, rtol: float, allowed: float) -> None:
    data = solve(
        model(MIXED), parameters={"tau": [0.5, 1.3], "a": [0.3, 0.1]}, algorithm=algorithm,
        duration=3.0, rtol=rtol, atol=rtol / 100, history=2000,
    )  # fmt: skip
    assert (data.status.values == 0).all()
    for name, exact in ENDS.items():
        np.testing.assert_allclose(data[name].values, exact, rtol=0, atol=allowed)


def test_bits_are_the_same_on_all_targets_and_lanes() -> None:
    lagging = model(DECAY, equations={"x": "-delay(x, tau + 0.1*x)"})
    options: dict[str, Any] = {"duration": 0.4, "rtol": 1e-2, "atol": 1e-2, "history": 20}
    options |= {"save_every": 0.2, "variables": ["x", "before"]}
    one, *others = (
        solve(lagging, parameters={"tau": [0.25, 0.35]}, target=target, **options)
        for target in (
            TargetChoice("cpu", lanes=1),
            TargetChoice("cpu", lanes=8),
            TargetChoice("simulator"),
        )
    )
    assert (one.status.values == 0).all()
    for other in others:
        for name in one.data_vars:
            np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)


def test_events_and_switches_come_back_after_a_delay() -> None:
    # x jumps from 0 to 1 at t = 1, and u from 0 to 2 at t = 0.5; y' = x(t - tau) is then exact.
    jumps = model(
        {
            "states": {"x": 0.0, "y": 0.0, "z": 0.0},
            "parameters": {"tau": 1.0},
            "equations": {
                "x": "0",
                "y": "delay(x, tau)",
                "z": "delay(where(t < 0.5, 0, 2) + t, tau)",
            },
            "events": {"jump": {"at": 1, "set": {"x": "x + 1", "tau": "tau/2"}}},
        }
    )
    with pytest.raises(FlowError, match="reads the past"):
        model({**DECAY, "events": {"e": {"when": "delay(x, 1) > 2", "stop": True}}})
    data = solve(jumps, parameters={"tau": [1.0, 3.0]}, duration=4.0, rtol=1e-3, atol=1e-3)
    assert (data.status.values == 0).all()
    # After the event the delay is tau/2, so y grows from t = 1 + tau/2 on.
    np.testing.assert_allclose(data.y_final, [4 - 1.5, 4 - 2.5], atol=1e-12)
    # The integral of (0 or 2) and t - tau, with tau before t = 1 and tau/2 after it.
    exact = []
    for tau in (1.0, 3.0):
        ramp = 0.5 - tau + (16 - 1) / 2 - 3 * tau / 2
        exact.append(ramp + 2 * (4 - max(1.0, 0.5 + tau / 2)) + 2 * max(0.0, 1 - 0.5 - tau))
    np.testing.assert_allclose(data.z_final, exact, atol=1e-12)
    assert (data.steps.values < 60).all()


def test_runs_end_where_the_past_is_not_known() -> None:
    short = solve(model(DECAY), parameters={"tau": [1.0, 0.05]}, duration=3.0, history=3,
                  rtol=1e-8, atol=1e-12)  # fmt: skip
    assert short.status.values.tolist() == [STATUS["history_overflow"], 0]
    vanishing = model(DECAY, equations={"x": "-delay(x, tau - t)"})
    data = solve(vanishing, parameters={"tau": [1.0, 4.0, 0.0]}, duration=3.0)
    assert data.status.values.tolist() == [STATUS["short_delay"], 0, STATUS["short_delay"]]
    # An observable reads further back than the kept steps hold.
    seen = model(DECAY, equations={"x": "-x"}, unused=["tau"])
    late = solve(seen, duration=3.0, history=2, rtol=1e-8, atol=1e-12, save_every=0.5,
                 variables=["before"])  # fmt: skip
    assert late.status.values.tolist() == [STATUS["history_overflow"]]


def test_models_of_all_kinds_are_one_model() -> None:
    function = OdeSystem.from_function(
        lambda t, y, p: {"x": p.a * y.y - delay(y.x, p.tau), "y": -delay(y.y * t, 2.0)},
        {"x": 1.0, "y": 0.5}, {"tau": 1.0, "a": 0.3}, name="both",
        history={"x": lambda t, y, p: p.a * t, "y": "1 + t"},
    )  # fmt: skip
    text = OdeSystem.from_equations(
        "dx/dt = a*y - delay(x, tau)\ny' = -delay(y*t, 2)",
        {"x": 1.0, "y": 0.5}, {"tau": 1.0, "a": 0.3}, name="both",
        history={"x": "a*t", "y": "1 + t"},
    )  # fmt: skip
    assert function.content_hash == text.content_hash
    again = OdeSystem.from_mapping(function.to_mapping())
    assert again.content_hash == text.content_hash
    assert function.to_mapping()["equations"]["y"] == "-delay(y, 2.0)*(t - 2.0)"
    nested = model(DECAY, equations={"x": "-delay(delay(x, 1 + t), tau)"}, observables={})
    assert nested.to_mapping()["equations"]["x"] == "-delay(x, tau + (1.0 + (t - tau)))"
    assert delay(2.0, 1.0) == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"equations": {"x": "-tau*delay(x, -1)"}}, "has the delay -1; it must be positive"),
        ({"equations": {"x": "-delay(x)"}}, "it is delay\\(expression, lag\\)"),
        ({"history": {"z": "1"}}, "there is a history for 'z'"),
        ({"history": {"x": "q"}}, "'q' is not defined"),
        ({"states": {"x": "delay(tau*t, 1)"}}, "start values: .* reads the past"),
        (
            {"drivers": {"u": {"times": [0, 1], "values": [0, 1]}},
             "equations": {"x": "delay(u + x, tau)"}},
            "'u' is a driver, of which only the present is known",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FlowError, match=message):
        model(DECAY, **changes)


@pytest.mark.parametrize("algorithm", ["taylor_8", "kvaerno5", "fehlberg_45"])
def test_methods_without_delays_are_refused(algorithm: str) -> None:
    with pytest.raises(FlowError, match=f"algorithm is '{algorithm}', .*; use "):
        solve(model(DECAY), algorithm=algorithm)
    with pytest.raises(FlowError, match="have delays"):
        solve(model(DECAY), sensitivities=["tau"])


def test_the_past_is_placed_and_compiles_for_a_gpu() -> None:
    settings = RunSettings(OdeSystem.from_mapping(DECAY), varied=("tau",), history=16)
    kernel = BatchSolverKernel(settings, BatchSolverConfig("cuda", arch="sm_90"))
    entry = kernel.layout.find(kernel.run.loop, "past")
    # A row has a start, a length, a level and the five coefficients of a polynomial.
    assert (entry.arena, entry.elements) == ("persistent", 17 * 8)
    assert ".target sm_90" in kernel.compile_cuda("sm_90").ptx
    shared = BatchSolverKernel(settings, BatchSolverConfig("cpu"), {"past": "shared"})
    data = shared.solve({"tau": np.array([0.5])}, 1, Tolerances())
    plain = BatchSolverKernel(settings, BatchSolverConfig("cpu")).solve(
        {"tau": np.array([0.5])}, 1, Tolerances()
    )
    np.testing.assert_array_equal(data.finals, plain.finals)
