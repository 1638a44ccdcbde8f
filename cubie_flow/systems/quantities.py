"""Quantities and observables of a model, and the names they may have."""

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
from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions.graph import Node
from cubie_flow.systems.scope import CALLABLE

#: Names that already have a meaning, in expressions or in the results.
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
    """Something with a name and a unit."""

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
        The number. For an expression, the system computes it at its default values and time 0.
    unit : str
    long_name : str
    start : Node, optional
        Expression from which every run computes the value when it starts, in symbols of
        parameters, states (for their initial values), drivers and ``t``.
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
    """Return `value` as short text for an error."""
    return reprlib.repr(value)


def check_name(name: object, where: str) -> str:
    """Return `name` if a quantity may have it.

    Raises
    ------
    FlowError
        If it is not a plain identifier, too long, or already has a meaning.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or keyword.iskeyword(name):
        advice = "use letters, digits and _, begin with a letter, and avoid the keywords of Python"
        if isinstance(name, str) and ")" in name:
            # YAML ends a value in braces at a comma: {x: f(a, b)} has the keys 'x' and 'b)'.
            advice = "in braces, put quotes around a formula with a comma"
        raise FlowError(f"{where} {shortened(name)} is not a usable name; {advice}")
    if len(name) > MAX_NAME:
        raise FlowError(
            f"{where} '{name[:20]}...' has {len(name)} characters, but only {MAX_NAME} are allowed"
        )
    if name in RESERVED:
        raise FlowError(f"{where} '{name}' has a reserved name: it means {RESERVED[name]}")
    return name


def check_keys(given: Mapping[Any, Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that a mapping must not have.

    Parameters
    ----------
    given : mapping
    known : iterable of str
        Allowed keys.
    where : str
        Names the mapping in errors.

    Raises
    ------
    FlowError
        For the first such key, with the nearest known key.
    """
    for key in given:
        if key not in known:
            raise FlowError(
                f"{where}: unknown key {shortened(key)} (known: {', '.join(known)})"
                f"{nearest(str(key), known)}"
            )


def check_unique(names: Iterable[tuple[str, str]], system: str) -> None:
    """Refuse a name that two quantities have.

    Parameters
    ----------
    names : iterable of (str, str)
        Section, such as ``"state"``, and name.
    system : str
        Name of the system, for errors.

    Raises
    ------
    FlowError
        For the first such name.
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
        If it is not a number or not finite.
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


def allow_unused(model: Mapping[str, Any], given: Collection[str] = ()) -> dict[str, Any]:
    """Return a model that may leave every name unused, except those in `given`.

    If an expression is replaced, a name may become unused that only this expression used. That is
    not a mistake.
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
    """Return whether an entry of a model is an expression, not a number."""
    return isinstance(given.get("value") if isinstance(given, Mapping) else given, str)
