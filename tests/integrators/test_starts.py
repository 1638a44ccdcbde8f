"""Start values that runs compute: against closed forms, on every target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.errors import FlowError
from cubie_flow.integrators.run import RunSettings
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.kernels.targets.detect import toolkit_installed

TARGETS = ("cpu", "simulator") if toolkit_installed() else ("cpu",)
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture(scope="module")
def dosed() -> OdeSystem:
    """A dose in a volume that follows from the weight of a body."""
    return OdeSystem.from_mapping(
        {
            "parameters": {"dose": 100, "BW": 70, "f": 0.05, "V": "BW*f", "k": 0.1},
            "states": {"C": "dose/V", "half": "C/2"},
            "equations": {"C": "-k*C", "half": "0"},
            "observables": {"amount": "V*C"},
            "time": {"duration": 10},
        }
    )


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_every_run_computes_its_own(dosed: OdeSystem, precision: str) -> None:
    digits = 1e-14 if precision == "float64" else 2e-7
    found = []
    for target in TARGETS:
        data = solve(
            dosed,
            parameters={"BW": [70.0, 80.0]},
            save_every=10,
            variables=["C", "half", "amount"],
            precision=precision,
            target=target,
        )
        np.testing.assert_allclose(data.C.values[:, 0], [100 / 3.5, 25], rtol=digits)
        np.testing.assert_allclose(data.half.values[:, -1], [50 / 3.5, 12.5], rtol=digits)
        np.testing.assert_allclose(data.amount.values[:, 0], 100, rtol=digits)
        exact = np.exp(-1) * np.array([100 / 3.5, 25])
        np.testing.assert_allclose(data.C.values[:, -1], exact, rtol=1e-4)
        found.append(data)
    for name in found[0].data_vars:
        np.testing.assert_array_equal(found[0][name], found[-1][name], err_msg=str(name))


def test_what_the_batch_gives_is_not_computed(dosed: OdeSystem) -> None:
    data = solve(dosed, parameters={"V": [2.0, 4.0]}, save_every=10)
    np.testing.assert_array_equal(data.C.values[:, 0], [50, 25])
    data = solve(dosed, initial_values={"C": [6.0, 8.0]}, save_every=10)
    np.testing.assert_array_equal(data.C.values[:, 0], [6, 8])
    np.testing.assert_array_equal(data.half.values[:, 0], [3, 4])
    data = solve(dosed, parameters={"V": 8}, initial_values={"half": [1.0, 2.0]}, save_every=10)
    np.testing.assert_array_equal(data.C.values[:, 0], 12.5)
    np.testing.assert_array_equal(data.half.values[:, 0], [1, 2])
    with pytest.raises(FlowError, match="the batch varies 'dose', but also gives all that is"):
        solve(dosed, parameters={"dose": [1.0, 2.0]}, initial_values={"C": [1.0, 2.0]})


def test_a_kernel_made_by_hand_knows_what_varies(dosed: OdeSystem) -> None:
    loop = BatchSolverKernel(RunSettings(dosed)).run.loop.settings
    assert loop.starts is None
    assert (loop.parameters, loop.start) == (0, (100 / 3.5, 50 / 3.5))
    loop = BatchSolverKernel(RunSettings(dosed, varied=("BW", "C"))).run.loop.settings
    assert loop.start == (0, None)
    # The volume is observed, and lives beside the weight.
    assert (loop.parameters, loop.promoted) == (2, (None,))


def test_the_same_dose_without_effect_is_said() -> None:
    model = {"parameters": {"a": 1, "b": 2}, "states": {"x": "a"}, "equations": {"x": "-x"}}
    system = OdeSystem.from_mapping({**model, "unused": ["b"]})
    with pytest.warns(UserWarning, match="the batch varies 'b', which changes nothing"):
        solve(system, parameters={"a": [1.0, 2.0], "b": [1.0, 2.0]})


EVENTFUL: dict[str, Any] = {
    "parameters": {"a": 1, "q": "2*a + t", "late": "3*a"},
    "states": {"x": "t + u", "y": "0"},
    "equations": {"x": "q", "y": "0"},
    "drivers": {"u": {"times": [0, 10], "values": [0, 20]}},
    "events": {
        "halve": {"when": "x > late", "set": {"q": "q/2"}},
        "add": {"at": {"start": "late", "every": 1, "count": 2}, "set": {"y": "y + q"}},
    },
}


@pytest.mark.parametrize("target", TARGETS)
def test_time_drivers_events_and_schedules(target: str) -> None:
    system = OdeSystem.from_mapping(EVENTFUL)
    given = {"parameters": {"a": [1.0, 2.0]}, "duration": 4, "save_every": 1, "target": target}
    data = solve(system, **given)
    # From 0 with the slope 2*a, halved at 3*a, so at the time 1.5.
    expected = np.array([[0, 2, 3.5, 4.5, 5.5], [0, 4, 7, 9, 11]])
    np.testing.assert_allclose(data.x.values, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(data.y.values, [[0, 0, 0, 1, 2], [0, 0, 0, 0, 0]], atol=0)
    # From 2 on the driver is 4 and x begins with 6: beyond one threshold and on the other.
    data = solve(system, t_start=2.0, **given)
    expected = np.array([[6, 10, 14, 18, 22], [6, 9, 12, 15, 18]])
    np.testing.assert_allclose(data.x.values, expected, rtol=1e-12)
    np.testing.assert_allclose(data.y.values, [[0, 4, 8, 8, 8], [0, 0, 0, 0, 3]], rtol=1e-12)


def test_the_start_of_an_algebraic_equation() -> None:
    system = OdeSystem.from_mapping(
        {
            "parameters": {"a": 1, "b": "a**2"},
            "states": {"x": "a", "z": "x/2"},
            "equations": {"x": "-z", "z": "b*x - z"},
            "mass": {"z": 0},
        }
    )
    data = solve(system, parameters={"a": [1.0, 1.5]}, save_every=1, algorithm="rodas5p", **CLOSE)
    a = np.array([1.0, 1.5])
    np.testing.assert_allclose(data.z.values[:, 0], a**3, rtol=1e-9)
    np.testing.assert_allclose(data.x.values[:, 1], a * np.exp(-(a**2)), rtol=1e-8)


def chain(size: int) -> OdeSystem:
    return OdeSystem.from_mapping(
        {
            "indices": {"i": size},
            "parameters": {"a": 1.0, "b": 0.5},
            "states": {"x[i]": "where(i == 0, a, x[i-1] + b)"},
            "equations": {"x[i]": "-x[i]"},
        }
    )


def test_many_states() -> None:
    given = {"duration": 0.0, "algorithm": "euler", "dt": 1.0}
    system, first = chain(400), np.array([1.0, 2.0])
    data = solve(system, parameters={"a": first}, **given)
    found = np.stack([data[f"x_{i}_final"].values for i in range(400)])
    np.testing.assert_array_equal(found, first + 0.5 * np.arange(400)[:, None])
    # From one in the middle that the batch gives.
    data = solve(system, initial_values={"x_200": first}, **given)
    found = np.stack([data[f"x_{i}_final"].values for i in range(400)])
    np.testing.assert_array_equal(found[:200], 1 + 0.5 * np.arange(200)[:, None] + 0 * first)
    np.testing.assert_array_equal(found[200:], first + 0.5 * np.arange(200)[:, None])


@pytest.mark.skipif(not toolkit_installed(), reason="the CUDA compiler is not installed")
@pytest.mark.parametrize("size", [2, 12])
def test_they_compile_for_cuda(size: int) -> None:
    run = RunSettings(chain(size), varied=("b",), precision="float32")
    code = BatchSolverKernel(run, BatchSolverConfig("cuda")).compile_cuda("sm_90")
    assert code.cubin.startswith(b"\x7fELF")


@pytest.mark.parametrize(
    "algorithm", ["rk4", "vern7", "rodas5p", "bdf", "radau_iia_5", "taylor_12"]
)
def test_every_kind_of_method(dosed: OdeSystem, algorithm: str) -> None:
    more = {"dt": 0.01} if algorithm == "rk4" else {}
    data = solve(dosed, parameters={"BW": [70.0, 80.0]}, algorithm=algorithm, **CLOSE, **more)
    exact = np.exp(-1) * np.array([100 / 3.5, 25])
    np.testing.assert_allclose(data.C_final.values, exact, rtol=1e-7)
