"""Designs that draw the values of runs: a Sobol sequence and a Latin hypercube."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from cubie_flow.batches.design import Design, essence
from cubie_flow.batches.values import Array, Constant, Distribution

SOBOL_LIMIT = 2**30
#: Dimensions of the direction numbers that scipy has.
SOBOL_DIMENSIONS = 21201


@frozen(eq=False)
class Sampled(Design):
    """Points of the unit cube, mapped through the distributions of quantities.

    A number instead of a distribution is the same in every run and has no dimension in the cube.
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
    """A scrambled Sobol sequence (`scipy.stats.qmc.Sobol`); a longer one begins with it."""

    kind: ClassVar[str] = "sobol"
    extendable: ClassVar[bool] = True

    def unit(self, start: int, stop: int) -> Array:
        from scipy.stats import qmc

        if start == stop:
            return np.empty((0, self.dimensions))
        # A new engine per slice shares no state between threads; skipping 10^7 points takes 30 ms.
        engine = qmc.Sobol(self.dimensions, scramble=True, rng=np.random.default_rng(self.seed))
        if start:
            engine.fast_forward(start)
        # scipy warns unless the first draw is a power of two, so draw one point first.
        first = engine.random(1)
        rest = engine.random(stop - start - 1)
        # Points are multiples of 2^-30 and may be 0; the centre of a cell is never 0.
        return np.concatenate([first, rest]) + 0.5 / SOBOL_LIMIT

    def extends(self, described: Mapping[str, Any]) -> bool:
        mine, theirs = essence(self.describe()), essence(described)
        grown = mine.pop("size") >= theirs.pop("size", math.inf)
        return bool(grown and mine == theirs)


@frozen(eq=False)
class LatinHypercube(Sampled):
    """A Latin hypercube: in every quantity, each of `size` strata has exactly one run.

    The stratum of a run is a keyed permutation of its index (a Feistel network, repeated until the
    result is inside the design), and its position inside the stratum is a hash. No permutation of
    all runs is stored.
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


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64-bit integers (the finaliser of splitmix64, Steele, Lea and Flood 2014)."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _permute(index: NDArray[np.uint64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Permute ``range(size)`` elementwise, without an array of all elements.

    A balanced Feistel network is a bijection of ``range(4**h)``, the smallest such range of at
    least `size`. Repeating it from inside ``range(size)`` until it is inside again is a bijection
    of ``range(size)`` (Black and Rogaway 2002).
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
