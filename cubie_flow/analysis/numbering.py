"""The numbers that the runs of a dataset have in their study.

A store has no array of run numbers: run i is at position i. Once xarray has sorted, rolled,
repeated or selected runs this no longer holds, and only the values that vary show it. They are
compared with the values that the study varied, and identify the number of every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from cubie_flow.analysis import attributes
from cubie_flow.analysis.groups import location, open_group
from cubie_flow.analysis.opened import is_as_opened
from cubie_flow.batches.store_names import RUN
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from xarray import Dataset

#: Number of runs compared at once.
BLOCK = 1_000_000
Columns = Mapping[str, NDArray[Any]]
_REMEDY = "select runs with sel_runs, which keeps their numbers, or open the result again"


def numbering(data: Dataset) -> NDArray[np.int64] | None:
    """Return the number of every run in its study, or None if every run is at its number.

    None is also returned for a dataset without store and design, of whose runs only the positions
    are known.

    Raises
    ------
    FlowError
        If the runs may have moved, and the values that vary do not identify them.
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
    if _is_in_order(data, study):
        return None
    return _match(data, study)


class _Study:
    """The values that varied in a study, computed or read some runs at a time."""

    def __init__(self, names: tuple[str, ...], size: int, part: Any) -> None:
        self.names, self.size, self._part = names, size, part

    def columns(self, start: int, stop: int) -> Columns:
        """Return the values of some runs by name."""
        return self._part(start, stop)  # type: ignore[no-any-return]


def _study(data: Dataset) -> _Study | None:
    """Return what varied in the study of a dataset; None without a store and a design."""
    return _from_store(data) or _from_design(data)


def _from_store(data: Dataset) -> _Study | None:
    """Return what varied according to the store, which does not need the file of a table."""
    place = location(data)
    if place is None:
        return None
    try:
        store = open_group(evolve(place, group=""), place.group)
    except FlowError:
        return None
    if RUN not in store.sizes or (store.attrs.get("design") != data.attrs.get("design")):
        return None
    names = tuple(str(name) for name, values in store.coords.items() if values.dims == (RUN,))

    def part(start: int, stop: int) -> Columns:
        return {name: store.variables[name][{RUN: slice(start, stop)}].values for name in names}

    return _Study(names, int(store.sizes[RUN]), part)


def _from_design(data: Dataset) -> _Study | None:
    """Return what varied according to the design, for results that were never in a store."""
    from cubie_flow.batches.described import described_design

    description = attributes.design(data)
    if not description:
        return None
    try:
        design = described_design(description)
    except FlowError as error:
        raise FlowError(f"the numbers of these runs are not known: {error}; {_REMEDY}") from error
    quantities = (*design.names, *design.labels)
    names = {quantity: _coordinate(data, quantity) or quantity for quantity in quantities}

    def part(start: int, stop: int) -> Columns:
        columns = design.columns(start, stop)
        return {name: columns[quantity] for quantity, name in names.items()}

    return _Study(tuple(names.values()), design.size, part)


def coordinate(data: Dataset, quantity: str) -> str:
    """Return the name of the coordinate of a quantity that a design varies.

    Raises
    ------
    FlowError
        If the dataset has none.
    """
    name = _coordinate(data, quantity)
    if name is None:
        raise FlowError(f"the design varies '{quantity}', which the dataset does not hold")
    return name


def _coordinate(data: Dataset, quantity: str) -> str | None:
    for name in (quantity, f"{quantity}_initial", quantity.replace(".", "_")):
        if name in data.coords and data[name].dims == (RUN,):
            return name
    return None


def _is_in_order(data: Dataset, study: _Study) -> bool:
    """Return whether every run has the values that the study has at the same position."""
    total = int(data.sizes[RUN])
    if total > study.size:
        return False
    for start in range(0, total, BLOCK):
        part = slice(start, min(start + BLOCK, total))
        wanted = study.columns(part.start, part.stop)
        for name in study.names:
            values = np.asarray(data.variables[name][{RUN: part}].values)
            # A run that was not written when the dataset was opened has only NaN.
            if not ((_bits(values) == _bits(wanted[name])) | np.isnan(values)).all():
                return False
    return True


def _match(data: Dataset, study: _Study) -> NDArray[np.int64]:
    """Return, for each run, the number of the run of the study that has the same values.

    Runs with the same values have the same results to the last bit, so any assignment among them
    is right.
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
    # `order` lists the runs of the study kind by kind; those of kind k begin at first[k].
    order = np.argsort(known, kind="stable")
    counts = np.bincount(known, minlength=int(kind.max(initial=0)) + 1)
    unknown = np.flatnonzero(counts[asked] == 0)
    if unknown.size:
        raise FlowError(
            f"the run at position {unknown[0]} has values that no run of its study has, so the "
            f"numbers of these runs are not known; {_REMEDY}"
        )
    first = np.cumsum(counts) - counts
    # The n-th run of a kind gets its n-th number; after the last number the first follows again.
    turn = _occurrence(asked) % counts[asked]
    return np.asarray(order[first[asked] + turn], np.int64)


def _occurrence(kinds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each element, the number of equal elements before it."""
    order = np.argsort(kinds, kind="stable")
    ranked = kinds[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else order
    counts = np.empty(len(kinds), np.int64)
    lengths = np.diff(np.r_[starts, len(ranked)])
    counts[order] = np.arange(len(ranked)) - np.repeat(starts, lengths)
    return counts


def _bits(values: Any) -> NDArray[np.int64]:
    """Return the bits of numbers as integers, so that NaN equals NaN."""
    return np.ascontiguousarray(values, np.float64).view(np.int64)
