"""Failed runs solved again, and the choice of a method."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import evolve

from cubie_flow import OdeSystem, solve
from cubie_flow.api import ControllerChoice, Study
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.expressions.graph import symbol
from cubie_flow.study.attempts import DEFAULT, read_rescue
from cubie_flow.study.auto_method import series_pays
from cubie_flow.systems.events import Event


@pytest.fixture(scope="module")
def relaxation() -> OdeSystem:
    """Mild for small k, stiff for large k; blows up in finite time where b is positive."""
    return OdeSystem.from_equations(
        "dx/dt = -k*(x - cos(t)) + b*x**2",
        states={"x": 0.5},
        parameters={"k": 10.0, "b": 0.0},
    )


K = np.array([5.0, 1e6, 10.0, 0.1, 1e5, 20.0])
B = np.array([0.0, 0.0, 0.0, 10.0, 0.0, 0.0])


def batch(system: OdeSystem, **more):  # type: ignore[no-untyped-def]
    choice = ControllerChoice(rtol=1e-6, atol=1e-8, max_steps=2000)
    return solve(
        system, parameters={"k": K, "b": B}, duration=2.0, algorithm="tsit5", controller=choice,
        times=[0.5, 1.0, 2.0], summaries=["x"], **more,
    )  # fmt: skip


def test_failed_runs_are_solved_again(relaxation: OdeSystem) -> None:
    plain, rescued = batch(relaxation), batch(relaxation, rescue="default")
    assert plain.status.values[[1, 3, 4]].all()
    assert "attempt" not in plain
    # The stiff runs come from the first attempt; the one that blows up has no solution.
    assert rescued.attempt.values.tolist() == [0, 1, 0, 0, 1, 0]
    assert (rescued.status.values[[0, 1, 2, 4, 5]] == 0).all()
    assert int(rescued.status[3]) == int(plain.status[3]) != 0
    good = [0, 2, 5]
    for name in plain.data_vars:
        np.testing.assert_array_equal(rescued[name].values[good], plain[name].values[good])
    # For large k the solution follows the cosine, a little late.
    np.testing.assert_allclose(rescued.x.values[1], np.cos([0.5, 1.0, 2.0]), atol=1e-5)
    assert np.isnan(rescued.x_final.values[3])
    assert np.isfinite(rescued.x_mean.values[[1, 4]]).all()


def test_attempts_are_tried_in_order(relaxation: OdeSystem) -> None:
    sequence = [{"algorithm": "heun", "max_steps_factor": 1.0}, {"algorithm": "kvaerno3"}]
    rescued = batch(relaxation, rescue=sequence)
    assert rescued.attempt.values.tolist() == [0, 2, 0, 0, 2, 0]


def test_float32_study_is_rescued_in_float64(relaxation: OdeSystem) -> None:
    rescued = batch(relaxation, rescue="default", precision="float32")
    assert rescued.x_final.dtype == np.float32
    assert rescued.attempt.values.tolist() == [0, 1, 0, 0, 1, 0]


def test_what_rescue_may_be() -> None:
    assert read_rescue("off") == read_rescue(False) == read_rescue(None) == ()
    assert read_rescue("default") == DEFAULT
    assert read_rescue(["rodas4"])[0].algorithm == "rodas4"
    for wrong, message in (
        ("on", r"rescue is 'on'; it must be off, default, or a list"),
        ([{"algoritm": "rodas5p"}], r"rescue\[0\] has no key 'algoritm'; did you mean 'algorithm'"),
        ([{"algorithm": "rodas6"}], r"algorithm is 'rodas6'"),
        ([{"precision": "double"}], r"precision is 'double'; it must be one of float32, float64"),
        ([{"tolerance_factor": -1}], r"rescue\[0\].tolerance_factor is -1; it must be a positive"),
        ([3], r"rescue\[0\] is 3; it must be a mapping"),
    ):
        with pytest.raises(FlowError, match=message):
            read_rescue(wrong)


def test_auto_takes_a_stiff_method_where_it_pays(relaxation: OdeSystem, lorenz: OdeSystem) -> None:
    stiff = solve(relaxation, parameters={"k": [1e5, 1e6]}, duration=2.0, algorithm="auto")
    assert stiff.attrs["algorithm"] == "rodas5p"
    mild = solve(lorenz, parameters={"rho": [20.0, 28.0]}, duration=2.0, algorithm="auto")
    assert mild.attrs["algorithm"] == "tsit5"
    chosen = solve(
        lorenz, parameters={"rho": [20.0, 28.0]}, duration=2.0, algorithm="auto",
        linear_solver="pivoted",
    )  # fmt: skip
    assert chosen.attrs["algorithm"] == "tsit5", "the linear solver is for the stiff method alone"
    direct = solve(lorenz, parameters={"rho": [20.0, 28.0]}, duration=2.0, algorithm="tsit5")
    np.testing.assert_array_equal(mild.x_final.values, direct.x_final.values)


def test_auto_takes_a_stiff_method_for_algebraic_equations() -> None:
    system = OdeSystem.from_equations("dx/dt = -z\ndz/dt = z - x", {"x": 1, "z": 0}, mass={"z": 0})
    result = solve(system, duration=1.0, algorithm="auto", rtol=1e-8)
    assert result.attrs["algorithm"] == "rodas5p"
    assert float(result.x_final[0]) == pytest.approx(np.exp(-1.0), rel=1e-7)


def test_auto_takes_a_taylor_method_where_it_pays(lorenz: OdeSystem) -> None:
    tight = {"precision": "float64", "rtol": 1e-10, "atol": 1e-10, "duration": 1.0}
    given = {"rho": [20.0, 28.0]}
    found = solve(lorenz, parameters=given, algorithm="auto", times=[0.5, 1.0], **tight)
    assert found.attrs["algorithm"] == "taylor_12"
    direct = solve(lorenz, parameters=given, algorithm="taylor_12", times=[0.5, 1.0], **tight)
    np.testing.assert_array_equal(found.x.values, direct.x.values)
    # Summaries are read along a step, and Taylor steps are long.
    read = solve(lorenz, parameters=given, algorithm="auto", summaries=["x"], **tight)
    assert read.attrs["algorithm"] == "vern7"


def test_auto_gives_no_switch_to_a_taylor_method() -> None:
    # y starts to fall where x passes 5.3, of which the derivatives of y before have no sign.
    system = OdeSystem.from_equations(
        "dx/dt = 1\ndy/dt = 1/(1 + exp((5.3 - x)/0.01)) - y", states={"x": 0.0, "y": 1.0},
    )  # fmt: skip
    tight = {"precision": "float64", "rtol": 1e-8, "atol": 1e-8, "duration": 7.0}
    found = solve(system, algorithm="auto", **tight)
    assert found.attrs["algorithm"] == "vern7"
    assert float(found.y_final[0]) == pytest.approx(0.81819830, abs=1e-6)


@pytest.mark.parametrize(
    ("right", "pays"),
    [
        ("c*x*(1 - x)", True),
        ("sqrt(1 + x**2)/(2 + sin(c*t)) - x**1.5", True),
        ("x**20/(c + x**20) - x", False),
        ("x**c", False),
        ("exp(-c*x)", False),
        ("where(x < c, 1, 3)", False),
        ("abs(x - c)", False),
        ("min(x, c)", False),
        (" + ".join(f"{n}*x/(c*x + {n})" for n in range(2, 12)), False),
    ],
)
def test_where_a_taylor_method_may_be_tried(right: str, pays: bool) -> None:
    system = OdeSystem.from_equations(f"dx/dt = {right}", states={"x": 0.5}, parameters={"c": 2.0})
    study = Study(
        system, make_design("grid", {"c": {"linspace": [1.0, 2.0, 3]}}), duration=1.0,
        precision="float64", controller=ControllerChoice(rtol=1e-8),
    )  # fmt: skip
    assert series_pays(study) is pays
    assert not series_pays(evolve(study, precision="float32"))
    assert not series_pays(evolve(study, controller=ControllerChoice(rtol=1e-6)))
    assert not series_pays(evolve(study, controller=ControllerChoice(rtol={})))
    stop = Event("stop", root=symbol("x") - 0.9)
    assert not series_pays(evolve(study, system=evolve(system, events=(stop,))))
