"""The error that users see, and validators that raise it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any


class FlowError(ValueError):
    """A mistake in a model, a config or a batch; the message is one sentence."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, empty if none is close."""
    matches = get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def one_of(*allowed: object) -> Callable[[object, Any, object], None]:
    """Return an attrs validator that accepts only the `allowed` values."""

    def check(_: object, attribute: Any, value: object) -> None:
        if value not in allowed:
            names = ", ".join(map(str, allowed))
            hint = nearest(str(value), map(str, allowed))
            raise FlowError(f"{_key(attribute)} is '{value}'; it must be one of {names}{hint}")

    return check


def between(low: float, high: float, rule: str) -> Callable[[object, Any, Any], None]:
    """Return an attrs validator for numbers ``low < value <= high``.

    Parameters
    ----------
    low, high : float
    rule : str
        The condition in words, for the message.
    """

    def check(_: object, attribute: Any, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
            raise FlowError(f"{_key(attribute)} is {value!r}; it must be {rule}")

    return check


def _key(attribute: Any) -> str:
    return str(attribute.metadata.get("key", attribute.name))
