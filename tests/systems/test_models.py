"""The models in conf/system: each loads, and is the one of the literature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from omegaconf import OmegaConf

from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.systems import OdeSystem
from cubie_flow.systems.delays import without_delays

FOLDER = Path(__file__).parents[2] / "conf" / "system"
MODELS = sorted(path.stem for path in FOLDER.glob("*.yaml"))

Array = NDArray[np.float64]
Rhs = Callable[[float, Array, dict[str, float]], Array]


def load(name: str) -> OdeSystem:
    return OdeSystem.from_file(FOLDER / f"{name}.yaml")


def rhs(system: OdeSystem) -> Rhs:
    """Return the right-hand side of a system as a function of plain arrays."""

    def function(t: float, y: Array, p: dict[str, float]) -> Array:
        names = [state.name for state in system.states]
        values = {"t": t, **dict(zip(names, y, strict=True)), **p}
        return np.array(evaluate(without_delays(system.derivatives), values))

    return function


def start(system: OdeSystem) -> tuple[Array, dict[str, float]]:
    initial = np.array([state.value for state in system.states])
    return initial, {item.name: item.value for item in system.parameters}


def observe(system: OdeSystem, y: Array) -> dict[str, float]:
    names = [state.name for state in system.states]
    values = {"t": 0.0, **dict(zip(names, y, strict=True)), **start(system)[1]}
    items = system.observables
    nodes = [item.expression for item in items]
    return dict(zip((item.name for item in items), evaluate(nodes, values), strict=True))


def rk4(f: Rhs, y: Array, p: dict[str, float], dt: float, steps: int) -> Array:
    t = 0.0
    for _ in range(steps):
        a = f(t, y, p)
        b = f(t + dt / 2, y + dt / 2 * a, p)
        c = f(t + dt / 2, y + dt / 2 * b, p)
        d = f(t + dt, y + dt * c, p)
        y, t = y + dt / 6 * (a + 2 * b + 2 * c + d), t + dt
    return y


def test_there_are_the_models_of_the_documentation() -> None:
    assert set(MODELS) >= {
        "arenstorf", "brusselator", "duffing", "fitzhugh_nagumo", "hodgkin_huxley", "lorenz",
        "lorenz96", "lotka_volterra", "pleiades", "repressilator", "sir", "van_der_pol",
    }  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_model_loads_documents_itself_and_travels(name: str) -> None:
    system = load(name)
    assert system.name == name
    assert system.title
    assert system.description
    assert system.source
    assert all(quantity.long_name and quantity.unit for quantity in system.states)
    assert all(quantity.long_name and quantity.unit for quantity in system.parameters)
    assert np.isfinite(rhs(system)(0.0, *start(system))).all()
    assert OdeSystem.from_mapping(OmegaConf.load(FOLDER / f"{name}.yaml")) == system
    travelled = OdeSystem.from_mapping(json.loads(json.dumps(system.to_mapping())))
    assert travelled == system
    assert travelled.content_hash == system.content_hash


# independent right-hand sides, as the sources print them ---------------------------------------


def lorenz(t: float, y: Array, p: dict[str, float]) -> Array:
    x, v, z = y
    return np.array([p["sigma"] * (v - x), p["rho"] * x - v - x * z, x * v - p["beta"] * z])


def lorenz96(t: float, y: Array, p: dict[str, float]) -> Array:
    return (np.roll(y, -1) - np.roll(y, 2)) * np.roll(y, 1) - y + p["F"]


def hodgkin_huxley(t: float, y: Array, p: dict[str, float]) -> Array:
    """The equations of 1952, whose voltage is minus the departure from rest."""
    potential, m, h, n = y
    v = -(potential + 65.0)
    current = (
        p["g_K"] * n**4 * (v - 12.0) + p["g_Na"] * m**3 * h * (v + 115.0) + p["g_L"] * (v + 10.613)
    )
    dv = (-p["I_ext"] - current) / p["C"]
    a_n = 0.01 * (v + 10) / (np.exp((v + 10) / 10) - 1)
    b_n = 0.125 * np.exp(v / 80)
    a_m = 0.1 * (v + 25) / (np.exp((v + 25) / 10) - 1)
    b_m = 4 * np.exp(v / 18)
    a_h = 0.07 * np.exp(v / 20)
    b_h = 1 / (np.exp((v + 30) / 10) + 1)
    return np.array(
        [
            -dv,
            a_m * (1 - m) - b_m * m,
            a_h * (1 - h) - b_h * h,
            a_n * (1 - n) - b_n * n,
        ]
    )


def pleiades(t: float, y: Array, p: dict[str, float]) -> Array:
    place, velocity = y[:14].reshape(2, 7), y[14:]
    apart = place[:, None, :] - place[:, :, None]
    distance = np.hypot(*apart)
    np.fill_diagonal(distance, 1.0)
    pull = (np.arange(1, 8) * apart / distance**3).sum(axis=2)
    return np.concatenate([velocity, pull.ravel()])


def arenstorf(t: float, y: Array, p: dict[str, float]) -> Array:
    y1, y2, v1, v2 = y
    mu = p["mu"]
    rest = 1 - mu
    d1 = ((y1 + mu) ** 2 + y2**2) ** 1.5
    d2 = ((y1 - rest) ** 2 + y2**2) ** 1.5
    return np.array(
        [
            v1,
            v2,
            y1 + 2 * v2 - rest * (y1 + mu) / d1 - mu * (y1 - rest) / d2,
            y2 - 2 * v1 - rest * y2 / d1 - mu * y2 / d2,
        ]
    )


def van_der_pol(t: float, y: Array, p: dict[str, float]) -> Array:
    return np.array([y[1], p["mu"] * (1 - y[0] ** 2) * y[1] - y[0]])


def lotka_volterra(t: float, y: Array, p: dict[str, float]) -> Array:
    met = y[0] * y[1]
    return np.array([p["alpha"] * y[0] - p["beta"] * met, p["delta"] * met - p["gamma"] * y[1]])


def fitzhugh_nagumo(t: float, y: Array, p: dict[str, float]) -> Array:
    v, w = y
    return np.array([v - v**3 / 3 - w + p["I_ext"], (v + p["a"] - p["b"] * w) / p["tau"]])


def brusselator(t: float, y: Array, p: dict[str, float]) -> Array:
    made = y[0] * y[0] * y[1]
    return np.array([p["A"] + made - p["B"] * y[0] - y[0], p["B"] * y[0] - made])


def duffing(t: float, y: Array, p: dict[str, float]) -> Array:
    x, v = y
    forced = p["gamma"] * np.cos(p["omega"] * t)
    return np.array([v, forced - p["delta"] * v - p["alpha"] * x - p["beta"] * x**3])


def sir(t: float, y: Array, p: dict[str, float]) -> Array:
    new, healed = p["beta"] * y[0] * y[1] / y.sum(), p["gamma"] * y[1]
    return np.array([-new, new - healed, healed])


def repressilator(t: float, y: Array, p: dict[str, float]) -> Array:
    m, protein = y[:3], y[3:]
    repressor = protein[[2, 0, 1]]  # cI represses lacI, LacI tetR, TetR cI
    dm = -m + p["alpha"] / (1 + repressor ** p["n"]) + p["alpha_0"]
    return np.concatenate([dm, -p["beta"] * (protein - m)])


INDEPENDENT = {
    f.__name__: f
    for f in (
        arenstorf, brusselator, duffing, fitzhugh_nagumo, hodgkin_huxley, lorenz, lorenz96,
        lotka_volterra, pleiades, repressilator, sir, van_der_pol,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(INDEPENDENT))
def test_derivatives_agree_with_independent_equations(name: str) -> None:
    system = load(name)
    initial, parameters = start(system)
    random = np.random.default_rng(3)
    for t in (0.0, 1.7, 4.1):
        y = initial * random.uniform(0.7, 1.3, initial.size) + random.uniform(0.01, 0.3)
        p = {key: value * random.uniform(0.9, 1.1) for key, value in parameters.items()}
        p.update({key: parameters[key] for key in ("E_Na", "E_K", "E_L", "G") if key in p})
        expected = INDEPENDENT[name](t, y, p)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(rhs(system)(t, y, p), expected, rtol=1e-11, atol=1e-13 * scale)


# published facts --------------------------------------------------------------------------------


def test_lorenz_takes_the_published_steps() -> None:
    system = load("lorenz").with_values({"rho": 20.0}, {"x": 1.0, "y": 0.0, "z": 0.0})
    initial, parameters = start(system)
    after = rk4(rhs(system), initial, parameters, 0.01, 10)
    published = (0.97144134548558, 1.62462842621362, 0.06471070444029)
    np.testing.assert_allclose(after, published, atol=2e-14)


def test_arenstorf_returns_to_its_start() -> None:
    from scipy.integrate import solve_ivp

    system = load("arenstorf")
    initial, parameters = start(system)
    f = rhs(system)
    solution = solve_ivp(
        lambda t, y: f(t, y, parameters), (0, system.duration), initial, "DOP853",
        rtol=1e-13, atol=1e-13,
    )  # fmt: skip
    np.testing.assert_allclose(solution.y[:2, -1], initial[:2], atol=1e-4)
    before, after = (observe(system, solution.y[:, k])["jacobi_constant"] for k in (0, -1))
    assert after == pytest.approx(before, rel=1e-9)


def test_pleiades_keeps_its_energy_and_momentum() -> None:
    system = load("pleiades")
    initial, parameters = start(system)
    f = rhs(system)
    y = rk4(f, initial, parameters, 0.001, 200)
    assert observe(system, y)["energy"] == pytest.approx(observe(system, initial)["energy"])
    change = f(0.0, y, parameters)[14:].reshape(2, 7)
    np.testing.assert_allclose((change * np.arange(1, 8)).sum(axis=1), 0.0, atol=1e-11)


def test_hodgkin_huxley_rests_and_has_no_singularity() -> None:
    system = load("hodgkin_huxley")
    initial, parameters = start(system)
    f = rhs(system)
    at_rest = f(0.0, initial, {**parameters, "I_ext": 0.0})
    np.testing.assert_allclose(at_rest, 0.0, atol=1e-2)
    np.testing.assert_allclose(at_rest[1:], 0.0, atol=1e-15)
    for singular in (-40.0, -55.0):
        rows = [
            f(0.0, np.array([singular + d, *initial[1:]]), parameters)
            for d in (-0.1 - 1e-9, -0.1 + 1e-9, -1e-9, 0.0, 1e-9, 0.1 - 1e-9, 0.1 + 1e-9)
        ]
        assert np.isfinite(rows).all()
        np.testing.assert_allclose(rows[0], rows[1], rtol=1e-8)  # where the series takes over
        np.testing.assert_allclose(rows[2], rows[3], rtol=1e-7)
        np.testing.assert_allclose(rows[5], rows[6], rtol=1e-8)


def test_lotka_volterra_keeps_its_invariant() -> None:
    system = load("lotka_volterra")
    initial, parameters = start(system)
    y = rk4(rhs(system), initial, parameters, 0.01, 1000)
    before, after = (observe(system, values)["invariant"] for values in (initial, y))
    assert after == pytest.approx(before, rel=1e-7)


def test_currents_are_those_of_the_membrane() -> None:
    system = load("hodgkin_huxley")
    initial, parameters = start(system)
    currents = observe(system, initial)
    total = parameters["I_ext"] - sum(currents.values())
    assert rhs(system)(0.0, initial, parameters)[0] == pytest.approx(total)


def test_the_size_of_lorenz96_is_a_setting() -> None:
    system = OdeSystem.from_file(FOLDER / "lorenz96.yaml", settings={"size": 400})
    assert [state.name for state in system.states][::399] == ["x_0", "x_399"]
    initial, parameters = start(system)
    assert initial[199] == 8.008
    y = np.random.default_rng(0).normal(size=400)
    np.testing.assert_allclose(rhs(system)(0.0, y, parameters), lorenz96(0.0, y, parameters))
    assert observe(system, y)["energy"] == pytest.approx(np.mean(y**2) / 2)
    composed = OmegaConf.merge(
        OmegaConf.load(FOLDER / "lorenz96.yaml"), {"settings": {"size": 400}}
    )
    assert OdeSystem.from_mapping(composed) == system


def test_a_value_given_on_the_command_line_keeps_the_unit() -> None:
    composed = OmegaConf.load(FOLDER / "hodgkin_huxley.yaml")
    composed.parameters.I_ext = 3
    composed.states.V = "-70 + 1"
    system = OdeSystem.from_mapping(composed)
    assert (system.states[0].value, system.states[0].unit) == (-69.0, "mV")
    assert (system.parameters[-1].value, system.parameters[-1].unit) == (3.0, "uA cm-2")
