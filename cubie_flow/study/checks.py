"""Checks of config values: each says what a key may hold and returns the value in one form.

A choice of a study declares its fields with `setting`; the schema of ``conf/`` is made of the same
checks, so that Python and the command line refuse the same values in the same words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from attrs import NOTHING, field, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.registries import Registry

#: From key, value and the allowed values in words to the value.
Read = Callable[[str, Any, str], Any]


@frozen
class Check:
    """Check of the values of a config key.

    Attributes
    ----------
    allowed : str
        What the key may hold, in words.
    words : tuple of str
        The allowed values, where they are a list.
    """

    allowed: str
    _read: Read
    words: tuple[str, ...] = ()

    def __call__(self, key: str, value: Any) -> Any:
        """Return the value in the form that the code uses.

        Parameters
        ----------
        key : str
            Name of the key, for messages.
        value : object

        Raises
        ------
        FlowError
            Naming the key, its value and what is allowed.
        """
        return self._read(key, value, self.allowed)


def setting(key: str, check: Check, default: Any = NOTHING, **options: Any) -> Any:
    """Return an attrs field for a config key.

    Parameters
    ----------
    key : str
        Full name, such as ``controller.rtol``.
    check : Check
    default : object, optional
    **options
        For `attrs.field`.
    """
    return field(
        default=default,
        converter=lambda value: check(key, value),
        metadata={"key": key, "check": check},
        **options,
    )


def refusal(key: str, value: Any, allowed: str) -> FlowError:
    """Return the error for a value that is not allowed.

    Parameters
    ----------
    key : str
    value : object
    allowed : str
        What the key may hold, in words.
    """
    shown = value.item() if hasattr(value, "item") and getattr(value, "size", 0) == 1 else value
    return FlowError(f"{key} is {shown!r:.200}; it must be {allowed}")


def optional(check: Check) -> Check:
    """Return a check that also accepts null."""

    def read(key: str, value: Any, allowed: str) -> Any:
        return None if value is None else check._read(key, value, allowed)

    return Check(f"{check.allowed}, or null", read, check.words)


def number(*, above: float = -math.inf, least: float = -math.inf) -> Check:
    """Return the check of a finite number.

    Parameters
    ----------
    above, least : float
        Exclusive and inclusive lower bound.
    """
    words = "a number"
    if above > -math.inf:
        words = f"a number above {above:g}"
    elif least > -math.inf:
        words = f"a number of at least {least:g}"

    def read(key: str, value: Any, allowed: str) -> float:
        fits = isinstance(value, Real) and not isinstance(value, bool)
        if not (fits and math.isfinite(value) and value > above and value >= least):
            raise refusal(key, value, allowed)
        return float(value)

    return Check(words, read)


def whole(least: int) -> Check:
    """Return the check of a whole number of at least `least`; 1e6 is one too."""

    def read(key: str, value: Any, allowed: str) -> int:
        fits = isinstance(value, Integral) or (isinstance(value, Real) and value == value // 1)
        if isinstance(value, bool) or not fits or value < least:
            raise refusal(key, value, allowed)
        return int(value)

    return Check(f"a whole number of at least {least}", read)


def choice(*words: str) -> Check:
    """Return the check of one of several words."""

    def read(key: str, value: Any, allowed: str) -> str:
        if value not in words:
            raise FlowError(f"{refusal(key, value, allowed)}{nearest(str(value), words)}")
        return str(value)

    return Check(f"one of {', '.join(words)}", read, words)


def registered(registry: Registry, *more: str) -> Check:
    """Return the check of a registered name, or of one of `more` words.

    A name that is registered later, or by an installed package, passes as well.
    """
    words = (*more, *registry.names)

    def read(key: str, value: Any, allowed: str) -> str:
        if not isinstance(value, str):
            raise refusal(key, value, allowed)
        registry.check(value, *more)
        return value

    return Check(f"one of {', '.join(words)}", read, words)


def _flag(key: str, value: Any, allowed: str) -> bool:
    if not isinstance(value, bool):
        raise refusal(key, value, allowed)
    return value


def _text(key: str, value: Any, allowed: str) -> str:
    if not isinstance(value, str) or not value:
        raise refusal(key, value, allowed)
    return value


def _mapping(key: str, value: Any, allowed: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise refusal(key, value, allowed)
    return {str(name): item for name, item in value.items()}


FLAG = Check("true or false", _flag)
TEXT = Check("a text", _text)
#: Null is an empty mapping.
MAPPING = Check("a mapping of names, such as {x: 1}", _mapping)


def _items(value: Any) -> list[Any] | None:
    """Return a list, tuple or array as a list; None for anything else."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__"):
        return None
    return list(value.tolist() if hasattr(value, "tolist") else value)


