"""Solvers beside each other, one small module each.

A module has one function, ``prepare(case, entry) -> Prepared``. It raises ImportError where the
solver is not installed, and `Unsupported` for what the solver cannot do.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from time import perf_counter
from typing import Any

import numpy as np
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
    """

    run: Callable[[], Any]
    ends: Callable[[Any, Array], Array]
    compile_seconds: float | None = None
    device_seconds: Callable[[], float] | None = None


def finals(states_first: bool) -> Callable[[Any, Array], Array]:
    """Return `ends` of an answer of final states, shape (states, runs) or (runs, states)."""

    def ends(answer: Any, probes: Array) -> Array:
        values = np.asarray(answer)
        chosen = values[:, probes].T if states_first else values[probes]
        return chosen[:, None, :]

    return ends


def load(peer: str) -> Callable[[Case, Entry], Prepared]:
    """Return the `prepare` of a peer."""
    name = peer if "." in peer else f"benchmarks.peers.{peer}"
    prepare: Callable[[Case, Entry], Prepared] = import_module(name).prepare
    return prepare


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `action` gives and the seconds it took."""
    started = perf_counter()
    return action(), perf_counter() - started
