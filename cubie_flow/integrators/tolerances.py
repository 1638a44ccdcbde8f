"""Tolerances and bounds of the step size: settings that a kernel reads at run time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from attrs import field, frozen

from cubie_flow.errors import FlowError
from cubie_flow.systems.quantities import Quantity
from cubie_flow.systems.sensitivities import Sensitivity

Array = Any
#: No start values from the batch.
NONE: Mapping[str, float] = MappingProxyType({})
#: Value of ``atol`` for tolerances that follow the scale of each state; the largest of these.
AUTO, LARGEST = "auto", 1e-6


@frozen
class Tolerances:
    """Run-time settings; a change of them does not rebuild the kernel.

    Parameters
    ----------
    rtol : float or mapping
        One value, or one per state by name; states without one get 1e-6.
    atol : float, mapping or "auto"
        One value, or one per state by name, in the units of the states. States without one follow
        their scale, see `absolute_tolerances`.
    dt : float, optional
        First step, or the step of a fixed-step method; None lets an adaptive method choose.
    dt_min, dt_max : float
        Bounds of the step size, in the unit of time; None for no upper bound.
    max_steps : int
        Largest number of attempts per run, accepted and rejected.
    factor : float
        Multiplier of both tolerances of every state.
    floor : float
        Lower bound of relative tolerances after the multiplication by `factor`.
    starts : mapping
        Largest magnitude of the start values that the batch gives, by state.
    """

    rtol: float | Mapping[str, float] = 1e-6
    atol: float | Mapping[str, float] | str = AUTO
    dt: float | None = None
    dt_min: float = 0.0
    dt_max: float | None = None
    max_steps: int = 1_000_000
    factor: float = 1.0
    floor: float = 0.0
    starts: Mapping[str, float] = field(factory=dict)

    def vector(self, states: Sequence[Quantity], dtype: Any) -> Array:
        """Return the settings in the layout of the buffer ``settings``.

        Parameters
        ----------
        states : sequence of Quantity
        dtype : dtype
            Precision of the kernel.

        Returns
        -------
        ndarray, shape (4 + 2*len(states),)
            First step, smallest step, largest step, step limit; ``rtol`` and then ``atol`` of every
            state.

        Raises
        ------
        FlowError
            If a tolerance is not positive, or its name is not that of a state.
        """
        parts = [self.dt or 0.0, self.dt_min, self.dt_max or np.inf, float(self.max_steps)]
        rtol = relative_tolerances(states, self.rtol)
        atol = absolute_tolerances(states, self.rtol, self.atol, dtype, self.starts)
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
        If one is not positive, or its name is not that of a state.
    """
    given = _by_name("rtol", rtol, states)
    default = 1e-6 if given is rtol else float(rtol)  # type: ignore[arg-type]
    values = []
    for state in states:
        own = given.get(state.name)
        if own is None and isinstance(state, Sensitivity):
            own = given.get(state.of)
        values.append(float(default if own is None else own))
    return _check("rtol", values)


def absolute_tolerances(
    states: Sequence[Quantity],
    rtol: float | Mapping[str, float],
    atol: float | Mapping[str, float] | str,
    dtype: Any,
    starts: Mapping[str, float] = NONE,
) -> list[float]:
    """Return the absolute tolerance of every state.

    The default of a state is ``rtol``, at least the rounding of `dtype`, times the scale of the
    state, and at most 1e-6. The default of a sensitivity is the tolerance of its state times the
    scale of the sensitivity.

    Parameters
    ----------
    states : sequence of Quantity
    rtol, atol : float, mapping or "auto"
        See `Tolerances`.
    dtype : dtype
        Precision of the kernel.
    starts : mapping
        See `Tolerances`.

    Raises
    ------
    FlowError
        If one is negative, or its name is not that of a state.
    """
    given = _by_name("atol", {} if atol == AUTO else atol, states)
    follows = atol == AUTO or given is atol
    rounding, least = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    own: dict[str, float] = {}
    relative, scales = relative_tolerances(states, rtol), natural_scales(states, starts)
    for state, part in zip(states, relative, strict=True):
        if not isinstance(state, Sensitivity):
            scaled = float(f"{max(part, rounding) * scales[state.name]:.6g}")
            scaled = max(min(LARGEST, scaled), least)
            own[state.name] = float(given.get(state.name, scaled if follows else atol))  # type: ignore[arg-type]
    values = [
        float(given.get(state.name, own[state.of] * state.scale))
        if isinstance(state, Sensitivity)
        else own[state.name]
        for state in states
    ]
    return _check("atol", values)


def natural_scales(
    states: Sequence[Quantity], starts: Mapping[str, float] = NONE
) -> dict[str, float]:
    """Return the expected magnitude of each state by name, a power of ten in its unit.

    It is the largest start value among the states with the same unit, rounded up. A state that
    starts at 0, or far below the others, thus has their magnitude. If all states of a unit start at
    0, the largest start value of the other units is used; if all states start at 0, the value 1.
    The largest value in `starts`, which a batch gives, replaces the start value of a state.
    """
    sizes: dict[str, float] = {}
    plain = [state for state in states if not isinstance(state, Sensitivity)]
    for state in plain:
        size = abs(float(starts.get(state.name, state.value)))
        if math.isfinite(size):
            sizes[state.unit] = max(size, sizes.get(state.unit, 0.0))
    largest = max(sizes.values(), default=0.0) or 1.0
    return {
        state.name: 10.0 ** math.ceil(math.log10(sizes.get(state.unit, 0.0) or largest) - 1e-9)
        for state in plain
    }


def _by_name(key: str, value: Any, states: Sequence[Quantity]) -> Mapping[str, float]:
    """Return the tolerances of single states; none if one number is given for all."""
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


def _check(key: str, values: list[float]) -> list[float]:
    """Return tolerances, or raise a FlowError if one is out of bounds."""
    for number in values:
        good = number >= 0.0 if key == "atol" else number > 0.0
        if not good or not np.isfinite(number):
            allowed = "a number of at least 0" if key == "atol" else "a positive number"
            raise FlowError(f"controller.{key} is {number}; it must be {allowed}")
    return values
