"""Absolute tolerances follow the scale of the states, and states below them are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cubie_flow
from cubie_flow import OdeSystem, solve
from cubie_flow.api import ControllerChoice, Study, run_study
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.integrators.tolerances import Tolerances, natural_scales
from cubie_flow.study.accuracy import accuracy, as_recorded, atol_of
from cubie_flow.study.checks import tolerance
from cubie_flow.study.to_config import to_config
from cubie_flow.systems.quantities import Quantity
from cubie_flow.systems.sensitivities import with_sensitivities


def reaction(amount: float) -> OdeSystem:
    """Return a substance that turns into another one, which is absent at the start."""
    return OdeSystem.from_mapping(
        {
            "name": "reaction",
            "states": {"x": amount, "y": 0.0},
            "parameters": {"k": 1.0},
            "equations": {"x": "-k*x", "y": "k*x"},
        }
    )


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", ["tsit5", "rodas5p"])
def test_small_amounts_have_their_digits_by_default(precision: str, algorithm: str) -> None:
    made = [
        solve(
            reaction(amount), duration=1.0, algorithm=algorithm, precision=precision,
            controller=ControllerChoice(),
        )
        for amount in (1e-9, 1.0)
    ]  # fmt: skip
    small, large = made
    digits = 1e-5 if precision == "float64" else 1e-4
    np.testing.assert_allclose(small.x_final, 1e-9 * np.exp(-1.0), rtol=digits)
    np.testing.assert_allclose(small.y_final, 1e-9 * (1.0 - np.exp(-1.0)), rtol=digits)
    difference = abs(int(small.steps[0]) - int(large.steps[0]))
    assert difference <= 1, "the same problem in another unit"
    assert json.loads(small.attrs["atol"]) == {"x": 1e-15, "y": 1e-15}
    assert "below_atol" not in small.attrs


def test_scales_are_those_of_a_unit() -> None:
    states = [
        Quantity("v", -85.0, "mV"), Quantity("m", 0.003, "1"), Quantity("h", 0.6, "1"),
        Quantity("open", 0.0, "1"), Quantity("calcium", 1.5e-7, "mM"), Quantity("dose", 0.0, "g"),
    ]  # fmt: skip
    found = natural_scales(states)
    assert [found[s.name] for s in states] == pytest.approx([100, 1, 1, 1, 1e-6, 100])
    assert natural_scales([Quantity("x", 0.0), Quantity("y", 0.0)]) == {"x": 1.0, "y": 1.0}
    # Start values of the batch replace those of the model.
    given = natural_scales(states, {"m": 40.0, "calcium": 0.0})
    assert [given[s.name] for s in states] == pytest.approx([100, 100, 100, 100, 100, 100])
    # What is given wins; the precision sets what rtol can mean.
    vector = Tolerances(rtol=1e-9, atol={"m": 1e-4}).vector(states, np.float64)
    np.testing.assert_allclose(vector[-6:], [1e-7, 1e-4, 1e-9, 1e-9, 1e-15, 1e-7])
    rounding = float(np.finfo(np.float32).eps)
    single = Tolerances(rtol=1e-9).vector(states, np.float32)
    np.testing.assert_allclose(single[-2:], [1e-6 * rounding, 1e-6], rtol=1e-5)
    tenth = Tolerances(rtol=1e-6, factor=0.1, floor=5e-7).vector(states, np.float64)
    np.testing.assert_allclose(tenth[4:10], 5e-7)
    np.testing.assert_allclose(tenth[-6:], [1e-7, 1e-7, 1e-7, 1e-7, 1e-13, 1e-7])


def test_sensitivities_follow_the_tolerance_of_their_state() -> None:
    states = with_sensitivities(reaction(1e-9), ("k",)).states
    vector = Tolerances().vector(states, np.float64)
    np.testing.assert_allclose(vector[-4:], 1e-15)


def test_states_below_their_tolerance_are_named(tmp_path: Path) -> None:
    study = Study(
        reaction(1e-9),
        make_design("grid", {"x": [10.0**i for i in range(-9, -2)]}),
        duration=1.0,
        controller=ControllerChoice(atol=1e-6),
    )
    report = run_study(study, tmp_path / "results.zarr", config_yaml=to_config(study))
    (note,) = report.notes
    assert "y (atol 1e-06), x (atol 1e-06) stay below their absolute tolerance in 4 of 7" in note
    assert "controller.atol={y: 1e-13, x: 1e-13}" in note
    data = cubie_flow.open_results(tmp_path)
    assert note in str(data.flow.summary())
    assert accuracy(study) == "rtol 1e-06, atol 1e-06"
    # Constant zeros are exact, and a fixed step has no tolerance.
    still = OdeSystem.from_equations("dx/dt = -x", states={"x": 0.0})
    assert "below_atol" not in solve(still, duration=1.0).attrs
    fixed = solve(reaction(1e-9), duration=1.0, algorithm="rk4", dt=0.1)
    assert not {"atol", "below_atol"} & {*fixed.attrs}


def test_the_summary_says_what_was_used() -> None:
    cell = {
        "name": "cell",
        "states": {"v": -80.0, "c": 1e-7},
        "equations": {"v": "-v", "c": "-c"},
        "units": {"v": "mV", "c": "mM"},
    }
    study = Study(OdeSystem.from_mapping(cell), make_design("single", {}))
    assert accuracy(study) == "rtol 1e-06, atol auto: 1e-06 to 1e-13 for c"


def test_start_values_of_the_batch_count() -> None:
    starts = np.array([5e-10, 1e-9])
    data = solve(reaction(1.0), initial_values={"x": starts}, duration=1.0)
    assert json.loads(data.attrs["atol"]) == {"x": 1e-15, "y": 1e-15}
    np.testing.assert_allclose(data.x_final / starts, solve(reaction(1.0), duration=1.0).x_final[0],
                               rtol=1e-5)  # fmt: skip


def test_stores_keep_their_tolerances() -> None:
    system = reaction(1e-9)
    study = Study(system, make_design("single", {}), controller=ControllerChoice(atol={"x": 1e-8}))
    # Before they were kept, the states without one of their own had 1e-6.
    assert atol_of(as_recorded(study, {})) == {"x": 1e-8, "y": 1e-6}
    now = {"atol": json.dumps({"x": 1e-8, "y": 3e-11})}
    assert atol_of(as_recorded(study, now)) == {"x": 1e-8, "y": 3e-11}
    made = solve(system, duration=1.0, controller=ControllerChoice(atol="auto"))
    again = made.flow.rerun([0])
    assert again.attrs["atol"] == made.attrs["atol"]
    np.testing.assert_array_equal(again.x_final.values, made.x_final.values)
    tighter = made.flow.rerun([0], rtol=1e-9)
    assert json.loads(tighter.attrs["atol"]) == {"x": 1e-18, "y": 1e-18}


def test_what_an_absolute_tolerance_may_be() -> None:
    check = tolerance(absolute=True)
    assert check("controller.atol", "auto") == "auto"
    with pytest.raises(FlowError, match=r"controller.atol is 'fine'; it must be .* or auto"):
        check("controller.atol", "fine")
    with pytest.raises(FlowError, match=r"controller.atol is 'fine'"):
        solve(reaction(1.0), duration=1.0, atol="fine")