def _architectures(key: str, value: Any, allowed: str) -> str:
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return str(_text(key, value, allowed))


def _devices(key: str, value: Any, allowed: str) -> int | tuple[int, ...]:
    device, items = whole(0), _items(value)
    if items:
        return tuple(device(f"{key}[{i}]", item) for i, item in enumerate(items))
    return int(device(key, value))


def _axes(key: str, value: Any, allowed: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise refusal(key, value, allowed)
    return [MAPPING(f"{key}[{i}]", axis) for i, axis in enumerate(value)]


def _names(key: str, value: Any, allowed: str) -> list[str]:
    items = [value] if isinstance(value, str) else _items(value)
    if items is None or not all(isinstance(name, str) for name in items):
        raise refusal(key, value, allowed)
    return items


def _times(key: str, value: Any, allowed: str) -> list[float]:
    items, time = _items(value), number(least=0.0)
    if items is None or not items:
        raise refusal(key, value, allowed)
    return [time(f"{key}[{i}]", item) for i, item in enumerate(items)]


def _rescue(key: str, value: Any, allowed: str) -> Any:
    if value not in (None, False, "off", "default") and not isinstance(value, list):
        raise refusal(key, value, allowed)
    return value


#: One CUDA architecture, or several for a plan, joined by commas.
ARCHITECTURES = optional(Check("a text such as sm_90, or a list of them", _architectures))
#: Number of a GPU, several of them, or null for all.
DEVICES = optional(Check("a whole number of at least 0, or a list of them", _devices))
#: Axes of a sweep.
AXES = Check("a list of mappings, such as [{x: [1]}]", _axes)
NAMES = optional(Check("a list of names, such as [x, y]", _names))
TIMES = optional(Check("a list of times, such as [0, 1]", _times))
#: The list itself is read by `cubie_flow.study.attempts.read_rescue`.
RESCUE = Check("off, default, or a list of attempts", _rescue)


def _data(key: str, value: Any, allowed: str) -> Any:
    if value is None or (isinstance(value, str) and value) or isinstance(value, Mapping):
        return value
    raise refusal(key, value, allowed)


#: The data are read by `cubie_flow.systems.measurements.read_measurements`.
DATA = Check("the name of a .csv or .parquet file, a mapping of columns, or null", _data)


def _observed_names(key: str, value: Any, allowed: str) -> Any:
    if value is None or (isinstance(value, str) and value):
        return value
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value.values()):
        return {str(name): item for name, item in value.items()}
    raise refusal(key, value, allowed)


OBSERVED = Check("a name, names by DVID or CMT such as {1: c, 2: effect}, or null", _observed_names)


def tolerance(*, absolute: bool) -> Check:
    """Return the check of a tolerance: one number, or one per state; ``auto`` if absolute."""
    one = number(least=0.0) if absolute else number(above=0.0)
    words = f"{one.allowed}, {'one per state, or auto' if absolute else 'or one per state'}"

    def read(key: str, value: Any, allowed: str) -> float | dict[str, float] | str:
        if isinstance(value, Mapping):
            return {str(name): one(f"{key}.{name}", item) for name, item in value.items()}
        if absolute and value == "auto":
            return "auto"
        return float(one._read(key, value, allowed))

    return Check(words, read)
