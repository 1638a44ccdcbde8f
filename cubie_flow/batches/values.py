"""Values of one varied quantity: a list of values or a distribution.

A value list is evaluated at given indices, so an axis of 10^7 points is never in memory.
A distribution maps points of the open unit interval to values.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cubie_flow.errors import FlowError, nearest

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

LISTS = ("linspace", "logspace", "arange")
DISTRIBUTIONS = ("uniform", "loguniform", "normal", "lognormal")


class ValueList(ABC):
    """Values in order, computed from their indices."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of values."""

    @abstractmethod
    def at(self, index: Indices) -> Array:
        """Return the values at `index`, shape ``index.shape``, float64."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest value; by default those at the ends of a monotonic list."""
        low, high = sorted(self.at(np.array([0, self.size - 1])).tolist())
        return low, high

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return max(map(abs, self.bounds))

    @property
    @abstractmethod
    def spec(self) -> Any:
        """The value spec, in plain types."""


@frozen
class Constant(ValueList):
    """One value, the same in every run."""

    value: float

    @property
    def size(self) -> int:
        return 1

    def at(self, index: Indices) -> Array:
        return np.full(index.shape, self.value)

    @property
    def spec(self) -> float:
        return self.value


@frozen(eq=False)
class Listed(ValueList):
    """Given values, shape (n,)."""

    values: Array

    @property
    def size(self) -> int:
        return len(self.values)

    def at(self, index: Indices) -> Array:
        return self.values[index]

    @property
    def bounds(self) -> tuple[float, float]:
        return float(self.values.min()), float(self.values.max())

    @property
    def spec(self) -> list[float]:
        numbers: list[float] = self.values.tolist()
        return numbers


@frozen
class Linspace(ValueList):
    """`count` evenly spaced values from `start` to `stop`, both included."""

    start: float
    stop: float
    count: int

    @property
    def size(self) -> int:
        return self.count

    def at(self, index: Indices) -> Array:
        step = (self.stop - self.start) / max(self.count - 1, 1)
        # The last value is exactly `stop`, not a rounded sum.
        last = (index == self.count - 1) & (self.count > 1)
        return np.where(last, self.stop, self.start + index * step)

    @property
    def spec(self) -> dict[str, list[float]]:
        return {"linspace": [self.start, self.stop, self.count]}


@frozen
class Logspace(ValueList):
    """`count` values from `start` to `stop`, both included, with a constant ratio."""

    start: float
    stop: float
    count: int

    @property
    def size(self) -> int:
        return self.count

    def at(self, index: Indices) -> Array:
        exponents = Linspace(math.log10(self.start), math.log10(self.stop), self.count)
        values = np.power(10.0, exponents.at(index))
        values = np.where(index == 0, self.start, values)
        return np.where((index == self.count - 1) & (self.count > 1), self.stop, values)

    @property
    def spec(self) -> dict[str, list[float]]:
        return {"logspace": [self.start, self.stop, self.count]}


@frozen
class Arange(ValueList):
    """Values from `start` in steps of `step`, without `stop`."""

    start: float
    stop: float
    step: float

    @property
    def size(self) -> int:
        return count_steps(self.start, self.stop, self.step)

    def at(self, index: Indices) -> Array:
        return self.start + index.astype(np.float64) * self.step

    @property
    def spec(self) -> dict[str, list[float]]:
        return {"arange": [self.start, self.stop, self.step]}


@frozen
class Distribution:
    """A distribution of one quantity, through its inverse cumulative distribution function.

    Attributes
    ----------
    kind
        ``uniform`` and ``loguniform`` (lower, upper bound), ``normal`` (mean, standard
        deviation) or ``lognormal`` (median, standard deviation of the natural logarithm).
    first, second
        The two parameters, in that order.
    """

    kind: str
    first: float
    second: float

    def quantile(self, unit: Array) -> Array:
        """Return the values whose cumulative probability is `unit`, strictly inside (0, 1)."""
        a, b = self.first, self.second
        if self.kind == "uniform":
            return a + (b - a) * unit
        if self.kind == "loguniform":
            log_a = math.log(a)
            # Rounding of exp(log) may exceed a bound by an ulp.
            values: Array = np.exp(log_a + (math.log(b) - log_a) * unit)
            return values.clip(a, b)
        from scipy.special import ndtri

        standard = np.asarray(ndtri(unit), dtype=np.float64)
        drawn: Array = a + b * standard if self.kind == "normal" else a * np.exp(b * standard)
        return drawn

    @property
    def largest(self) -> float:
        """Largest magnitude of a value; for a normal distribution, exceeded once in 10^9 draws."""
        if self.kind in ("uniform", "loguniform"):
            return max(abs(self.first), abs(self.second))
        with np.errstate(over="ignore"):
            return float(np.abs(self.quantile(np.array([2.0**-31, 1.0 - 2.0**-31]))).max())

    @property
    def spec(self) -> dict[str, list[float]]:
        """The value spec, in plain types."""
        return {self.kind: [self.first, self.second]}


