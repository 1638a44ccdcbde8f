"""Equations of an SBML model: its states, parameters, observables, derivatives and events."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from attrs import frozen

from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.expressions.traversal import free_symbols, substitute
from cubie_flow.systems.events import Event
from cubie_flow.systems.importers import vocabulary
from cubie_flow.systems.importers.formula import Formula, rate_symbol, without_rates
from cubie_flow.systems.importers.names import Names, sentence
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
        #: Symbol of the amount of a species that stands for its concentration.
        self.amounts: dict[str, Node] = {}
        self.called: Names = Names()
        self.own: dict[str, str] = {}
        #: Identifier that each state and parameter stands for.
        self.identifiers: dict[str, str] = {}

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
        derivatives, events = self._resolved(self._derivatives(changing), self._events())
        if not self.states:
            self.states.append(Quantity(self.called.new(CLOCK), 0.0, "", "the time"))
            derivatives.append(const(1.0))
        return self._finished(derivatives, events)

    def _quantities(self) -> list[str]:
        """Add a state, parameter or rule for every identifier; return those that are states."""
        r = self.reader
        reacting = {effect.species for item in r.reactions.values() for effect in item.effects}
        changing: list[str] = []
        for name, item in r.symbols.items():
            if name in r.assigned:
                self._derive(name, r.assigned[name])
                continue
            species = r.species.get(name)
            changes = name in r.rates or name in r.set_by_events
            if species is not None:
                changes = changes or (species.changed_by_reactions and name in reacting)
            if changes:
                changing.append(name)
            if species is not None and self._is_amount(name, species):
                label = f"amount of {item.label or name}"
                quantity = Quantity(self.called.new(f"{name}_amount"), math.nan, "", label)
                self.amounts[name] = self._add(name, quantity, changes)
                self.derived[name] = ({species.compartment}, self._concentration(name, species))
                self._observe(name)
                continue
            quantity = Quantity(self.own[name], math.nan, item.unit, self._label(name, item.label))
            self.names[name] = self._add(name, quantity, changes)
        return changing

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
        if name in r.initial:
            node = r.build(r.initial[name], self.names, r.initial_places[name])
            is_amount = own is not None and own.as_amount
        elif given is None:
            r.refuse_missing_value(name)
        else:
            node = vocabulary.literal(given)
        if own is None or is_amount == (own.as_amount or name in self.amounts):
            return node
        size = self.names.get(own.compartment)
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
            if reaction not in self.names:
                r.refuse(r.reactions[reaction].where, "it has no kinetic law")
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
            "start of ": {own: self._start(name) for own, name in self.identifiers.items()},
            "of events ": {
                str(k): node for k, node in enumerate(n for e in events for n in e.nodes)
            },
        }
        nodes = {f"{kind}{key}": group[key] for kind, group in groups.items() for key in group}
        derivatives, nodes = without_rates(self.states, derivatives, nodes, f"'{self.reader.file}'")
        fixed = self._set_starts({own: nodes[f"start of {own}"] for own in self.identifiers})
        derivatives = substitute(derivatives, fixed)
        nodes = dict(zip(nodes, substitute(list(nodes.values()), fixed), strict=True))
        self.names, self.amounts, _, parts = (
            {key: nodes[f"{kind}{key}"] for key in group} for kind, group in groups.items()
        )
        written = iter(parts.values())
        return derivatives, [
            event.replaced(lambda old: [next(written) for _ in old]) for event in events
        ]

    def _finished(self, derivatives: list[Node], events: list[Event]) -> SbmlModel:
        """Return the system, and the amount and concentration of every species."""
        r = self.reader
        model = r.model
        system = OdeSystem(
            name=r.name,
            title=sentence(model.getName()) if model.isSetName() else "",
            description=self.called.note,
            source=f"SBML level {r.level} version {model.getVersion()}",
            states=tuple(self.states),
            parameters=tuple(self.parameters),
            derivatives=tuple(derivatives),
            observables=tuple(
                Observable(called, self.names[name], unit, label)
                for name, (called, unit, label) in self.observables.items()
            ),
            events=tuple(events),
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
        for name, value in values.items():
            if name not in r.symbols:
                r.refuse(event.where, f"it sets '{name}', which is not defined")
            target = self.amounts.get(name, self.names[name])
            if name in self.amounts:
                # The amount uses the compartment's size before any assignment of this event.
                value = graph.mul(value, self.names[r.species[name].compartment])
            if target.op != "symbol":
                r.refuse(event.where, f"it sets '{name}', which a rule computes")
            resets.append((str(target.value), value))
        return tuple(resets)

    def _time_unit(self) -> str:
        r = self.reader
        unit = r.model.getTimeUnits() if r.level == 3 else "time"
        if unit and r.model.getUnitDefinition(unit) is not None:
            return unit_text(r.libsbml, r.model.getUnitDefinition(unit))
        if r.level == 2 or unit in ("second", "s"):
            return "s"
        return str(unit)
