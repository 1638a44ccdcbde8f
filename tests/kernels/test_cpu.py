"""The CPU target: threads that stop and go on, and batches one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.kernels.targets import cpu_program


def forced() -> OdeSystem:
    """A model with a driver that jumps, an event that is recorded and a dose."""
    return OdeSystem.from_mapping(
        {
            "states": {"x": 1.0, "y": 0.0},
            "parameters": {"k": 0.5},
            "drivers": {
                "u": {"times": [0.0, 1.0, 2.5, 3.0], "values": [1.0, 3.0, -1.0, 1.0],
                      "interpolation": "step"},
            },
            "equations": {"x": "u - k*x", "y": "x - y"},
            "events": {"high": {"when": "y > 1.5", "set": {"x": "0.5*x"}, "record": True}},
            "doses": [{"into": "x", "amount": 1.0, "at": [0.75]}],
        }
    )  # fmt: skip


@pytest.mark.parametrize("method", ["tsit5", "rodas5p", "bdf"])
def test_pausing_after_every_attempt_changes_nothing(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {
        "parameters": {"k": np.linspace(0.1, 2.0, 21)}, "duration": 4.0, "save_every": 0.25,
        "summaries": ["x"], "algorithm": method, "target": "cpu",
    }  # fmt: skip
    whole = solve(forced(), **given)
    assert int(whole.high_count.sum()) > 10
    calls = []
    slices = cpu_program._BatchWork.slices

    def counted(work: Any) -> Any:
        for spent in slices(work):
            calls.append(spent)
            yield spent

    monkeypatch.setattr(cpu_program._BatchWork, "slices", counted)
    monkeypatch.setattr(cpu_program, "FIRST_SLICE", 1)
    monkeypatch.setattr(cpu_program, "ALONE_SECONDS", 0.0)
    monkeypatch.setattr(cpu_program, "GROWTH", 1.0)
    pausing = solve(forced(), **given)
    assert len(calls) > 20
    for name in whole.data_vars:
        assert whole[name].values.tobytes() == pausing[name].values.tobytes(), name


class Stop(Exception):
    """What a test stops a batch by."""


def launched(system: OdeSystem, threads: int = 1, **tolerances: Any) -> Any:
    run = RunSettings(
        system, ("rho",), duration=1e6, controller="fixed", algorithm="rk4", precision="float64"
    )
    kernel = BatchSolverKernel(run, BatchSolverConfig("cpu", lanes=2))
    return kernel.launch(Tolerances(max_steps=2**40, **tolerances), threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_stops_amid_its_runs(lorenz: OdeSystem, threads: int) -> None:
    # Every run would take days.
    launch = launched(lorenz, threads, dt=1e-7)
    started = []

    def tick(runs: int) -> None:
        started.append(runs)
        if len(started) == 3:
            raise Stop

    with pytest.raises(Stop):
        launch.solve({"rho": np.linspace(1.0, 20.0, 5)}, 5, tick)
    assert len(started) == 3
    assert set(started) <= set(range(2, 6))


def test_a_launch_solves_batches_of_any_size(lorenz: OdeSystem) -> None:
    run = RunSettings(lorenz, ("rho",), duration=1.0, precision="float64")
    kernel = BatchSolverKernel(run, BatchSolverConfig("cpu"))
    launch = kernel.launch(Tolerances(1e-8, 1e-8), threads=2)
    values = np.linspace(1.0, 20.0, 3000)
    whole = kernel.solve({"rho": values}, len(values), Tolerances(1e-8, 1e-8))
    for count in (1, 3000, 17):
        found = launch.solve({"rho": values[:count]}, count)
        np.testing.assert_array_equal(found.finals, whole.finals[:, :count])


def test_threads_are_called_where_there_is_work_for_them(
    lorenz: OdeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def pool() -> Any:
        asked.append(True)
        return given()

    given = cpu_program._threads
    run = RunSettings(lorenz, ("rho",), duration=1.0, precision="float64")
    launch = BatchSolverKernel(run, BatchSolverConfig("cpu")).launch(Tolerances(), threads=3)
    monkeypatch.setattr(cpu_program, "_threads", pool)
    for count, times in ((1, 0), (4, 0), (10_000, 2)):
        asked.clear()
        launch.solve({"rho": np.linspace(1.0, 20.0, count)}, count)
        assert len(asked) == times, count
