"""References of an audit: runs integrated again so that they share no error with the result.

A reference uses a method of another family and float64. Its tolerances are far tighter and follow
the size of every state. Its steps are short enough not to skip a pulse of a thousandth of the run.
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
#: Most methods that are tried on a run.
TRIED = 2
#: Smallest relative tolerance that is meaningful in float64.
FLOOR = 1e-13
#: Fewest steps of a run, and most attempts.
FEWEST, MOST = 1000, 10_000_000
#: The longest step follows the shortest run, or this share of the longest run if that is longer.
SHORTEST = 0.05
#: A state smaller than this share of its scale may be rounding error.
NOISE = 1e-15
#: Most states of a model for which a reference stores the extremes of every state.
WATCHED = 20


@frozen
class Accuracy:
    """Tolerances and longest step of a reference.

    Attributes
    ----------
    rtol, atol : mapping
        By state of the model.
    dt_max : float
        In the unit of time of the model.
    """

    rtol: Mapping[str, float]
    atol: Mapping[str, float]
    dt_max: float

    def looser(self, factor: float) -> Accuracy:
        """Return tolerances that are larger by a factor, with a longest step 1.5 times as long."""
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
        By the names of the store; also the extremes of states, ``<state>_min`` and ``_max``.
    method : ndarray of uint8, shape (runs,)
        Index of the method that solved the run.
    """

    arrays: Mapping[str, Array]
    method: Array

    @property
    def status(self) -> Array:
        """Status codes of the runs."""
        return self.arrays["status"]


def methods_for(study: Study) -> tuple[str, ...]:
    """Return the methods to try for a reference: of other families than that of the study."""
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
    """Return the accuracy of the references of some runs.

    Parameters
    ----------
    study : Study
        The study of the result.
    sizes : mapping
        Smallest magnitude of each state over the runs; 0 if unknown.
    tighter : float
        Ratio of the tolerances of the result to those of the reference.
    spans : (float, float)
        Durations of the shortest and the longest run.
    """
    scales = scales_of(study)
    rtol = {name: max(value / tighter, FLOOR) for name, value in rtol_of(study).items()}
    atol = {}
    for name, value in atol_of(study).items():
        if name not in scales:
            atol[name] = value / tighter
            continue
        size = max(sizes.get(name, 0.0) or scales[name], NOISE * scales[name])
        atol[name] = min(value / tighter, rtol[name] * size)
    shortest, longest = spans
    return Accuracy(
        {name: rtol[name] for name in atol},
        atol,
        (max(shortest, SHORTEST * longest) or 1.0) / FEWEST,
    )


def solve_reference(
    data: Dataset, part: NDArray[np.int64], accuracy: Accuracy, methods: tuple[str, ...],
    target: str,
) -> Reference:  # fmt: skip
    """Integrate some runs of a result again.

    Parameters
    ----------
    data : xarray.Dataset
    part : ndarray of int64, shape (n,)
        Positions of the runs in `data`.
    accuracy : Accuracy
    methods : tuple of str
        Runs that fail with a method are tried with the next one.
    target : str
    """
    study = stored_study(data, part, {"target": target})
    arrays = _solve(_reference_study(study, accuracy, methods[0]))
    used = np.zeros(len(part), np.uint8)
    for number, name in enumerate(methods[1:], start=1):
        failed = np.flatnonzero(~ended_well(arrays["status"]))
        if not failed.size:
            break
        study = stored_study(data, part[failed], {"target": target})
        again = _solve(_reference_study(study, accuracy, name))
        good = ended_well(again["status"])
        for key, values in arrays.items():
            values[failed[good]] = again[key][good]
        used[failed[good]] = number
    return Reference(arrays, used)


def _reference_study(study: Study, accuracy: Accuracy, algorithm: str) -> Study:
    """Return the study of a reference, which also stores the extremes of the states."""
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


def _solve(study: Study) -> dict[str, Array]:
    from cubie_flow.api import solve_study

    variables = solve_study(study).data_vars
    return {str(name): np.array(values.values) for name, values in variables.items()}
