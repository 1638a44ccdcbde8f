"""Designs of batches: one run, a grid, lists, samples, or the rows of a table."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from attrs import frozen

from cubie_flow.allowed_values import DESIGNS
from cubie_flow.batches.design import Design, essence
from cubie_flow.batches.sampling import (
    SOBOL_DIMENSIONS,
    SOBOL_LIMIT,
    LatinHypercube,
    Sampled,
    Sobol,
)
from cubie_flow.batches.subjects import SubjectOptions, subjects_design
from cubie_flow.batches.tables import HASH_ROWS, SOME, Rows, open_table
from cubie_flow.batches.values import (
    DISTRIBUTIONS,
    LISTS,
    Array,
    Constant,
    Distribution,
    ValueList,
    parse_value,
)
from cubie_flow.errors import FlowError, nearest

#: Runs are counted in signed 64-bit integers.
MOST_RUNS = 2**62


@frozen
class Single(Design):
    """One run that varies nothing."""

    kind: ClassVar[str] = "single"
    names: tuple[str, ...] = ()
    size: int = 1

    def _columns(self, start: int, stop: int) -> dict[str, Array]:
        return {}

    def largest(self) -> dict[str, float]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "size": 1, "values": {}}


@frozen(eq=False)
class Grid(Design):
    """Every combination of the values of its axes; the last axis varies fastest."""

    kind: ClassVar[str] = "grid"
    axes: dict[str, ValueList]

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.axes)

    @property
    def size(self) -> int:  # type: ignore[override]
        return math.prod(axis.size for axis in self.axes.values())

    @property
    def shape(self) -> dict[str, int]:
        return {name: axis.size for name, axis in self.axes.items()}

    @property
    def axis_values(self) -> dict[str, Array]:
        return {name: axis.at(np.arange(axis.size)) for name, axis in self.axes.items()}

    def _columns(self, start: int, stop: int) -> dict[str, Array]:
        index = np.arange(start, stop)
        columns: dict[str, Array] = {}
        for name, axis in reversed(self.axes.items()):
            columns[name] = axis.at(index % axis.size)
            index //= axis.size
        return {name: columns[name] for name in self.axes}

    def bounds(self, name: str) -> tuple[float, float]:
        return self.axes[name].bounds

    def largest(self) -> dict[str, float]:
        return {name: axis.largest for name, axis in self.axes.items()}

    def describe(self) -> dict[str, Any]:
        values = {name: axis.spec for name, axis in self.axes.items()}
        return {"kind": self.kind, "size": self.size, "values": values}


@frozen(eq=False)
class Zip(Design):
    """Lists of one length that advance together; a single number is repeated."""

    kind: ClassVar[str] = "zip"
    lists: dict[str, ValueList]
    size: int

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.lists)

    def _columns(self, start: int, stop: int) -> dict[str, Array]:
        index = np.arange(start, stop)
        return {name: values.at(index) for name, values in self.lists.items()}

    def bounds(self, name: str) -> tuple[float, float]:
        return self.lists[name].bounds

    def largest(self) -> dict[str, float]:
        return {name: values.largest for name, values in self.lists.items()}

    def describe(self) -> dict[str, Any]:
        values = {name: values.spec for name, values in self.lists.items()}
        return {"kind": self.kind, "size": self.size, "values": values}


@frozen(eq=False)
class Table(Design):
    """The rows of a file, one per run."""

    kind: ClassVar[str] = "table"
    extendable: ClassVar[bool] = True
    rows: Rows
    names: tuple[str, ...]
    columns_used: dict[str, str | Constant]
    size: int
    rows_hash: str

    def _columns(self, start: int, stop: int) -> dict[str, Array]:
        rows = self.rows.read(start, stop)
        columns: dict[str, Array] = {}
        for name, source in self.columns_used.items():
            if isinstance(source, Constant):
                columns[name] = np.full(stop - start, source.value)
            else:
                columns[name] = rows[:, self.rows.columns.index(source)].copy()
        return columns

    def largest(self) -> dict[str, float]:
        largest = dict.fromkeys(self.names, 0.0)
        for start in range(0, self.size, HASH_ROWS):
            for name, values in self._columns(start, min(start + HASH_ROWS, self.size)).items():
                largest[name] = max(largest[name], float(np.abs(values).max()))
        return largest

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "size": self.size,
            "values": {
                name: source.value if isinstance(source, Constant) else source
                for name, source in self.columns_used.items()
            },
            "path": str(self.rows.path),
            "rows_hash": self.rows_hash,
        }

    def extends(self, described: Mapping[str, Any]) -> bool:
        size = described.get("size", math.inf)
        if size > self.size:
            return False
        mine = {**self.describe(), "size": size, "rows_hash": self.rows.content_hash(size)}
        return essence(mine) == essence(described)


def make_design(
    kind: str,
    values: Mapping[str, Any] | None,
    size: int | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    options: SubjectOptions | Mapping[str, Any] | None = None,
    known: Collection[str] = (),
) -> Design:
    """Make the design of a batch.

    Parameters
    ----------
    kind
        ``grid`` (every combination, the last name varies fastest), ``zip`` (lists advance
        together), ``sobol``, ``latin_hypercube``, ``table`` (rows of a file), ``subjects`` (doses
        and observations of a file) or ``single`` (one run).
    values
        Value specs by quantity, see `cubie_flow.batches.values.parse_value`. For a table, a column
        name, None for the column of the same name, or a number for every row; without values, all
        columns. For other kinds, no values make a single run.
    size
        Number of runs. ``sobol`` and ``latin_hypercube`` need it; for a table it is the number of
        first rows; for other kinds it follows from the values.
    seed
        Seed of ``sobol`` and ``latin_hypercube``.
    path
        The ``.csv`` or ``.parquet`` file of a table or of subjects.
    options, known
        Of subjects, see `cubie_flow.batches.subjects.subjects_design`.

    Raises
    ------
    FlowError
        For the first mistake, with key, value and what is allowed.

    Examples
    --------
    >>> from cubie_flow.batches import make_design
    >>> design = make_design("grid", {"rho": [20, 28], "x": {"linspace": [-1, 1, 3]}})
    >>> design.size
    6
    >>> design.columns(0, 2)["x"].tolist()
    [-1.0, 0.0]
    """
    if kind not in DESIGNS:
        raise FlowError(
            f"batch.kind '{kind}' is unknown (allowed: {', '.join(DESIGNS)})"
            f"{nearest(kind, DESIGNS)}"
        )
    values = dict(values or {})
    _check_integers(size, seed)
    if kind == "table":
        if path is None:
            raise FlowError("batch.kind 'table' needs batch.path, a .csv or .parquet file")
        return _table(path, values, size)
    if kind == "subjects":
        if path is None:
            raise FlowError("batch.kind 'subjects' needs batch.path, a .csv or .parquet file")
        return subjects_design(path, values, size, options, known)
    if path is not None:
        raise FlowError(
            f"batch.path '{path}' is only for batch.kind 'table' or 'subjects', not '{kind}'"
        )
    if not values:
        if size not in (None, 1):
            raise FlowError(f"batch.size is {size} but batch.values is empty: nothing is varied")
        return Single()
    if kind == "single":
        raise FlowError(
            f"batch.kind 'single' varies nothing, but batch.values names {', '.join(values)}; "
            "use grid, zip, sobol or latin_hypercube"
        )
    specs = {name: parse_value(name, spec) for name, spec in values.items()}
    if kind in ("sobol", "latin_hypercube"):
        return _sampled(kind, specs, size, seed)
    lists = {name: _as_list(kind, name, spec) for name, spec in specs.items()}
    design = Grid(lists) if kind == "grid" else _zip(lists)
    refuse_too_many(design.size, f"the values of batch.kind '{kind}'")
    if size not in (None, design.size):
        raise FlowError(
            f"batch.size is {size} but the values of batch.kind '{kind}' make {design.size} runs; "
            "leave batch.size out"
        )
    return design


def refuse_too_many(runs: int, what: str) -> None:
    """Refuse more runs than can be counted.

    Raises
    ------
    FlowError
        Naming what makes them.
    """
    if runs > MOST_RUNS:
        raise FlowError(
            f"{what} make 2^{math.log2(runs):.1f} runs, more than the "
            f"2^{MOST_RUNS.bit_length() - 1} that can be counted; name fewer values"
        )


def _check_integers(size: Any, seed: Any) -> None:
    for key, value, least in (("size", size, 1), ("seed", seed, 0)):
        if value is None and key == "size":
            continue
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least:
            raise FlowError(f"batch.{key} must be a whole number of at least {least}, not {value}")


def _as_list(kind: str, name: str, spec: ValueList | Distribution) -> ValueList:
    if isinstance(spec, Distribution):
        raise FlowError(
            f"batch.values.{name} is the distribution '{spec.kind}', which batch.kind '{kind}' "
            f"cannot use (allowed: a number, a list, {', '.join(LISTS)}; batch.size gives uniform "
            "and loguniform their points; or batch.kind sobol or latin_hypercube)"
        )
    return spec


def _zip(lists: dict[str, ValueList]) -> Zip:
    sizes = {name: v.size for name, v in lists.items() if not isinstance(v, Constant)}
    if len(set(sizes.values())) > 1:
        lengths = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise FlowError(
            f"batch.kind 'zip' needs lists of one length, but {lengths} values "
            "(a single number is repeated)"
        )
    return Zip(lists, max(sizes.values(), default=1))


def _sampled(
    kind: str, specs: dict[str, ValueList | Distribution], size: int | None, seed: int
) -> Sampled:
    quantities: dict[str, Distribution | Constant] = {}
    for name, spec in specs.items():
        if not isinstance(spec, Distribution | Constant):
            raise FlowError(
                f"batch.values.{name} lists its values, but batch.kind '{kind}' draws them "
                f"(allowed: a number, {', '.join(DISTRIBUTIONS)}; or batch.kind grid or zip)"
            )
        quantities[name] = spec
    if all(isinstance(quantity, Constant) for quantity in quantities.values()):
        raise FlowError(
            f"batch.kind '{kind}' needs at least one distribution in batch.values "
            f"({', '.join(DISTRIBUTIONS)})"
        )
    if size is None:
        raise FlowError(f"batch.kind '{kind}' needs batch.size, the number of runs to draw")
    limit = SOBOL_LIMIT if kind == "sobol" else MOST_RUNS
    if size > limit:
        raise FlowError(f"batch.size {size} is beyond the {limit} points of batch.kind {kind}")
    if kind == "latin_hypercube":
        return LatinHypercube(quantities, int(size), int(seed))
    design = Sobol(quantities, int(size), int(seed))
    if design.dimensions > SOBOL_DIMENSIONS:
        raise FlowError(
            f"batch.values draws {design.dimensions:,} quantities, more than the "
            f"{SOBOL_DIMENSIONS:,} of batch.kind sobol; use latin_hypercube"
        )
    return design


def _table(path: str | Path, values: dict[str, Any], size: int | None) -> Table:
    sources: dict[str, str | Constant] = {}
    for name, spec in values.items():
        if spec is None or isinstance(spec, str):
            sources[name] = name if spec is None else spec
            continue
        constant = parse_value(name, spec)
        if not isinstance(constant, Constant):
            raise FlowError(
                f"batch.values.{name} must be a column name or one number with batch.kind 'table'"
            )
        sources[name] = constant
    wanted = {name: source for name, source in sources.items() if isinstance(source, str)}
    if values and not wanted:
        raise FlowError("batch.kind 'table' needs at least one column named in batch.values")
    columns = list(wanted.values()) if values else None
    rows = open_table(path, "batch.path", columns, hint=SOME)
    if size is not None and size > rows.size:
        raise FlowError(f"batch.size is {size} but '{path}' has {rows.size} rows")
    sources = sources or {name: name for name in rows.columns}
    size = size or rows.size
    # Hashing reads every row, so a wrong value is an error now and not during the study.
    return Table(rows, tuple(sources), sources, size, rows.content_hash(size))
