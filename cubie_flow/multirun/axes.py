"""What a multirun sweeps over: which axes become jobs, and which the runs of one launch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cubie_flow.errors import FlowError, nearest

SEED, SWEEP = "batch.seed", "batch.sweep"
MODEL, VALUES = ("system.parameters.", "system.states."), "batch.values."
#: Keys of a quantity that runs of one launch may differ in. Everything else makes a job.
QUANTITIES = (*MODEL, VALUES)
DURATION = "duration"


@frozen
class Axis:
    """Swept keys that advance together.

    Attributes
    ----------
    keys
        As on the command line, without ``+``.
    words
        What was typed for each.
    size
        How many points it has; 0 for an interval, of which the batch draws as many as it wants.
    runs
        What each quantity takes, as in ``batch.sweep``; empty where the axis makes jobs.
    apart
        Quantities of the model that differ from job to job.
    jobs
        The overrides of each point; empty where the axis makes runs.
    why
        Why values that look like those of runs make jobs.
    """

    keys: tuple[str, ...]
    words: tuple[str, ...]
    size: int
    runs: Mapping[str, Any]
    jobs: tuple[tuple[str, ...], ...]
    why: str = ""
    apart: tuple[str, ...] = ()

    def line(self) -> str:
        """Return one line that says what it is."""
        kind = "runs" if self.runs else "jobs"
        told = " with ".join(f"{k}={w}" for k, w in zip(self.keys, self.words, strict=True))
        count = f"{self.size:,} values" if self.size else "as many values as batch.size makes"
        return f"{kind:<8} {told}: {count}{f' ({self.why})' if self.why else ''}"


@frozen
class Axes:
    """A whole multirun.

    Attributes
    ----------
    fixed
        Overrides of every job, as typed.
    axes
        What is swept, the last varying fastest.
    """

    fixed: tuple[str, ...]
    axes: tuple[Axis, ...]

    @property
    def common(self) -> tuple[str, ...]:
        """Overrides of every job, with the runs that each launches."""
        sweep: list[Mapping[str, Any]] = [axis.runs for axis in self.axes if axis.runs]
        sweep += [{name: None} for axis in self.axes for name in axis.apart]
        return (*self.fixed, f"{SWEEP}={_grammar(sweep)}") if sweep else self.fixed

    @property
    def jobs(self) -> list[tuple[str, ...]]:
        """Overrides of each job besides the common ones, the last axis varying fastest."""
        points = [axis.jobs for axis in self.axes if axis.jobs]
        return [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*points)]

    def lines(self) -> list[str]:
        """Return the classification, one line an axis."""
        return [axis.line() for axis in self.axes]


def read_axes(overrides: Sequence[Override], zipped: Any = None, as_jobs: Any = None) -> Axes:
    """Sort the overrides of a multirun into what is fixed, what makes jobs and what makes runs.

    Parameters
    ----------
    overrides
        The command line, parsed by Hydra.
    zipped
        ``hydra.sweeper.zip``: groups of swept keys that advance together.
    as_jobs
        ``hydra.sweeper.jobs``: keys that make jobs although they could make runs.

    Raises
    ------
    FlowError
        For a sweep that has no values, a group of keys that cannot advance together, a key that
        is swept and given a value as well, or a quantity that is swept over what is not a number.
    """
    swept = {o.key_or_group: o for o in overrides if o.is_sweep_override()}
    fixed = [override for override in overrides if not override.is_sweep_override()]
    _refuse_twice(overrides)
    forced = _keys("hydra.sweeper.jobs", as_jobs)
    for key in forced:
        _require_swept("hydra.sweeper.jobs", key, swept)
    groups = _groups(zipped, swept)
    axes = []
    for group in groups:
        members = [swept[key] for key in group]
        runs = {}
        why = "" if not any(key in forced for key in group) else "hydra.sweeper.jobs"
        for override in members:
            name = quantity_of(override.key_or_group)
            spec, reason = _numbers(override) if name else (None, "")
            why = why or reason
            if name and spec is not None:
                runs[name] = spec
        sizes = [_size(override) for override in members]
        words = tuple(override.get_value_string() for override in members)
        if len(group) > 1 and 0 in sizes:
            raise FlowError(
                f"hydra.sweeper.zip names {group[sizes.index(0)]}, an interval, which has no "
                "values that could advance with others; use range(...) or a list"
            )
        if len(runs) == len(group) and not why:
            _require_one_size(group, sizes)
            _refuse_values(runs, fixed)
            axes.append(Axis(group, words, sizes[0], runs, ()))
            continue
        if 0 in sizes:
            raise FlowError(
                f"{group[0]}={words[0]} is an interval, which only a quantity of the model "
                "can have, where the batch draws its values; use range(...) or a list"
            )
        if runs and len(group) > 1 and not why:
            others = [key for key in group if not quantity_of(key)]
            why = f"advances with {', '.join(others)}"
        columns = [
            [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
            for o in members
        ]
        _require_one_size(group, [len(column) for column in columns])
        points = tuple(zip(*columns, strict=True))
        # Values of a batch make jobs too, each with a batch of its own.
        names = [quantity_of(key) for key in group if key == DURATION or key.startswith(MODEL)]
        apart = tuple(name for name in names if name)
        axes.append(Axis(group, words, len(points), {}, points, why, apart))
    return Axes(tuple(str(override.input_line) for override in fixed), tuple(axes))


def quantity_of(key: str) -> str:
    """Return what a key means to a run: a quantity of the model, the seed, or nothing."""
    if key in (DURATION, SEED):
        return key
    for prefix in QUANTITIES:
        name = key.removeprefix(prefix)
        if prefix in MODEL:
            name = name.removesuffix(".value")
        if key.startswith(prefix) and "." not in name:
            return name
    return ""


def _numbers(override: Override) -> tuple[Any, str]:
    """Return the values of a swept quantity as ``batch.sweep`` has them, or why it cannot."""
    key, values = override.key_or_group, override.value()
    if isinstance(values, IntervalSweep):
        return {"uniform": [_finite(key, end) for end in (values.start, values.end)]}, ""
    if isinstance(values, RangeSweep) and not values.shuffle:
        ends = (values.start, values.stop, values.step)
        return {"arange": [_finite(key, end) for end in ends]}, ""
    if isinstance(values, RangeSweep | ChoiceSweep):
        # One list, in whatever order Hydra shuffles it into.
        found = [_number(key, value) for value in _listed(override)]
        if None not in found:
            return found, ""
        return None, "not all of its values are numbers"
    return None, ""


def _number(key: str, value: Any) -> float | int | None:
    """Return a swept value of a quantity as a number, None for what the composed config reads.

    Text that writes a number is one where the model or the batch would read it so, and so is what
    an interpolation such as ``${oc.env:K}`` gives without a config.

    Raises
    ------
    FlowError
        If no config could make it a number.
    """
    text = value.text if isinstance(value, QuotedString) else value
    if isinstance(text, str) and key.startswith(QUANTITIES):
        number = _written(text)
        return None if number is None else _finite(key, number)
    if isinstance(value, bool) or (value is None and key.startswith(MODEL)):
        told = "null" if value is None else str(value).lower()
        raise FlowError(f"{key} is swept over {told}, which is not a number")
    return _finite(key, value) if isinstance(value, int | float) else None


def _written(text: str) -> float | None:
    """Return the number that a text writes, None for an expression or a reference to the config."""
    from cubie_flow.systems.parser import written_number

    if "${" in text:
        try:
            text = str(OmegaConf.create({"value": text}).value)
        except OmegaConfBaseException:
            return None  # the config of the job resolves it, or says why it cannot
    return written_number(text)


def _finite(key: str, number: Any) -> Any:
    if not math.isfinite(number):
        raise FlowError(f"{key} is swept over {number}, which is not a finite number")
    return number


def _listed(override: Override) -> list[Any]:
    return list(override.sweep_iterator())


def _size(override: Override) -> int:
    """Return how many values a swept key has; 0 for an interval.

    Raises
    ------
    FlowError
        If there are none.
    """
    values = override.value()
    if isinstance(values, IntervalSweep):
        return 0
    if isinstance(values, RangeSweep):
        start, stop, step = (float(x or 0) for x in (values.start, values.stop, values.step))
        # As `batches.values.Arange` counts: a hair less, so that rounding adds no value.
        size = 0 if not step else max(0, -int(-((stop - start) / step - 1e-9) // 1))
    else:
        size = len(_listed(override))
    if not size:
        raise FlowError(f"'{override.input_line}' sweeps over nothing: it has no value")
    return size


def _keys(option: str, given: Any) -> list[str]:
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(key, str) for key in given):
        raise FlowError(f"{option} is {given!r}; it must be a list of swept keys, such as [a, b]")
    return [key.lstrip("+") for key in given]


def _require_swept(option: str, key: str, swept: Iterable[str]) -> None:
    if key not in swept:
        known = list(swept)
        raise FlowError(
            f"{option} names '{key}', which is not swept (swept: {', '.join(known) or 'nothing'})"
            f"{nearest(key, known)}"
        )


def _require_one_size(group: Sequence[str], sizes: Sequence[int]) -> None:
    if len(set(sizes)) > 1:
        told = ", ".join(f"{key} has {n:,}" for key, n in zip(group, sizes, strict=True))
        raise FlowError(f"hydra.sweeper.zip needs keys with one number of values each, but {told}")


def _groups(zipped: Any, swept: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the swept keys in order, those that advance together as one."""
    option = "hydra.sweeper.zip"
    if zipped is None:
        zipped = []
    if not isinstance(zipped, list) or not all(isinstance(group, list) for group in zipped):
        raise FlowError(f"{option} is {zipped!r}; it must be a list of groups, such as [[a, b]]")
    taken: dict[str, tuple[str, ...]] = {}
    for index, given in enumerate(zipped):
        group = tuple(_keys(f"{option}[{index}]", given))
        if len(group) < 2:
            raise FlowError(f"{option} has the group {given!r}; a group needs at least two keys")
        for key in group:
            _require_swept(option, key, swept)
            if key in taken or group.count(key) > 1:
                raise FlowError(f"{option} names '{key}' twice; a key advances in one group")
        taken.update(dict.fromkeys(group, group))
    return list(dict.fromkeys(taken.get(key, (key,)) for key in swept))


def _refuse_twice(overrides: Iterable[Override]) -> None:
    """Refuse a key that is swept where the same command line names it again."""
    named: dict[str, Override] = {}
    for override in overrides:
        key = override.key_or_group
        if override.is_delete():
            continue
        other = named.setdefault(key, override)
        if other is not override and (other.is_sweep_override() or override.is_sweep_override()):
            raise FlowError(
                f"'{key}' is swept, but the command line names it twice, {other.input_line} and "
                f"{override.input_line}; leave one of them"
            )


def _refuse_values(runs: Mapping[str, Any], fixed: Iterable[Override]) -> None:
    """Refuse a quantity that is swept where the same command line gives it values."""
    for override in fixed:
        value = override.value()
        for name in runs:
            for group in QUANTITIES:
                key = f"{group}{name}"
                inside = f"{override.key_or_group}." == group and isinstance(value, dict)
                if override.key_or_group == key or (inside and name in value):  # type: ignore[operator]
                    raise FlowError(
                        f"'{name}' is swept, and {key} gives it values too; leave one of them"
                    )


def _grammar(value: Any) -> str:
    """Return a value as Hydra's command line writes it."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_grammar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_grammar, value)) + "]"
    return repr(value)
