"""Order of quantities that use each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import NoReturn


def dependency_order(
    uses: Mapping[str, Iterable[str]], refuse: Callable[[list[str]], NoReturn]
) -> list[str]:
    """Return names in an order in which each follows those it uses.

    Parameters
    ----------
    uses : mapping
        Used names by name; those that are not keys themselves are ignored.
    refuse : callable
        Raises the error for names that use each other in a circle.
    """
    known = {name: sorted({*used} & uses.keys()) for name, used in uses.items()}
    try:
        return list(TopologicalSorter(known).static_order())
    except CycleError as error:
        refuse(error.args[1][::-1])
