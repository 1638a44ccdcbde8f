"""Stiff methods as compiled: order, references, linear solvers, algebraic equations, targets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.api import ControllerChoice
from cubie_flow.errors import FlowError
from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.steps import solves_algebraic
from cubie_flow.integrators.tableaus import EXPLICIT, METHODS, Collocation, Rosenbrock
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel

IMPLICIT = [name for name in METHODS if name not in EXPLICIT]
ONE_STEP = [name for name in IMPLICIT if name != "bdf"]
DENSE = [name for name in ONE_STEP if METHODS[name].dense is not None]  # type: ignore[attr-defined]
#: Methods of order three and more: those the published references are asked of.
ACCURATE = [name for name in IMPLICIT if METHODS[name].order >= 3 and name != "gauss_legendre_4"]
FAMILIES = ["rodas5p", "kvaerno3", "radau_iia_5", "gauss_legendre_4", "bdf"]


@pytest.fixture(scope="module")
def robertson(conf) -> OdeSystem:  # type: ignore[no-untyped-def]
    return OdeSystem.from_file(conf / "system" / "robertson.yaml")


@pytest.fixture(scope="module")
def robertson_dae() -> OdeSystem:
    """Robertson's problem with the conservation law instead of the third equation."""
    return OdeSystem.from_equations(
        """
        dy1/dt = -0.04*y1 + k3*y2*y3
        dy2/dt = 0.04*y1 - k3*y2*y3 - 3e7*y2**2
        dy3/dt = y1 + y2 + y3 - 1
        """,
        states={"y1": 1.0, "y2": 0.0, "y3": 0.3},
        parameters={"k3": 1e4},
        mass={"y3": 0},
    )


def fixed(system: OdeSystem, algorithm: str, steps: int, **more):  # type: ignore[no-untyped-def]
    # Tolerances here say how well the equations of a step are solved.
    choice = ControllerChoice(kind="fixed", dt=1.0 / steps, rtol=1e-13, atol=1e-13)
    return solve(system, duration=1.0, algorithm=algorithm, controller=choice, **more)


@pytest.mark.parametrize("algorithm", ONE_STEP)
def test_order_of_convergence(smooth: OdeSystem, algorithm: str) -> None:
    order = METHODS[algorithm].order
    coarse = 2 if order >= 8 else 8 if order >= 5 else 32
    errors = []
    for steps in (coarse, 2 * coarse):
        result = fixed(smooth, algorithm, steps)
        assert int(result.status[0]) == 0
        exact = math.sin(1.0), math.exp(-1.0)
        found = float(result.x_final[0]), float(result.y_final[0])
        errors.append(math.hypot(found[0] - exact[0], found[1] - exact[1]))
    assert errors[1] > 1e-15, "the test has no resolution left"
    observed = math.log2(errors[0] / errors[1])
    assert observed > order - 0.35, (observed, errors)
    assert observed < order + 1.8, (observed, errors)


@pytest.mark.parametrize("algorithm", DENSE)
def test_dense_output_converges(smooth: OdeSystem, algorithm: str) -> None:
    method = METHODS[algorithm]
    worst = []
    for steps in (4, 8) if method.order >= 8 else (10, 20):
        result = fixed(smooth, algorithm, steps, times=np.linspace(0, 1, 41))
        error = np.abs(result.x[0].values - np.sin(result.time.values))
        assert error[0] == 0.0
        assert float(result.x[0, -1]) == float(result.x_final[0])
        worst.append(error.max())
    observed = math.log2(worst[0] / worst[1])
    expected = min(method.dense.order + 1, method.order)  # type: ignore[attr-defined]
    assert observed > expected - 0.8, (observed, worst)


def test_multistep_interpolates_as_well_as_it_steps(smooth: OdeSystem) -> None:
    times = np.linspace(0, 1, 201)
    result = solve(smooth, duration=1.0, algorithm="bdf", rtol=1e-7, atol=1e-7, times=times)
    assert int(result.status[0]) == 0
    assert int(result.steps[0]) < 120
    assert np.abs(result.x[0].values - np.sin(times)).max() < 2e-6
    assert np.abs(result.y[0].values - np.exp(-times)).max() < 2e-6


