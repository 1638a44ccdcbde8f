"""Fixed steps that are taken several at a time: the same numbers as one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.api import ControllerChoice
from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.steps.explicit import BATCHED_STEPS
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel


def bursting() -> OdeSystem:
    """Runs that end at infinity, at times that `c` decides, and time in the equations."""
    return OdeSystem.from_mapping(
        {
            "states": {"x": 0.5, "y": 1.0},
            "parameters": {"c": 1.0},
            "equations": {"x": "c*x*x", "y": "cos(t) - y"},
        }
    )


def finals(watched: bool, **more: Any) -> tuple[Any, ...]:
    """Return what is left of each run; one that has summaries is watched after every step."""
    given: dict[str, Any] = {
        "parameters": {"c": np.linspace(-1.0, 2.0, 45)}, "duration": 3.0, "target": "cpu",
        "algorithm": "rk4", "summaries": ["x"] if watched else [],
        "controller": ControllerChoice(kind="fixed", dt=0.01),
    }  # fmt: skip
    found = solve(bursting(), **{**given, **more})
    return tuple(found[name].values for name in ("x_final", "y_final", "status", "steps"))


def batches_steps(algorithm: str, **more: Any) -> bool:
    settings = RunSettings(bursting(), algorithm=algorithm, controller="fixed", **more)
    run = BatchSolverKernel(settings, BatchSolverConfig("cpu")).run
    return run.loop.batches_steps(run.step, run.controller)


def test_who_leaps() -> None:
    assert batches_steps("rk4")
    assert batches_steps("tsit5")
    assert not batches_steps("rk4", summarised=("x",))
    assert not batches_steps("dormand_prince_853")
    assert not batches_steps("rodas5p")


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", ["rk4", "tsit5"])
def test_numbers_of_steps_and_bits_are_those_of_single_steps(
    algorithm: str, precision: str
) -> None:
    given = {"algorithm": algorithm, "precision": precision}
    leaping, single = finals(False, **given), finals(True, **given)
    status, steps = leaping[2:]
    # Runs that blow up do so at many different steps of a leap.
    burst = steps[status == 3]
    assert len(burst) > 10
    assert len({int(count) % BATCHED_STEPS for count in burst}) > 3
    assert (status == 0).sum() > 10
    for a, b in zip(leaping, single, strict=True):
        assert a.tobytes() == b.tobytes()


def test_the_step_limit_is_met_exactly() -> None:
    for limit in (1, BATCHED_STEPS, BATCHED_STEPS + 3, 299, 300):
        controller = ControllerChoice(kind="fixed", dt=0.01, max_steps=limit)
        given = {"parameters": {"c": [-1.0, -0.5]}, "controller": controller}
        leaping, single = finals(False, **given), finals(True, **given)
        assert leaping[3].tolist() == [min(limit, 300)] * 2
        for a, b in zip(leaping, single, strict=True):
            assert a.tobytes() == b.tobytes()


def test_a_run_alone_leaps_as_among_others() -> None:
    many = finals(False)
    for number in (0, 20, 44):
        c = np.linspace(-1.0, 2.0, 45)[number]
        one = finals(False, parameters={"c": [c]})
        for a, b in zip(many, one, strict=True):
            assert a[number : number + 1].tobytes() == b.tobytes()
