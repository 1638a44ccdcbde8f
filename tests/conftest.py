"""What tests share: small models, and a kernel cache of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cubie_flow.kernels.cache import FOLDER_VARIABLE
from cubie_flow.systems import OdeSystem


@pytest.fixture(autouse=True, scope="session")
def _own_kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's kernel cache out of the tests and the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        # One for all processes of a run: what one has compiled the others need not.
        base = tmp_path_factory.getbasetemp()
        shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
        patch.setenv(FOLDER_VARIABLE, str(shared / "kernels"))
        yield


@pytest.fixture(scope="session")
def lorenz() -> OdeSystem:
    """The Lorenz system with an energy-like observable."""
    return OdeSystem.from_equations(
        """
        dx/dt = sigma*(y - x)
        dy/dt = x*(rho - z) - y
        dz/dt = x*y - beta*z
        energy = x**2 + y**2 + z**2
        """,
        states={"x": 1.0, "y": 0.0, "z": 0.0},
        parameters={"sigma": 10.0, "rho": 21.0, "beta": 8 / 3},
    )


@pytest.fixture(scope="session")
def pendulum() -> OdeSystem:
    """A damped, driven pendulum: elementary functions, time, more than one parameter."""
    return OdeSystem.from_equations(
        """
        dangle/dt = speed
        dspeed/dt = -damping*speed - sin(angle) + drive*cos(0.7*t)*exp(-0.1*t)
        power = drive*speed*where(angle > 0, 1, -1)
        """,
        states={"angle": 1.0, "speed": 0.0},
        parameters={"damping": 0.1, "drive": 0.8},
    )


@pytest.fixture(scope="session")
def conf() -> Path:
    """The folder of the shipped configs."""
    return Path(__file__).parents[1] / "conf"
