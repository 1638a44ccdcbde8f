"""Solvers beside each other, one small module each.

A module has one function, ``prepare(case, entry) -> Prepared``. It raises ImportError where the
solver is not installed, and `Unsupported` for what the solver cannot do.
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
    """The solver cannot do the case; the message says why."""


@frozen
class Prepared:
    """A solver ready to run a case.

    Parameters
    ----------
    run : callable
        Does all runs once and returns the answer, on the host and finished.
    ends : callable
        ``(answer, probes) -> array`` of the states of some runs, by number, at the case's
        times, shape (probes, times, states).
    compile_seconds : float, optional
        Where compiling can be told apart from the first run.
    device_seconds : callable, optional
        Seconds that the latest run took on a GPU, without transfers.
    elsewhere : bool
        Whether the work is done in processes of its own, whose peak memory is what counts.
    """

    run: Callable[[], Any]
    ends: Callable[[Any, Array], Array]
    compile_seconds: float | None = None
    device_seconds: Callable[[], float] | None = None
    elsewhere: bool = False


def steps_a_save(case: Case, entry: Entry) -> tuple[int, float]:
    """Return the steps from one of a case's times to the next, and their length.

    Raises
    ------
    Unsupported
        If the entry is not RK4 at a fixed step whose multiples the times are.
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
    """Return what `action` gives and the seconds it took."""
    started = perf_counter()
    return action(), perf_counter() - started
