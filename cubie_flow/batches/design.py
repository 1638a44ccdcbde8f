"""The interface of designs: the runs of a batch, each computed from its index alone.

A design never stores its runs: ``columns(start, stop)`` makes just that slice. Therefore 10^7 runs
need no memory, and a resumed study computes only the shards that are missing.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from cubie_flow.batches.tables import HASH_ROWS
from cubie_flow.batches.values import Array
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from cubie_flow.batches.subjects import Subjects

#: Quantities that a sentence names.
MOST_NAMED = 8


class Design(ABC):
    """What each run of a batch varies.

    Attributes
    ----------
    kind
        One of `DESIGNS`.
    names
        The varied quantities, in order.
    labels
        Further columns, which the store has for each run and the model does not use.
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
    def subjects(self) -> Subjects | None:
        """The table of subjects that the runs follow, or None."""
        return None

    @property
    def shape(self) -> dict[str, int] | None:
        """Length of each axis of a full-factorial grid, last axis fastest; None otherwise."""
        return None

    @property
    def words(self) -> str:
        """Kind and varied quantities in words, such as ``grid of 31 x 31 over beta, gamma``."""
        sizes = list((self.shape or {}).values())
        points = f" of {' x '.join(f'{n:,}' for n in sizes[:MOST_NAMED])}" if len(sizes) > 1 else ""
        names = ", ".join(self.names[:MOST_NAMED]) or "nothing"
        more = len(self.names) - MOST_NAMED
        others = f" and {more:,} more" if more > 0 else ""
        return f"{self.kind.replace('_', ' ')}{points if more <= 0 else ''} over {names}{others}"

    @property
    def axis_values(self) -> dict[str, Array]:
        """Values along each axis of a full-factorial grid; empty otherwise."""
        return {}

    def columns(self, start: int, stop: int) -> dict[str, Array]:
        """Return the values of runs `start` to `stop`, without `stop`.

        Returns
        -------
        dict
            One float64 array of shape ``(stop - start,)`` for each of `names` and `labels`.

        Raises
        ------
        FlowError
            If the slice is not within the design.
        """
        if not 0 <= start <= stop <= self.size:
            raise FlowError(f"runs {start} to {stop} are not within the {self.size} of the batch")
        return self._columns(start, stop)

    @abstractmethod
    def _columns(self, start: int, stop: int) -> dict[str, Array]:
        """Return a slice after the check of its bounds."""

    def bounds(self, name: str) -> tuple[float, float]:
        """Return the least and the greatest value of one of `names`; by default from all runs."""
        starts = range(0, self.size, HASH_ROWS)
        parts = (self.columns(a, min(a + HASH_ROWS, self.size))[name] for a in starts)
        ends = [(float(part.min()), float(part.max())) for part in parts]
        return min(low for low, _ in ends), max(high for _, high in ends)

    @abstractmethod
    def largest(self) -> dict[str, float]:
        """Return the largest magnitude of each of `names`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the design as plain JSON values, for the store.

        ``kind``, ``values``, ``seed`` and ``path`` are arguments of `make_design` that make an
        equal design.
        """

    @property
    def content_hash(self) -> str:
        """Hash of everything that determines the values of the runs."""
        return _hash(essence(self.describe()))

    def extends(self, described: Mapping[str, Any]) -> bool:
        """Return whether the runs of a described design are the first runs of this one."""
        return essence(described) == essence(self.describe())


def essence(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what determines the runs, in JSON types: everything except the path of a file."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(described)))
    plain.pop("path", None)
    # The order of names determines the runs, and storage may lose the order of a mapping.
    plain["values"] = list(plain.get("values", {}).items())
    return plain


def _hash(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
