"""The values of a swept key, read from an override of Hydra."""

from __future__ import annotations

import math
from typing import Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cubie_flow.errors import FlowError

DURATION, SEED = "duration", "batch.seed"
MODEL, VALUES = ("system.parameters.", "system.states."), "batch.values."
#: Keys of quantities in which the runs of one launch may differ. Any other swept key makes jobs.
QUANTITIES = (*MODEL, VALUES)


def quantity_of(key: str) -> str:
    """Return the quantity of the model that a key sets, ``duration``, the seed, or ``""``."""
    if key in (DURATION, SEED):
        return key
    for prefix in QUANTITIES:
        name = key.removeprefix(prefix)
        if prefix in MODEL:
            name = name.removesuffix(".value")
        if key.startswith(prefix) and "." not in name:
            return name
    return ""


def numbers_of(override: Override) -> tuple[Any, str]:
    """Return the values of a swept quantity as ``batch.sweep`` takes them.

    Returns
    -------
    values : Any
        None if the values cannot be values of runs.
    reason : str
        Why not, where the values look as if they could.

    Raises
    ------
    FlowError
        If a value cannot be a number.
    """
    key, values = override.key_or_group, override.value()
    if isinstance(values, IntervalSweep):
        return {"uniform": sorted(_finite(key, end) for end in (values.start, values.end))}, ""
    if isinstance(values, RangeSweep) and not values.shuffle:
        ends = (values.start, values.stop, values.step)
        return {"arange": [_finite(key, end) for end in ends]}, ""
    if isinstance(values, RangeSweep | ChoiceSweep):
        # Hydra shuffles on each reading: read the values once.
        numbers = [_number(key, value) for value in override.sweep_iterator()]
        if None not in numbers:
            return numbers, ""
        return None, "not all of its values are numbers"
    return None, ""


def count_values(override: Override) -> int:
    """Return how many values a swept key has; 0 for an interval.

    Raises
    ------
    FlowError
        If it has no values.
    """
    key, values = override.key_or_group, override.value()
    if isinstance(values, IntervalSweep):
        return 0
    if isinstance(values, RangeSweep):
        from cubie_flow.batches.values import count_steps

        ends = [_finite(key, float(x or 0)) for x in (values.start, values.stop, values.step)]
        count = count_steps(*ends) if ends[2] else 0
    else:
        count = len(list(override.sweep_iterator()))
    if not count:
        raise FlowError(f"'{override.input_line}' sweeps over nothing: it has no value")
    return count


def refuse_mixed_values(override: Override) -> None:
    """Refuse a range, an interval or a pattern among listed values: Hydra cannot expand it.

    Raises
    ------
    FlowError
        Naming the sweep.
    """
    values = override.value()
    listed = values.list if isinstance(values, ChoiceSweep) else []
    for value in listed:
        if isinstance(value, RangeSweep | IntervalSweep | Glob):
            kind = {RangeSweep: "range", IntervalSweep: "interval"}.get(type(value), "glob")
            raise FlowError(
                f"{override.input_line} has {kind}(...) among listed values; give either "
                f"{kind}(...) alone or a list of values"
            )


def refuse_repeated_values(override: Override) -> None:
    """Refuse a list that has a value twice: the same runs or jobs would be done twice.

    Raises
    ------
    FlowError
        Naming the value.
    """
    values = override.value()
    if not isinstance(values, ChoiceSweep):
        return
    # A group may list one file twice in two spellings; only equal values are the same for sure.
    seen: set[str] = set()
    for value in values.list or []:
        text = str(getattr(value, "text", value))
        number = _number_in_text(text) if quantity_of(override.key_or_group) else None
        known = text if number is None else repr(float(number))
        if known in seen:
            raise FlowError(
                f"{override.key_or_group} is swept over {text} twice; leave one of them"
            )
        seen.add(known)


def _number(key: str, value: Any) -> float | int | None:
    """Return a swept value as a number, or None if only the composed config can resolve it.

    A text is a number if the model or the batch would read it as one. An interpolation such as
    ``${oc.env:K}`` is resolved if that is possible without a config.

    Raises
    ------
    FlowError
        If no config could make the value a number.
    """
    text = value.text if isinstance(value, QuotedString) else value
    if isinstance(text, str) and key.startswith(QUANTITIES):
        number = _number_in_text(text)
        return None if number is None else _finite(key, number)
    if isinstance(value, bool) or (value is None and key.startswith(MODEL)):
        word = "null" if value is None else str(value).lower()
        raise FlowError(f"{key} is swept over {word}, which is not a number")
    return _finite(key, value) if isinstance(value, int | float) else None


def _number_in_text(text: str) -> float | None:
    """Return the number that a text writes, or None for an expression or a config reference."""
    from cubie_flow.systems.parser import written_number

    if "${" in text:
        try:
            text = str(OmegaConf.create({"value": text}).value)
        except OmegaConfBaseException:
            return None  # the config of the job resolves it, or reports why it cannot
    return written_number(text)


def _finite(key: str, number: Any) -> Any:
    if not math.isfinite(number):
        raise FlowError(f"{key} is swept over {number}, which is not a finite number")
    return number
