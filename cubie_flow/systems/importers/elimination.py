"""Equations ``0 = f`` solved for unknowns: linear ones as expressions, the rest by matching.

An unknown that occurs linearly in an equation is eliminated: ``0 = a*x + b`` gives ``x = -b/a``.
Equations that remain are matched to the unknowns in them, one each; a solver has to solve them
during a run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from attrs import field, frozen

from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import ONE, ZERO, Node, symbol
from cubie_flow.expressions.traversal import free_symbols, substitute, topological
from cubie_flow.systems.ordering import matching

_Parts = tuple[Node, ...]


def polynomial_parts(node: Node, variable: Node, degree: int) -> _Parts | None:
    """Return the coefficients of a polynomial in `variable`, the constant one first.

    Parameters
    ----------
    node, variable : Node
        No coefficient has `variable` in it.
    degree : int
        The highest possible one; there is one coefficient more.

    Returns
    -------
    tuple of Node or None
        None if it is not a polynomial of that degree.
    """
    rest = (ZERO,) * (degree - 1)
    parts: dict[Node, _Parts | None] = {}
    for one in topological([node]):
        if one is variable:
            parts[one] = (ZERO, ONE, *rest)
        elif all(_is_free(parts[arg]) for arg in one.args):
            parts[one] = (one, ZERO, *rest)
        else:
            parts[one] = _combined(one, [parts[arg] for arg in one.args])
    return parts[node]


def _is_free(parts: _Parts | None) -> bool:
    """Return whether a variable does not occur in what has these coefficients."""
    return parts is not None and all(part is ZERO for part in parts[1:])


def _combined(node: Node, given: list[_Parts | None]) -> _Parts | None:
    """Return the coefficients of an operation from those of its operands."""
    if node.op == "select" and _is_free(given[0]):
        given = given[1:]
    if any(part is None for part in given):
        return None
    first, second = given[0] or (), given[-1] or ()
    match node.op:
        case "select" if len(given) == 2:
            return tuple(map(graph.where, [node.args[0]] * len(first), first, second))
        case "add":
            return tuple(map(graph.add, first, second))
        case "sub":
            return tuple(map(graph.sub, first, second))
        case "neg":
            return tuple(map(graph.neg, first))
        case "mul":
            return _product(first, second)
        case "div" if _is_free(second):
            return tuple(graph.div(part, second[0]) for part in first)
    return None


def _product(first: _Parts, second: _Parts) -> _Parts | None:
    """Return the coefficients of a product, None if its degree is too high."""
    total = [ZERO] * len(first)
    for i, a in enumerate(first):
        for k, b in enumerate(second):
            if a is ZERO or b is ZERO:
                continue
            if i + k >= len(total):
                return None
            total[i + k] = graph.add(total[i + k], graph.mul(a, b))
    return tuple(total)


@frozen
class Solution:
    """What equations determine.

    Parameters
    ----------
    solved : dict
        Expression of every eliminated unknown, free of all of them, by its name.
    implicit : dict
        Equation, by the name of the unknown that it determines.
    stray : tuple of int
        Numbers of the equations that determine no unknown.
    """

    solved: dict[str, Node] = field(factory=dict)
    implicit: dict[str, Node] = field(factory=dict)
    stray: tuple[int, ...] = ()


def solve_equations(
    equations: Sequence[Node],
    unknowns: Sequence[str],
    moving: Collection[str],
    values: Mapping[str, float] | None = None,
) -> Solution:
    """Return the unknowns that equations determine.

    Parameters
    ----------
    equations : sequence of Node
        Each is zero.
    unknowns : sequence of str
        There may be more of them than equations; those that come first are preferred.
    moving : collection of str
        Names that change during a run. A quotient by something that stays is preferred.
    values : mapping, optional
        Numbers at the start, as far as they are known. A quotient by zero comes last.
    """
    rest = dict(enumerate(equations))
    left = list(unknowns)
    solved: dict[str, Node] = {}
    while (best := _best_pivot(rest, left, moving, values or {})) is not None:
        number, name, node = best
        del rest[number]
        left.remove(name)
        replaced = substitute([*rest.values(), *solved.values()], {symbol(name): node})
        rest = dict(zip(rest, replaced, strict=False))
        solved = dict(zip(solved, replaced[len(rest) :], strict=True))
        solved[name] = node
    partner = matching({number: set(free_symbols([node])) for number, node in rest.items()}, left)
    return Solution(
        solved,
        {name: rest[number] for name, number in partner.items()},
        tuple(number for number in rest if number not in partner.values()),
    )


def _best_pivot(
    equations: dict[int, Node],
    unknowns: Sequence[str],
    moving: Collection[str],
    values: Mapping[str, float],
) -> tuple[int, str, Node] | None:
    """Return an equation, the unknown that it gives, and its expression."""
    best: tuple[tuple[int, int], int, str, _Parts] | None = None
    for number, node in equations.items():
        used = set(free_symbols([node]))
        for order, name in enumerate(unknowns):
            if name not in used:
                continue
            parts = polynomial_parts(node, symbol(name), 1)
            if parts is None or parts[1] is ZERO:
                continue
            stays = not set(free_symbols([parts[1]])) & {*moving, *unknowns, "t"}
            rank = 0 if parts[1].op == "const" else 1 if stays else 2
            if rank and _vanishes(parts[1], values):
                rank = 3
            if best is None or (rank, order) < best[0]:
                best = (rank, order), number, name, parts
    if best is None:
        return None
    _, number, name, (rest, slope) = best
    return number, name, graph.div(graph.neg(rest), slope)


def _vanishes(node: Node, values: Mapping[str, float]) -> bool:
    """Return whether an expression is known to be zero at the start."""
    from cubie_flow.expressions.evaluate import evaluate

    used = free_symbols([node])
    return not set(used) - values.keys() and float(evaluate([node], dict(values))[0]) == 0.0
