"""Equations of an SBML model: its states, parameters, observables, derivatives and events."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from attrs import frozen

from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.expressions.traversal import free_symbols, substitute
from cubie_flow.systems.delays import PlainDelays, has_delays
from cubie_flow.systems.events import Event
from cubie_flow.systems.importers import vocabulary
from cubie_flow.systems.importers.earlier import (
    at_start,
    delayed_symbols,
    moving_starts,
    with_early_values,
    within_delays,
    without_early_rates,
)
from cubie_flow.systems.importers.elimination import polynomial_parts, solve_equations
from cubie_flow.systems.importers.formula import Formula, rate_symbol, rates_in, without_rates
from cubie_flow.systems.importers.names import Names, sentence
from cubie_flow.systems.importers.sbml_fast import FastReactions, stable_root
from cubie_flow.systems.importers.sbml_reader import Effect, SbmlEvent, SbmlReader, Species
from cubie_flow.systems.importers.units import unit_text
from cubie_flow.systems.quantities import Observable, Quantity
from cubie_flow.systems.starts import start_numbers, with_start
from cubie_flow.systems.system import OdeSystem

#: Name of the state that is added to a model without any other state.
CLOCK = "clock"


@frozen
class SbmlModel:
    """An SBML model as a system, and what its identifiers mean in it.

    Parameters
    ----------
    system : OdeSystem
    values : mapping
        Value of every identifier in the model's formulas, in symbols of the system and ``t``.
    amounts, concentrations : mapping
        Amount of substance of every species, and amount per size of its compartment.
    """

    system: OdeSystem
    values: Mapping[str, Node]
    amounts: Mapping[str, Node]
    concentrations: Mapping[str, Node]


class Equations:
    """Makes the system of a model that a reader has read.

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

    def model(self) -> SbmlModel:
        """Return the system, and what the identifiers of the model mean in it.

        Raises
        ------
        FlowError
            For a mistake in the model, with its place.
        """
        r = self.reader
        self.own = self.called.reserve([*r.symbols, *r.reactions])
        changing = self._quantities()
        for name, reaction in r.reactions.items():
            if reaction.rate is not None:
                self._derive(name, reaction.rate)
        for name in r.in_order({name: used for name, (used, _) in self.derived.items()}):
            self.names[name] = self.derived[name][1]()
        if self.fast:
            self._equilibrate()
        if r.algebraic:
            changing += self._solve_algebraic()
        derivatives = self._derivatives([*changing, *self.fast.species])
        derivatives[len(changing) :] = self._add_totals(derivatives[len(changing) :])
        self._add_implicit()
        derivatives, events = self._resolved(derivatives, self._events())
        if len(self.states) == len(self.implicit):
            self.states.append(Quantity(self.called.new(CLOCK), 0.0, "", "the time"))
            derivatives.append(const(1.0))
        return self._finished(derivatives, events)

    def _solve_algebraic(self) -> list[str]:
        """Solve the algebraic rules; return the unknowns that none determines and that change.

        A rule that is linear in its unknown gives it as an expression. Others become states of
        their own, with algebraic equations.
        """
        r = self.reader
        rules = [r.build(formula, self.names, where) for formula, where in r.algebraic]
        known = {self.own[name]: name for name in r.unknowns}
        moving = {*(state.name for state in self.states), *self.totals}
        solution = solve_equations(rules, list(known), moving, self._given_numbers())
        for number in solution.stray:
            r.refuse(
                r.algebraic[number][1],
                "it determines nothing: each quantity in it is constant, or reactions or other "
                "rules determine it (an index above 1)",
            )
        self.implicit = dict(solution.implicit)
        self._replace({symbol(own): node for own, node in solution.solved.items()})
        self.determined = {known[own] for own in (*solution.solved, *solution.implicit)}
        for own in solution.solved:
            self._observe(known[own])
        changing = [name for name in r.unknowns if name not in self.determined]
        changing = [name for name in changing if self._quantity(name)]
        for name in set(r.unknowns) & self.derived.keys():
            self._replace({symbol(self.own[name]): self.derived[name][1]()})
        return changing

    def _given_numbers(self) -> dict[str, float]:
        """Return the values that the file gives as numbers; of species, whether they are zero."""
        r = self.reader
        numbers = {}
        for name, item in r.symbols.items():
            own = r.species.get(name)
            value = item.value
            if own is not None:
                value = own.concentration if own.amount is None else own.amount
            if value is not None and name not in r.initial:
                numbers[self.own[name]] = value
        return numbers

    def _add_implicit(self) -> None:
        """Add the states that algebraic equations determine."""
        r = self.reader
        for name in (name for name in r.unknowns if self.own[name] in self.implicit):
            item = r.symbols[name]
            label = self._label(name, item.label)
            self._add(name, Quantity(self.own[name], math.nan, item.unit, label), True)
        order = [state.name for state in self.states if state.name in self.implicit]
        self.implicit = {own: self.implicit[own] for own in order}

    def _replace(self, nodes: Mapping[Node, Node]) -> None:
        """Replace symbols in the meaning of all identifiers."""
        for group in (self.names, self.amounts, self.implicit):
            group |= zip(group, substitute(list(group.values()), nodes), strict=True)

    # fast reactions -----------------------------------------------------------------------------

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

    # quantities ---------------------------------------------------------------------------------

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

    def _derivatives(self, changing: list[str]) -> list[Node]:
        """Return the derivatives of the states that stand for identifiers."""
        r = self.reader
        effects: dict[str, list[tuple[Effect, str]]] = {}
        for reaction, item in r.reactions.items():
            for effect in item.effects:
                effects.setdefault(effect.species, []).append((effect, reaction))
        return [
            self._rule_derivative(name)
            if name in r.rates
            else self._reaction_derivative(name, effects.get(name, []))
            for name in changing
        ]

    def _reaction_derivative(self, name: str, effects: list[tuple[Effect, str]]) -> Node:
        """Return the derivative of the state that stands for `name`, from its reactions."""
        r = self.reader
        total = graph.ZERO
        species = r.species.get(name)
        for effect, reaction in effects if species and species.changed_by_reactions else ():
            self._check_law(reaction)
            if r.reactions[reaction].fast:
                continue
            times = r.build(effect.coefficient, self.names, effect.where)
            part = graph.mul(times, self.names[reaction])
            total = graph.add(total, part) if effect.sign > 0 else graph.sub(total, part)
        if species is None:
            return total
        if species.conversion:
            total = graph.mul(self.names[species.conversion], total)
        if name not in self.amounts and not species.as_amount:
            total = graph.div(total, self.names[species.compartment])
        return total

    def _rule_derivative(self, name: str) -> Node:
        """Return the derivative of the state that stands for `name`, from its rate rule."""
        r = self.reader
        rate = r.build(r.rates[name], self.names, r.where_of(name))
        if name not in self.amounts:
            return rate
        # The rule gives the rate of the concentration C; the rate of A = V*C is V*C' + C*V'.
        place = r.species[name].compartment
        growth = graph.mul(self.names[name], symbol(rate_symbol(place)))
        return graph.add(graph.mul(self.names[place], rate), growth)

    def _resolved(
        self, derivatives: list[Node], events: list[Event]
    ) -> tuple[list[Node], list[Event]]:
        """Replace rates, and parameters without a finite value, wherever they are used."""
        groups: dict[str, Mapping[str, Node]] = {
            "": self.names,
            "amount of ": self.amounts,
            "equation of ": self.implicit,
            "start of ": {
                own: self._start_of_total(own) if own in self.totals else self._start(name)
                for own, name in self.identifiers.items()
            },
            "of events ": {
                str(k): node for k, node in enumerate(n for e in events for n in e.nodes)
            },
        }
        nodes = {f"{kind}{key}": group[key] for kind, group in groups.items() for key in group}
        self._check_rates([*nodes.values(), *derivatives])
        derivatives, nodes = self._without_early_rates(derivatives, nodes)
        derivatives, nodes = without_rates(
            self.states[: len(derivatives)], derivatives, nodes, f"'{self.reader.file}'"
        )
        derivatives, nodes = self._with_early_values(derivatives, nodes)
        fixed = self._set_starts({own: nodes[f"start of {own}"] for own in self.identifiers})
        derivatives = substitute(derivatives, fixed)
        nodes = dict(zip(nodes, substitute(list(nodes.values()), fixed), strict=True))
        nodes = self._plain(nodes)
        self.names, self.amounts, self.implicit, _, parts = (
            {key: nodes[f"{kind}{key}"] for key in group} for kind, group in groups.items()
        )
        written = iter(parts.values())
        derivatives = [*derivatives, *self.implicit.values()]
        changed = [event.replaced(lambda old: [next(written) for _ in old]) for event in events]
        for event, given in zip(changed, self.reader.events, strict=True):
            if has_delays(event.nodes):
                self.reader.refuse(
                    given.where,
                    "it uses delay() of a quantity that reactions, rules or events change; events "
                    "see the present only",
                )
        return derivatives, changed

    def _plain(self, nodes: dict[str, Node]) -> dict[str, Node]:
        """Return expressions in which only the past of states is read."""
        if not has_delays(nodes.values()):
            return nodes
        # What events change is a state.
        delays, r = PlainDelays({state.name for state in self.states}, (), ()), self.reader
        places = {name: f"'{r.file}', {r.where_of(name)}" for name in self.names}
        return {
            name: delays.plain(node, places.get(name, f"'{r.file}'"))
            for name, node in nodes.items()
        }

    def _without_early_rates(
        self, derivatives: list[Node], nodes: dict[str, Node]
    ) -> tuple[list[Node], dict[str, Node]]:
        """Replace rates in delayed expressions; see `cubie_flow.systems.importers.earlier`."""
        changed = without_early_rates([*derivatives, *nodes.values()])
        count = len(derivatives)
        return changed[:count], dict(zip(nodes, changed[count:], strict=True))

    def _with_early_values(
        self, derivatives: list[Node], nodes: dict[str, Node]
    ) -> tuple[list[Node], dict[str, Node]]:
        """Give delayed quantities the start values that use the time, and note histories."""
        outputs = [*derivatives, *nodes.values()]
        if not has_delays(outputs):
            return derivatives, nodes
        nodes = {
            key: at_start(node) if key.startswith("start of ") else node
            for key, node in nodes.items()
        }
        starts = moving_starts({own: nodes[f"start of {own}"] for own in self.identifiers})
        names = [item.name for item in self.parameters]
        changed = with_early_values([*derivatives, *nodes.values()], starts, names)
        states = {state.name for state in self.states}
        self.history = {name: node for name, node in starts.items() if name in states}
        count = len(derivatives)
        return changed[:count], dict(zip(nodes, changed[count:], strict=True))

    def _check_rates(self, nodes: list[Node]) -> None:
        """Refuse rates of what an algebraic equation determines during a run."""
        for name in sorted(rates_in(nodes) & self.names.keys()):
            why = ""
            if set(free_symbols([self.names[name]])) & self.implicit.keys():
                why = "follows from an algebraic rule that is not linear"
            elif has_delays([self.names[name]]):
                why = "depends on the past"
            if why:
                where = self.reader.where_of(name)
                self.reader.refuse(where, f"its rate is used, but it {why}")

    def _finished(self, derivatives: list[Node], events: list[Event]) -> SbmlModel:
        """Return the system, and the amount and concentration of every species."""
        r = self.reader
        model = r.model
        system = OdeSystem(
            name=r.name,
            title=sentence(model.getName()) if model.isSetName() else "",
            description="; ".join(filter(None, (self.called.note, *r.notes))),
            source=r.source,
            states=tuple(self.states),
            parameters=tuple(self.parameters),
            derivatives=tuple(derivatives),
            observables=tuple(
                Observable(called, self.names[name], unit, label)
                for name, (called, unit, label) in self.observables.items()
            ),
            events=tuple(events),
            history=self._histories(derivatives),
            mass=tuple(float(state.name not in self.implicit) for state in self.states)
            if self.implicit
            else (),
            time_unit=self._time_unit(),
        )
        amounts, concentrations = {}, {}
        for name, own in r.species.items():
            node, size = self.names[name], self.names.get(own.compartment)
            amounts[name] = self.amounts.get(name, node)
            concentrations[name] = node
            if own.as_amount and size is not None:
                concentrations[name] = graph.div(node, size)
            elif name not in self.amounts and size is not None:
                amounts[name] = graph.mul(node, size)
        return SbmlModel(system, self.names, amounts, concentrations)

    def _histories(self, derivatives: list[Node]) -> tuple[tuple[str, Node], ...]:
        """Return the histories of the states whose past is read."""
        read = [self.names[name] for name in self.observables]
        delayed = delayed_symbols([*derivatives, *read])
        return tuple((name, node) for name, node in self.history.items() if name in delayed)

    def _set_starts(self, starts: Mapping[str, Node]) -> dict[Node, Node]:
        """Give states and parameters their start values, numbers or expressions.

        Returns
        -------
        dict
            Replacements of the parameters without a finite value, which no batch could vary.
        """
        r = self.reader
        given = [with_start(item, starts[item.name]) for item in (*self.states, *self.parameters)]
        numbers = start_numbers(given, (), f"'{r.file}'")
        infinite = {name: x for name, x in numbers.items() if not math.isfinite(x)}
        for state in self.states:
            if state.name in infinite:
                r.refuse_start(self.identifiers[state.name], infinite[state.name])
        self.parameters = [item for item in self.parameters if item.name not in infinite]
        free = {item.name for item in self.parameters} | infinite.keys()
        fixed: dict[Node, Node] = {}
        for own, number in infinite.items():
            node = starts[own]
            if not free.issuperset(free_symbols([node])):
                node = vocabulary.literal(number)
            fixed[symbol(own)] = substitute([node], fixed)[0]
            self._observe(self.identifiers[own])
        for group in (self.states, self.parameters):
            nodes = substitute([starts[item.name] for item in group], fixed)
            group[:] = map(with_start, group, nodes)
        return fixed

    def _events(self) -> list[Event]:
        """Return the events, which set the states that stand for the assigned identifiers."""
        r = self.reader
        events = []
        for event in r.events:
            priority = graph.ZERO
            if event.priority is not None:
                priority = r.build(event.priority, self.names, event.where)
            delay = None
            if event.delay is not None:
                delay = r.build(event.delay, self.names, event.where)
            trigger = r.build(event.trigger, self.names, event.where)
            if trigger.kind != "bool":
                trigger = graph.compare("!=", trigger, 0.0)
            events.append(
                Event(
                    name=self.called.reserve([event.name])[event.name],
                    condition=trigger,
                    resets=self._resets(event),
                    priority=priority,
                    initially=event.initial_value,
                    persistent=event.persistent,
                    early=event.values_of_trigger,
                    delay=None if delay is graph.ZERO else delay,
                )
            )
        return events

    def _resets(self, event: SbmlEvent) -> tuple[tuple[str, Node], ...]:
        """Return the states and parameters that an event sets, with their new values."""
        r = self.reader
        values = {
            name: r.build(formula, self.names, event.where)
            for name, formula in event.assignments.items()
        }
        resets = []
        moved: dict[str, Node] = {}
        for name, value in values.items():
            if name not in r.symbols:
                r.refuse(event.where, f"it sets '{name}', which is not defined")
            if name in self.fast.species:
                for total, move in self._fast_resets(name, value).items():
                    moved[total] = graph.add(moved.get(total, symbol(total)), move)
                continue
            target = self.amounts.get(name, self.names[name])
            if name in self.amounts:
                # The amount uses the compartment's size before any assignment of this event.
                value = graph.mul(value, self.names[r.species[name].compartment])
            if target.op != "symbol" or name in self.determined:
                r.refuse(event.where, f"it sets '{name}', which a rule computes")
            resets.append((str(target.value), value))
        return (*resets, *moved.items())

    def _time_unit(self) -> str:
        r = self.reader
        unit = r.model.getTimeUnits() if r.level == 3 else "time"
        if unit and r.model.getUnitDefinition(unit) is not None:
            return unit_text(r.libsbml, r.model.getUnitDefinition(unit))
        if r.level == 2 or unit in ("second", "s"):
            return "s"
        return str(unit)
