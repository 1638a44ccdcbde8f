"""A batch inside a sweep: every run of the batch at every point of the sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cubie_flow.batches.design import Design
from cubie_flow.batches.designs import Grid, Single, Zip, refuse_too_many
from cubie_flow.batches.store_names import BATCH_SEED
from cubie_flow.batches.values import Array, Constant, Distribution, Listed, parse_value
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from cubie_flow.batches.subjects import Subjects

#: Name of the batch's seed in a sweep; no quantity of a model has a dot in its name.
SEED = "batch.seed"
#: Name under which the store has the seed of each run.
SEED_LABEL = BATCH_SEED


@frozen(eq=False)
class Swept(Design):
    """Every run of a batch at every point of a grid around it.

    Attributes
    ----------
    groups
        The axes of the grid; the last varies fastest, and the lists of one axis advance together.
    inner
        The batch: one design per seed if seeds are swept, otherwise one design. All have one size.
    """

    groups: tuple[Zip, ...]
    inner: tuple[Design, ...]

    @property
    def kind(self) -> str:  # type: ignore[override]
        return self.inner[0].kind

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        seeds = (SEED_LABEL,) if len(self.inner) > 1 else ()
        return (*seeds, *self.inner[0].labels)

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        outer = [name for group in self.groups for name in group.names if name != SEED]
        return (*outer, *self.inner[0].names)

    @property
    def subjects(self) -> Subjects | None:
        return self.inner[0].subjects

    @property
    def size(self) -> int:  # type: ignore[override]
        return math.prod(group.size for group in self.groups) * self.inner[0].size

    def _columns(self, start: int, stop: int) -> dict[str, Array]:
        size = self.inner[0].size
        block, within = np.divmod(np.arange(start, stop), size)
        columns: dict[str, Array] = {}
        which = np.zeros(stop - start, np.int64)
        rest = block
        for group in reversed(self.groups):
            rest, index = np.divmod(rest, group.size)
            for name, values in group.lists.items():
                if name == SEED:
                    which = index
                    columns[SEED_LABEL] = values.at(index)
                else:
                    columns[name] = values.at(index)
        columns.update(self._inner(which, block, within))
        return {name: columns[name] for name in (*self.names, *self.labels)}

    def _inner(
        self, which: NDArray[np.int64], block: NDArray[np.int64], within: NDArray[np.int64]
    ) -> dict[str, Array]:
        """Return the columns of the batch for runs `within` of the designs `which`."""
        every = (*self.inner[0].names, *self.inner[0].labels)
        columns = {name: np.empty(len(within)) for name in every}
        # Each block of a large batch is made separately, a small batch once per seed. Either way
        # no more than the slice, or one small batch, is in memory.
        parts = block if self.inner[0].size >= len(within) else which
        for part in np.unique(parts) if columns else ():
            rows = np.flatnonzero(parts == part)
            runs = within[rows]
            low, high = int(runs.min()), int(runs.max()) + 1
            block_columns = self.inner[int(which[rows[0]])].columns(low, high)
            for name, values in block_columns.items():
                columns[name][rows] = values[runs - low]
        return columns

    def bounds(self, name: str) -> tuple[float, float]:
        for group in self.groups:
            if name in group.lists:
                return group.bounds(name)
        ends = [design.bounds(name) for design in self.inner]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def largest(self) -> dict[str, float]:
        outer = {name: value for group in self.groups for name, value in group.largest().items()}
        outer.pop(SEED, None)
        # All seeds draw from the same distributions.
        return {**outer, **self.inner[0].largest()}

    def describe(self) -> dict[str, Any]:
        return {
            **self.inner[0].describe(),
            "size": self.size,
            "sweep": [
                {name: values.spec for name, values in group.lists.items()} for group in self.groups
            ],
        }


def swept_design(
    sweep: Sequence[Mapping[str, Any]], seed: int, make: Callable[[int], Design]
) -> Design:
    """Return a batch inside a sweep.

    If the result is one grid or one list of runs, it is a plain `Grid` or `Zip`.

    Parameters
    ----------
    sweep
        One mapping per axis: quantities, or `SEED`, to lists of values that advance together.
    seed
        Seed of the batch if `SEED` is not swept.
    make
        ``make(seed)``: the batch.

    Raises
    ------
    FlowError
        If lists differ in length, or a quantity is named twice.
    """
    groups = tuple(_group(axis, f"batch.sweep[{i}]") for i, axis in enumerate(sweep))
    seeds = [values for group in groups for name, values in group.lists.items() if name == SEED]
    chosen = _whole(seeds[0].at(np.arange(seeds[0].size))) if seeds else [seed]
    if len(set(chosen)) < len(chosen):
        raise FlowError(f"{SEED} is swept over the same seed twice: {chosen}")
    inner = tuple(make(number) for number in chosen)
    names = [name for group in groups for name in group.names] + list(inner[0].names)
    for name in names:
        if names.count(name) > 1:
            raise FlowError(f"'{name}' is swept, but the batch varies it too; leave one of them")
    total = math.prod(group.size for group in groups) * inner[0].size
    refuse_too_many(total, "batch.sweep and the batch")
    single = isinstance(inner[0], Single)
    if seeds:
        if "seed" not in inner[0].describe():
            raise FlowError(
                f"{SEED} is swept, but batch.kind '{inner[0].kind}' draws nothing; "
                "use sobol or latin_hypercube"
            )
    elif all(len(group.names) == 1 for group in groups) and (single or isinstance(inner[0], Grid)):
        axes = {name: values for group in groups for name, values in group.lists.items()}
        return Grid({**axes, **(inner[0].axes if isinstance(inner[0], Grid) else {})})
    elif single and len(groups) == 1:
        return groups[0]
    return Swept(groups, inner)


def _whole(values: Array) -> list[int]:
    for value in values:
        if value != int(value):
            raise FlowError(f"{SEED} must be a whole number of at least 0, not {value:g}")
    return [int(value) for value in values]


def _group(axis: Mapping[str, Any], key: str) -> Zip:
    lists: dict[str, Any] = {}
    for name, spec in axis.items():
        values = parse_value(name, spec, key)
        if isinstance(values, Distribution):
            raise FlowError(f"{key}.{name} is a distribution, {spec}; a sweep lists its values")
        lists[name] = Listed(np.array([values.value])) if isinstance(values, Constant) else values
    sizes = {name: values.size for name, values in lists.items()}
    if len(set(sizes.values())) != 1:
        lengths = ", ".join(f"{name} has {size}" for name, size in sizes.items()) or "none is given"
        raise FlowError(f"{key} needs quantities with equal numbers of values, but {lengths}")
    return Zip(lists, next(iter(sizes.values())))
