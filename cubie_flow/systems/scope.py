"""Names in the expressions of a model, and the indices of its families."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

from attrs import define, field, frozen

from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, const

#: Operations that one model may have, indexed families and sums expanded.
MAX_WORK = 2_000_000

#: Names that mean a number unless the model defines them.
NUMBERS: dict[str, Node] = {"e": const(math.e), "pi": const(math.pi)}
#: Every name that may be called.
CALLABLE = frozenset({*graph.FUNCTIONS, "where", "sum", "delay"})

BOUNDARIES = ("none", "periodic", "clamp")


@frozen
class Index:
    """One index of indexed families, from 0 to ``size - 1``.

    Parameters
    ----------
    name : str
    size : int
    boundary : {"none", "periodic", "clamp"}
        Meaning of an index outside the range: a mistake, the element one period away, or the
        nearest element.
    """

    name: str
    size: int
    boundary: str = "none"

    def place(self, value: int) -> int | None:
        """Return the index of the element for `value`, None if it is outside the range."""
        if self.boundary == "periodic":
            return value % self.size
        if self.boundary == "clamp":
            return min(max(value, 0), self.size - 1)
        return value if 0 <= value < self.size else None


def element_name(family: str, at: tuple[int, ...]) -> str:
    """Return the flat name of one element: ``x[3]`` is ``x_3``, ``u[0, 2]`` is ``u_0_2``."""
    return "_".join((family, *map(str, at)))


def elements(indices: tuple[Index, ...]) -> Iterator[tuple[int, ...]]:
    """Return the indices of the elements of a family; the last index varies fastest."""
    return product(*(range(index.size) for index in indices))


@define
class Scope:
    """Meaning of names in the expressions of one model.

    Parameters
    ----------
    names : dict
        Node of every plain name, and of every element by its flat name.
    families : dict
        Indices of every indexed family.
    indices : dict
        Every declared index.
    work : int
        Operations that may still be built.
    """

    names: dict[str, Node] = field(factory=dict)
    families: dict[str, tuple[Index, ...]] = field(factory=dict)
    indices: dict[str, Index] = field(factory=dict)
    work: int = MAX_WORK

    def knows(self, name: str) -> bool:
        """Return whether an expression may use `name`."""
        return any(name in known for known in (self.names, self.families, self.indices, NUMBERS))

    def known(self) -> list[str]:
        """Return every name that an expression may use, including functions."""
        return [*self.names, *self.families, *self.indices, *CALLABLE, *NUMBERS]
