"""The axes of a multirun: which swept keys make jobs, and which make the runs of one launch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen
from hydra.core.override_parser.types import Override

from cubie_flow.errors import FlowError, nearest
from cubie_flow.multirun.swept_values import (
    DURATION,
    MODEL,
    QUANTITIES,
    count_values,
    numbers_of,
    quantity_of,
    refuse_mixed_values,
    refuse_repeated_values,
)

SWEEP = "batch.sweep"
ZIP, JOBS = "hydra.sweeper.zip", "hydra.sweeper.jobs"


@frozen
class Axis:
    """Swept keys that advance together.

    Attributes
    ----------
    keys
        The keys as on the command line, without ``+``.
    words
        The text of the values of each key.
    size
        Number of points; 0 for an interval, from which the batch draws as many as it needs.
    runs
        Values of each quantity, as in ``batch.sweep``; empty if the axis makes jobs.
    jobs
        Overrides of each point; empty if the axis makes runs.
    reason
        Why values that could be values of runs make jobs.
    job_quantities
        Quantities of the model in which the jobs differ.
    """

    keys: tuple[str, ...]
    words: tuple[str, ...]
    size: int
    runs: Mapping[str, Any]
    jobs: tuple[tuple[str, ...], ...]
    reason: str = ""
    job_quantities: tuple[str, ...] = ()

    def line(self) -> str:
        """Return one line that describes the axis."""
        kind = "runs" if self.runs else "jobs"
        sweep = " with ".join(f"{k}={w}" for k, w in zip(self.keys, self.words, strict=True))
        count = f"{self.size:,} values" if self.size else "as many values as batch.size makes"
        return f"{kind:<8} {sweep}: {count}{f' ({self.reason})' if self.reason else ''}"


@frozen
class Axes:
    """All axes of a multirun.

    Attributes
    ----------
    fixed
        Overrides of every job, as typed.
    axes
        The axes; the last one varies fastest.
    """

    fixed: tuple[str, ...]
    axes: tuple[Axis, ...]

    @property
    def common(self) -> tuple[str, ...]:
        """Overrides of every job, with the runs that each job launches."""
        sweep: list[Mapping[str, Any]] = [axis.runs for axis in self.axes if axis.runs]
        sweep += [{name: None} for axis in self.axes for name in axis.job_quantities]
        return (*self.fixed, f"{SWEEP}={_in_grammar(sweep)}") if sweep else self.fixed

    @property
    def jobs(self) -> list[tuple[str, ...]]:
        """Overrides of each job in addition to the common ones; the last axis varies fastest."""
        axes = [axis.jobs for axis in self.axes if axis.jobs]
        return [tuple(itertools.chain(*points)) for points in itertools.product(*axes)]

    @property
    def job_keys(self) -> list[str]:
        """Swept keys in which the jobs differ."""
        return [key for axis in self.axes if axis.jobs for key in axis.keys]

    def lines(self) -> list[str]:
        """Return one line per axis that describes it."""
        return [axis.line() for axis in self.axes]


def read_axes(overrides: Sequence[Override], zipped: Any = None, as_jobs: Any = None) -> Axes:
    """Sort the overrides of a multirun into fixed ones, axes of jobs and axes of runs.

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
        If a sweep has no values, keys of a group cannot advance together, a key is swept and also
        given a value, or a quantity is swept over something that is not a number.
    """
    swept = {o.key_or_group: o for o in overrides if o.is_sweep_override()}
    fixed = [override for override in overrides if not override.is_sweep_override()]
    _refuse_repeated_keys(overrides)
    forced = _key_list(JOBS, as_jobs)
    for key in forced:
        _require_swept(JOBS, key, swept)
    axes = []
    for keys in _groups(zipped, swept):
        axis = _read_axis([swept[key] for key in keys], forced)
        _refuse_given_values(axis.runs, fixed)
        axes.append(axis)
    return Axes(tuple(str(override.input_line) for override in fixed), tuple(axes))


def _read_axis(members: Sequence[Override], forced: Sequence[str]) -> Axis:
    """Return the axis of keys that advance together; `forced` keys make jobs."""
    keys = tuple(override.key_or_group for override in members)
    words = tuple(override.get_value_string() for override in members)
    reason = JOBS if any(key in forced for key in keys) else ""
    runs = {}
    for override in members:
        refuse_mixed_values(override)
    if len(members) == 1:
        refuse_repeated_values(members[0])
    for override in members:
        if name := quantity_of(override.key_or_group):
            values, why = numbers_of(override)
            reason = reason or why
            if values is not None:
                runs[name] = values
    sizes = [count_values(override) for override in members]
    if len(keys) > 1 and 0 in sizes:
        raise FlowError(
            f"{ZIP} names {keys[sizes.index(0)]}, an interval, which has no "
            "values that could advance with others; use range(...) or a list"
        )
    if len(runs) == len(keys) and not reason:
        _require_equal_sizes(keys, sizes)
        return Axis(keys, words, sizes[0], runs, ())
    if 0 in sizes:
        raise FlowError(
            f"{keys[0]}={words[0]} is an interval, which only a quantity of the model "
            "can have, where the batch draws its values; use range(...) or a list"
        )
    if runs and len(keys) > 1 and not reason:
        reason = f"advances with {', '.join(key for key in keys if not quantity_of(key))}"
    return _job_axis(members, reason)


def _job_axis(members: Sequence[Override], reason: str) -> Axis:
    keys = tuple(override.key_or_group for override in members)
    words = tuple(override.get_value_string() for override in members)
    columns = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] for o in members
    ]
    _require_equal_sizes(keys, [len(column) for column in columns])
    points = tuple(zip(*columns, strict=True))
    # Swept values of a batch make jobs too, each with a batch of its own.
    names = (quantity_of(key) for key in keys if key == DURATION or key.startswith(MODEL))
    quantities = tuple(name for name in names if name)
    return Axis(keys, words, len(points), {}, points, reason, quantities)


def _groups(zipped: Any, swept: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the swept keys in order, those that advance together as one group."""
    if zipped is None:
        zipped = []
    if not isinstance(zipped, list) or not all(isinstance(group, list) for group in zipped):
        raise FlowError(f"{ZIP} is {zipped!r}; it must be a list of groups, such as [[a, b]]")
    group_of: dict[str, tuple[str, ...]] = {}
    for index, keys in enumerate(zipped):
        group = tuple(_key_list(f"{ZIP}[{index}]", keys))
        if len(group) < 2:
            raise FlowError(f"{ZIP} has the group {keys!r}; a group needs at least two keys")
        for key in group:
            _require_swept(ZIP, key, swept)
            if key in group_of or group.count(key) > 1:
                raise FlowError(f"{ZIP} names '{key}' twice; a key advances in one group")
        group_of.update(dict.fromkeys(group, group))
    return list(dict.fromkeys(group_of.get(key, (key,)) for key in swept))


