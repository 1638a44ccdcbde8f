"""Events, doses and schedules inside the loop, against closed forms, on every target."""

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.api import TargetChoice
from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.status import STATUS
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.kernels.targets.detect import toolkit_installed

CLOSE = {"rtol": 1e-9, "atol": 1e-10}
TARGETS = ("cpu", "simulator") if toolkit_installed() else ("cpu",)
Array = np.ndarray


def model(name: str, conf) -> OdeSystem:
    return OdeSystem.from_file(conf / "system" / f"{name}.yaml")


def impacts(elasticity: Array, height: float = 10.0, g: float = 9.81, count: int = 4) -> Array:
    """Return the times of impact, shape (runs, count)."""
    first = np.sqrt(2 * height / g)
    flights = [np.full_like(elasticity, first)]
    flights += [2 * first * elasticity ** (k + 1) for k in range(count - 1)]
    return np.cumsum(flights, axis=0).T


@pytest.mark.parametrize("target", TARGETS)
def test_impacts_of_a_ball(target: str, conf) -> None:
    elasticity = np.array([0.9, 0.85, 0.95])
    data = solve(
        model("bouncing_ball", conf),
        parameters={"elasticity": elasticity},
        save_every=0.5,
        target=target,
        **CLOSE,
    )
    exact = impacts(elasticity)
    assert (data.status == 0).all()
    counts = data.bounce_count.values
    assert (counts >= 4).all()
    assert np.abs(data.bounce_times.values[:, :4] - exact).max() < 1e-9
    assert np.isnan(data.bounce_times.values[0, counts[0] :]).all()
    # In flight the height is a parabola from the impact before.
    t, i = 4.5, 9
    since = t - exact[:, 1]
    speed = 9.81 * np.sqrt(20 / 9.81) * elasticity**2
    expected = speed * since - 0.5 * 9.81 * since**2
    assert data.time.values[i] == t
    assert np.abs(data.height.values[:, i] - expected).max() < 1e-8


@pytest.mark.parametrize(
    "algorithm", ["rk4", "vern7", "dormand_prince_853", "rodas5p", "rodas3", "bdf", "radau_iia_5"]
)
def test_every_kind_of_method(algorithm: str, conf) -> None:
    elasticity = np.linspace(0.85, 0.95, 19)
    data = solve(
        model("bouncing_ball", conf),
        parameters={"elasticity": elasticity},
        algorithm=algorithm,
        dt=0.05 if algorithm == "rk4" else None,
        save_every=1.0,
        rtol=1e-10,
        atol=1e-12,
    )
    assert (data.status == 0).all()
    error = np.abs(data.bounce_times.values[:, :4] - impacts(elasticity))
    assert error.max() < 1e-9


def test_float32(conf) -> None:
    elasticity = np.linspace(0.85, 0.95, 19)
    data = solve(
        model("bouncing_ball", conf), parameters={"elasticity": elasticity}, precision="float32"
    )
    assert np.abs(data.bounce_times.values[:, :4] - impacts(elasticity)).max() < 1e-4


@pytest.mark.parametrize("algorithm", ["tsit5", "bdf"])
def test_bounces_without_end_stop(algorithm: str, conf) -> None:
    data = solve(
        model("bouncing_ball", conf), parameters={"elasticity": [0.5, 0.9]}, duration=20.0,
        save_every=5.0, algorithm=algorithm, **CLOSE,
    )  # fmt: skip
    assert data.status.values.tolist() == [STATUS["event_limit"], 0]
    assert data.steps.values[0] < 5000
    assert np.isnan(data.height.values[0, 1:]).all()
    assert not np.isnan(data.height.values[1]).any()


@pytest.mark.parametrize("name", ["bouncing_ball", "izhikevich", "two_compartment_infusion"])
def test_a_run_has_the_same_bits_alone_and_among_others(name: str, conf) -> None:
    system = model(name, conf)
    varied, low, high = {
        "bouncing_ball": ("elasticity", 0.8, 0.95),
        "izhikevich": ("I", 4.0, 20.0),
        "two_compartment_infusion": ("interval", 5.0, 15.0),
    }[name]
    values = np.linspace(low, high, 21)
    span = min(system.duration, 100.0)
    given = {"save_every": span / 10, "summaries": [system.states[0].name], "duration": span}
    together = solve(system, parameters={varied: values}, **given)
    assert len(set(together.steps.values)) > 1
    for lanes, chosen in ((1, [0, 7, 20]), (16, [20, 3, 11])):
        data = solve(
            system,
            parameters={varied: values[chosen]},
            target=TargetChoice("cpu", lanes=lanes),
            **given,
        )
        for key in data.data_vars:
            ours, theirs = data[key].values, together[key].values[chosen]
            assert ours.tobytes() == theirs.tobytes(), key


