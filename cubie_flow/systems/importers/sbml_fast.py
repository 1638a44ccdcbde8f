"""Fast reactions of SBML levels 2 and 3.1: always in equilibrium, while the others are slow.

Fast reactions leave sums of amounts unchanged. These totals become states, whose derivatives come
from the slow reactions. The equilibrium ``rate = 0`` of every fast reaction gives the amount of one
of its species, its pivot, as an expression of the totals.

Of an equation that is quadratic in the pivot, the root is taken to which the fast reaction leads:
with ``n`` molecules of the pivot per event and the rate ``a*x**2 + b*x + c``, the motion
``x' = n*rate`` is stable where ``n*(2*a*x + b) < 0``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from attrs import define, field

from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node
from cubie_flow.systems.importers.sbml_reader import Effect, SbmlReader


@define
class FastReactions:
    """The fast reactions of a model, and the sums of amounts that they leave unchanged.

    Parameters
    ----------
    species : tuple of str
        Species that they change.
    equations : dict
        For every pivot, factors and names of reactions: the sum of their products is zero.
    totals : dict
        For every other species, the factors of the amounts of the pivots in its total; its own
        factor is 1.
    direction : dict
        Molecules of a pivot per event of its reaction, of pivots whose reaction shares no species
        with another fast one.
    """

    species: tuple[str, ...] = ()
    equations: dict[str, list[tuple[float, str]]] = field(factory=dict)
    totals: dict[str, dict[str, float]] = field(factory=dict)
    direction: dict[str, float] = field(factory=dict)

    @classmethod
    def of(cls, reader: SbmlReader) -> FastReactions:
        """Return those of a model.

        Raises
        ------
        FlowError
            If one has a stoichiometry that is not a number.
        """
        names = [name for name, item in reader.reactions.items() if item.fast]
        rows: dict[str, list[Fraction]] = {}
        for column, name in enumerate(names):
            for effect in reader.reactions[name].effects:
                if reader.species[effect.species].changed_by_reactions:
                    row = rows.setdefault(effect.species, [Fraction(0)] * len(names))
                    row[column] += Fraction(effect.sign * _number(reader, effect))
        rows = {name: row for name, row in rows.items() if any(row)}
        pivots, totals = _reduced(rows)
        used = [column for column in range(len(names)) if any(row[column] for row in rows.values())]
        fast = cls(tuple(rows), totals=totals)
        independent = len(pivots) == len(used)
        for pivot, lead in pivots.items():
            row = rows[pivot]
            if independent:
                fast.equations[pivot] = [(1.0, names[lead])]
                touched = [other for other in rows.values() if other[lead]]
                if all(sum(map(bool, other)) == 1 for other in touched):
                    fast.direction[pivot] = float(row[lead])
            else:
                fast.equations[pivot] = [(float(row[c]), names[c]) for c in used if row[c]]
        return fast

    def __bool__(self) -> bool:
        return bool(self.species)


def _number(reader: SbmlReader, effect: Effect) -> float:
    """Return the stoichiometry of an effect."""
    written = effect.coefficient
    value = math.nan
    if written.op == "name" and not reader.moves(written.value):
        item = reader.symbols.get(written.value)
        if item is not None and item.value is not None and written.value not in reader.initial:
            value = item.value
    elif not written.names:
        node = reader.build(written, {}, effect.where)
        value = float(node.value) if node.op == "const" else math.nan
    if not math.isfinite(value):
        reader.refuse(effect.where, "the stoichiometry of a fast reaction must be a number")
    return value


def _reduced(
    rows: Mapping[str, list[Fraction]],
) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    """Return independent rows with a column each, and how the other rows follow from them.

    Returns
    -------
    dict
        Column by the name of an independent row.
    dict
        For every other row, factors with which the independent ones and it add up to zero.
    """
    pivots: dict[str, int] = {}
    basis: list[tuple[int, list[Fraction], dict[str, Fraction]]] = []
    totals: dict[str, dict[str, float]] = {}
    for name, given in rows.items():
        row, parts = list(given), {name: Fraction(1)}
        for lead, one, made in basis:
            factor = row[lead] / one[lead]
            if factor:
                row = [a - factor * b for a, b in zip(row, one, strict=True)]
                for key, part in made.items():
                    parts[key] = parts.get(key, Fraction(0)) - factor * part
        lead = next((column for column, value in enumerate(row) if value), -1)
        if lead >= 0:
            basis.append((lead, row, parts))
            pivots[name] = lead
        else:
            totals[name] = {key: float(part) for key, part in parts.items() if key != name and part}
    return pivots, totals


def stable_root(parts: tuple[Node, ...], direction: float) -> Node:
    """Return the root of ``c + b*x + a*x**2`` to which ``x' = direction*(...)`` leads.

    Parameters
    ----------
    parts : tuple of Node
        c, b and a.
    direction : float
    """
    c, b, a = parts
    if direction > 0.0:
        c, b, a = graph.neg(c), graph.neg(b), graph.neg(a)
    # The slope at the root, 2*a*x + b, is the positive square root of the discriminant.
    root = graph.sqrt(graph.sub(graph.mul(b, b), graph.mul(4.0, graph.mul(a, c))))
    near = graph.div(graph.mul(-2.0, c), graph.add(b, root))
    far = graph.div(graph.sub(root, b), graph.mul(2.0, a))
    return graph.where(graph.compare(">", b, 0.0), near, far)
