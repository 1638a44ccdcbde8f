"""References of an audit: runs integrated again so that they share no fault with the result.

A reference is by a method of another family, in float64, with far tighter tolerances that follow
the size of every state, and with steps that a pulse of a thousandth of a run cannot hide in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, frozen
from numpy.typing import NDArray

from cubie_flow.analysis.rerun import stored_study
from cubie_flow.integrators.status import ended_well
from cubie_flow.study.accuracy import atol_of, rtol_of, scales_of
from cubie_flow.study.options import ControllerChoice
from cubie_flow.study.tolerance_record import ranged

if TYPE_CHECKING:
    from xarray import Dataset

    from cubie_flow.study.study import Study

Array = NDArray[Any]
#: Methods of references, in the order in which they are tried.
METHODS = ("radau_iia_5", "kvaerno5", "vern7")
#: How many of them are tried on a run.
TRIED = 2
#: No relative tolerance below this means anything in float64.
FLOOR = 1e-13
#: Steps of a reference in its run, at least, and attempts in it, at most.
FEWEST, MOST = 1000, 10_000_000
#: Shortest runs whose steps are bounded by their own length, as a part of the longest.
SHORTEST = 0.05
#: Part of the size of a model's states below which the size of a state may be rounding.
NOISE = 1e-15
#: States up to which a reference keeps the extremes of all of them.
WATCHED = 20


@frozen
class Accuracy:
    """How accurately a reference is integrated.

    Attributes
    ----------
    rtol, atol : mapping
        By state of the model.
    dt_max : float
    """

    rtol: Mapping[str, float]
    atol: Mapping[str, float]
    dt_max: float

    def looser(self, factor: float) -> Accuracy:
        """Return tolerances that are larger by a factor, with steps of another length."""
        rtol = {name: factor * value for name, value in self.rtol.items()}
        atol = {name: factor * value for name, value in self.atol.items()}
        return Accuracy(rtol, atol, 1.5 * self.dt_max)

    def __str__(self) -> str:
        tolerances = f"rtol {ranged(self.rtol)}, atol {ranged(self.atol)}"
        return f"{tolerances}, steps of at most {self.dt_max:.3g}"


@frozen(eq=False)
class Reference:
    """Runs integrated again.

    Attributes
    ----------
    arrays : mapping
        By the names of the store, and the extremes of states as ``<state>_min`` and ``_max``.
    method : ndarray of uint8, shape (runs,)
        Which of the methods it is from.
    """

    arrays: Mapping[str, Array]
    method: Array

    @property
    def status(self) -> Array:
        """How the runs ended."""
        return self.arrays["status"]


def methods_for(study: Study) -> tuple[str, ...]:
    """Return the methods that a reference is tried with: of other families than the study's."""
    from cubie_flow.integrators.equations import mass_pattern
    from cubie_flow.integrators.steps import solves_algebraic
    from cubie_flow.integrators.tableaus import EXPLICIT, method

    def family(name: str) -> object:
        return "explicit" if name in EXPLICIT else type(method(name))

    other = [name for name in METHODS if family(name) != family(study.algorithm)]
    if mass_pattern(study.system):
        other = [name for name in other if solves_algebraic(method(name))]
    return tuple(other[:TRIED])


def accuracy_for(
    study: Study, sizes: Mapping[str, float], tighter: float, spans: tuple[float, float]
) -> Accuracy:
    """Return how accurately the reference of some runs is integrated.

    Parameters
    ----------
    study : Study
        The result's.
    sizes : mapping
        Magnitude that each state of the model has in all of the runs, as far as is known; 0 where
        nothing is.
    tighter : float
        By how much its tolerances are below the result's.
    spans : (float, float)
        Shortest and longest of the runs.
    """
    scales = scales_of(study)
    wanted, rtol = atol_of(study), {}
    for name, value in rtol_of(study).items():
        rtol[name] = max(value / tighter, FLOOR)
    atol = {}
    for name, value in wanted.items():
        if name not in scales:
            atol[name] = value / tighter
            continue
        size = max(sizes.get(name, 0.0) or scales[name], NOISE * scales[name])
        atol[name] = min(value / tighter, rtol[name] * size)
    kept = {name: rtol[name] for name in atol}
    shortest, longest = spans
    return Accuracy(kept, atol, (max(shortest, SHORTEST * longest) or 1.0) / FEWEST)


def solved(
    data: Dataset, part: NDArray[np.int64], accuracy: Accuracy, methods: tuple[str, ...],
    target: str,
) -> Reference:  # fmt: skip
    """Return some runs of a result, integrated again; those that fail, by the next method too."""
    study = stored_study(data, part, {"target": target})
    first = _arrays(_study(study, accuracy, methods[0]))
    used = np.zeros(len(part), np.uint8)
    for number, name in enumerate(methods[1:], start=1):
        failed = np.flatnonzero(~ended_well(first["status"]))
        if not failed.size:
            break
        left = stored_study(data, part[failed], {"target": target})
        again = _arrays(_study(left, accuracy, name))
        good = ended_well(again["status"])
        for key, values in first.items():
            values[failed[good]] = again[key][good]
        used[failed[good]] = number
    return Reference(first, used)


def _study(study: Study, accuracy: Accuracy, algorithm: str) -> Study:
    """Return the study of a reference: it keeps the extremes of the states as well."""
    from cubie_flow.integrators.metrics import METRICS

    states = [state.name for state in study.system.states]
    quantities = (*study.system.states, *study.system.parameters, *study.system.observables)
    names = {item.name for item in quantities}
    free = [s for s in states if not names & {f"{s}_{metric}" for metric in METRICS}]
    summaries = tuple(dict.fromkeys((*study.summarised, *(free if len(free) <= WATCHED else ()))))
    most = int(min(study.controller.max_steps * 1000, MOST))
    return evolve(
        study,
        algorithm=algorithm,
        linear_solver="auto",
        precision="float64",
        controller=ControllerChoice(
            rtol=accuracy.rtol, atol=accuracy.atol, dt_max=accuracy.dt_max, max_steps=most
        ),
        output=evolve(study.output, summaries=summaries or None),
        locations={},
        rescue=(),
        order="given",
    )


def _arrays(study: Study) -> dict[str, Array]:
    from cubie_flow.api import solve_study

    found = solve_study(study)
    return {str(name): np.array(values.values) for name, values in found.data_vars.items()}
