"""Which runs of their study the runs of a dataset are.

The store has no array of run numbers: run i lies at position i. That holds no longer once xarray
has sorted, rolled, repeated or selected runs, and nothing in the dataset says so but the values of
what varied. Those are compared with what the study varied, and give every run its number again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from cubie_flow.analysis.groups import location, open_group
from cubie_flow.analysis.opened import is_as_opened
from cubie_flow.batches.store_names import RUN
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from xarray import Dataset

#: Runs compared at a time.
BLOCK = 1_000_000
Columns = Mapping[str, NDArray[Any]]
_REMEDY = "choose runs with sel_runs, which keeps their numbers, or open the result again"


def numbering(data: Dataset) -> NDArray[np.int64] | None:
    """Return the number in its study of every run, or None where it is the position of the run.

    Where a dataset came from no store and describes no design, nothing is known of its runs, and
    positions are all there is.

    Raises
    ------
    FlowError
        If the runs may have moved, and what varied does not tell them apart.
    """
    if RUN in data.coords:
        return np.asarray(data[RUN].values, np.int64)
    if is_as_opened(data):
        return None
    study = _study(data)
    if study is None:
        return None
    missing = [name for name in study.names if name not in data.coords]
    if missing:
        raise FlowError(
            f"the numbers of these runs are not known without '{missing[0]}', which varied in "
            f"their study; {_REMEDY}"
        )
    if _in_place(data, study):
        return None
    return _matched(data, study)


class _Study:
    """What varied in a study: columns of numbers, made or read some runs at a time."""

    def __init__(self, names: tuple[str, ...], size: int, part: Any) -> None:
        self.names, self.size, self._part = names, size, part

    def columns(self, start: int, stop: int) -> Columns:
        """Return the values of some runs by name."""
        return self._part(start, stop)  # type: ignore[no-any-return]


def _study(data: Dataset) -> _Study | None:
    """Return what varied in the study of a dataset; None if neither store nor design says."""
    return _stored(data) or _described(data)


def _stored(data: Dataset) -> _Study | None:
    """Return what the store holds, which needs no design and no file of it."""
    place = location(data)
    if place is None:
        return None
    try:
        kept = open_group(evolve(place, group=""), place.group)
    except FlowError:
        return None
    if RUN not in kept.sizes or (kept.attrs.get("design") != data.attrs.get("design")):
        return None
    names = tuple(str(name) for name, values in kept.coords.items() if values.dims == (RUN,))

    def part(start: int, stop: int) -> Columns:
        return {name: kept.variables[name][{RUN: slice(start, stop)}].values for name in names}

    return _Study(names, int(kept.sizes[RUN]), part)


def _described(data: Dataset) -> _Study | None:
    """Return what the design of a dataset makes, for results that were never in a store."""
    from cubie_flow.batches.described import described_design

    text = data.attrs.get("design")
    if text is None:
        return None
    try:
        design = described_design(json.loads(text))
    except FlowError as error:
        raise FlowError(f"the numbers of these runs are not known: {error}; {_REMEDY}") from error
    quantities = (*design.names, *design.labels)
    names = {quantity: _coordinate(data, quantity) or quantity for quantity in quantities}

    def part(start: int, stop: int) -> Columns:
        made = design.columns(start, stop)
        return {name: made[quantity] for quantity, name in names.items()}

    return _Study(tuple(names.values()), design.size, part)


def coordinate(data: Dataset, quantity: str) -> str:
    """Return the coordinate of a quantity that a design varies.

    Raises
    ------
    FlowError
        If the dataset has none.
    """
    found = _coordinate(data, quantity)
    if found is None:
        raise FlowError(f"the design varies '{quantity}', which the dataset does not hold")
    return found


def _coordinate(data: Dataset, quantity: str) -> str | None:
    for name in (quantity, f"{quantity}_initial", quantity.replace(".", "_")):
        if name in data.coords and data[name].dims == (RUN,):
            return name
    return None


def _in_place(data: Dataset, study: _Study) -> bool:
    """Return whether every run has the values of the run of the study at its position."""
    total = int(data.sizes[RUN])
    if total > study.size:
        return False
    for start in range(0, total, BLOCK):
        part = slice(start, min(start + BLOCK, total))
        wanted = study.columns(part.start, part.stop)
        for name in study.names:
            values = np.asarray(data.variables[name][{RUN: part}].values)
            # A run that was not written when the dataset was opened has no values yet.
            if not ((_bits(values) == _bits(wanted[name])) | np.isnan(values)).all():
                return False
    return True


def _matched(data: Dataset, study: _Study) -> NDArray[np.int64]:
    """Return the number of the run of the study that has the values of each run.

    Runs that have the same values are the same to the last bit, so it does not matter which of
    them is which.
    """
    here, there = int(data.sizes[RUN]), study.size
    wanted = study.columns(0, there)
    columns = [
        np.concatenate([_bits(wanted[name]), _bits(data.variables[name].values)])
        for name in study.names
    ]
    rows = np.stack(columns or [np.zeros(there + here, np.int64)], axis=1)
    kinds = np.ascontiguousarray(rows).view(np.dtype((np.void, 8 * rows.shape[1]))).ravel()
    _, kind = np.unique(kinds, return_inverse=True)
    known, asked = kind[:there], kind[there:]
    # Of every kind the numbers in order, and the first place of each.
    order = np.argsort(known, kind="stable")
    counts = np.bincount(known, minlength=int(kind.max(initial=0)) + 1)
    strange = np.flatnonzero(counts[asked] == 0)
    if strange.size:
        raise FlowError(
            f"the run at position {strange[0]} has values that no run of its study has, so the "
            f"numbers of these runs are not known; {_REMEDY}"
        )
    first = np.cumsum(counts) - counts
    # The n-th run of a kind gets its n-th number, one after the last the first again.
    turn = _occurrence(asked) % counts[asked]
    return np.asarray(order[first[asked] + turn], np.int64)


def _occurrence(kinds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many elements before each are of its kind."""
    order = np.argsort(kinds, kind="stable")
    ranked = kinds[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else order
    found = np.empty(len(kinds), np.int64)
    lengths = np.diff(np.r_[starts, len(ranked)])
    found[order] = np.arange(len(ranked)) - np.repeat(starts, lengths)
    return found


def _bits(values: Any) -> NDArray[np.int64]:
    """Return numbers as their bits, so that what was not written equals itself."""
    return np.ascontiguousarray(values, np.float64).view(np.int64)