@pytest.mark.skipif(not toolkit_installed(), reason="needs numba-cuda")
@pytest.mark.parametrize("name", ["bouncing_ball", "izhikevich", "two_compartment_infusion"])
def test_the_simulator_has_the_bits_of_the_cpu(name: str, conf) -> None:
    system = model(name, conf)
    given = {"duration": 4.0, "save_every": 0.5, "rtol": 1e-5, "atol": 1e-6}
    a, b = (solve(system, target=target, **given) for target in ("cpu", "simulator"))
    counts = [int(a[key].sum()) for key in a.data_vars if str(key).endswith("_count")]
    assert not counts or sum(counts) >= 1, "nothing happened"
    for key in a.data_vars:
        assert a[key].values.tobytes() == b[key].values.tobytes(), key


@pytest.mark.skipif(not toolkit_installed(), reason="needs numba-cuda")
@pytest.mark.parametrize("name", ["bouncing_ball", "izhikevich", "two_compartment_infusion"])
def test_compiles_for_cuda(name: str, conf) -> None:
    system = model(name, conf)
    settings = RunSettings(
        system=system, varied=(next(iter(system.suggested)),), saved=(system.states[0].name,),
        sampling=True, event_times=10,
    )  # fmt: skip
    code = BatchSolverKernel(settings, BatchSolverConfig(target="cuda")).compile_cuda("sm_90")
    assert code.figures.spill_stores == 0
    assert code.figures.registers > 0


