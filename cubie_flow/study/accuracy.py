"""The tolerances of a study: what they are for each state, and which states stayed below them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import evolve

from cubie_flow.integrators.status import ended_well
from cubie_flow.integrators.tableaus import method
from cubie_flow.integrators.tolerances import (
    AUTO,
    LARGEST,
    absolute_tolerances,
    natural_scales,
    relative_tolerances,
)
from cubie_flow.study.options import ControllerChoice
from cubie_flow.study.study import Study
from cubie_flow.study.tolerance_record import ATOL, LOOKED_AT, Faint, ranged, recorded_atol
from cubie_flow.systems.quantities import Quantity
from cubie_flow.systems.sensitivities import Sensitivity

Array = Any


def adaptive(study: Study) -> bool:
    """Return whether tolerances choose the steps of a study."""
    kind = study.controller.kind
    return (method(study.algorithm).controller if kind == "default" else kind) != "fixed"


def atol_of(study: Study) -> dict[str, float]:
    """Return the absolute tolerance of every state, and of sensitivities that have their own."""
    c, states = study.controller, study.integrated.states
    given = c.atol if isinstance(c.atol, Mapping) else {}
    starts = study.design.largest()
    values = absolute_tolerances(states, c.rtol, c.atol, study.precision, starts)
    return {
        state.name: value
        for state, value in zip(states, values, strict=True)
        if not isinstance(state, Sensitivity) or state.name in given
    }


def rtol_of(study: Study) -> dict[str, float]:
    """Return the relative tolerance of every state that is integrated."""
    states = study.integrated.states
    values = relative_tolerances(states, study.controller.rtol)
    return {state.name: value for state, value in zip(states, values, strict=True)}


def scales_of(study: Study) -> dict[str, float]:
    """Return the size that every state of the model is expected to have."""
    return natural_scales(study.integrated.states, study.design.largest())


def atol_attribute(study: Study) -> dict[str, str]:
    """Return the attribute of a store that keeps the absolute tolerances."""
    return {ATOL: json.dumps(atol_of(study))} if adaptive(study) else {}


def as_recorded(study: Study, attrs: Mapping[str, Any]) -> Study:
    """Return a study with the absolute tolerances that its store was made with.

    Parameters
    ----------
    study : Study
    attrs : mapping
        Attributes of the store.


    Stores of versions that did not keep them had 1e-6 for states without a tolerance of their own.
    """
    c = study.controller
    if recorded := recorded_atol(attrs):
        return _with_atol(study, recorded)
    if isinstance(c.atol, Mapping):
        rest = dict.fromkeys((state.name for state in study.system.states), LARGEST)
        return _with_atol(study, {**rest, **c.atol})
    return study


def _with_atol(study: Study, atol: Mapping[str, float]) -> Study:
    return evolve(study, controller=evolve(study.controller, atol=dict(atol)))


def fine_choice(study: Study, largest: float) -> ControllerChoice:
    """Return the step control of a study with ``atol=auto`` as numbers of at most `largest`."""
    atol = {name: min(value, largest) for name, value in atol_of(study).items()}
    same = set(atol.values())
    return evolve(study.controller, atol=same.pop() if len(same) == 1 else atol)


def accuracy(study: Study) -> str:
    """Return the tolerances in words; empty for fixed steps."""
    if not adaptive(study):
        return ""
    chosen = " auto:" if study.controller.atol == AUTO else ""
    return f"rtol {ranged(rtol_of(study))}, atol{chosen} {ranged(atol_of(study))}"


def faint_states(
    study: Study, columns: Mapping[str, Array], arrays: Mapping[str, Array]
) -> dict[str, Faint]:
    """Return the states whose stored values all stay below the absolute tolerance in some runs.

    The errors of such values are within the tolerance, but the values may have no correct digit.
    A state that is exactly 0 throughout a run is left out.

    Parameters
    ----------
    study : Study
    columns, arrays : mapping
        Varied values by the names of the model, and results of a shard by those of the store.
    """
    if not adaptive(study):
        return {}
    status, limits = arrays["status"], atol_of(study)
    looked_at = np.arange(0, len(status), -(-len(status) // LOOKED_AT))
    well = looked_at[ended_well(status[looked_at])]
    faint = {}
    for state in study.system.states:
        limit = limits[state.name]
        runs = well[np.abs(arrays[f"{state.name}_final"][well]) < limit]
        if not runs.size:
            continue
        sizes = _sizes(state, runs, columns, arrays)
        sizes = sizes[(sizes < limit) & (sizes > 0.0)]
        if sizes.size:
            faint[state.name] = Faint(int(sizes.size), float(sizes.max()))
    return faint


def _sizes(
    state: Quantity, runs: Array, columns: Mapping[str, Array], arrays: Mapping[str, Array]
) -> Array:
    """Return the largest stored magnitude of a state for some runs."""
    name = state.name
    # Start values that every run computes are not stored.
    start = state.value if state.start is None else np.nan
    sizes = [columns[name][runs] if name in columns else np.full(len(runs), start)]
    sizes += [arrays[key][runs] for key in (f"{name}_final", f"{name}_min", f"{name}_max")
             if key in arrays]  # fmt: skip
    if name in arrays:
        # Values after the end of a run are NaN.
        sizes.append(np.fmax.reduce(np.abs(arrays[name][runs]), axis=1))
    return np.fmax.reduce(np.abs(sizes), axis=0)
