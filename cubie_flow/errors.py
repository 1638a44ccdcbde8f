"""The error that users see, and validators that raise it."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class FlowError(ValueError):
    """A mistake in a model, a config or a batch; the message is one sentence."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, empty if none is close."""
    matches = get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error means that the system gave no memory, also for a thread."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError):
        return "can't start new thread" in str(error)
    # A library that finds no place: llvmlite says only that it was not found, its cause says why.
    causes = [error, error.__cause__, error.__context__]
    return any(text in str(cause) for cause in causes for text in _NO_PLACE)


#: What the loader of libraries says when the address space is full.
_NO_PLACE = ("failed to map segment", "annot allocate memory")


def memory_sentence(error: BaseException) -> str:
    """Return the sentence for a lack of memory."""
    reason = f" ({text.splitlines()[0][:120]})" if (text := str(error)) else ""
    return (
        f"the memory that this process may use is not enough{reason}; raise its limit (ulimit -v), "
        "use a larger machine, or use fewer runs, saved times or threads"
    )


def is_from_store(error: BaseException) -> bool:
    """Return whether zarr or one of its codecs raised an error, or called what raised it."""
    frames = traceback.walk_tb(error.__traceback__)
    homes = {str(frame.f_globals.get("__name__", "")).split(".")[0] for frame, _ in frames}
    return not homes.isdisjoint(("zarr", "numcodecs"))


def unreadable_sentence(error: BaseException) -> str:
    """Return the sentence for a chunk of a store that cannot be read."""
    return (
        f"a chunk of the store cannot be read ({str(error).split('.')[0]}); cubie-results verify "
        "lists the damaged shards"
    )


def in_one_sentence(method: Callable[P, T]) -> Callable[P, T]:
    """Return a function that reads a store, whose damaged chunks are then a `FlowError`."""

    @wraps(method)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except FlowError:
            raise
        except Exception as error:
            if not is_from_store(error):
                raise
            raise FlowError(unreadable_sentence(error)) from error

    return reading


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
