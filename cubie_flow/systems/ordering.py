"""Order of quantities that use each other, and equations matched to what they determine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


def matching(uses: Mapping[int, set[str]], unknowns: Sequence[str]) -> dict[str, int]:
    """Return an equation for each of as many unknowns as possible, each equation once.

    Parameters
    ----------
    uses : mapping
        Names in every equation, by its number.
    unknowns : sequence of str
        Those that come first are preferred.

    Source: H. W. Kuhn, The Hungarian method for the assignment problem, Naval Research Logistics
    Quarterly 2 (1955) 83-97: augmenting paths.
    """
    order = {name: place for place, name in enumerate(unknowns)}
    choices = {n: sorted(order.keys() & used, key=order.__getitem__) for n, used in uses.items()}
    partner: dict[str, int] = {}
    for first in uses:
        # Each entry is an equation of the path, with the unknowns that it has not tried.
        path = [(first, iter(choices[first]))]
        taken: list[str] = []
        seen: set[str] = set()
        while path:
            name = next((one for one in path[-1][1] if one not in seen), None)
            if name is None:
                path.pop()
                del taken[-1:]
                continue
            seen.add(name)
            taken.append(name)
            if name in partner:
                path.append((partner[name], iter(choices[partner[name]])))
                continue
            for (number, _), one in zip(path, taken, strict=True):
                partner[one] = number
            break
    return partner
