"""The runs of a batch, each computed from its index alone.

A design never holds its runs: ``columns(start, stop)`` makes just that slice, so 10^7 runs cost
no memory and a resumed study asks only for the shards it still needs.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

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

KINDS = ("single", "grid", "zip", "sobol", "latin_hypercube", "table")
SOBOL_LIMIT = 2**30


class Design(ABC):
    """What each run of a batch varies.

    Attributes
    ----------
    kind
        One of `KINDS`.
    names
        The varied quantities, in the order given.
    labels
        Further columns, which are recorded with a run and mean nothing to its model.
    size
        Number of runs.
    extendable
        Whether a larger design of the same settings begins with exactly these runs.
    """

    kind: ClassVar[str]
    extendable: ClassVar[bool] = False
    labels: ClassVar[tuple[str, ...]] = ()
    names: tuple[str, ...]
    size: int

    @property
    def shape(self) -> dict[str, int] | None:
        """Length of each axis of a full-factorial grid, last axis fastest; None otherwise."""
        return None

    @property
    def axis_values(self) -> dict[str, Array]:
        """Values along each axis of a full-factorial grid; empty otherwise."""
        return {}

    def columns(self, start: int, stop: int) -> dict[str, Array]:
        """Return the values of runs `start` to `stop`.

        Returns
        -------
        dict
            One float64 array of shape ``(stop - start,)`` for each of `names` and `labels`.

        Raises
        ------
        FlowError
            Where the slice is not within the design.
        """
        if not 0 <= start <= stop <= self.size:
            raise FlowError(f"runs {start} to {stop} are not within the {self.size} of the batch")
        return self._columns(start, stop)

    @abstractmethod
    def _columns(self, start: int, stop: int) -> dict[str, Array]:
        """Return the slice; its bounds are already checked."""

    def bounds(self, name: str) -> tuple[float, float]:
        """Return the least and the greatest value of one of `names`; here by looking at all."""
        starts = range(0, self.size, HASH_ROWS)
        parts = (self.columns(a, min(a + HASH_ROWS, self.size))[name] for a in starts)
        ends = [(float(part.min()), float(part.max())) for part in parts]
        return min(low for low, _ in ends), max(high for _, high in ends)

    @abstractmethod
    def largest(self) -> dict[str, float]:
        """Return the largest magnitude of each of `names`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the design as plain JSON values, which travel in the store.

        ``kind``, ``values``, ``seed`` and ``path``, where present, are the arguments of
        `make_design` that make the same design again.
        """

    @property
    def content_hash(self) -> str:
        """Hash of everything that decides the values of the runs."""
        return _hash(_essence(self.describe()))

    def extends(self, described: Mapping[str, Any]) -> bool:
        """Whether the runs of a design described earlier are the first runs of this one."""
        return _essence(described) == _essence(self.describe())


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
class Sampled(Design):
    """Points of the unit cube, mapped through the distribution of each quantity.

    A number instead of a distribution is the same in every run and takes no dimension.
    """

    quantities: dict[str, Distribution | Constant]
    size: int
    seed: int

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.quantities)

    @property
    def dimensions(self) -> int:
        """Number of quantities that have a distribution."""
        return sum(isinstance(q, Distribution) for q in self.quantities.values())

    @abstractmethod
    def unit(self, start: int, stop: int) -> Array:
        """Return the points, shape ``(stop - start, dimensions)``, strictly inside (0, 1)."""

    def _columns(self, start: int, stop: int) -> dict[str, Array]:
        points = iter(self.unit(start, stop).T)
        return {
            name: quantity.quantile(next(points))
            if isinstance(quantity, Distribution)
            else np.full(stop - start, quantity.value)
            for name, quantity in self.quantities.items()
        }

    def largest(self) -> dict[str, float]:
        return {name: quantity.largest for name, quantity in self.quantities.items()}

    def describe(self) -> dict[str, Any]:
        values = {name: quantity.spec for name, quantity in self.quantities.items()}
        return {"kind": self.kind, "size": self.size, "seed": self.seed, "values": values}


@frozen(eq=False)
class Sobol(Sampled):
    """A scrambled Sobol sequence (`scipy.stats.qmc.Sobol`); a longer one begins the same."""

    kind: ClassVar[str] = "sobol"
    extendable: ClassVar[bool] = True

    def unit(self, start: int, stop: int) -> Array:
        from scipy.stats import qmc

        if start == stop:
            return np.empty((0, self.dimensions))
        # A new engine a slice keeps no state between threads; skipping 10^7 points takes 30 ms.
        engine = qmc.Sobol(self.dimensions, scramble=True, rng=np.random.default_rng(self.seed))
        if start:
            engine.fast_forward(start)
        # scipy warns unless the first draw is a power of two; one point is, and changes nothing.
        first = engine.random(1)
        rest = engine.random(stop - start - 1)
        # Points are multiples of 2^-30 and may be 0; the middle of the cell never is.
        return np.concatenate([first, rest]) + 0.5 / SOBOL_LIMIT

    def extends(self, described: Mapping[str, Any]) -> bool:
        mine, theirs = _essence(self.describe()), _essence(described)
        grown = mine.pop("size") >= theirs.pop("size", math.inf)
        return bool(grown and mine == theirs)


@frozen(eq=False)
class LatinHypercube(Sampled):
    """A Latin hypercube: in every quantity, each of `size` strata holds exactly one run.

    The stratum of a run comes from a keyed permutation that is computed from the index (a Feistel
    network, walked until it lands inside the design), and its place inside the stratum from a
    hash, so no permutation of all runs is ever stored.
    """

    kind: ClassVar[str] = "latin_hypercube"

    def unit(self, start: int, stop: int) -> Array:
        index = np.arange(start, stop, dtype=np.uint64)
        points = np.empty((stop - start, self.dimensions))
        for dimension in range(self.dimensions):
            sequence = np.random.SeedSequence([self.seed, dimension])
            keys = sequence.generate_state(8, np.uint64).astype(np.uint64)
            stratum = _permute(index, self.size, keys[:7])
            # 52 bits at cell centres: never 0 and never 1.
            jitter = ((_mix(index ^ keys[7]) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
            points[:, dimension] = (stratum.astype(np.float64) + jitter) / self.size
        # The last stratum may round up to 1.
        return np.minimum(points, np.nextafter(1.0, 0.0))


@frozen(eq=False)
class Table(Design):
    """The rows of a file, one a run."""

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
        found = dict.fromkeys(self.names, 0.0)
        for start in range(0, self.size, HASH_ROWS):
            for name, values in self._columns(start, min(start + HASH_ROWS, self.size)).items():
                found[name] = max(found[name], float(np.abs(values).max()))
        return found

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
        return _essence(mine) == _essence(described)


def make_design(
    kind: str,
    values: Mapping[str, Any] | None,
    size: int | None = None,
    seed: int = 0,
    path: str | Path | None = None,
) -> Design:
    """Make the design of a batch.

    Parameters
    ----------
    kind
        ``grid`` (every combination, last name fastest), ``zip`` (advance together), ``sobol``,
        ``latin_hypercube``, ``table`` (rows of a file) or ``single`` (one run).
    values
        Quantity name to value spec, see `cubie_flow.batches.values.parse_value`. For a table: a
        column name, None for the column of the same name, or a number for every row; empty
        takes every column. Otherwise empty makes a single run.
    size
        Number of runs; needed by ``sobol`` and ``latin_hypercube``, the first rows of a table,
        and elsewhere decided by the values.
    seed
        Of the two sampled kinds.
    path
        The ``.csv`` or ``.parquet`` file of a table.

    Raises
    ------
    FlowError
        For any mistake, in one sentence naming key, value and what is allowed.
    """
    if kind not in KINDS:
        raise FlowError(
            f"batch.kind '{kind}' is unknown (allowed: {', '.join(KINDS)}){nearest(kind, KINDS)}"
        )
    values = dict(values or {})
    _check_integers(size, seed)
    if kind == "table":
        if path is None:
            raise FlowError("batch.kind 'table' needs batch.path, a .csv or .parquet file")
        return _table(path, values, size)
    if path is not None:
        raise FlowError(f"batch.path '{path}' is only for batch.kind 'table', not '{kind}'")
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
    if size not in (None, design.size):
        raise FlowError(
            f"batch.size is {size} but the values of batch.kind '{kind}' make {design.size} runs; "
            "leave batch.size out"
        )
    return design


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
            f"cannot use (allowed: a number, a list, {', '.join(LISTS)}; or batch.kind sobol or "
            "latin_hypercube)"
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
    if kind == "latin_hypercube":
        return LatinHypercube(quantities, int(size), int(seed))
    if size > SOBOL_LIMIT:
        raise FlowError(f"batch.size {size} is beyond the {SOBOL_LIMIT} points of batch.kind sobol")
    return Sobol(quantities, int(size), int(seed))


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
    # Hashing reads every row once, so a bad value is found now and not in the middle of a study.
    return Table(rows, tuple(sources), sources, size, rows.content_hash(size))


def _essence(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the runs: everything but the place of a file, in JSON's own types."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(described)))
    plain.pop("path", None)
    # A mapping may lose its order in storage, but the order of names decides the runs.
    plain["values"] = list(plain.get("values", {}).items())
    return plain


def _hash(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64-bit integers (the finaliser of splitmix64, Steele, Lea and Flood 2014)."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _permute(index: NDArray[np.uint64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Permute ``range(size)``, elementwise and without holding it.

    A balanced Feistel network is a bijection of ``range(4**h)``, the smallest such range that
    holds `size`; walking its cycle from inside until it is inside again is a bijection of
    ``range(size)`` (Black and Rogaway 2002).
    """
    half = np.uint64(max(1, math.ceil((size - 1).bit_length() / 2)))
    mask = np.uint64((1 << int(half)) - 1)
    result = index.copy()
    walking = np.ones(len(index), dtype=bool)
    while walking.any():
        x = result[walking]
        left, right = x >> half, x & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        x = (left << half) | right
        result[walking] = x
        walking[walking] = x >= np.uint64(size)
    return result
