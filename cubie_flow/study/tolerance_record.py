"""What a store keeps of the absolute tolerances it was made with, and of states below them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import astuple, frozen

#: Attribute of a store: the absolute tolerance of every state.
ATOL = "atol"
#: Attribute of a store: what is known of states below theirs, see `Faint`.
BELOW = "below_atol"
#: Runs of a shard that are looked at, spread over it, and states that a sentence names.
LOOKED_AT, NAMED = 65_536, 3


def recorded_atol(attrs: Mapping[str, Any]) -> dict[str, float]:
    """Return the absolute tolerance of every state that a store was made with; empty if unknown."""
    return {name: float(value) for name, value in json.loads(attrs.get(ATOL, "{}")).items()}


def ranged(values: Mapping[str, float]) -> str:
    """Return the tolerance of all states, or the range and which of them have the smallest."""
    least, most = min(values.values()), max(values.values())
    if least == most:
        return f"{most:g}"
    names = [name for name, value in values.items() if value == least]
    return f"{most:g} to {least:g} for {listed(names)}"


def listed(names: Sequence[str]) -> str:
    """Return the first names and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


@frozen
class Faint:
    """What is known of a state whose values stayed below its absolute tolerance.

    Attributes
    ----------
    runs : int
        In how many of the runs looked at.
    largest : float
        Magnitude of the largest value kept of those runs.
    """

    runs: int
    largest: float

    def __add__(self, other: Faint) -> Faint:
        return Faint(self.runs + other.runs, max(self.largest, other.largest))


def added(one: Mapping[str, Faint], two: Mapping[str, Faint]) -> dict[str, Faint]:
    """Return what is known of states together."""
    found = dict(one)
    for name, more in two.items():
        found[name] = found[name] + more if name in found else more
    return found


def faint_attribute(found: Mapping[str, Faint]) -> dict[str, str]:
    """Return the attribute of a store that keeps what is known of faint states."""
    return {BELOW: json.dumps({name: astuple(one) for name, one in found.items()})} if found else {}


def recorded_faint(attrs: Mapping[str, Any]) -> dict[str, Faint]:
    """Return what a store keeps of faint states."""
    return {name: Faint(*one) for name, one in json.loads(attrs.get(BELOW, "{}")).items()}


def faint_sentence(found: Mapping[str, Faint], attrs: Mapping[str, Any], runs: int) -> str:
    """Return in words which states stayed below their absolute tolerance; empty if none did."""
    if not found:
        return ""
    atol = recorded_atol(attrs)
    names = sorted(found, key=lambda name: -found[name].runs)
    shown = [f"{name} (atol {atol[name]:g})" for name in names]
    count = max(one.runs for one in found.values())
    least = "at least " if count > LOOKED_AT else ""
    finer = {name: 10.0 ** math.floor(math.log10(found[name].largest) - 6) for name in names}
    remedy = ", ".join(f"{name}: {value:g}" for name, value in list(finer.items())[:NAMED])
    return (
        f"{listed(shown)} stay below their absolute tolerance in {least}{count:,} of {runs:,} "
        "runs, as far as values are kept, and may have no correct digit there; set "
        f"controller.atol={{{remedy}}}"
    )
