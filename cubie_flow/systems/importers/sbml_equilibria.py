"""Amounts in the equilibrium of fast reactions, as expressions of totals."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, symbol
from cubie_flow.expressions.traversal import free_symbols, substitute
from cubie_flow.systems.importers import vocabulary
from cubie_flow.systems.importers.earlier import (
    within_delays,
)
from cubie_flow.systems.importers.elimination import polynomial_parts, solve_equations
from cubie_flow.systems.importers.sbml_fast import stable_root
from cubie_flow.systems.importers.sbml_quantities import Quantities
from cubie_flow.systems.quantities import Quantity


class Equilibria(Quantities):
    """The quantities of a model, with its fast reactions in equilibrium; see `sbml_fast`."""

    def _per_amount(self, name: str, amount: Node) -> Node:
        """Return the amount of a species in terms of what reactions change, without its factor."""
        factor = self.reader.species[name].conversion
        return graph.div(amount, self.names[factor]) if factor else amount

    def _equilibrate(self) -> None:
        """Express the species of fast reactions by the totals that these leave unchanged."""
        fast, r, amounts = self.fast, self.reader, self.fast_amounts
        for name in fast.species:
            own = self.called.new(f"{name}_start")
            label = f"amount of {r.symbols[name].label or name} before fast reactions"
            self.given[name] = self._add(name, Quantity(own, math.nan, "", label), False)
        before = {self.fast_amounts[name]: self.given[name] for name in fast.species}
        self.names_at_start = dict(
            zip(self.names, substitute(list(self.names.values()), before), strict=True)
        )
        # What is read from before the start is what was given, not the equilibrium.
        started = graph.compare("<", symbol("t"), 0.0)
        past = {node: graph.where(started, self.given[n], node) for n, node in amounts.items()}
        self.names = dict(
            zip(self.names, within_delays(list(self.names.values()), past), strict=True)
        )
        rates = {name: self._fast_rate(name) for name in fast.equations}
        expressed: dict[Node, Node] = {}
        for name, shares in fast.totals.items():
            own = self.called.new(f"{name}_total")
            self.totals[own] = {name: 1.0, **shares}
            amount = symbol(own)
            for pivot, share in shares.items():
                inner = self._per_amount(pivot, self.fast_amounts[pivot])
                amount = graph.sub(amount, graph.mul(share, inner))
            factor = r.species[name].conversion
            amount = graph.mul(self.names[factor], amount) if factor else amount
            expressed[self.fast_amounts[name]] = amount
        replaced = substitute(list(rates.values()), expressed)
        solved = self._pivots(dict(zip(rates, replaced, strict=True)))
        self._replace(expressed)
        self._replace(solved)

    def _fast_rate(self, pivot: str) -> Node:
        """Return what is zero in equilibrium, and gives the amount of a pivot."""
        total = graph.ZERO
        for factor, reaction in self.fast.equations[pivot]:
            self._check_law(reaction)
            total = graph.add(total, graph.mul(factor, self.names[reaction]))
        return total

    def _check_law(self, reaction: str) -> None:
        """Refuse a reaction whose rate nothing gives."""
        if reaction not in self.names:
            balance = "fbc" in self.reader.markup.text
            self.reader.refuse(
                self.reader.reactions[reaction].where,
                "it has no kinetic law" + ("; flux balance (fbc) is not solved" * balance),
            )

    def _pivots(self, rates: Mapping[str, Node]) -> dict[Node, Node]:
        """Return the amounts of the pivots from their equations."""
        fast, r = self.fast, self.reader
        own = {str(self.fast_amounts[name].value): name for name in rates}
        solved: dict[str, Node] = {}
        rest: dict[str, Node] = {}
        for name, node in rates.items():
            amount = self.fast_amounts[name]
            if node is graph.ZERO:  # the reaction does not proceed
                self.totals[str(amount.value)] = {name: 1.0}
                continue
            parts = polynomial_parts(node, amount, 2)
            if parts is None or parts[2] is graph.ZERO or name not in fast.direction:
                rest[name] = node
            else:
                root = stable_root(parts, fast.direction[name])
                solved[str(amount.value)] = self._resting(name, node, root)
        moving = {*(state.name for state in self.states), *self.totals}
        unknown = [str(self.fast_amounts[name].value) for name in rest]
        found = solve_equations(list(rest.values()), unknown, moving)
        missing = [*found.implicit, *(unknown[number] for number in found.stray)]
        if missing:
            reaction = fast.equations[own[missing[0]]][0][1]
            r.refuse(
                r.reactions[reaction].where,
                f"the equilibrium of this fast reaction gives no formula of '{own[missing[0]]}'; "
                "write the equilibrium as an algebraic rule, or model the reaction as slow",
            )
        for name, node in found.solved.items():
            unknown_at = self._undetermined(own[name], rates[own[name]])
            solved[name] = graph.where(unknown_at, vocabulary.undefined(), node)
        return {symbol(name): node for name, node in solved.items()}

    def _undetermined(self, pivot: str, rate: Node) -> Node:
        """Return whether the amount of a pivot has no effect on its rate, so that it is unknown."""
        r = self.reader
        parts = polynomial_parts(rate, self.fast_amounts[pivot], 1)
        if parts is None or parts[1] is graph.ZERO:
            return graph.FALSE
        set_ = {self.own[name] for name in r.set_by_events} & {*free_symbols([parts[1]])}
        if set_:
            r.refuse(
                r.reactions[self.fast.equations[pivot][0][1]].where,
                f"an event sets '{min(set_)}', which may stop this fast reaction; model it as slow",
            )
        return graph.compare("==", parts[1], 0.0)

    def _resting(self, pivot: str, rate: Node, root: Node) -> Node:
        """Return the root, or the start of a pivot that nothing moves away from where it rests."""
        r = self.reader
        names = [name for name, shares in self.fast.totals.items() if pivot in shares]
        together = {pivot, *names}
        slow = (item for item in r.reactions.values() if not item.fast)
        if together & ({e.species for item in slow for e in item.effects} | r.set_by_events):
            return root
        starts = {self.fast_amounts[pivot]: self.given[pivot]}
        (at_start,) = substitute([rate], starts)
        return graph.where(graph.compare("==", at_start, 0.0), self.given[pivot], root)

    def _add_totals(self, derivatives: list[Node]) -> list[Node]:
        """Add the states that stand for totals; return their derivatives.

        Parameters
        ----------
        derivatives : list of Node
            Changes of the species of fast reactions by slow ones.
        """
        r = self.reader
        slow = dict(zip(self.fast.species, derivatives, strict=True))
        added = []
        for own, shares in self.totals.items():
            names = " and ".join(r.symbols[name].label or name for name in shares)
            self.states.append(Quantity(own, math.nan, "", f"amount of {names} together"))
            self.identifiers[own] = next(iter(shares))
            total = graph.ZERO
            for name, share in shares.items():
                total = graph.add(total, graph.mul(share, self._per_amount(name, slow[name])))
            alone = own == str(self.fast_amounts[next(iter(shares))].value)
            factor = r.species[next(iter(shares))].conversion if alone else ""
            added.append(graph.mul(self.names[factor], total) if factor else total)
        return added

    def _start_of_total(self, own: str) -> Node:
        """Return the start value of a total from the amounts that are given."""
        shares = self.totals[own]
        if own == str(self.fast_amounts[next(iter(shares))].value):
            return self.given[next(iter(shares))]
        total = graph.ZERO
        for name, share in shares.items():
            inner = self._per_amount(name, self.given[name])
            total = graph.add(total, graph.mul(share, inner))
        return total

    def _fast_resets(self, name: str, value: Node) -> dict[str, Node]:
        """Return how an event that sets a species of fast reactions moves each total."""
        own = self.reader.species[name]
        amount = value if own.as_amount else graph.mul(value, self.names[own.compartment])
        moved = graph.sub(amount, self.amounts[name])
        alone = str(self.fast_amounts[name].value)
        return {
            total: moved
            if total == alone
            else graph.mul(shares[name], self._per_amount(name, moved))
            for total, shares in self.totals.items()
            if name in shares
        }
