"""The compared solvers, one small module each.

A module has a function ``prepare(case, entry) -> Prepared``. It raises ImportError if the solver is
not installed, and `Unsupported` if the solver cannot solve the case.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from time import perf_counter
from typing import Any

from attrs import frozen

from benchmarks.cases import Case, Entry

Array = Any


class Unsupported(Exception):
    """The solver cannot solve the case; the message gives the reason."""


@frozen
class Prepared:
    """A solver ready to run a case.

    Parameters
    ----------
    run : callable
        Solves all runs once and returns the finished answer on the host.
    ends : callable
        ``(answer, probes) -> array``: the states of the runs with these numbers at the times of
        the case, shape (probes, times, states).
    compile_seconds : float, optional
        Compile time, if it can be separated from the first run.
    device_seconds : callable, optional
        Seconds of the latest run on a GPU, without transfers.
    elsewhere : bool
        Whether other processes do the work, whose peak memory counts.
    """

    run: Callable[[], Any]
    ends: Callable[[Any, Array], Array]
    compile_seconds: float | None = None
    device_seconds: Callable[[], float] | None = None
    elsewhere: bool = False


def steps_a_save(case: Case, entry: Entry) -> tuple[int, float]:
    """Return the number of steps between two saved times of a case, and their length.

    Raises
    ------
    Unsupported
        If the entry is not RK4 with a fixed step that divides the saved times.
    """
    if entry.method != "rk4" or not entry.dt:
        raise Unsupported("written for RK4 at a fixed step only")
    between = case.times()[0] / entry.dt
    steps = round(between)
    if abs(between - steps) > 1e-6:
        raise Unsupported("its steps do not end at the saved times")
    return steps, entry.dt


def load(peer: str) -> Callable[[Case, Entry], Prepared]:
    """Return the `prepare` of a peer."""
    name = peer if "." in peer else f"benchmarks.peers.{peer}"
    prepare: Callable[[Case, Entry], Prepared] = import_module(name).prepare
    return prepare


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of `action` and its time in seconds."""
    started = perf_counter()
    return action(), perf_counter() - started