def count_steps(start: float, stop: float, step: float) -> int:
    """Return how many values lead from `start` in steps of `step` up to, without, `stop`.

    The numbers are taken as they are written, in decimal digits: (1, 1.3, 0.1) has three values.
    A step such as 1/3 that has no such digits may miss a whole number by its own rounding.

    Parameters
    ----------
    start, stop, step
        Finite numbers; `step` is not 0.
    """
    from fractions import Fraction

    first, last, one = (Fraction(repr(float(number))) for number in (start, stop, step))
    steps = (last - first) / one
    slack = max(Fraction(1, 10**9), steps * Fraction(1, 2**50))
    return max(0, math.ceil(steps - min(slack, Fraction(1, 4))))


def parse_value(name: str, spec: Any, group: str = "batch.values") -> ValueList | Distribution:
    """Return the value list or distribution of a value spec.

    Parameters
    ----------
    name
        The quantity, for errors.
    spec
        A number, a list of numbers, or a mapping of one key: ``linspace: [a, b, n]``,
        ``logspace: [a, b, n]``, ``arange: [a, b, step]``, ``uniform: [a, b]``,
        ``loguniform: [a, b]``, ``normal: [mean, std]`` or ``lognormal: [median, sigma]``.
    group
        The key that holds the quantity, for errors.

    Raises
    ------
    FlowError
        If the spec is anything else.
    """
    key = f"{group}.{name}"
    if isinstance(spec, Mapping):
        return _parse_mapping(key, spec)
    if isinstance(spec, np.ndarray):
        if spec.ndim == 1 and spec.size and spec.dtype.kind in "iuf" and np.isfinite(spec).all():
            return Listed(spec.astype(np.float64))
        spec = spec.tolist()
    if isinstance(spec, Sequence) and not isinstance(spec, str | bytes):
        if not spec:
            raise FlowError(f"{key} is an empty list; give at least one number")
        return Listed(np.array([_number(f"{key}[{i}]", value) for i, value in enumerate(spec)]))
    return Constant(_number(key, spec))


def _parse_mapping(key: str, spec: Mapping[Any, Any]) -> ValueList | Distribution:
    allowed = LISTS + DISTRIBUTIONS
    if len(spec) != 1:
        given = ", ".join(map(str, spec)) or "none"
        raise FlowError(f"{key} needs exactly one of {', '.join(allowed)}; it has {given}")
    ((form, arguments),) = spec.items()
    if form not in allowed:
        raise FlowError(
            f"{key} has the unknown form '{form}' (allowed: {', '.join(allowed)})"
            + nearest(form, allowed)
        )
    key = f"{key}.{form}"
    wanted = {
        "linspace": ("start", "stop", "count"),
        "logspace": ("start", "stop", "count"),
        "arange": ("start", "stop", "step"),
        "normal": ("mean", "standard deviation"),
        "lognormal": ("median", "sigma"),
    }.get(form, ("lower", "upper"))
    if isinstance(arguments, np.ndarray):
        arguments = arguments.tolist()
    if not isinstance(arguments, list | tuple) or len(arguments) != len(wanted):
        raise FlowError(f"{key} needs [{', '.join(wanted)}], not {arguments!r}")
    numbers = [_number(f"{key} ({what})", v) for what, v in zip(wanted, arguments, strict=True)]
    if not math.isfinite(numbers[1] - numbers[0]):
        raise FlowError(
            f"{key} goes from {numbers[0]:g} to {numbers[1]:g}, which are further apart than "
            f"{sys.float_info.max:.1e}, the largest number"
        )
    if form in DISTRIBUTIONS:
        return _distribution(key, form, numbers)
    return _value_list(key, form, numbers)


def _value_list(key: str, form: str, numbers: list[float]) -> ValueList:
    start, stop, third = numbers
    if form == "arange":
        if third == 0 or (stop - start) * third <= 0:
            raise FlowError(
                f"{key} from {start:g} to {stop:g} in steps of {third:g} has no values; "
                "the step must lead from start towards stop"
            )
        return Arange(start, stop, third)
    if third != int(third) or third < 1:
        raise FlowError(f"{key} needs a whole count of at least 1, not {third:g}")
    if form == "linspace":
        return Linspace(start, stop, int(third))
    if start <= 0 or stop <= 0:
        raise FlowError(
            f"{key} needs positive endpoints (the values themselves, not exponents), "
            f"not {start:g} and {stop:g}"
        )
    return Logspace(start, stop, int(third))


def _distribution(key: str, form: str, numbers: list[float]) -> Distribution:
    first, second = numbers
    if form in ("uniform", "loguniform") and not first < second:
        raise FlowError(f"{key} needs lower < upper, not {first:g} and {second:g}")
    if form in ("loguniform", "lognormal") and first <= 0:
        what = "positive bounds" if form == "loguniform" else "a positive median"
        raise FlowError(f"{key} needs {what}, not {first:g}")
    if form in ("normal", "lognormal") and second <= 0:
        what = "standard deviation" if form == "normal" else "sigma"
        raise FlowError(f"{key} needs a positive {what}, not {second:g}")
    return Distribution(form, first, second)


def _number(key: str, value: Any) -> float:
    if isinstance(value, str):
        # Environment variables are text.
        try:
            value = float(value)
        except ValueError:
            raise FlowError(f"{key} is the text {value!r}, not a number") from None
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise FlowError(f"{key} must be a number, not {value!r}")
    try:
        number = float(value)
    except (TypeError, OverflowError):
        raise FlowError(f"{key} must be a real number, not {value!r}") from None
    if not math.isfinite(number):
        raise FlowError(f"{key} must be finite, not {number}")
    return number
