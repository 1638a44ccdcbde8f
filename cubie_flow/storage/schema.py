"""The schema of a store: its arrays and attributes, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import ArrayLike, NDArray

from cubie_flow.batches import store_names
from cubie_flow.batches.store_names import (
    GROUPS,
    MEANINGS,
    OBSERVATION,
    OCCURRENCE,
    RUN,
    STATUS,
    TIME,
)
from cubie_flow.errors import FlowError

#: The conventions for names, units and flags that stores and exported files follow.
CONVENTIONS = "CF-1.11"
UNWRITTEN = 255
#: Attributes without which a study cannot be resumed from its store.
STATED = ("system", "algorithm", "design")
#: Attributes of a store that is complete.
ENDED = ("completed", "statuses")
PER_RUN = (RUN,)
PER_RUN_AND_TIME = (RUN, TIME)
#: Recurring events of a run, in order of time.
PER_RUN_AND_OCCURRENCE = (RUN, OCCURRENCE)
#: Observations of the subject of a run, in order.
PER_RUN_AND_OBSERVATION = (RUN, OBSERVATION)
_DIMS = (PER_RUN, PER_RUN_AND_TIME, PER_RUN_AND_OCCURRENCE, PER_RUN_AND_OBSERVATION)

# xarray converts these English words to calendar durations. With the UDUNITS symbols the time of
# an ODE remains a number.
_UDUNITS = {
    "nanosecond": "ns",
    "microsecond": "us",
    "millisecond": "ms",
    "second": "s",
    "minute": "min",
    "hour": "h",
    "day": "d",
}


def cf_unit(unit: str) -> str:
    """Return the UDUNITS symbol of a unit of time, as CF requires; other units unchanged."""
    return _UDUNITS.get(unit.removesuffix("s"), unit)


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


def _times(times: ArrayLike | None) -> NDArray[np.float64] | None:
    return None if times is None else np.asarray(times, dtype=np.float64)


@frozen
class Variable:
    """One array of a store.

    Attributes
    ----------
    name
        Its name in the store.
    dims
        ``("run", "time")``, ``("run",)``, ``("run", "occurrence")`` or ``("run", "observation")``.
    dtype
        NumPy dtype or its name.
    unit, long_name
        CF ``units`` and ``long_name``; an empty text leaves the attribute out.
    attrs
        More attributes, of types that JSON has.
    length
        Elements per run along ``occurrence`` or ``observation``.
    """

    name: str
    dims: tuple[str, ...] = field(default=PER_RUN_AND_TIME, converter=_names)
    dtype: np.dtype[Any] = field(default="float64", converter=np.dtype)
    unit: str = ""
    long_name: str = ""
    attrs: Mapping[str, Any] = field(factory=dict)
    length: int = 1

    def __attrs_post_init__(self) -> None:
        if self.dims not in _DIMS:
            raise FlowError(
                f"the dims of '{self.name}' are {self.dims}, not ('run',), ('run', 'time'), "
                "('run', 'occurrence') or ('run', 'observation')"
            )

    @property
    def attributes(self) -> dict[str, Any]:
        """All attributes of the array, as plain JSON values."""
        named = {"units": cf_unit(self.unit), "long_name": self.long_name}
        return {**{key: text for key, text in named.items() if text}, **plain(self.attrs)}


STEPS = Variable(store_names.STEPS, PER_RUN, "int32", "1", "accepted steps")
REJECTED = Variable(store_names.REJECTED, PER_RUN, "int32", "1", "rejected steps")


def _variables(variables: Iterable[Variable]) -> tuple[Variable, ...]:
    return tuple(variables)


@frozen(eq=False)
class StoreSchema:
    """Everything about a store but its bulk.

    Attributes
    ----------
    runs
        Length of ``run``.
    variables
        States, observables and summary metrics.
    status_flags
        Meaning of each value of ``status``; words are joined by underscores. 255 is reserved for
        unwritten runs.
    time
        Saved times, float64, shape (n,); None if only final values are saved.
    coordinates
        The swept quantities, each along ``run``, and the labels of observations.
    counters
        Per-run integer arrays; by default ``steps`` and ``rejected``.
    time_unit
        Unit of ``time``.
    attrs
        Attributes of the root group: provenance, model, design.
    memory
        One row (a mapping of column to number or text) per buffer, for the group ``/memory``.
    plan
        Attributes of ``/memory``: plan and compiler statistics.
    config
        Attributes of ``/config``: the composed YAML, the overrides.
    """

    runs: int
    variables: tuple[Variable, ...] = field(converter=_variables)
    status_flags: Mapping[int, str]
    time: NDArray[np.float64] | None = field(default=None, converter=_times)
    coordinates: tuple[Variable, ...] = field(default=(), converter=_variables)
    counters: tuple[Variable, ...] = field(default=(STEPS, REJECTED), converter=_variables)
    time_unit: str = ""
    attrs: Mapping[str, Any] = field(factory=dict)
    memory: Sequence[Mapping[str, Any]] = field(factory=list)
    plan: Mapping[str, Any] = field(factory=dict)
    config: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.runs < 1:
            raise FlowError(f"a store needs at least one run, not {self.runs}")
        own = (RUN, TIME, STATUS, OCCURRENCE, OBSERVATION, *GROUPS)
        known = {name: MEANINGS[name] for name in own}
        for variable in self.arrays:
            meaning = variable.long_name or f"the quantity {variable.name}"
            if variable.name in known:
                raise FlowError(
                    f"the store cannot hold two arrays named '{variable.name}', "
                    f"{known[variable.name]} and {meaning}; rename the quantity in the model"
                )
            if not variable.name or "/" in variable.name or variable.name.startswith((".", "__")):
                raise FlowError(f"'{variable.name}' cannot be the name of an array in a store")
            known[variable.name] = meaning
        # Only labels of observations have a second dimension.
        labels = [one for one in self.coordinates if one.dims != PER_RUN_AND_OBSERVATION]
        for variable in (*labels, *self.counters):
            if variable.dims != PER_RUN:
                raise FlowError(
                    f"'{variable.name}' must have the dimension run only, not {variable.dims}"
                )
        self._check_time()
        bad = [v for v in self.status_flags if not 0 <= v < UNWRITTEN]
        if bad:
            raise FlowError(f"the status value {bad[0]} is not within 0 to {UNWRITTEN - 1}")

    def _check_time(self) -> None:
        timed = [v.name for v in self.variables if v.dims == PER_RUN_AND_TIME]
        if timed and (self.time is None or self.time.size == 0):
            raise FlowError(f"'{timed[0]}' is saved over time, but the store has no saved times")
        if self.time is not None and (self.time.ndim != 1 or not np.isfinite(self.time).all()):
            raise FlowError("the saved times must be one list of finite numbers")

    @property
    def arrays(self) -> tuple[Variable, ...]:
        """Every array of a shard except ``status``, which is written last."""
        return self.variables + self.coordinates + self.counters

    def bytes_per_run(self, variable: Variable) -> int:
        """Return the bytes one run adds to a variable, before compression."""
        times = variable.length
        if variable.dims == PER_RUN_AND_TIME and self.time is not None:
            times = self.time.size
        return times * variable.dtype.itemsize

    @property
    def bytes_per_run_largest_variable(self) -> int:
        """Bytes one run adds to the widest array, for `plan_shards`."""
        return max((self.bytes_per_run(variable) for variable in self.arrays), default=1)

    @property
    def total_bytes(self) -> int:
        """Bytes of all bulk arrays, before compression."""
        return self.runs * (1 + sum(self.bytes_per_run(variable) for variable in self.arrays))


def plain(value: Any) -> Any:
    """Return `value` in JSON types; NumPy values, tuples, sets and paths are converted."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def attributes_of(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes of types that NetCDF has too: no truths, no mappings, no empty lists."""
    converted: dict[str, Any] = {}
    for key, value in plain(attrs).items():
        if isinstance(value, bool):
            value = int(value)
        elif isinstance(value, dict):
            value = json.dumps(value)
        elif value is None:
            continue
        converted[key] = value
    return converted


def lacks_status(name: str) -> str:
    """Return the message for a store without ``status``."""
    return (
        f"'{name}' lacks its array '{STATUS}', which tells what of it is complete: it was damaged, "
        "or left incomplete when it was created; restore the array, or start the study again"
    )
