"""Forward sensitivities, against finite differences, closed forms and published values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from attrs import evolve

from cubie_flow import OdeSystem, solve
from cubie_flow.api import OutputChoice, Study, TargetChoice
from cubie_flow.batches import make_design
from cubie_flow.errors import FlowError
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.study.kernel import build_kernel
from cubie_flow.systems.sensitivities import with_sensitivities


@pytest.fixture(scope="module")
def robertson(conf: Path) -> OdeSystem:
    return OdeSystem.from_file(conf / "system" / "robertson.yaml")


def beside_each(values: dict[str, float], part: float) -> dict[str, list[float]]:
    """Return two runs for each quantity: it alone smaller, and larger, by a part of itself."""
    found = {name: [value] * (2 * len(values)) for name, value in values.items()}
    for number, (name, value) in enumerate(values.items()):
        found[name][2 * number] = value * (1 - part)
        found[name][2 * number + 1] = value * (1 + part)
    return found


def test_sensitivities_of_robertson_are_those_of_finite_differences(robertson: OdeSystem) -> None:
    options = {
        "duration": 40.0, "algorithm": "rodas5p", "rtol": 1e-10, "atol": 1e-14,
        "times": [0.4, 4.0, 40.0], "target": "cpu",
    }  # fmt: skip
    data = solve(robertson, sensitivities=["k1", "k2", "k3", "y1"], **options)
    assert (data.status.values == 0).all()
    chosen = [*robertson.parameters, robertson.states[0]]
    beside = beside_each({one.name: one.value for one in chosen}, 1e-4)
    start = {"y1": beside.pop("y1")}
    pairs = solve(robertson, parameters=beside, initial_values=start, **options)
    for number, quantity in enumerate(chosen):
        name = "y1_initial" if quantity.name == "y1" else quantity.name
        for state in ("y1", "y2", "y3"):
            low, high = pairs[state].values[2 * number : 2 * number + 2]
            difference = (high - low) / (2e-4 * quantity.value)
            found = data[f"d{state}_d{name}"].values[0]
            np.testing.assert_allclose(found, difference, rtol=2e-6, err_msg=f"{state}, {name}")
    # The example cvsRoberts_FSA_dns of CVODES prints these at t = 0.4.
    published = [-3.5595e-01, 3.9025e-04, 3.5556e-01]
    found = [float(data[f"dy{i}_dk1"].values[0, 0]) for i in (1, 2, 3)]
    np.testing.assert_allclose(found, published, rtol=1e-4)


@pytest.mark.parametrize("algorithm", ["tsit5"])
def test_sensitivities_of_lorenz_are_those_of_finite_differences(
    lorenz: OdeSystem, algorithm: str
) -> None:
    options = {
        "duration": 1.0, "algorithm": algorithm, "rtol": 1e-9, "atol": 1e-11, "target": "cpu",
        "times": [0.5, 1.0], "variables": ["x", "energy"],
    }  # fmt: skip
    names = ["dx_drho", "denergy_drho", "dx_dx_initial"]
    shown = {**options, "variables": names}
    data = solve(lorenz, sensitivities=["rho", "x"], **shown)
    beside = beside_each({"rho": 21.0, "x": 1.0}, 1e-5)
    pairs = solve(
        lorenz, parameters={"rho": beside["rho"]}, initial_values={"x": beside["x"]}, **options
    )
    for variable, first, size, name in (
        ("x", 0, 21.0, names[0]), ("energy", 0, 21.0, names[1]), ("x", 2, 1.0, names[2]),
    ):  # fmt: skip
        low, high = pairs[variable].values[first : first + 2]
        difference = (high - low) / (2e-5 * size)
        np.testing.assert_allclose(data[name].values[0], difference, rtol=3e-4, err_msg=name)


def test_algebraic_states_have_sensitivities_from_the_start_on() -> None:
    # z = k*x always, so dz/dk = x + k*dx/dk, with x = exp(-k*t).
    system = OdeSystem.from_mapping(
        {
            "states": {"x": 1.0, "z": 0.3},
            "parameters": {"k": 0.5},
            "equations": {"x": "-z", "z": "z - k*x"},
            "mass": {"z": 0},
        }
    )
    data = solve(
        system, sensitivities=["k"], algorithm="rodas5p", rtol=1e-9, atol=1e-11, target="cpu",
        duration=2.0, save_every=1.0,
    )  # fmt: skip
    t = data.time.values
    x = np.exp(-0.5 * t)
    np.testing.assert_allclose(data.dx_dk.values[0], -t * x, atol=1e-8)
    np.testing.assert_allclose(data.dz_dk.values[0], x - 0.5 * t * x, atol=1e-8)


DOSED = OdeSystem.from_mapping(
    {
        "states": {"x": 1.0},
        "parameters": {"k": 0.5, "D": 2.0, "T": 1.5},
        "equations": {"x": "-k*x"},
        "doses": [
            {"into": "x", "amount": "D", "start": 1.0},
            {"name": "drip", "into": "x", "amount": "D", "start": 2.0, "duration": "T"},
        ],
    }
)


def test_doses_at_given_times_are_known_to_sensitivities() -> None:
    data = solve(
        DOSED, sensitivities=["k", "D"], duration=4.0, save_every=0.5, rtol=1e-10, atol=1e-12,
        target="cpu",
    )  # fmt: skip
    beside = beside_each({"k": 0.5, "D": 2.0}, 1e-5)
    pairs = solve(
        DOSED, parameters=beside, duration=4.0, save_every=0.5, rtol=1e-11, atol=1e-13,
        target="cpu",
    )  # fmt: skip
    for number, (name, value) in enumerate((("k", 0.5), ("D", 2.0))):
        low, high = pairs.x.values[2 * number : 2 * number + 2]
        difference = (high - low) / (2e-5 * value)
        np.testing.assert_allclose(data[f"dx_d{name}"].values[0], difference, rtol=1e-5, atol=1e-6)


def test_a_bouncing_ball_against_its_closed_form(conf: Path) -> None:
    ball = OdeSystem.from_file(conf / "system" / "bouncing_ball.yaml")
    times = np.linspace(0.0, 8.0, 81)  # three impacts
    data = solve(
        ball, duration=8.0, times=list(times), rtol=1e-10, atol=1e-12, target="cpu",
        sensitivities=["elasticity", "g", "height", "speed"],
    )  # fmt: skip
    assert data.bounce_count.values.tolist() == [3]

    def closed(t: float, g: complex, e: complex, h: complex, v: complex) -> list[complex]:
        start = (v + np.sqrt(v * v + 2 * g * h)) / g
        if t < start.real:
            return [h + v * t - g * t * t / 2, v - g * t]
        up = e * (g * start - v)
        while t >= (start + 2 * up / g).real:
            start, up = start + 2 * up / g, e * (up)
        return [up * (t - start) - g * (t - start) ** 2 / 2, up - g * (t - start)]

    given = {"g": 9.81, "elasticity": 0.9, "height_initial": 10.0, "speed_initial": 0.0}
    for name in given:
        values = [value + 1e-30j * (key == name) for key, value in given.items()]
        slopes = np.array([closed(t, *values) for t in times]).imag / 1e-30
        for state, slope in zip(("height", "speed"), slopes.T, strict=True):
            found = data[f"d{state}_d{name}"].values[0]
            np.testing.assert_allclose(found, slope, rtol=1e-9, atol=1e-9, err_msg=name)


def model(**sections: dict[str, object]) -> OdeSystem:
    return OdeSystem.from_mapping(sections)


#: Systems whose events happen at times that depend on what is differentiated by, and by what.
MOVING = {
    "reset by the state": (
        model(
            states={"x": 0.5, "y": 0.0},
            parameters={"a": 1.3, "level": 2.0, "back": 0.4},
            equations={"x": "a*(1 + 0.3*sin(3*t))", "y": "x*y - y + a"},
            events={"jump": {"root": "x - level", "set": {"x": "back*x", "y": "y/2 + back*t"}}},
        ),
        ["level", "x"],
    ),
    "conditions joined": (
        model(
            states={"x": 0.0, "y": 1.0, "z": 1.0},
            parameters={"a": 1.3, "level": 1.0, "T": 0.5, "on": 1.0},
            equations={"x": "a", "y": "-a*y", "z": "-z"},
            events={
                "up": {"when": "on == 1 and x > level and t > T", "set": {"z": "z + x"}},
                "low": {"when": "not (y >= 0.3 or x < 2*level)", "set": {"y": "y + 0.5"}},
            },
        ),
        ["a", "level"],
    ),
    "a switch": (
        model(
            states={"temperature": 18.0},
            parameters={"heater": 1.0, "low": 18.0, "high": 21.0, "k": 0.5},
            equations={"temperature": "12*heater - k*(temperature - 10)"},
            events={
                "off": {"when": "temperature > high", "set": {"heater": 0}},
                "on": {"when": "temperature < low", "set": {"heater": 1}},
            },
        ),
        ["low", "temperature"],
    ),
    "two at one time": (
        model(
            states={"h": 1.0, "v": 0.0, "hh": 1.0, "vv": 0.0},
            parameters={"e": 0.8, "ee": 0.8, "g": 9.81},
            equations={"h": "v", "v": "-g", "hh": "vv", "vv": "-g"},
            events={
                "one": {"root": "h", "direction": "falling", "set": {"v": "-e*v"}},
                "two": {"root": "hh", "direction": "falling", "set": {"vv": "-ee*vv"}},
            },
        ),
        ["e", "vv"],
    ),
    "schedules": (
        model(
            states={"x": 1.0},
            parameters={"k": 0.5, "D": 2.0, "T": 0.45, "start": 0.3, "every": 0.7, "one": 1.9},
            equations={"x": "-k*x"},
            events={"kick": {"at": ["start/2", "one"], "set": {"x": "1.5*x + t"}}},
            doses=[  # type: ignore[arg-type]
                {"into": "x", "amount": "D", "start": "start", "every": "every", "count": 3},
                {
                    "name": "drip",
                    "into": "x",
                    "amount": "D",
                    "start": 0.2,
                    "duration": "T",
                    "every": "every",
                    "count": 2,
                },
            ],
        ),
        ["T", "every", "one"],
    ),
}


@pytest.mark.parametrize("case", MOVING)
def test_events_that_move_with_a_quantity_are_those_of_finite_differences(case: str) -> None:
    system, names = MOVING[case]
    known = {item.name: item.value for item in (*system.states, *system.parameters)}
    options = {
        "duration": 2.33, "save_every": 0.233, "rtol": 1e-11, "atol": 1e-13, "target": "cpu",
    }  # fmt: skip
    beside = {name: [known[name]] * (1 + 2 * len(names)) for name in names}
    for number, name in enumerate(names):
        step = 1e-5 * (known[name] or 1.0)
        beside[name][2 * number + 1] -= step
        beside[name][2 * number + 2] += step
    states = {state.name for state in system.states}
    data = solve(
        system,
        parameters={name: values for name, values in beside.items() if name not in states},
        initial_values={name: values for name, values in beside.items() if name in states},
        sensitivities=names,
        **options,
    )
    assert sum(int(data[name][0]) for name in data if str(name).endswith("_count")) >= 1
    for number, name in enumerate(names):
        own = f"{name}_initial" if name in states else name
        low, high = 2 * number + 1, 2 * number + 2
        step = beside[name][high] - beside[name][low]
        for state in states:
            difference = (data[state].values[high] - data[state].values[low]) / step
            found = data[f"d{state}_d{own}"].values[0]
            np.testing.assert_allclose(
                found, difference, rtol=1e-5, atol=2e-6, err_msg=f"{state}, {name}"
            )


def test_spikes_of_a_neuron_move_with_its_current(conf: Path) -> None:
    neuron = OdeSystem.from_file(conf / "system" / "izhikevich.yaml")
    options = {"duration": 150.0, "rtol": 1e-11, "atol": 1e-11, "target": "cpu"}
    step = 1e-5
    currents = {"I": [10.0, 10.0 - step, 10.0 + step]}
    data = solve(neuron, parameters=currents, sensitivities=["I"], **options)
    assert int(data.spike_count[0]) >= 3
    for state in ("v", "u"):
        _, low, high = data[f"{state}_final"].values
        found = float(data[f"d{state}_dI_final"][0])
        np.testing.assert_allclose(found, (high - low) / (2 * step), rtol=1e-4)


JUMPING = {
    "states": {"x": 1.0, "y": 0.0},
    "parameters": {"k": 0.5, "m": 0.0},
    "equations": {"x": "-k*x", "y": "x"},
    "unused": ["m"],
}
LATE = {"when": "y > 0.5", "set": {"x": "1"}}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"events": {"a": LATE, "b": {"when": "x > 0.9", "set": {"y": "0"}}}},
            "event 'a' of system 'model' depends on 'y', which 'b' sets; sensitivities do not go",
        ),
        (
            {"events": {"a": {"when": "y > 0.5", "set": {"m": "t"}}}},
            "event 'a'.* sets the parameter 'm', which then depends on 'k'; make it a state",
        ),
        ({"events": {"a": {"when": "y != x", "set": {"x": 1}}}}, "a condition without a crossing"),
        (
            {"events": {"a": {**LATE, "initially": False}}},
            r"may happen at the start \(initially: false\)",
        ),
        (
            {"events": {"a": LATE}, "equations": {"x": "-k*x", "y": "y - k*x"}, "mass": {"y": 0}},
            "sets values of a system with algebraic equations at a time that depends on the run",
        ),
        (
            {
                "events": {"a": {"root": "y - u", "set": {"x": 1}}},
                "drivers": {"u": {"times": [0, 1], "values": [1, 2]}},
            },
            "event 'a'.* uses the driver 'u' at a time that depends on the run",
        ),
        (
            {
                "events": {
                    "a": {"when": "y > 0.5", "set": {"y": "x"}, "values": "trigger"},
                    "b": {"at": 2, "set": {"x": "1"}},
                }
            },
            "event 'a'.* uses values from before 'b' at a time that depends on the run",
        ),
    ],
)
def test_events_without_a_known_derivative_are_refused(more: dict[str, object], said: str) -> None:
    with pytest.raises(FlowError, match=said):
        solve(OdeSystem.from_mapping({**JUMPING, **more}), sensitivities=["k"])


def test_jumps_in_the_simulator_and_for_cuda(conf: Path) -> None:
    ball = OdeSystem.from_file(conf / "system" / "bouncing_ball.yaml")
    options = {
        "sensitivities": ["elasticity"], "duration": 1.6, "precision": "float64",
        "rtol": 1e-4, "parameters": {"elasticity": [0.8, 0.9]},
    }  # fmt: skip
    cpu, simulated = (solve(ball, target=target, **options) for target in ("cpu", "simulator"))
    for name in cpu.data_vars:
        np.testing.assert_array_equal(cpu[name].values, simulated[name].values, err_msg=name)
    study = Study(
        ball, make_design("single", {}), precision="float32", target=TargetChoice("cuda"),
        output=OutputChoice(sensitivities=["elasticity", "height"]),
    )  # fmt: skip
    assert build_kernel(study).compile_cuda("sm_90").figures.registers > 0


def test_the_simulator_gives_the_bits_of_the_cpu(lorenz: OdeSystem) -> None:
    options = {
        "parameters": {"rho": [15.0, 20.0]}, "sensitivities": ["rho", "x"], "duration": 0.1,
        "save_every": 0.05, "algorithm": "rodas5p", "rtol": 1e-3,
    }  # fmt: skip
    cpu, simulated = (solve(lorenz, target=target, **options) for target in ("cpu", "simulator"))
    for name in cpu.data_vars:
        np.testing.assert_array_equal(cpu[name].values, simulated[name].values, err_msg=name)


def test_robertson_in_the_simulator(robertson: OdeSystem) -> None:
    options = {
        "sensitivities": ["k1", "k2", "k3"], "duration": 0.4, "algorithm": "rodas5p",
        "rtol": 1e-3, "atol": 1e-8,
    }  # fmt: skip
    cpu, simulated = (solve(robertson, target=target, **options) for target in ("cpu", "simulator"))
    assert (cpu.status.values == 0).all()
    for name in cpu.data_vars:
        np.testing.assert_array_equal(cpu[name].values, simulated[name].values, err_msg=name)


def test_sensitivities_compile_for_cuda(robertson: OdeSystem) -> None:
    study = Study(
        robertson, make_design("single", {}), algorithm="rodas5p", precision="float64",
        output=OutputChoice(sensitivities=["k1", "k2", "k3"]), target=TargetChoice("cuda"),
    )  # fmt: skip
    code = build_kernel(study).compile_cuda("sm_90")
    assert code.figures.registers > 0


def test_names_units_and_tolerances_follow_the_quantities(robertson: OdeSystem) -> None:
    data = solve(robertson, sensitivities=["k1", "y2"], duration=1e-3, algorithm="rodas5p")
    assert data.dy1_dk1_final.attrs["units"] == "1/(s-1)"
    assert data.dy1_dy2_initial_final.attrs["units"] == "1"
    assert "with respect to rate of A -> B" in data.dy1_dk1_final.attrs["long_name"]
    states = with_sensitivities(robertson, ("k1",)).states
    vector = Tolerances(rtol=1e-3, atol={"y1": 1e-4, "dy2_dk1": 7.0}).vector(states, "float64")
    np.testing.assert_allclose(vector[-6:], [1e-4, 1e-6, 1e-6, 1e-4 / 0.04, 7.0, 1e-6 / 0.04])
    np.testing.assert_allclose(vector[4:10], 1e-3)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["kk1"], r"output.sensitivities names 'kk1', which is not a parameter.*did you mean"),
        (["k1", "k1"], "names 'k1' twice"),
    ],
)
def test_mistakes_are_said(robertson: OdeSystem, names: list[str], said: str) -> None:
    with pytest.raises(FlowError, match=said):
        solve(robertson, sensitivities=names)


def test_a_name_that_is_taken_is_said(robertson: OdeSystem) -> None:
    renamed = evolve(robertson.observables[0], name="dy1_dk1")
    with pytest.raises(FlowError, match="makes 'dy1_dk1', but system 'robertson' has"):
        solve(evolve(robertson, observables=(renamed,)), sensitivities=["k1"])


def test_switches_in_time_move_with_their_parameters() -> None:
    """A lag and a period, against closed forms of the end they change."""
    model = OdeSystem.from_mapping(
        {
            "states": {"x": 0.0, "y": 0.0},
            "parameters": {"k": 0.5, "lag": 2.0, "P": 3.0, "D": 0.5},
            "equations": {"x": "-k*x + where(t >= lag, 3, 0)", "y": "where(mod(t, P) < D, t, 0)"},
        }
    )
    data = solve(model, duration=20.0, sensitivities=["lag", "P", "D"], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(data.dx_dlag_final, -3 * np.exp(-0.5 * 18), rtol=1e-6)
    # y gains ((n*P + D)**2 - (n*P)**2)/2 in period n.
    np.testing.assert_allclose(data.dy_dP_final, sum(n * 0.5 for n in range(7)), rtol=1e-9)
    np.testing.assert_allclose(data.dy_dD_final, sum(n * 3 + 0.5 for n in range(7)), rtol=1e-9)
    assert abs(data.dx_dP_final.values[0]) < 1e-12


def test_switches_on_states_move_with_everything() -> None:
    model = OdeSystem.from_equations(
        "x' = v + where(x > c, 2, 0)", {"x": 0.0}, {"c": 1.0, "v": 1.0}
    )
    data = solve(model, duration=3.0, sensitivities=["c", "v", "x"], rtol=1e-9, atol=1e-10)
    # x(3) = c + (v + 2)*(3 - (c - x0)/v)
    found = [data[f"dx_d{name}_final"].values[0] for name in ("c", "v", "x_initial")]
    np.testing.assert_allclose(found, [-2.0, 5.0, 3.0], rtol=1e-8)


def test_branches_that_meet_make_no_events() -> None:
    text = "x' = where(abs(x + 40) < 1e-6, 1, 0.1*(x + 40)/(1 - exp(-(x + 40)/10))) - k*max(x, 0)"
    model = OdeSystem.from_equations(text, {"x": -65.0}, {"k": 0.1})
    assert with_sensitivities(model, ("k", "x")).events == ()


# start values that are expressions ----------------------------------------------------------------


def test_sensitivities_begin_with_the_derivative_of_the_start() -> None:
    dosed = OdeSystem.from_mapping(
        {
            "parameters": {"dose": 100, "BW": 70, "f": 0.05, "V": "BW*f", "k": 0.1},
            "states": {"C": "dose/V"},
            "equations": {"C": "-k*C"},
            "observables": {"amount": "V*C"},
        }
    )
    given = {"save_every": 1, "variables": ["dC_dBW", "dC_dV", "damount_dBW", "damount_dV"]}
    data = solve(dosed, sensitivities=["BW", "V"], parameters={"BW": [70.0, 80.0]}, **given)
    weight = np.array([70.0, 80.0])
    np.testing.assert_allclose(data.dC_dBW.values[:, 0], -100 / (weight**2 * 0.05), rtol=1e-14)
    # V is free where it is differentiated by, and has the value that runs compute.
    np.testing.assert_allclose(data.dC_dV.values[:, 0], -100 / (weight * 0.05) ** 2, rtol=1e-14)
    np.testing.assert_allclose(data.damount_dBW.values, 0, atol=1e-12)
    np.testing.assert_allclose(data.damount_dV.values, 0, atol=1e-11)
    # What the batch gives depends on nothing.
    data = solve(dosed, sensitivities=["BW", "V"], initial_values={"C": [1.0, 2.0]}, **given)
    np.testing.assert_array_equal(data.dC_dBW.values, 0)
    np.testing.assert_allclose(data.damount_dBW.values[:, 0], 0.05 * np.array([1, 2]), rtol=1e-14)


def test_sensitivities_through_computed_values_are_those_of_finite_differences() -> None:
    """Through other starts, drivers, time, events that set computed parameters, and schedules."""
    system = OdeSystem.from_mapping(
        {
            "parameters": {
                "a": 1.3, "b": 0.7, "q": "2*a + sin(b*t) + x*b", "late": "a*3 + q/10",
                "r": "a*b", "h": "2*a",
            },
            "states": {"x": "t + u + b*a", "y": "x*2 + a**2", "z": 0},
            "equations": {
                "x": "q*cos(t) + 2 + 0.1*h", "y": "-y*r*b + a", "z": "u - 0.3*z*q",
            },
            "drivers": {"u": {"times": [0, 10], "values": [0.5, 20]}},
            "events": {
                "up": {"when": "x > late", "set": {"q": "q/2 + a + x/10", "z": "z + q*r + y"}},
                "at": {
                    "at": {"start": "late/3", "every": "r", "count": 2},
                    "set": {"z": "z + 100*r", "r": 1.5, "h": 3},
                },
            },
        }
    )  # fmt: skip
    given = {"duration": 4, "t_start": 0.25, "rtol": 1e-11, "atol": 1e-11}
    data = solve(system, sensitivities=["a", "x"], **given)
    assert (data.status.values == 0).all()
    x = 0.25 + 0.5 + 19.5 / 40 + 0.7 * 1.3
    step = 1e-5 * np.array([-1.0, 1.0])
    for name, value in (("a", 1.3), ("x", x)):
        group = "initial_values" if name == "x" else "parameters"
        pair = solve(system, **{group: {name: value + step}}, **given)
        for state in ("x", "y", "z"):
            low, high = pair[f"{state}_final"].values
            own = "x_initial" if name == "x" else name
            found = data[f"d{state}_d{own}_final"].values[0]
            assert found == pytest.approx((high - low) / 2e-5, rel=1e-6), (state, name)
    with pytest.raises(FlowError, match="sets the parameter 'q', which then depends on 'r'"):
        with_sensitivities(system, ("r",))