def _key_list(option: str, keys: Any) -> list[str]:
    if keys is None:
        return []
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FlowError(f"{option} is {keys!r}; it must be a list of swept keys, such as [a, b]")
    return [key.lstrip("+") for key in keys]


def _require_swept(option: str, key: str, swept: Iterable[str]) -> None:
    if key not in swept:
        known = list(swept)
        raise FlowError(
            f"{option} names '{key}', which is not swept (swept: {', '.join(known) or 'nothing'})"
            f"{nearest(key, known)}"
        )


def _require_equal_sizes(keys: Sequence[str], sizes: Sequence[int]) -> None:
    if len(set(sizes)) > 1:
        counts = ", ".join(f"{key} has {n:,}" for key, n in zip(keys, sizes, strict=True))
        raise FlowError(f"{ZIP} needs keys with equal numbers of values, but {counts}")


def _refuse_repeated_keys(overrides: Iterable[Override]) -> None:
    """Refuse a swept key that the same command line names again."""
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


def _refuse_given_values(runs: Mapping[str, Any], fixed: Iterable[Override]) -> None:
    """Refuse a swept quantity to which the same command line also gives values."""
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


def _in_grammar(value: Any) -> str:
    """Return a value in the grammar of Hydra's command line."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_in_grammar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_in_grammar, value)) + "]"
    return repr(value)
