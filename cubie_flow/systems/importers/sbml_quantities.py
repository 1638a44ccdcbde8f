"""States, parameters and observables that stand for the identifiers of an SBML model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, symbol
from cubie_flow.expressions.traversal import substitute
from cubie_flow.systems.importers import vocabulary
from cubie_flow.systems.importers.formula import Formula
from cubie_flow.systems.importers.names import Names
from cubie_flow.systems.importers.sbml_fast import FastReactions
from cubie_flow.systems.importers.sbml_reader import SbmlReader, Species
from cubie_flow.systems.quantities import Quantity


class Quantities:
    """The quantities of a model that a reader has read, and what its identifiers mean.

    Parameters
    ----------
    reader : SbmlReader
    """

    def __init__(self, reader: SbmlReader) -> None:
        self.reader = reader
        #: For every computed identifier, those it uses, and a function that builds its graph.
        self.derived: dict[str, tuple[set[str], Callable[[], Node]]] = {}
        self.names: dict[str, Node] = {}
        self.states: list[Quantity] = []
        self.parameters: list[Quantity] = []
        self.observables: dict[str, tuple[str, str, str]] = {}
        #: States before the start, where that is not the start value.
        self.history: dict[str, Node] = {}
        #: Symbol of the amount of a species that stands for its concentration.
        self.amounts: dict[str, Node] = {}
        self.called: Names = Names()
        self.own: dict[str, str] = {}
        #: Identifier that each state and parameter stands for.
        self.identifiers: dict[str, str] = {}
        #: Algebraic rules that a solver has to solve, by the state that each determines.
        self.implicit: dict[str, Node] = {}
        #: Identifiers that algebraic rules determine.
        self.determined: set[str] = set()
        self.fast = FastReactions.of(reader)
        #: Amounts of the species of fast reactions, before they are expressed by totals.
        self.fast_amounts: dict[str, Node] = {}
        #: States that stand for totals or pivots, and how much of each species is in them.
        self.totals: dict[str, dict[str, float]] = {}
        #: Parameter that holds the amount at the start of a species of fast reactions.
        self.given: dict[str, Node] = {}
        #: Meaning of the identifiers before fast reactions, for start values.
        self.names_at_start: dict[str, Node] = {}

    def _quantities(self) -> list[str]:
        """Add a state, parameter or rule for every identifier; return those that are states."""
        r = self.reader
        for name in r.unknowns:
            self.names[name] = symbol(self.own[name])
        changing: list[str] = []
        for name in r.symbols:
            if name in r.assigned:
                self._derive(name, r.assigned[name])
            elif name not in r.unknowns and self._quantity(name):
                changing.append(name)
        return changing

    def _quantity(self, name: str) -> bool:
        """Add the state or parameter of an identifier; return whether it is a state."""
        r = self.reader
        item, species = r.symbols[name], r.species.get(name)
        if species is not None and name in self.fast.species:
            self._fast_species(name, species)
            return False
        changes = name in r.rates or name in r.set_by_events
        if species is not None:
            changes = changes or (species.changed_by_reactions and name in r.reacting)
        if species is not None and self._is_amount(name, species):
            label = f"amount of {item.label or name}"
            quantity = Quantity(self.called.new(f"{name}_amount"), math.nan, "", label)
            self.amounts[name] = self._add(name, quantity, changes)
            self.derived[name] = ({species.compartment}, self._concentration(name, species))
            self._observe(name)
            return changes
        quantity = Quantity(self.own[name], math.nan, item.unit, self._label(name, item.label))
        self.names[name] = self._add(name, quantity, changes)
        return changes

    def _fast_species(self, name: str, species: Species) -> None:
        """Add a species of fast reactions, whose amount follows from totals."""
        amount = self.fast_amounts[name] = symbol(self.called.new(f"{name}_amount"))
        self.amounts[name] = amount
        if species.as_amount:
            self.names[name] = amount
        else:
            self.derived[name] = ({species.compartment}, self._concentration(name, species))
        self._observe(name)

    def _is_amount(self, name: str, species: Species) -> bool:
        """Return whether an amount stands for a concentration: its compartment changes size."""
        r = self.reader
        changes = r.may_jump if name in r.rates else r.moves
        return not species.as_amount and changes(species.compartment)

    def _derive(self, name: str, formula: Formula) -> None:
        """Add an observable that a formula gives."""
        self.derived[name] = (formula.names, self._later(name, formula))
        self._observe(name)

    def _label(self, name: str, label: str) -> str:
        """Return a label that has the identifier if the quantity is named otherwise."""
        if self.own[name] == name or name in label.split():
            return label
        return f"{label} ({name})" if label else name

    def _observe(self, name: str) -> None:
        """Make an identifier an observable."""
        r = self.reader
        item = r.symbols.get(name)
        label = item.label if item else r.reactions[name].label or f"rate of {name}"
        unit = item.unit if item else ""
        self.observables[name] = (self.own[name], unit, self._label(name, label))

    def _later(self, name: str, formula: Formula) -> Callable[[], Node]:
        """Return a function that builds a formula once the names it uses are known."""
        return lambda: self.reader.build(formula, self.names, self.reader.where_of(name))

    def _concentration(self, name: str, own: Species) -> Callable[[], Node]:
        return lambda: graph.div(self.amounts[name], self.names[own.compartment])

    def _add(self, name: str, quantity: Quantity, changes: bool) -> Node:
        """Add the state or parameter that stands for `name`; return its symbol."""
        (self.states if changes else self.parameters).append(quantity)
        self.identifiers[quantity.name] = name
        return symbol(quantity.name)

    def _start(self, name: str) -> Node:
        """Return the start value of the state or parameter that stands for `name`.

        In it, the names of states mean their initial values.
        """
        r = self.reader
        item, own = r.symbols[name], r.species.get(name)
        given, is_amount = item.value, False
        if own is not None:
            is_amount = own.amount is not None
            given = own.amount if is_amount else own.concentration
        names = self.names_at_start or self.names
        if name in r.initial:
            node = r.build(r.initial[name], names, r.initial_places[name])
            is_amount = own is not None and own.as_amount
        elif given is None and self.own[name] in self.implicit:
            r.refuse(
                r.where_of(name),
                "an algebraic rule that is not linear determines it, so it needs a value near its "
                "start",
            )
        elif given is None:
            r.refuse_missing_value(name)
        else:
            node = vocabulary.literal(given)
        if own is None or is_amount == (own.as_amount or name in self.amounts):
            return node
        size = names.get(own.compartment)
        if size is None:
            r.refuse_missing_value(own.compartment)
        return graph.div(node, size) if is_amount else graph.mul(node, size)

    def _replace(self, nodes: Mapping[Node, Node]) -> None:
        """Replace symbols in the meaning of all identifiers."""
        for group in (self.names, self.amounts, self.implicit):
            group |= zip(group, substitute(list(group.values()), nodes), strict=True)
