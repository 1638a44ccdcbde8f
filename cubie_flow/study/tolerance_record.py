"""The attributes of a store about absolute tolerances and states that stay below them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import astuple, frozen

#: Attribute of a store: the absolute tolerance of every state.
ATOL = "atol"
#: Attribute of a store: states below their tolerance, see `Faint`.
BELOW = "below_atol"
#: Runs of a shard that are examined, and states that a message names.
LOOKED_AT, NAMED = 65_536, 3


def recorded_atol(attrs: Mapping[str, Any]) -> dict[str, float]:
    """Return the absolute tolerance of every state that a store was made with; empty if unknown."""
    return {name: float(value) for name, value in json.loads(attrs.get(ATOL, "{}")).items()}


def ranged(values: Mapping[str, float]) -> str:
    """Return the tolerance of all states, or the range and the states with the smallest."""
    least, most = min(values.values()), max(values.values())
    if least == most:
        return f"{most:g}"
    names = [name for name, value in values.items() if value == least]
    return f"{most:g} to {least:g} for {first_names(names)}"


def first_names(names: Sequence[str]) -> str:
    """Return the first names and the number of the others."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


@frozen
class Faint:
    """A state whose stored values stay below its absolute tolerance in some runs.

    Attributes
    ----------
    runs : int
        Number of such runs among those examined.
    largest : float
        Magnitude of the largest stored value of those runs.
    """

    runs: int
    largest: float

    def __add__(self, other: Faint) -> Faint:
        return Faint(self.runs + other.runs, max(self.largest, other.largest))


def join_faint(one: Mapping[str, Faint], two: Mapping[str, Faint]) -> dict[str, Faint]:
    """Return two records of faint states together."""
    faint = dict(one)
    for name, more in two.items():
        faint[name] = faint[name] + more if name in faint else more
    return faint


def faint_attribute(faint: Mapping[str, Faint]) -> dict[str, str]:
    """Return the attribute of a store that keeps faint states."""
    return {BELOW: json.dumps({name: astuple(one) for name, one in faint.items()})} if faint else {}


def recorded_faint(attrs: Mapping[str, Any]) -> dict[str, Faint]:
    """Return the faint states that a store keeps."""
    return {name: Faint(*one) for name, one in json.loads(attrs.get(BELOW, "{}")).items()}


def faint_sentence(faint: Mapping[str, Faint], attrs: Mapping[str, Any], runs: int) -> str:
    """Return a message about states that stayed below their absolute tolerance; empty if none.

    Parameters
    ----------
    faint : mapping
    attrs : mapping
        Attributes of the store.
    runs : int
        Runs of the study.
    """
    if not faint:
        return ""
    atol = recorded_atol(attrs)
    names = sorted(faint, key=lambda name: -faint[name].runs)
    shown = [f"{name} (atol {atol[name]:g})" for name in names]
    count = max(one.runs for one in faint.values())
    least = "at least " if count > LOOKED_AT else ""
    finer = {name: 10.0 ** math.floor(math.log10(faint[name].largest) - 6) for name in names}
    remedy = ", ".join(f"{name}: {value:g}" for name, value in list(finer.items())[:NAMED])
    return (
        f"{first_names(shown)} stay below their absolute tolerance in {least}{count:,} of {runs:,} "
        "runs, as far as values are kept, and may have no correct digit there; set "
        f"controller.atol={{{remedy}}}"
    )