def test_spikes_of_a_neuron(conf) -> None:
    """Between spikes scipy integrates the same equations; it is stopped by its own event."""
    from scipy.integrate import solve_ivp

    system = model("izhikevich", conf)
    data = solve(system, parameters={"I": [0.0, 10.0]}, duration=300.0, **CLOSE)
    assert data.spike_count.values[0] == 0

    def f(t, y):
        return [0.04 * y[0] ** 2 + 5 * y[0] + 140 - y[1] + 10.0, 0.02 * (0.2 * y[0] - y[1])]

    def peak(t, y):
        return y[0] - 30.0

    peak.terminal = True
    t, y, spikes = 0.0, [-65.0, -13.0], []
    while t < 300.0:
        part = solve_ivp(f, (t, 300.0), y, events=peak, rtol=1e-11, atol=1e-11, method="DOP853")
        if not part.t_events[0].size:
            break
        t = part.t_events[0][0]
        spikes.append(t)
        y = [-65.0, part.y_events[0][0][1] + 8.0]
    assert data.spike_count.values[1] == len(spikes) >= 5
    assert np.allclose(data.spike_times.values[1, : len(spikes)], spikes, rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_infusions_against_their_closed_form(target: str, conf) -> None:
    runs = [(3.0, 2.0, 12.0), (4.0, 14.0, 10.0), (0.0, 2.0, 12.0)]
    if target == "simulator":
        runs = runs[:1]
    number, length, interval = (np.array(column) for column in zip(*runs, strict=True))
    span = 16.0 if target == "simulator" else 48.0
    data = solve(
        model("two_compartment_infusion", conf),
        parameters={"number": number, "length": length, "interval": interval},
        duration=span,
        save_every=1.0,
        target=target,
        **CLOSE,
    )
    k10, k12, k21 = 0.5, 0.8, 0.4
    total = k10 + k12 + k21
    root = np.sqrt(total**2 - 4 * k10 * k21)
    fast, slow = (total + root) / 2, (total - root) / 2

    def since(t):
        t = np.maximum(t, 0.0)
        first = (fast - k21) / (fast - slow) / fast * (1 - np.exp(-fast * t))
        return first + (k21 - slow) / (fast - slow) / slow * (1 - np.exp(-slow * t))

    t = data.time.values
    for run, (n, long, every) in enumerate(runs):
        exact = np.zeros_like(t)
        for k in range(int(n)):
            exact += 500 / long * (since(t - 1 - every * k) - since(t - 1 - every * k - long))
        assert np.abs(data.central.values[run] - exact).max() < 1e-6 * 500


def one(events: dict, **more) -> OdeSystem:
    return OdeSystem.from_mapping(
        {
            "name": "one",
            "states": {"x": 0.0, "y": 0.0},
            "parameters": {"p": 1.0},
            "equations": {"x": "p", "y": 0},
            "events": events,
            "time": {"duration": 10.0},
            **more,
        }
    )


def test_what_is_saved_at_an_event_comes_after_it() -> None:
    system = one({"jump": {"at": [0, 2.0], "set": {"y": "y + 1"}}})
    data = solve(system, save_every=1.0)
    assert data.y.values[0].tolist() == [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    assert data.jump_times.values[0, :2].tolist() == [0.0, 2.0]


def test_a_condition_of_time_is_landed_on() -> None:
    system = one({"late": {"when": "t >= 3 and x > 1", "set": {"y": "x"}}})
    data = solve(system, save_every=1.0)
    assert data.late_times.values[0, 0] == 3.0
    assert np.allclose(data.y.values[0], [0, 0, 0] + [3.0] * 8, rtol=0, atol=1e-12)


def test_a_run_that_ends_at_an_event() -> None:
    system = one({"full": {"root": "x - 4.5", "stop": True}})
    data = solve(system, parameters={"p": [1.0, 0.1]}, save_every=1.0, summaries=["x"])
    assert data.status.values.tolist() == [STATUS["event_stop"], 0]
    assert np.isnan(data.x.values[0, 5:]).all()
    assert not np.isnan(data.x.values[0, :5]).any()
    assert data.x_final.values[0] == pytest.approx(4.5, abs=1e-12)
    assert data.x_mean.values[0] == pytest.approx(2.25, rel=1e-12)
    assert data.full_times.values[0, 0] == pytest.approx(4.5, abs=1e-12)


def test_events_set_parameters_of_their_run_only() -> None:
    system = one({"slow": {"root": "x - limit", "set": {"p": "p/2"}}}, constants={}, parameters={
        "p": 1.0, "limit": 2.0,
    })  # fmt: skip
    data = solve(system, parameters={"limit": [2.0, 4.0, 20.0]}, times=[10.0])
    assert np.allclose(data.x.values[:, 0], [2 + 8 / 2, 4 + 6 / 2, 10.0], rtol=1e-12)


def test_events_of_one_time_happen_by_priority_and_see_what_was_left() -> None:
    system = one(
        {
            "low": {"root": "x - 1", "set": {"y": "y*10 + 1"}, "priority": 1},
            "high": {"root": "x - 1", "set": {"y": "y*10 + 2"}, "priority": "1 + p"},
            "early": {"when": "x >= 1", "set": {"y": "y + 1000"}, "values": "trigger"},
            "gone": {"when": "x >= 1 and y < 0.5", "set": {"y": 0}, "persistent": False},
        }
    )
    data = solve(system, save_every=2.0)
    # 2, then 21, then 1000 more than at the start; the last one no longer.
    assert data.y.values[0, 1] == 1000.0
    assert data.gone_count.values[0] == 0
    assert [int(data[f"{name}_count"][0]) for name in ("low", "high", "early")] == [1, 1, 1]


def test_resets_read_what_was_before() -> None:
    system = one({"swap": {"root": "x - 2", "set": {"x": "y", "y": "x"}}})
    data = solve(system, save_every=1.0)
    # At the second time x becomes what it was, and goes on from there.
    assert np.allclose(data.x.values[0, 3:], [1, 2, 3, 4, 5, 6, 7, 8], atol=1e-12)
    assert np.allclose(data.y.values[0, 3:], 2.0, atol=1e-12)
    assert data.swap_count.values[0] == 2


def test_directions() -> None:
    events = {name: {"root": "cos(t)", "direction": name} for name in ("rising", "falling", "both")}
    data = solve(one(events), **CLOSE)
    assert np.allclose(data.falling_times[0, :2], [np.pi / 2, 5 * np.pi / 2], rtol=0, atol=1e-12)
    assert np.allclose(data.rising_times[0, :1], [3 * np.pi / 2], rtol=0, atol=1e-12)
    assert int(data.both_count[0]) == 3


def test_one_event_makes_another_happen() -> None:
    events = {
        "first": {"root": "x - 1", "set": {"y": 5}},
        "second": {"root": "y - 4", "set": {"y": "y + 1"}},
        "start": {"when": "t > -1", "initially": False, "set": {"p": "2*p"}},
    }
    data = solve(one(events), save_every=1.0)
    assert data.first_times.values[0, 0] == data.second_times.values[0, 0]
    assert data.first_times.values[0, 0] == pytest.approx(0.5, abs=1e-12)
    assert data.start_times.values[0, 0] == 0.0
    assert data.y_final.values[0] == 6.0


def test_events_that_call_each_other_without_end_are_stopped() -> None:
    events = {
        "up": {"root": "y - 0.5", "set": {"y": 0}},
        "down": {"when": "y < 0.5 and t > 1", "set": {"y": 1}},
    }
    data = solve(one(events))
    assert int(data.status[0]) == STATUS["event_limit"]


def test_doses_from_run_to_run() -> None:
    system = OdeSystem.from_mapping(
        {
            "states": {"gut": 0.0},
            "parameters": {"k": 0.5, "dose": 10.0, "tau": 2.0, "n": 3.0},
            "equations": {"gut": "-k*gut"},
            "doses": [{"into": "gut", "amount": "dose", "start": 1, "every": "tau", "count": "n"}],
        }
    )
    tau, n = np.array([2.0, 3.0, 1.5]), np.array([3.0, 1.0, 0.0])
    data = solve(system, parameters={"tau": tau, "n": n}, duration=9.0, save_every=0.5, **CLOSE)
    t = data.time.values
    for run in range(3):
        exact = sum(
            (10 * np.exp(-0.5 * (t - 1 - k * tau[run])) * (t >= 1 + k * tau[run])
             for k in range(int(n[run]))),
            np.zeros_like(t),
        )  # fmt: skip
        assert np.abs(data.gut.values[run] - exact).max() < 1e-7
    # Doses before the start are not given.
    late = solve(system, t_start=2.0, duration=4.0, save_every=1.0, **CLOSE)
    assert late.gut.values[0, 0] == 0.0
    assert late.gut.values[0, 1] == 10.0
