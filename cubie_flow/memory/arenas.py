"""The arenas and locations of buffers, and the labels of their owners."""

from __future__ import annotations

import re

from cubie_flow.allowed_values import LOCATIONS
from cubie_flow.errors import FlowError, nearest

ARENAS = ("register", "shared", "local", "persistent")
LOCATION_SUFFIX = "_location"


def aligned(offset: int, alignment: int) -> int:
    """Return the first multiple of ``alignment`` at or after ``offset`` (bytes)."""
    return -(-offset // alignment) * alignment


def label_of(owner: object) -> str:
    """Return the default label of an owner: its class name in snake case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(owner).__name__.lstrip("_")).lower()


def check_location(key: str, location: object) -> None:
    """Refuse an unknown location.

    Raises
    ------
    FlowError
        Naming the key and the allowed locations.
    """
    if location not in LOCATIONS:
        raise FlowError(
            f"{key} is {location!r}; it must be one of {', '.join(LOCATIONS)}"
            f"{nearest(str(location), LOCATIONS)}"
        )
