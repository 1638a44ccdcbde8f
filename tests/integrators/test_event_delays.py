"""Events with delays: the queues of a run, against closed forms, on every target."""

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.errors import FlowError
from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.status import STATUS
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.kernels.targets.detect import toolkit_installed

# x is the time. Every event sets its own state, so that each says what happened to it.
MODEL = {
    "name": "delayed",
    "time": {"duration": 6.0},
    "states": {
        "x": 0, "early": 0, "late": 0, "kept": 0, "gone": 0, "n": 0, "first": 0, "moved": 0,
    },
    "parameters": {"d": 0.5, "width": 0.5, "m": 2.25},
    "equations": {
        "x": 1, "early": 0, "late": 0, "kept": 0, "gone": 0, "n": 0, "first": 0, "moved": 0,
    },
    "events": {
        "of_trigger": {"when": "x > 1", "delay": "d", "values": "trigger", "set": {"early": "x"}},
        "of_execution": {"when": "x > 1", "delay": "d", "set": {"late": "x"}},
        # Persistent and not, with a condition that is true for `width` only.
        "stays": {"when": "x > 2 and x < 2 + width", "delay": 1, "set": {"kept": 1}},
        "lapses": {
            "when": "x > 2 and x < 2 + width", "delay": 1, "persistent": False, "set": {"gone": 1},
        },
        # True again before it happens: several wait at once.
        "again": {"root": "sin(2*pi*(x - 0.25))", "delay": "m", "set": {"n": "n + 1"}},
        # Two that are due at the same time: the one of the higher priority goes first.
        "second": {"when": "x > 3", "delay": 1, "set": {"first": "10*first + 2"}},
        "leader": {"when": "x > 2", "delay": 2, "priority": 1, "set": {"first": "10*first + 1"}},
        # A delay that changes: what was triggered later happens earlier.
        "slow": {
            "root": "(x - 1)*(x - 2)*(x - 3)", "direction": "both", "delay": "8 - 2.5*x",
            "values": "trigger", "set": {"moved": "x"},
        },
    },
}  # fmt: skip
LANES = {
    "d": np.array([0.5, 1.5, 0.0, 0.5, -1.0]),
    "width": np.array([0.5, 2.0, 0.5, 2.0, 0.5]),
    "m": np.array([2.25, 0.3, 2.25, 5.4, 2.25]),
}


@pytest.fixture(scope="module")
def system() -> OdeSystem:
    return OdeSystem.from_mapping(MODEL)


@pytest.fixture(scope="module")
def data(system: OdeSystem):
    return solve(system, parameters=LANES, save_every=0.75, pending_events=3, rtol=1e-9, atol=1e-12)


def test_closed_forms(data) -> None:
    last = {key: data[key].values[:, -1] for key in data.data_vars if data[key].ndim == 2}
    assert data.status.values.tolist() == [0, 0, 0, STATUS["event_queue"], STATUS["event_queue"]]
    good = slice(0, 3)
    assert np.abs(last["early"][good] - 1.0).max() < 1e-9
    assert np.abs(last["late"][good] - [1.5, 2.5, 1.0]).max() < 1e-9
    assert last["kept"][good].tolist() == [1, 1, 1]
    assert last["gone"][good].tolist() == [0, 1, 0]
    # Rising roots at 0.25, 1.25, and so on, each answered m later; in lane 3 a fourth has to wait.
    assert last["n"][good].tolist() == [4, 6, 4]
    assert last["first"][good].tolist() == [12, 12, 12]
    # Triggered at 1, 2 and 3: it happens after the end, at 5 and at 3.5.
    assert np.abs(data.slow_times.values[good, :2] - [3.5, 5.0]).max() < 1e-9
    assert np.abs(last["moved"][good] - 2.0).max() < 1e-9
    times = data.of_execution_times.values[good, 0]
    assert np.abs(times - (1.0 + LANES["d"][good])).max() < 1e-9
    # The sample before the time of an event shows the state before it.
    assert data.late.values[0, 1] == 0.0
    assert data.late.values[0, 2] == pytest.approx(1.5, abs=1e-9)


def test_the_queue_has_the_places_that_are_asked_for(system: OdeSystem) -> None:
    kernel = BatchSolverKernel(RunSettings(system=system), BatchSolverConfig(target="cpu"))
    sizes = {}
    for places in (2, 4):
        kernel.update(pending_events=places)
        sizes[places] = {e.name: e.elements for e in kernel.layout.entries}["event_queue"]
    # Seven queues that persist, of which two keep a value, and one that has a single place.
    assert sizes == {2: 2 * 9 + 1, 4: 4 * 9 + 1}


@pytest.mark.skipif(not toolkit_installed(), reason="needs numba-cuda")
def test_other_targets_and_places_have_the_same_bits(system: OdeSystem, data) -> None:
    other = solve(
        system, parameters=LANES, save_every=0.75, pending_events=3, rtol=1e-9, atol=1e-12,
        target="simulator", locations={"event_queue": "shared"},
    )  # fmt: skip
    for key in data.data_vars:
        assert data[key].values.tobytes() == other[key].values.tobytes(), key
    few = {name: MODEL["events"][name] for name in ("of_trigger", "lapses")}
    small = OdeSystem.from_mapping({**MODEL, "events": few, "unused": ["m"]})
    settings = RunSettings(system=small, varied=("d",), saved=("n",), sampling=True)
    code = BatchSolverKernel(settings, BatchSolverConfig(target="cuda")).compile_cuda("sm_90")
    assert code.figures.registers > 0


def test_written_models_are_equal(system: OdeSystem) -> None:
    again = OdeSystem.from_mapping(system.to_mapping())
    assert again.content_hash == system.content_hash
    plain = {**MODEL["events"], "of_execution": {"when": "x > 1", "set": {"late": "x"}}}
    other = OdeSystem.from_mapping({**MODEL, "events": plain})
    assert other.content_hash != system.content_hash


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"at": 1.0, "delay": 1}, "'delay' is not for 'at'; add it to the times"),
        ({"when": "x > 1", "delay": -1}, "delay is -1; it must not be negative"),
        ({"when": "x > 1", "delay": "x > 2"}, "is true or false, not a number"),
    ],
)
def test_refusals(event: dict, reason: str) -> None:
    with pytest.raises(FlowError, match=reason.replace("(", r"\(")):
        OdeSystem.from_mapping({**MODEL, "events": {"one": {**event, "set": {"n": 1}}}})


def test_sensitivities_are_refused(system: OdeSystem) -> None:
    with pytest.raises(FlowError, match=r"event 'of_trigger'.*has a delay"):
        solve(system, sensitivities=("d",))
