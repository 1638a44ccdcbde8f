"""Equations of an SBML model: its states, parameters, observables, derivatives and events."""

from __future__ import annotations

import math
from collections.abc import Mapping

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
    without_early_rates,
)
from cubie_flow.systems.importers.elimination import solve_equations
from cubie_flow.systems.importers.formula import rate_symbol, rates_in, without_rates
from cubie_flow.systems.importers.names import sentence
from cubie_flow.systems.importers.sbml_equilibria import Equilibria
from cubie_flow.systems.importers.sbml_reader import Effect, SbmlEvent
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


class Equations(Equilibria):
    """Makes the system of a model that a reader has read."""

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