def test_multistep_error_follows_tolerance(smooth: OdeSystem) -> None:
    errors, steps = [], []
    for tolerance in (1e-4, 1e-6, 1e-8):
        result = solve(smooth, duration=1.0, algorithm="bdf", rtol=tolerance, atol=tolerance)
        errors.append(abs(float(result.x_final[0]) - math.sin(1.0)))
        steps.append(int(result.steps[0]))
    assert errors[2] < 1e-6
    assert errors[2] < errors[0] / 30
    # Order 5 makes a hundredth of the tolerance cost much less than ten times the steps.
    assert steps[2] < 4 * steps[1] < 16 * steps[0]


# published solutions

SUITE = Path(__file__).parents[2] / "experiments" / "stiff_suite"
PUBLISHED = json.loads((SUITE / "published.json").read_text(encoding="utf-8"))["problems"]


@pytest.mark.parametrize("algorithm", ACCURATE)
@pytest.mark.parametrize("problem", [name for name in PUBLISHED if name != "pollu"])
def test_published_solutions(conf, problem: str, algorithm: str) -> None:  # type: ignore[no-untyped-def]
    about = PUBLISHED[problem]
    system = OdeSystem.from_file(conf / "system" / f"{problem}.yaml")
    result = solve(
        system,
        parameters=about["parameters"],
        duration=about["duration"],
        algorithm=algorithm,
        rtol=1e-8,
        atol=1e-8 * about["atol_over_rtol"],
    )
    assert int(result.status[0]) == 0
    found = [float(result[f"{state.name}_final"][0]) for state in system.states]
    # ROS3P is not L-stable: after the oregonator's jumps its last component keeps 3 digits.
    digits = 1e-3 if (problem, algorithm) == ("oregonator", "ros3p") else 1e-5
    np.testing.assert_allclose(found, about["finals"], rtol=digits)


# linear solvers


@pytest.mark.parametrize("algorithm", ["rodas5p", "kvaerno3", "radau_iia_5", "bdf"])
@pytest.mark.parametrize("solver", ["pivoted", "bicgstab"])
def test_linear_solvers_agree(robertson: OdeSystem, algorithm: str, solver: str) -> None:
    settings = {"duration": 1e3, "algorithm": algorithm, "rtol": 1e-6, "atol": 1e-10}
    sparse, other = (
        solve(robertson, linear_solver=kind, **settings)
        for kind in ("sparse", solver)  # type: ignore[arg-type]
    )
    assert abs(int(sparse.steps[0]) - int(other.steps[0])) <= 2
    for state in robertson.states:
        name = f"{state.name}_final"
        np.testing.assert_allclose(float(other[name][0]), float(sparse[name][0]), rtol=1e-5)


def test_growth_of_pivots_is_noticed() -> None:
    """Without pivots a tiny diagonal ends a run; with them it is solved."""
    # With c = 1/(h*gamma) = a the first pivot of [[c - a, -1e9], [1e9, c + 1e3]] vanishes.
    system = OdeSystem.from_equations(
        "du/dt = a*u + 1e9*v\ndv/dt = -1e9*u - 1e3*v",
        states={"u": 1.0, "v": 0.0},
        parameters={"a": 1.0},
    )
    gamma = METHODS["sdirk2"].gamma  # type: ignore[attr-defined]
    choice = ControllerChoice(kind="fixed", dt=1.0 / gamma, rtol=1e-6, atol=1e-6)
    settings = {"duration": 1.0 / gamma, "algorithm": "sdirk2", "controller": choice}
    plain = solve(system, linear_solver="sparse", **settings)  # type: ignore[arg-type]
    assert int(plain.status[0]) == 4, "solver_failed"
    pivoted = solve(system, linear_solver="pivoted", **settings)  # type: ignore[arg-type]
    assert int(pivoted.status[0]) == 0


def test_an_explicit_method_takes_no_linear_solver(lorenz: OdeSystem) -> None:
    with pytest.raises(FlowError, match=r"linear_solver is 'pivoted', but algorithm 'tsit5'"):
        solve(lorenz, duration=1.0, linear_solver="pivoted")


# algebraic equations


@pytest.mark.parametrize("algorithm", [n for n in ACCURATE if solves_algebraic(METHODS[n])])
def test_algebraic_equations(robertson_dae: OdeSystem, algorithm: str) -> None:
    result = solve(
        robertson_dae, duration=1e5, algorithm=algorithm, rtol=1e-8, atol=1e-12,
        times=[0.0, 1.0, 1e5],
    )  # fmt: skip
    assert int(result.status[0]) == 0
    found = [float(result[f"y{i}_final"][0]) for i in (1, 2, 3)]
    np.testing.assert_allclose(found, [1.78659211e-2, 7.27475147e-8, 9.82134006e-1], rtol=1e-6)
    # The start was inconsistent (y3 = 0.3) and is made consistent before it is saved.
    assert float(result.y3[0, 0]) == pytest.approx(0.0, abs=1e-12)
    total = sum(result[f"y{i}"].values for i in (1, 2, 3))
    np.testing.assert_allclose(total, 1.0, atol=1e-9)


