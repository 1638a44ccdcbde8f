"""Order conditions (J. C. Butcher; Hairer, Norsett and Wanner, Solving ODEs I, section II.2)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: A rooted tree is the tuple of the trees that grow from its root.
Tree = tuple["Tree", ...]


@cache
def trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees with `order` vertices."""

    def forests(vertices: int, size: int, index: int) -> Iterator[Tree]:
        """Multisets of trees up to the `index`-th of `size` vertices, `vertices` in all."""
        if vertices == 0:
            yield ()
        for first in range(min(size, vertices), 0, -1):
            known = trees(first)
            last = index if first == size else len(known) - 1
            for i in range(last + 1):
                for rest in forests(vertices - first, first, i):
                    yield (known[i], *rest)

    if order == 1:
        return ((),)
    return tuple(forests(order - 1, order - 1, len(trees(order - 1)) - 1))


@cache
def size(tree: Tree) -> int:
    return 1 + sum(map(size, tree))


@cache
def density(tree: Tree) -> int:
    return size(tree) * int(np.prod([density(branch) for branch in tree], dtype=np.int64))


class Conditions:
    """What the stages of a method make of every tree.

    A vertex from which one branch grows is taken through `single` instead of `matrix`: the
    Rosenbrock methods differ from Runge-Kutta methods in that (Solving ODEs II, section IV.7).
    """

    def __init__(self, matrix: Array, single: Array | None = None) -> None:
        self.matrix = matrix
        self.single = matrix if single is None else single
        self._known: dict[Tree, Array] = {}

    def elementary(self, tree: Tree) -> Array:
        """Elementary weights of the stages."""
        if tree not in self._known:
            value = np.ones(len(self.matrix))
            through = self.single if len(tree) == 1 else self.matrix
            for branch in tree:
                value = value * (through @ self.elementary(branch))
            self._known[tree] = value
        return self._known[tree]

    def residual(self, weights: Array, orders: range, theta: float = 1.0) -> float:
        """Largest defect in the conditions of `orders` that `weights` should meet at `theta`."""
        return max(
            abs(float(weights @ self.elementary(tree)) - theta**order / density(tree))
            for order in orders
            for tree in trees(order)
        )

    def largest(self, weights: Array, orders: range) -> float:
        """Largest sum of `weights`, which of an error estimate should be zero."""
        return max(
            abs(float(weights @ self.elementary(tree))) for order in orders for tree in trees(order)
        )


def slope_of(errors: list[float]) -> float:
    """Observed order from errors at steps halved each time."""
    return float(-np.polyfit(np.arange(len(errors)), np.log2(errors), 1)[0])
