"""What a model is made of by name: quantities, observables, and which names are allowed."""

from __future__ import annotations

import keyword
import math
import re
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from attrs import frozen

from cubie_flow.batches.store_names import MEANINGS
from cubie_flow.errors import FlowError
from cubie_flow.expressions.graph import Node
from cubie_flow.systems.scope import CALLABLE

#: Names with a meaning of their own, in expressions or in the results.
RESERVED = {
    **MEANINGS,
    "t": "the time",
    "duration": "the duration of a run",
    "pi": "the number 3.14159...",
    **dict.fromkeys(CALLABLE, "a function"),
}
MAX_NAME = 64

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@frozen
class Described:
    """Whatever has a name and a unit."""

    name: str
    unit: str = ""
    long_name: str = ""


@frozen
class Quantity(Described):
    """A state with its initial value, or a parameter with its value.

    Parameters
    ----------
    name : str
    value : float
        Of an expression its number at the default values of a system and the time 0, which the
        system computes.
    unit : str
    long_name : str
    start : Node, optional
        What every run computes the value from when it starts: an expression in symbols of
        parameters, of states, meaning their initial values, of drivers and of ``t``.
    """

    name: str
    value: float
    unit: str = ""
    long_name: str = ""
    start: Node | None = None


@frozen
class Observable(Described):
    """A quantity computed from states, parameters and time.

    Parameters
    ----------
    name : str
    expression : Node
        In symbols of states, parameters and ``t``.
    unit : str
    long_name : str
    """

    name: str
    expression: Node
    unit: str = ""
    long_name: str = ""


def shortened(value: object) -> str:
    """Return `value` as an error shows it, however large it is."""
    return reprlib.repr(value)


def check_name(name: object, where: str) -> str:
    """Return `name` if a quantity may be called so.

    Raises
    ------
    FlowError
        If it is no plain identifier, too long, or means something already.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise FlowError(
            f"{where} {shortened(name)} is no usable name; use letters, digits and _, beginning "
            "with a letter, and no word of Python"
        )
    if len(name) > MAX_NAME:
        raise FlowError(
            f"{where} '{name[:20]}...' has {len(name)} characters, allowed are {MAX_NAME}"
        )
    if name in RESERVED:
        raise FlowError(f"{where} '{name}' has a reserved name: it means {RESERVED[name]}")
    return name


def check_unique(names: Iterable[tuple[str, str]], system: str) -> None:
    """Refuse a name that is used twice.

    Parameters
    ----------
    names : iterable of (str, str)
        Section, such as ``"state"``, and name.
    system : str
        Name of the system, for the error.
    """
    seen: dict[str, str] = {}
    for section, name in names:
        if name in seen:
            other = seen[name]
            both = f"two {section}s" if other == section else f"both a {other} and a {section}"
            raise FlowError(f"system {system}: '{name}' names {both}; rename one")
        seen[name] = section


def finite(value: Any, where: str) -> float:
    """Return `value` as a float.

    Raises
    ------
    FlowError
        If it is no number or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise FlowError(f"{where} is {shortened(value)}, which is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FlowError(f"{where} is {number}, which is not finite")
    return number


def with_spares(model: Mapping[str, Any], given: Collection[str] = ()) -> dict[str, Any]:
    """Return a model in which nothing has to be used besides what is `given`.

    What a replaced expression used may be used nowhere else, and is no mistake.
    """
    own = model.get("unused") or ()
    if isinstance(own, str) or not isinstance(own, Sequence):
        return dict(model)  # refused when the model is read
    names = list(own)
    for section in ("settings", "constants", "parameters", "definitions", "drivers"):
        items = model.get(section)
        declared = items if isinstance(items, Mapping) else ()
        bare = (str(key).partition("[")[0].strip() for key in declared)
        names += [name for name in bare if name not in given]
    return {**model, "unused": list(dict.fromkeys(names))}


def is_expression(given: Any) -> bool:
    """Tell whether an entry of a model is a text rather than a number."""
    return isinstance(given.get("value") if isinstance(given, Mapping) else given, str)