def test_methods_without_stiff_accuracy_refuse_algebraic_equations(
    robertson_dae: OdeSystem,
) -> None:
    refusing = [name for name, method in METHODS.items() if not solves_algebraic(method)]
    assert {"tsit5", "ros3p", "implicit_midpoint"} <= set(refusing)
    for algorithm in refusing:
        with pytest.raises(FlowError, match=r"cannot solve the algebraic equation of 'y3'"):
            solve(robertson_dae, algorithm=algorithm, dt=0.1)


def test_masses_other_than_one_divide() -> None:
    plain = OdeSystem.from_equations("dx/dt = -x/4", {"x": 1.0})
    heavy = OdeSystem.from_equations("dx/dt = -x", {"x": 1.0}, mass={"x": 4.0})
    for algorithm in ("tsit5", "rodas4"):
        results = [solve(s, duration=3.0, algorithm=algorithm) for s in (plain, heavy)]
        assert float(results[0].x_final[0]) == pytest.approx(float(results[1].x_final[0]), 1e-12)


@pytest.mark.parametrize(
    ("mass", "message"),
    [
        ({"x": "z"}, r"mass of x: it depends on the state 'z'; a mass matrix must be diagonal"),
        ({"x": "t"}, r"mass of x: it depends on the time 't'"),
        ({"x": "k"}, r"mass of x: it depends on the parameter 'k'"),
        ({"y": 0}, r"there is a mass for 'y', which is not a state"),
        ({"x": 0, "z": 0}, r"every mass is 0, so no equation is differential"),
        ({"x": float("nan")}, r"mass of x"),
    ],
)
def test_what_a_mass_may_be(mass: dict[str, object], message: str) -> None:
    with pytest.raises(FlowError, match=message):
        OdeSystem.from_equations(
            "dx/dt = -k*x\ndz/dt = x - z", {"x": 1.0, "z": 1.0}, {"k": 1.0}, mass=mass
        )


def test_a_start_without_solution_fails_its_run_only() -> None:
    system = OdeSystem.from_equations(
        "dx/dt = -x\ndz/dt = z**2 + p", {"x": 1.0, "z": 0.5}, {"p": -1.0}, mass={"z": 0}
    )
    result = solve(
        system, parameters={"p": [-1.0, 1.0, -4.0]}, duration=1.0, algorithm="rodas4", rtol=1e-8
    )
    assert result.status.values.tolist() == [0, 4, 0]
    np.testing.assert_allclose(result.z_final.values[[0, 2]], [1.0, 2.0], rtol=1e-7)


# neighbours and targets


def kernel(system: OdeSystem, algorithm: str, **config) -> BatchSolverKernel:  # type: ignore[no-untyped-def]
    precision = config.pop("precision", "float64")
    run = RunSettings(
        system, (system.parameters[0].name,), algorithm=algorithm, precision=precision,
        duration=1.0, controller="fixed" if algorithm == "gauss_legendre_4" else "default",
    )  # fmt: skip
    return BatchSolverKernel(run, BatchSolverConfig(**config))


@pytest.mark.parametrize("algorithm", FAMILIES)
def test_bits_do_not_depend_on_lanes_or_target(
    robertson: OdeSystem, lorenz: OdeSystem, algorithm: str
) -> None:
    # Newton's iteration does not follow Robertson's start in fixed steps.
    system = lorenz if algorithm == "gauss_legendre_4" else robertson
    first = system.parameters[0]
    columns = {first.name: first.value * np.linspace(0.8, 1.2, 4)}
    limits = Tolerances(1e-5, 1e-9, dt=0.02 if algorithm == "gauss_legendre_4" else None)
    results = [
        kernel(system, algorithm, **config).solve(columns, 4, limits)
        for config in (
            {"target": "cpu", "lanes": 1},
            {"target": "cpu", "lanes": 16},
            {"target": "simulator"},
        )
    ]
    assert (results[0].status == 0).all()
    for other in results[1:]:
        np.testing.assert_array_equal(other.finals, results[0].finals)
        np.testing.assert_array_equal(other.steps, results[0].steps)


