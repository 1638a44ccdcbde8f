"""What a summary says of a study that is legal but may hide something."""

from __future__ import annotations

import pytest

from cubie_flow import ControllerChoice, OdeSystem
from cubie_flow.api import Study
from cubie_flow.batches import make_design
from cubie_flow.study.warnings import study_warnings


@pytest.mark.parametrize(
    ("equation", "step", "expected"),
    [
        ("-k*x", None, None),
        ("where(x > k, -1, 1) + exp(-(t - 3)**2)", None, None),
        ("k*floor(x)", None, "whole parts of states"),
        ("where(x > k, -1, 1)", 0.1, "between steps of fixed size"),
        ("-x + exp(-((t - k)/0.01)**2)", 0.1, "between steps of fixed size"),
        ("-k*x", 0.1, None),
    ],
)
def test_what_may_be_missed_is_one_line(
    equation: str, step: float | None, expected: str | None
) -> None:
    model = OdeSystem.from_equations(f"x' = {equation}", {"x": 1.0}, {"k": 0.5})
    control = ControllerChoice(kind="fixed", dt=step) if step else ControllerChoice()
    study = Study(model, make_design("single", {}), controller=control)
    found = [line for line in study_warnings(study) if "missed" in line]
    assert len(found) == (expected is not None)
    if expected is not None:
        assert expected in found[0]
        assert ("controller.dt bounds" if step else "controller.dt_max bounds") in found[0]
