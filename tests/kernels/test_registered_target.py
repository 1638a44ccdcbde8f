"""A new target is one class and one registration."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from cubie_flow import OdeSystem, solve
from cubie_flow.api import TargetChoice
from cubie_flow.errors import FlowError
from cubie_flow.integrators.run import RunSettings
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel
from cubie_flow.kernels.targets.detect import toolkit_installed
from cubie_flow.kernels.targets.simulator import SimulatorTarget
from cubie_flow.kernels.targets.target import BuildResult
from cubie_flow.registries import TARGETS, Registry


class ToyTarget(SimulatorTarget):
    """Counts builds, and leaves the rest to the simulator."""

    builds = 0

    def build(self, kernel: BatchSolverKernel) -> BuildResult:
        ToyTarget.builds += 1
        return super().build(kernel)


@pytest.fixture
def toy() -> Iterator[str]:
    TARGETS.register("toy", ToyTarget)
    yield "toy"
    TARGETS.unregister("toy")


@pytest.mark.skipif(not toolkit_installed(), reason="the simulator needs the CUDA wheels")
def test_a_registered_target_solves(lorenz: OdeSystem, toy: str) -> None:
    given = {"parameters": {"rho": np.array([1.0, 20.0])}, "duration": 0.1}
    result = solve(lorenz, target=TargetChoice(toy), **given)
    assert ToyTarget.builds == 1
    np.testing.assert_array_equal(result.x_final, solve(lorenz, target="cpu", **given).x_final)


def test_a_target_that_is_not_registered(lorenz: OdeSystem) -> None:
    run = RunSettings(lorenz, duration=1.0)
    with pytest.raises(FlowError, match=r"target\.kind is 'cdua'; .*did you mean 'cuda'"):
        BatchSolverKernel(run, BatchSolverConfig("cdua"))


def test_a_name_is_registered_once(toy: str) -> None:
    with pytest.raises(FlowError, match="already registered"):
        TARGETS.register(toy, ToyTarget)


def test_installed_packages_register_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    entry = EntryPoint("half", "fractions:Fraction", "toys")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    assert Registry("toy", "toys").get("half")(1, 2) == 0.5


def test_the_registries_import_nothing() -> None:
    code = (
        "import cubie_flow.registries, sys; print('numpy' in sys.modules, 'attrs' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