@pytest.mark.parametrize("algorithm", [*FAMILIES, "rosenbrock23", "trbdf2", "radau_iia_9"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_every_family_compiles_for_cuda(
    robertson: OdeSystem, algorithm: str, precision: str
) -> None:
    pytest.importorskip("cuda.bindings", reason="needs numba-cuda's toolkit wheels")
    code = kernel(robertson, algorithm, precision=precision).compile_cuda("sm_90")
    assert len(code.cubin) > 1000
    assert code.figures.registers > 0


@pytest.mark.parametrize("algorithm", FAMILIES)
def test_a_wild_run_leaves_its_neighbours_alone(algorithm: str) -> None:
    """One run blows up, one is a thousand times stiffer: the others keep their bits."""
    if algorithm == "gauss_legendre_4":
        pytest.skip("fixed steps cannot follow a run that is a thousand times stiffer")
    system = OdeSystem.from_equations(
        "dx/dt = -k*(x - cos(t)) + b*x**2\ndy/dt = x - y",
        states={"x": 0.5, "y": 0.0},
        parameters={"k": 100.0, "b": 0.0},
    )
    k, b = np.linspace(50.0, 150.0, 200), np.zeros(200)
    settings = {"duration": 2.0, "algorithm": algorithm, "rtol": 1e-6, "atol": 1e-8}
    calm = solve(system, parameters={"k": k, "b": b}, **settings)  # type: ignore[arg-type]
    k[37] *= 1000.0
    k[138], b[138] = 0.1, 10.0
    wild = solve(system, parameters={"k": k, "b": b}, **settings)  # type: ignore[arg-type]
    assert int(wild.status[37]) == 0
    assert int(wild.status[138]) != 0
    others = np.setdiff1d(np.arange(200), [37, 138])
    for name in ("x_final", "y_final", "steps"):
        np.testing.assert_array_equal(wild[name].values[others], calm[name].values[others])


@pytest.mark.parametrize("algorithm", ["rodas5p", "kvaerno5", "radau_iia_5", "bdf"])
def test_single_precision_is_right_or_says_so(robertson: OdeSystem, algorithm: str) -> None:
    """Robertson to 1e11 spans more than float32 has digits for."""
    result = solve(
        robertson, duration=1e11, algorithm=algorithm, precision="float32", rtol=1e-4, atol=1e-10
    )
    if int(result.status[0]) == 0:
        found = [float(result[f"{state.name}_final"][0]) for state in robertson.states]
        np.testing.assert_allclose(found[2], 1.0, rtol=1e-3)
        assert -1e-9 <= found[0] < 1e-3


def test_no_method_is_forgotten() -> None:
    assert {type(METHODS[name]) for name in IMPLICIT} >= {Rosenbrock, Collocation}
    assert len(IMPLICIT) == 22


# placement


@pytest.mark.parametrize("algorithm", FAMILIES)
def test_every_buffer_of_a_step_really_moves_to_shared_memory(
    robertson: OdeSystem, algorithm: str
) -> None:
    pytest.importorskip("cuda.bindings", reason="needs numba-cuda's toolkit wheels")
    chosen = kernel(robertson, algorithm, precision="float32")
    own = [entry.name for entry in chosen.layout.entries if "step" in entry.path.split(".")]
    assert "factors" in own or "pair_factors" in own
    chosen.update(**{f"{name}_location": "shared" for name in own})
    code = chosen.compile_cuda("sm_90")
    # All at once: what is not in memory at all is counted by name in the layout.
    assert code.ptx.count("ld.volatile.shared") > len(own)
    assert code.ptx.count("st.volatile.shared") > len(own)
    assert {e.name for e in chosen.layout.entries if e.location == "shared"} == set(own)


@pytest.mark.parametrize("algorithm", ["rodas5p", "kvaerno3", "radau_iia_5", "bdf"])
def test_placement_does_not_change_a_bit(robertson: OdeSystem, algorithm: str) -> None:
    columns = {robertson.parameters[0].name: np.linspace(0.03, 0.05, 5)}
    limits = Tolerances(1e-5, 1e-9)
    plain = kernel(robertson, algorithm, target="cpu")
    moved = kernel(robertson, algorithm, target="cpu")
    own = [entry.name for entry in moved.layout.entries if "step" in entry.path.split(".")]
    moved.update(**{f"{name}_location": "shared" for name in own})
    results = [one.solve(columns, 5, limits) for one in (plain, moved)]
    assert moved.shared_memory_bytes > 0
    np.testing.assert_array_equal(results[0].finals, results[1].finals)
