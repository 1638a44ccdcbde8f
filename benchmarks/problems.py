"""The problems: a model of ``conf/system``, the parameter that varies, and the duration."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.systems import OdeSystem

Array = Any
#: Positions in the range of the varied parameter that are compared with a reference.
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Folder of the models.
MODELS = Path(__file__).parents[1] / "conf" / "system"


@frozen
class Problem:
    """A model, one parameter that varies over a range, and how it is integrated.

    Parameters
    ----------
    name : str
    model : str
        File in ``conf/system``, without its ending.
    varied : str
        The parameter that differs between runs.
    low, high : float
        Range of the parameter; runs are evenly spaced in it.
    duration : float
        In the model's unit of time.
    rtol, atol : float
        Nominal tolerances; ``atol/rtol`` is also the floor of the relative error.
    algorithm : str
        Our method at the nominal tolerance.
    settings : mapping
        Settings of the model, such as its size.
    stiff : bool
        Whether explicit methods are unusable.
    array : callable, optional
        Right-hand side on whole arrays, ``(m, u, p) -> du`` with `m` like numpy, for problems
        with too many components to write one by one.
    loops : str, optional
        The same as the body of a numba function of ``(t, u, du, p)``, where `n` is the number
        of states. The arguments are pointers, which have no negative index.
    """

    name: str
    model: str
    varied: str
    low: float
    high: float
    duration: float
    rtol: float = 1e-6
    atol: float = 1e-6
    algorithm: str = "tsit5"
    settings: dict[str, int] = field(factory=dict, hash=False)
    stiff: bool = False
    array: Callable[[Any, Any, Any], Any] | None = field(default=None, eq=False)
    loops: str | None = None

    @property
    def system(self) -> OdeSystem:
        """The model.

        Raises
        ------
        FlowError
            If ``conf/system`` does not hold it.
        """
        return _system(self.model, tuple(sorted(self.settings.items())))

    def values(self, runs: int) -> Array:
        """Return the varied parameter of every run, shape (runs,); that of the probes is exact."""
        values = np.linspace(self.low, self.high, runs)
        values[probes(runs)] = self.probed
        return values

    @property
    def probed(self) -> Array:
        """The varied parameter of the runs that are compared with a reference."""
        return self.low + np.asarray(FRACTIONS) * (self.high - self.low)

    @property
    def start(self) -> Array:
        """Initial values, shape (states,)."""
        return np.asarray([state.value for state in self.system.states], np.float64)

    @property
    def available(self) -> bool:
        """Whether ``conf/system`` has the model."""
        return (MODELS / f"{self.model}.yaml").is_file()

    @property
    def large(self) -> bool:
        """Whether it has hundreds of states."""
        return max(self.settings.values(), default=0) > 100

    @property
    def floor(self) -> float:
        """Size below which a state's error counts as absolute."""
        return self.atol / self.rtol


def probes(runs: int) -> Array:
    """Return the numbers of the runs that are compared with a reference, shape (5,)."""
    return np.rint(np.asarray(FRACTIONS) * (runs - 1)).astype(np.int64)


@cache
def _system(model: str, settings: tuple[tuple[str, int], ...]) -> OdeSystem:
    return OdeSystem.from_file(MODELS / f"{model}.yaml", dict(settings) or None)


def _lorenz96(m: Any, u: Any, p: Any) -> Any:
    return (m.roll(u, -1, 0) - m.roll(u, 2, 0)) * m.roll(u, 1, 0) - u + p


_LORENZ96_LOOPS = """
    du[0] = (u[1] - u[n - 2]) * u[n - 1] - u[0] + p[0]
    du[1] = (u[2] - u[n - 1]) * u[0] - u[1] + p[0]
    for i in range(2, n - 1):
        du[i] = (u[i + 1] - u[i - 2]) * u[i - 1] - u[i] + p[0]
    du[n - 1] = (u[0] - u[n - 3]) * u[n - 2] - u[n - 1] + p[0]
"""

_KNOWN = (
    Problem("lorenz", "lorenz", "rho", 0.0, 21.0, 1.0, 1e-8, 1e-8),
    Problem(
        "lorenz96_40", "lorenz96", "F", 4.0, 10.0, 2.0, 1e-8, 1e-8,
        settings={"size": 40}, array=_lorenz96, loops=_LORENZ96_LOOPS,
    ),
    Problem(
        "lorenz96_400", "lorenz96", "F", 4.0, 10.0, 2.0, 1e-8, 1e-8,
        settings={"size": 400}, array=_lorenz96, loops=_LORENZ96_LOOPS,
    ),
    Problem("pleiades", "pleiades", "G", 0.95, 1.05, 3.0, 1e-8, 1e-8, algorithm="vern7"),
    Problem("van_der_pol", "van_der_pol", "mu", 0.0, 2.0, 20.0, 1e-8, 1e-8),
    Problem("lotka_volterra", "lotka_volterra", "alpha", 0.4, 0.7, 20.0, 1e-8, 1e-8),
    # A quarter of the closed orbit, with one loop: errors over the whole orbit are too large.
    Problem("arenstorf", "arenstorf", "mu", 0.0122, 0.0124, 4.0, 1e-8, 1e-8),
    Problem("hodgkin_huxley", "hodgkin_huxley", "I_ext", 0.0, 20.0, 50.0),
    Problem(
        "robertson", "robertson", "k1", 0.02, 0.08, 1e5, 1e-6, 1e-10, algorithm="rodas5p",
        stiff=True,
    ),
    Problem(
        "hires", "hires", "k1", 1.5, 2.0, 321.8122, 1e-6, 1e-10, algorithm="rodas5p", stiff=True,
    ),
    Problem(
        "brusselator_1d", "brusselator_1d", "B", 2.0, 3.5, 10.0, algorithm="rodas5p",
        settings={"size": 200}, stiff=True,
    ),
    Problem(
        "beeler_reuter", "beeler_reuter", "g_s", 0.07, 0.11, 400.0, algorithm="rodas5p", stiff=True,
    ),
)  # fmt: skip
PROBLEMS: dict[str, Problem] = {problem.name: problem for problem in _KNOWN}


def problem(name: str) -> Problem:
    """Return the problem called `name`.

    Raises
    ------
    FlowError
        If there is none; the message names the nearest one.
    """
    if name not in PROBLEMS:
        raise FlowError(f"there is no benchmark problem '{name}'{nearest(name, PROBLEMS)}")
    return PROBLEMS[name]
