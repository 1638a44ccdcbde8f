"""Tolerances and bounds of the step: settings that a kernel reads when it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from cubie_flow.errors import FlowError
from cubie_flow.systems.quantities import Quantity
from cubie_flow.systems.sensitivities import Sensitivity

Array = Any
#: The absolute tolerance that follows the scale of each state, and the largest that it gives.
AUTO, LARGEST = "auto", 1e-6


@frozen
class Tolerances:
    """Run-time settings; changing them rebuilds nothing.

    Parameters
    ----------
    rtol : float or mapping
        One value, or one per state by name (others get 1e-6).
    atol : float, mapping or "auto"
        One value, or one per state by name; states without one follow their scale, see
        `absolute_tolerances`.
    dt : float, optional
        First step, or the step of a fixed-step method; None lets an adaptive method choose.
    dt_min, dt_max : float
    max_steps : int
        Attempts per run, accepted and rejected.
    factor : float
        Multiplies both tolerances of every state.
    floor : float
        Least relative tolerance that `factor` leaves.
    """

    rtol: float | Mapping[str, float] = 1e-6
    atol: float | Mapping[str, float] | str = AUTO
    dt: float | None = None
    dt_min: float = 0.0
    dt_max: float | None = None
    max_steps: int = 1_000_000
    factor: float = 1.0
    floor: float = 0.0

    def vector(self, states: Sequence[Quantity], dtype: Any) -> Array:
        """Return the settings as blocks read them.

        Raises
        ------
        FlowError
            If a tolerance is not positive, or names no state.
        """
        parts = [self.dt or 0.0, self.dt_min, self.dt_max or np.inf, float(self.max_steps)]
        rtol = relative_tolerances(states, self.rtol)
        atol = absolute_tolerances(states, self.rtol, self.atol, dtype)
        parts += [max(value * self.factor, min(value, self.floor)) for value in rtol]
        parts += [value * self.factor for value in atol]
        return np.asarray(parts, dtype)


def relative_tolerances(
    states: Sequence[Quantity], rtol: float | Mapping[str, float]
) -> list[float]:
    """Return the relative tolerance of every state.

    Raises
    ------
    FlowError
        If one is not positive, or names no state.
    """
    given = _given("rtol", rtol, states)
    default = 1e-6 if given is rtol else float(rtol)  # type: ignore[arg-type]
    found = []
    for state in states:
        own = given.get(state.name)
        if own is None and isinstance(state, Sensitivity):
            own = given.get(state.of)
        found.append(float(default if own is None else own))
    return _checked("rtol", found)


def absolute_tolerances(
    states: Sequence[Quantity],
    rtol: float | Mapping[str, float],
    atol: float | Mapping[str, float] | str,
    dtype: Any,
) -> list[float]:
    """Return the absolute tolerance of every state.

    One that is not given is ``rtol`` (at least the rounding of `dtype`) times the scale of the
    state, 1e-6 at most. One of a sensitivity is that of its state times the sensitivity's factor.

    Raises
    ------
    FlowError
        If one is negative, or names no state.
    """
    given = _given("atol", {} if atol == AUTO else atol, states)
    follows = atol == AUTO or given is atol
    rounding, least = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    own: dict[str, float] = {}
    relative, scales = relative_tolerances(states, rtol), natural_scales(states)
    for state, part in zip(states, relative, strict=True):
        if not isinstance(state, Sensitivity):
            scaled = float(f"{max(part, rounding) * scales[state.name]:.6g}")
            scaled = max(min(LARGEST, scaled), least)
            own[state.name] = float(given.get(state.name, scaled if follows else atol))  # type: ignore[arg-type]
    found = [
        float(given.get(state.name, own[state.of] * state.scale))
        if isinstance(state, Sensitivity)
        else own[state.name]
        for state in states
    ]
    return _checked("atol", found)


def natural_scales(states: Sequence[Quantity]) -> dict[str, float]:
    """Return the size that each state of a model is expected to have, a power of ten.

    It is the largest start value among the states with the same unit, rounded up: a state that
    starts at 0, or far below the others, is as large as they are. Where all of a unit start at 0,
    the states of the other units count, and 1 where all states start at 0.
    """
    sizes: dict[str, float] = {}
    plain = [state for state in states if not isinstance(state, Sensitivity)]
    for state in plain:
        size = abs(float(state.value))
        if math.isfinite(size):
            sizes[state.unit] = max(size, sizes.get(state.unit, 0.0))
    largest = max(sizes.values(), default=0.0) or 1.0
    return {
        state.name: 10.0 ** math.ceil(math.log10(sizes.get(state.unit, 0.0) or largest) - 1e-9)
        for state in plain
    }


def _given(key: str, value: Any, states: Sequence[Quantity]) -> Mapping[str, float]:
    """Return the tolerances that are given by the name of a state."""
    if isinstance(value, Mapping):
        known = {state.name for state in states}
        for name in value:
            if name not in known:
                raise FlowError(f"controller.{key}.{name}: the system has no state '{name}'")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        allowed = "a number, one per state" + (", or auto" if key == "atol" else "")
        raise FlowError(f"controller.{key} is {value!r}; it must be {allowed}")
    return {}


def _checked(key: str, values: list[float]) -> list[float]:
    for number in values:
        good = number >= 0.0 if key == "atol" else number > 0.0
        if not good or not np.isfinite(number):
            allowed = "a number of at least 0" if key == "atol" else "a positive number"
            raise FlowError(f"controller.{key} is {number}; it must be {allowed}")
    return values
