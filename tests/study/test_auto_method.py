"""What ``algorithm=auto`` does where a method fails, ends early or contradicts itself."""

from __future__ import annotations

import numpy as np
import pytest
from attrs import evolve

from cubie_flow import OdeSystem, solve
from cubie_flow.api import ControllerChoice, Study
from cubie_flow.batches import make_design
from cubie_flow.study.auto_method import resolve_algorithm

#: Rates of E5, the chemical pyrolysis of E. Hairer and G. Wanner, Solving ODEs II, section IV.10.
RATES = {"A": 7.89e-10, "B": 1.1e7, "C": 1.13e3, "M": 1e6}


@pytest.fixture(scope="module")
def e5() -> OdeSystem:
    """Reactions over 13 decades, as published: y2 - y3 - y4 stays 0 but for rounding."""
    return OdeSystem.from_equations(
        """
        dy1/dt = -A*y1 - B*y1*y3
        dy2/dt = A*y1 - M*C*y2*y3
        dy3/dt = (A*y1 - M*C*y2*y3) - (B*y1*y3 - C*y4)
        dy4/dt = B*y1*y3 - C*y4
        """,
        states={"y1": 1.76e-3, "y2": 0.0, "y3": 0.0, "y4": 0.0},
        parameters=RATES,
    )


def kinetics(system: OdeSystem, **more) -> Study:  # type: ignore[no-untyped-def]
    return Study(
        system,
        make_design("grid", {"A": {"linspace": [7.5e-10, 8.3e-10, 9]}}),
        duration=1e13,
        algorithm="auto",
        precision="float64",
        controller=ControllerChoice(rtol=1e-6, atol=1e-24),
        **more,
    )


# At the end y2 and y3 fall as 1/(M*C*t), whatever A was.
END = 1.0 / (RATES["M"] * RATES["C"] * 1e13)


def test_a_method_that_contradicts_itself_is_not_taken(e5: OdeSystem) -> None:
    chosen, reason = resolve_algorithm(kinetics(e5))
    assert chosen.algorithm == "radau_iia_5"
    assert "rodas5p" in reason
    assert "tolerances from its own result at a tighter tolerance" in reason
    found = solve(e5, duration=1e13, algorithm="auto", rtol=1e-6, atol=1e-24)
    assert found.attrs["algorithm"] == "radau_iia_5"
    assert float(found.y2_final[0]) == pytest.approx(END, rel=5e-3, abs=0.0)
    assert float(found.y3_final[0]) == pytest.approx(END, rel=5e-3, abs=0.0)
    # At a tolerance that says nothing of y2 the stiff method fails, and the other one is taken.
    loose = evolve(kinetics(e5), controller=ControllerChoice())
    assert resolve_algorithm(loose)[0].algorithm == "radau_iia_5"
    # In float32 no method has a correct digit: the note reports it with a remedy.
    single = resolve_algorithm(evolve(kinetics(e5), precision="float32"))[1]
    assert "no method tried repeats its result" in single
    assert "precision=float64" in single


def test_a_chosen_method_that_rounding_leaves_no_digit_is_named(e5: OdeSystem) -> None:
    for algorithm, lost in (("rodas5p", True), ("radau_iia_5", False), ("tsit5", False)):
        chosen, told = resolve_algorithm(evolve(kinetics(e5), algorithm=algorithm))
        assert chosen.algorithm == algorithm
        assert ("rounding may leave no correct digit" in told) is lost, algorithm
        assert ("algorithm=radau_iia_5" in told) is lost
    # Where time scales are near each other, nothing is tried.
    short = evolve(kinetics(e5), algorithm="rodas5p", duration=1e3)
    assert resolve_algorithm(short) == (short, "")
    with pytest.warns(UserWarning, match="rounding may leave no correct digit"):
        solve(e5, duration=1e13, algorithm="rodas5p", rtol=1e-6, atol=1e-24)


@pytest.mark.parametrize("algorithm", ["rodas5p", "rodas4", "kvaerno5", "radau_iia_5"])
def test_slow_components_are_not_lost_without_a_matrix(e5: OdeSystem, algorithm: str) -> None:
    found = solve(
        e5, duration=1e13, algorithm=algorithm, linear_solver="bicgstab", rtol=1e-6, atol=1e-24
    )
    assert int(found.status[0]) == 0
    assert float(found.y2_final[0]) == pytest.approx(END, rel=0.1, abs=0.0)
    assert float(found.y3_final[0]) == pytest.approx(END, rel=0.1, abs=0.0)


def test_runs_that_an_event_stops_have_not_failed() -> None:
    falling = OdeSystem.from_mapping(
        {
            "name": "falling",
            "states": {"x": 1.0},
            "parameters": {"k": 1.0},
            "equations": {"x": "-k*x"},
            "events": {"low": {"when": "x < 0.5", "stop": True}},
        }
    )
    study = Study(
        falling, make_design("grid", {"k": {"linspace": [0.5, 2.0, 8]}}), duration=10.0,
        algorithm="auto",
    )  # fmt: skip
    chosen, reason = resolve_algorithm(study)
    assert chosen.algorithm == "tsit5"
    assert "failed" not in reason


def test_methods_that_end_apart_are_named(lorenz: OdeSystem) -> None:
    study = Study(
        lorenz, make_design("grid", {"rho": {"linspace": [20.0, 45.0, 16]}}), duration=30.0,
        algorithm="auto",
    )  # fmt: skip
    chosen, reason = resolve_algorithm(study)
    assert chosen.algorithm == "tsit5"
    assert "tsit5 and rodas5p end more than 1% apart in" in reason
    assert "apart" not in resolve_algorithm(evolve(study, duration=1.0))[1]


def test_failing_runs_of_every_method_are_reported() -> None:
    blowing = OdeSystem.from_equations("dx/dt = x**2", states={"x": 1.0})
    study = Study(blowing, make_design("single", {}), duration=2.0, algorithm="auto")
    chosen, reason = resolve_algorithm(study)
    assert chosen.algorithm == "rodas5p"
    assert "every method tried fails in more than a tenth of the runs" in reason
    assert np.isnan(float(solve(blowing, duration=2.0, algorithm="auto").x_final[0]))
