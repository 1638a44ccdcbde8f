"""SBML, levels 2 and 3, through libsbml.

What the elements mean follows the specification "SBML Level 3 Version 2 Core" (Hucka et al.,
Journal of Integrative Bioinformatics 16, 2019) and "SBML Level 2 Version 5".

A species is a state in the unit that its name has in the model's formulas: a concentration,
or an amount where ``hasOnlySubstanceUnits`` says so. Where its compartment changes size the
state is the amount, named ``<species>_amount``, and the concentration is an observable: a new size
leaves amounts as they are. Only a rate rule of the concentration in a compartment whose size cannot
jump leaves the concentration the state.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, NoReturn

from attrs import define, field, frozen

from cubie_flow.errors import FlowError
from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.expressions.traversal import free_symbols, substitute
from cubie_flow.systems.events import Event
from cubie_flow.systems.importers import vocabulary
from cubie_flow.systems.importers.formula import (
    Builder,
    Formula,
    Function,
    rate_symbol,
    without_rates,
)
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.mathml import formula_of
from cubie_flow.systems.importers.names import MAX_REASON, Names, package, sentence, system_name
from cubie_flow.systems.importers.units import unit_text
from cubie_flow.systems.quantities import Observable, Quantity
from cubie_flow.systems.starts import start_numbers, with_start
from cubie_flow.systems.system import OdeSystem

#: Name of the state of a model in which nothing else changes by itself.
CLOCK = "clock"
_REFERENCE = re.compile(
    r"\(?References?: [^()]*?(?:Sections?|Appendix) [\w.]+(?: and [\d.]+\d)?\)?"
)
_PACKAGE = re.compile(r"Package ('\w+') is a required package")
#: Categories of libsbml's checks that find what cannot be imported; units and style do not.
_IGNORED_CHECKS = (
    "UNITS_CONSISTENCY",
    "SBO_CONSISTENCY",
    "MODELING_PRACTICE",
    "OVERDETERMINED_MODEL",
)


@frozen
class SbmlModel:
    """A model of SBML as a system, and what its identifiers are there.

    Parameters
    ----------
    system : OdeSystem
    values : mapping
        What every identifier means in the model's formulas, in symbols of the system and ``t``.
    amounts, concentrations : mapping
        Every species in substance, and in substance per size of its compartment.
    """

    system: OdeSystem
    values: Mapping[str, Node]
    amounts: Mapping[str, Node]
    concentrations: Mapping[str, Node]


@frozen
class Written:
    """An event as the model writes it.

    Parameters
    ----------
    name, where : str
        Its identifier, and its place as errors name it.
    trigger : Formula
        Happens when this becomes true.
    assignments : mapping
        New value by identifier.
    priority : Formula or None
    initial_value : bool
        Value of the trigger before the start.
    persistent : bool
        Whether it still happens if another one at the same time made the trigger false.
    values_of_trigger : bool
        Whether the assignments use the values from before others at the same time happened.
    """

    name: str
    where: str
    trigger: Formula
    assignments: Mapping[str, Formula]
    priority: Formula | None = None
    initial_value: bool = True
    persistent: bool = True
    values_of_trigger: bool = True


@define
class Symbol:
    """What an identifier stands for.

    Parameters
    ----------
    kind : {"compartment", "species", "parameter", "speciesReference"}
    where : str
    value : float or None
        Its value in formulas at the start, None where the element gives none.
    unit, label : str
    """

    kind: str
    where: str
    value: float | None
    unit: str = ""
    label: str = ""


@define
class Species:
    """What a species needs beside its symbol."""

    compartment: str
    as_amount: bool
    amount: float | None
    concentration: float | None
    changed_by_reactions: bool
    conversion: str


@define
class Effect:
    """What one occurrence in a reaction does to a species."""

    species: str
    sign: float
    coefficient: Formula
    where: str


@define
class Reaction:
    """A reaction: its rate, and what it does."""

    where: str
    rate: Formula | None
    label: str
    effects: list[Effect] = field(factory=list)


def read(name: str, markup: Markup, file: str) -> OdeSystem:
    """Return the system of a model of SBML.

    Parameters
    ----------
    name : str
        Of the system where the model has none.
    markup : Markup
    file : str
        Names the file in errors.

    Raises
    ------
    FlowError
        For a mistake, or the first thing used that is not supported, with its place.
    """
    return read_sbml(name, markup, file).system


def read_sbml(name: str, markup: Markup, file: str) -> SbmlModel:
    """Return the system of a model of SBML together with what its identifiers are there.

    Raises
    ------
    FlowError
        For a mistake, or the first thing used that is not supported, with its place.
    """
    libsbml = package("libsbml", "sbml", "SBML models")
    document = libsbml.readSBMLFromString(markup.text)
    _check_document(libsbml, document, file)
    return _Reader(libsbml, document, markup, name, file).read()


def _is_point(compartment: Any) -> bool:
    """Tell whether a compartment has no dimensions and so no size."""
    set_ = compartment.isSetSpatialDimensions()
    return bool(set_ and compartment.getSpatialDimensionsAsDouble() == 0)


def reason(message: str) -> str:
    """Return what a message of libsbml says of the model, in one line.

    It quotes a rule at length, its reference, and then says what was found; not always the last.
    """
    required = _PACKAGE.search(message)
    if required:
        return f"the SBML package {required[1]} is not supported"
    parts = [part.strip(" .[]\n") for part in _REFERENCE.split(sentence(message))]
    text = parts[1] if len(parts) > 1 and parts[1] else parts[0]
    text = text.partition(" For more information, see")[0].strip(" .")
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


def _check_document(libsbml: Any, document: Any, file: str) -> None:
    def refuse_first() -> None:
        for number in range(document.getNumErrors()):
            error = document.getError(number)
            if error.getSeverity() >= libsbml.LIBSBML_SEV_ERROR:
                raise FlowError(
                    f"'{file}', line {error.getLine()}: it is no valid SBML: "
                    f"{reason(error.getMessage())}"
                )

    if document.getLevel() == 1:
        raise FlowError(f"'{file}': SBML level 1 is not supported; convert it to level 3")
    refuse_first()
    for number in range(document.getNumPlugins() if document.getLevel() == 3 else 0):
        prefix = document.getPlugin(number).getPrefix()
        if document.getPackageRequired(prefix):
            raise FlowError(f"'{file}': the SBML package '{prefix}' is not supported")
    if document.getModel() is None:
        raise FlowError(f"'{file}': it holds no model")
    for check in _IGNORED_CHECKS:
        document.setConsistencyChecks(getattr(libsbml, f"LIBSBML_CAT_{check}"), False)
    document.checkConsistency()
    refuse_first()


class _Reader:
    """Reads one model; every step fills what the next one needs."""

    def __init__(self, libsbml: Any, document: Any, markup: Markup, name: str, file: str) -> None:
        self.libsbml = libsbml
        self.model = document.getModel()
        self.level = document.getLevel()
        self.markup = markup
        self.file = file
        self.name = system_name(self.model.getId(), name)
        self.symbols: dict[str, Symbol] = {}
        self.species: dict[str, Species] = {}
        self.reactions: dict[str, Reaction] = {}
        self.assigned: dict[str, Formula] = {}
        self.rates: dict[str, Formula] = {}
        self.initial: dict[str, Formula] = {}
        #: Places of rules and of initial assignments.
        self.wheres: dict[str, str] = {}
        self.begins: dict[str, str] = {}
        self.builder = Builder()
        self.events: list[Written] = []

    def read(self) -> SbmlModel:
        self._check_supported()
        self.builder = Builder(self._functions())
        self._rules()
        self._compartments()
        self._parameters()
        self._species()
        self._reactions()
        self.events = self._events()
        return self._system()

    # what is written ----------------------------------------------------------------------------

    def _refuse(self, where: str, reason: str) -> NoReturn:
        raise FlowError(f"'{self.file}', {where}: {reason}")

    def _place(self, element: str, key: str) -> str:
        return self.markup.place(element, key)

    def _formula(self, math: Any, where: str, local: Mapping[str, str] | None = None) -> Formula:
        return formula_of(self.libsbml, math, f"'{self.file}', {where}", local or {})

    def _check_supported(self) -> None:
        for number, item in enumerate(self.model.getListOfConstraints(), 1):
            if item.getMath() is not None:
                where = f"line {item.getLine()}, constraint {number}"
                self._refuse(where, "constraints are not supported")
        for rule in self.model.getListOfRules():
            if rule.isAlgebraic():
                self._refuse(
                    f"line {rule.getLine()}, algebraicRule", "algebraic rules are not supported"
                )

    def _functions(self) -> dict[str, Function]:
        found = {}
        for item in self.model.getListOfFunctionDefinitions():
            name = item.getId()
            where = self._place("functionDefinition", name)
            arguments = tuple(item.getArgument(i).getName() for i in range(item.getNumArguments()))
            if item.getBody() is None:
                continue
            found[name] = Function(arguments, self._formula(item.getBody(), where))
        return found

    def _rules(self) -> None:
        for rule in self.model.getListOfRules():
            variable, written = rule.getVariable(), rule.getMath()
            if written is None:  # a rule without a formula has no effect (L3V2, 4.9)
                continue
            kind = "rateRule" if rule.isRate() else "assignmentRule"
            where = self._place(kind, variable)
            group = self.rates if rule.isRate() else self.assigned
            group[variable] = self._formula(written, where)
            self.wheres[variable] = where
        for item in self.model.getListOfInitialAssignments():
            if item.getMath() is not None:
                where = self._place("initialAssignment", item.getSymbol())
                self.initial[item.getSymbol()] = self._formula(item.getMath(), where)
                self.begins[item.getSymbol()] = where

    def _label(self, item: Any) -> str:
        return sentence(item.getName()) if item.isSetName() else ""

    def _compartments(self) -> None:
        for item in self.model.getListOfCompartments():
            value = item.getSize() if item.isSetSize() else None
            if value is None and _is_point(item):
                continue  # it has no size
            self.symbols[item.getId()] = Symbol(
                "compartment",
                self._place("compartment", item.getId()),
                value,
                unit_text(self.libsbml, item.getDerivedUnitDefinition()),
                self._label(item),
            )

    def _parameters(self) -> None:
        for item in self.model.getListOfParameters():
            self.symbols[item.getId()] = Symbol(
                "parameter",
                self._place("parameter", item.getId()),
                item.getValue() if item.isSetValue() else None,
                unit_text(self.libsbml, item.getDerivedUnitDefinition()),
                self._label(item),
            )

    def _species(self) -> None:
        common = self.model.getConversionFactor() if self.level == 3 else ""
        for item in self.model.getListOfSpecies():
            name = item.getId()
            place = self.model.getCompartment(item.getCompartment())
            flat = place is not None and _is_point(place)
            own = item.getConversionFactor() if self.level == 3 else ""
            self.species[name] = Species(
                compartment=item.getCompartment(),
                as_amount=item.getHasOnlySubstanceUnits() or flat,
                amount=item.getInitialAmount() if item.isSetInitialAmount() else None,
                concentration=(
                    item.getInitialConcentration() if item.isSetInitialConcentration() else None
                ),
                changed_by_reactions=not (item.getBoundaryCondition() or item.getConstant()),
                conversion=own or common,
            )
            self.symbols[name] = Symbol(
                "species",
                self._place("species", name),
                None,
                unit_text(self.libsbml, item.getDerivedUnitDefinition()),
                self._label(item),
            )

    def _reactions(self) -> None:
        mentioned = self._mentioned()
        for item in self.model.getListOfReactions():
            name = item.getId()
            where = self._place("reaction", name)
            if item.isSetFast() and item.getFast():
                self._refuse(where, "fast reactions are not supported")
            reaction = Reaction(where, None, self._label(item))
            law = item.getKineticLaw()
            if law is not None and law.getMath() is not None:
                reaction.rate = self._formula(law.getMath(), where, self._local(name, law, where))
            for references, sign in (
                (item.getListOfReactants(), -1.0),
                (item.getListOfProducts(), 1.0),
            ):
                for reference in references:
                    reaction.effects.append(self._effect(reference, sign, where, mentioned))
            self.reactions[name] = reaction

    def _mentioned(self) -> set[str]:
        """Return every identifier that a formula of the model uses or gives a value."""
        formulas = [*self.assigned.values(), *self.rates.values(), *self.initial.values()]
        found = {*self.assigned, *self.rates, *self.initial}
        for event in self.model.getListOfEvents():
            found |= {a.getVariable() for a in event.getListOfEventAssignments()}
        for reaction in self.model.getListOfReactions():
            law = reaction.getKineticLaw()
            if law is not None and law.getMath() is not None:
                where = self._place("reaction", reaction.getId())
                formulas.append(self._formula(law.getMath(), where))
        for formula in formulas:
            found |= {part.value for part in formula.walk() if part.op in ("name", "rate")}
        return found

    def _local(self, reaction: str, law: Any, where: str) -> dict[str, str]:
        """Add the law's own parameters as ``<reaction>_<parameter>``; return those names."""
        items = law.getListOfParameters() if self.level == 2 else law.getListOfLocalParameters()
        found = {}
        for item in items:
            name = f"{reaction}_{item.getId()}"
            while name in self.symbols or self.model.getElementBySId(name) is not None:
                name += "_"
            found[item.getId()] = name
            self.symbols[name] = Symbol(
                "parameter",
                f"{where}, parameter '{item.getId()}'",
                item.getValue() if item.isSetValue() else None,
                unit_text(self.libsbml, item.getDerivedUnitDefinition()),
                self._label(item) or f"{item.getId()} of {reaction}",
            )
        return found

    def _effect(self, item: Any, sign: float, reaction: str, mentioned: set[str]) -> Effect:
        where = f"{reaction}, species '{item.getSpecies()}'"
        value = item.getStoichiometry() if item.isSetStoichiometry() else None
        if value is None and self.level == 2:
            value = 1.0
        if self.level == 2 and item.isSetStoichiometryMath():
            written = item.getStoichiometryMath().getMath()
            if written is not None:
                return Effect(item.getSpecies(), sign, self._formula(written, where), where)
        name = item.getId() if self.level == 3 and item.isSetIdAttribute() else ""
        if name and name in mentioned:
            self.symbols[name] = Symbol(
                "speciesReference", self._place("speciesReference", name), value, "", ""
            )
            return Effect(item.getSpecies(), sign, Formula("name", name), where)
        if value is None:
            self._refuse(where, "its stoichiometry is not given")
        if not math.isfinite(value):
            self._refuse(where, f"its stoichiometry is {value}, which is not finite")
        return Effect(item.getSpecies(), sign, Formula("number", value), where)

    def _events(self) -> list[Written]:
        """Return the events. What they change is a state."""
        found = []
        for number, item in enumerate(self.model.getListOfEvents(), 1):
            key = item.getId() or item.getName()
            where = self._place("event", key) if key else f"event {number}"
            trigger = item.getTrigger()
            if trigger is None or trigger.getMath() is None:
                continue  # without a condition it never happens (L3V2, 4.12)

            def part(owner: Any, where: str = where) -> Formula | None:
                has = owner is not None and owner.getMath() is not None
                return self._formula(owner.getMath(), where) if has else None

            delay = part(item.getDelay())
            if delay is not None and not (delay.op == "number" and delay.value == 0.0):
                self._refuse(where, "delays of events are not supported")
            assignments = {
                a.getVariable(): self._formula(a.getMath(), where)
                for a in item.getListOfEventAssignments()
                if a.getMath() is not None
            }
            new = self.level == 3
            found.append(
                Written(
                    name=key or "event",
                    where=where,
                    trigger=self._formula(trigger.getMath(), where),
                    assignments=assignments,
                    priority=part(item.getPriority()) if new else None,
                    initial_value=trigger.getInitialValue() if new else True,
                    persistent=trigger.getPersistent() if new else True,
                    values_of_trigger=item.getUseValuesFromTriggerTime(),
                )
            )
        return found

    # for the equations ---------------------------------------------------------------------------

    def _where(self, name: str) -> str:
        if name in self.wheres:
            return self.wheres[name]
        return self.symbols[name].where if name in self.symbols else self.reactions[name].where

    def _in_order(self, uses: Mapping[str, Iterable[str]]) -> list[str]:
        known = {name: sorted(n for n in used if n in uses) for name, used in uses.items()}
        try:
            return list(TopologicalSorter(known).static_order())
        except CycleError as error:
            names = error.args[1]
            circle = " -> ".join(reversed(names))
            self._refuse(self._where(names[0]), f"values use each other in a circle: {circle}")

    def _no_value(self, name: str) -> NoReturn:
        if name not in self.symbols and name not in self.reactions:
            raise FlowError(f"'{self.file}': '{name}' is not defined")
        self._refuse(self._where(name), "it has no value, and no rule or initial assignment")

    def _refuse_start(self, name: str, value: float) -> NoReturn:
        where = self.begins.get(name) or self._where(name)
        self._refuse(where, f"its value at the start is {value}, not finite")

    def _built(self, formula: Formula, names: Mapping[str, Node], where: str) -> Node:
        return self.builder.build(formula, names, f"'{self.file}', {where}")

    # equations ----------------------------------------------------------------------------------

    def _system(self) -> SbmlModel:
        return _Equations(self).model()

    def moves(self, name: str) -> bool:
        """Tell whether a rule or an event gives `name` its value over time."""
        return name in self.assigned or name in self.rates or name in self.set_by_events

    def may_jump(self, name: str) -> bool:
        """Tell whether an event may change `name` at once, itself or by what its rule uses."""
        return name in self.assigned or name in self.set_by_events

    @property
    def set_by_events(self) -> set[str]:
        """Everything that some event assigns."""
        return {name for event in self.events for name in event.assignments}


class _Equations:
    """Makes the states, parameters, observables and derivatives of what a reader has read."""

    def __init__(self, reader: _Reader) -> None:
        self.read = reader
        self.names: dict[str, Node] = {}
        self.states: list[Quantity] = []
        self.parameters: list[Quantity] = []
        self.observables: dict[str, tuple[str, str, str]] = {}
        #: Symbol of the amount of a species whose state or parameter is its amount only.
        self.amounts: dict[str, Node] = {}
        self.called: Names = Names()
        self.own: dict[str, str] = {}
        #: What each state and parameter stands for.
        self.identifiers: dict[str, str] = {}

    def model(self) -> SbmlModel:
        r = self.read
        self.own = self.called.reserve([*r.symbols, *r.reactions])
        derived: dict[str, tuple[set[str], Callable[[], Node]]] = {}
        reacting = {effect.species for item in r.reactions.values() for effect in item.effects}
        rated: list[str] = []
        for name, item in r.symbols.items():
            if name in r.assigned:
                formula = r.assigned[name]
                derived[name] = (formula.names, self._later(name, formula))
                self._observe(name)
                continue
            changes = name in r.rates or name in r.set_by_events
            if item.kind == "species":
                own = r.species[name]
                changes = changes or (own.changed_by_reactions and name in reacting)
                holds = r.may_jump if name in r.rates else r.moves
                if not own.as_amount and holds(own.compartment):
                    label = f"amount of {item.label or name}"
                    quantity = Quantity(self.called.new(f"{name}_amount"), math.nan, "", label)
                    self.amounts[name] = self._add(name, quantity, changes)
                    derived[name] = ({own.compartment}, self._concentration(name, own))
                    self._observe(name)
                    if changes:
                        rated.append(name)
                    continue
            quantity = Quantity(self.own[name], math.nan, item.unit, self._label(name, item.label))
            self.names[name] = self._add(name, quantity, changes)
            if changes:
                rated.append(name)
        for name, reaction in r.reactions.items():
            if reaction.rate is not None:
                derived[name] = (reaction.rate.names, self._later(name, reaction.rate))
                self._observe(name)
        for name in r._in_order({name: used for name, (used, _) in derived.items()}):
            self.names[name] = derived[name][1]()
        derivatives = self._derivatives(rated)
        derivatives, events = self._resolved(derivatives, self._events())
        if not self.states:
            self.states.append(Quantity(self.called.new(CLOCK), 0.0, "", "the time"))
            derivatives.append(const(1.0))
        return self._finished(derivatives, events)

    def _label(self, name: str, label: str) -> str:
        if self.own[name] == name or name in label.split():
            return label
        return f"{label} ({name})" if label else name

    def _observe(self, name: str) -> None:
        r = self.read
        item = r.symbols.get(name)
        label = item.label if item else r.reactions[name].label or f"rate of {name}"
        unit = item.unit if item else ""
        self.observables[name] = (self.own[name], unit, self._label(name, label))

    def _later(self, name: str, formula: Formula) -> Callable[[], Node]:
        return lambda: self.read._built(formula, self.names, self.read._where(name))

    def _concentration(self, name: str, own: Species) -> Callable[[], Node]:
        return lambda: graph.div(self.amounts[name], self.names[own.compartment])

    def _add(self, name: str, quantity: Quantity, changes: bool) -> Node:
        """Add what stands for `name` as a state or parameter; return its symbol."""
        (self.states if changes else self.parameters).append(quantity)
        self.identifiers[quantity.name] = name
        return symbol(quantity.name)

    def _start(self, name: str) -> Node:
        """Return what the state or parameter that stands for `name` is at the start.

        The graphs of all names hold then too, with the initial values of the states.
        """
        r = self.read
        item, own = r.symbols[name], r.species.get(name)
        given, is_amount = item.value, False
        if own is not None:
            is_amount = own.amount is not None
            given = own.amount if is_amount else own.concentration
        if name in r.initial:
            node = r._built(r.initial[name], self.names, r.begins[name])
            is_amount = own is not None and own.as_amount
        elif given is None:
            r._no_value(name)
        else:
            node = vocabulary.literal(given)
        if own is None or is_amount == (own.as_amount or name in self.amounts):
            return node
        size = self.names.get(own.compartment)
        if size is None:
            r._no_value(own.compartment)
        return graph.div(node, size) if is_amount else graph.mul(node, size)

    def _derivatives(self, rated: list[str]) -> list[Node]:
        r = self.read
        effects: dict[str, list[tuple[Effect, str]]] = {}
        for reaction, item in r.reactions.items():
            for effect in item.effects:
                effects.setdefault(effect.species, []).append((effect, reaction))
        found = []
        for name in rated:
            if name in r.rates:
                found.append(self._ruled(name))
                continue
            total = graph.ZERO
            reacts = name in r.species and r.species[name].changed_by_reactions
            for effect, reaction in effects.get(name, ()) if reacts else ():
                if reaction not in self.names:
                    r._refuse(r.reactions[reaction].where, "it has no kinetic law")
                times = r._built(effect.coefficient, self.names, effect.where)
                part = graph.mul(times, self.names[reaction])
                total = graph.add(total, part) if effect.sign > 0 else graph.sub(total, part)
            if name not in r.species:
                found.append(total)
                continue
            own = r.species[name]
            if own.conversion:
                total = graph.mul(self.names[own.conversion], total)
            if name not in self.amounts and not own.as_amount:
                total = graph.div(total, self.names[own.compartment])
            found.append(total)
        return found

    def _ruled(self, name: str) -> Node:
        """Return the derivative of the state that stands for `name`, which a rate rule changes."""
        r = self.read
        rate = r._built(r.rates[name], self.names, r._where(name))
        if name not in self.amounts:
            return rate
        # The rule gives the rate of the concentration C: A = V*C has the rate V*C' + C*V'.
        place = r.species[name].compartment
        growth = graph.mul(self.names[name], symbol(rate_symbol(place)))
        return graph.add(graph.mul(self.names[place], rate), growth)

    def _resolved(
        self, derivatives: list[Node], events: list[Event]
    ) -> tuple[list[Node], list[Event]]:
        """Write out rates, and what has no finite value, wherever they are used."""
        groups: dict[str, Mapping[str, Node]] = {
            "": self.names,
            "amount of ": self.amounts,
            "start of ": {own: self._start(name) for own, name in self.identifiers.items()},
            "of events ": {
                str(k): node for k, node in enumerate(n for e in events for n in e.nodes)
            },
        }
        nodes = {f"{kind}{key}": group[key] for kind, group in groups.items() for key in group}
        derivatives, nodes = without_rates(self.states, derivatives, nodes, f"'{self.read.file}'")
        fixed = self._begin({own: nodes[f"start of {own}"] for own in self.identifiers})
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
        r = self.read
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

    def _begin(self, starts: Mapping[str, Node]) -> dict[Node, Node]:
        """Give states and parameters their values at the start, numbers or expressions.

        Returns
        -------
        dict
            What stands instead of parameters without a finite value, which no batch could vary.
        """
        r = self.read
        given = [with_start(item, starts[item.name]) for item in (*self.states, *self.parameters)]
        numbers = start_numbers(given, (), f"'{r.file}'")
        infinite = {name: x for name, x in numbers.items() if not math.isfinite(x)}
        for state in self.states:
            if state.name in infinite:
                r._refuse_start(self.identifiers[state.name], infinite[state.name])
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
        """Return the events, setting the states that stand for what they assign."""
        r = self.read
        found = []
        for event in r.events:
            values = {
                name: r._built(formula, self.names, event.where)
                for name, formula in event.assignments.items()
            }
            resets = []
            for name, value in values.items():
                if name not in r.symbols:
                    r._refuse(event.where, f"it sets '{name}', which is not defined")
                target = self.amounts.get(name, self.names[name])
                if name in self.amounts:
                    # In substance at once: a new size of its place set at the same time is later.
                    value = graph.mul(value, self.names[r.species[name].compartment])
                if target.op != "symbol":
                    r._refuse(event.where, f"it sets '{name}', which a rule computes")
                resets.append((str(target.value), value))
            priority = graph.ZERO
            if event.priority is not None:
                priority = r._built(event.priority, self.names, event.where)
            trigger = r._built(event.trigger, self.names, event.where)
            if trigger.kind != "bool":
                trigger = graph.compare("!=", trigger, 0.0)
            found.append(
                Event(
                    name=self.called.reserve([event.name])[event.name],
                    condition=trigger,
                    resets=tuple(resets),
                    priority=priority,
                    initially=event.initial_value,
                    persistent=event.persistent,
                    early=event.values_of_trigger,
                )
            )
        return found

    def _time_unit(self) -> str:
        r = self.read
        unit = r.model.getTimeUnits() if r.level == 3 else "time"
        if unit and r.model.getUnitDefinition(unit) is not None:
            return unit_text(r.libsbml, r.model.getUnitDefinition(unit))
        if r.level == 2 or unit in ("second", "s"):
            return "s"
        return str(unit)
