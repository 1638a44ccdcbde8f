"""Contents of an SBML model, read through libsbml into plain records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from attrs import define, field, frozen

from cubie_flow.errors import FlowError
from cubie_flow.expressions.graph import Node
from cubie_flow.systems.importers.formula import Builder, Formula, Function
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.mathml import formula_of
from cubie_flow.systems.importers.names import sentence, system_name
from cubie_flow.systems.importers.units import unit_text
from cubie_flow.systems.ordering import dependency_order


@frozen
class SbmlEvent:
    """An event of the model.

    Parameters
    ----------
    name : str
        Identifier, or the name where it has none.
    where : str
        Place in the file, for errors.
    trigger : Formula
        The event happens when this becomes true.
    assignments : mapping
        New values by identifier.
    priority : Formula or None
    initial_value : bool
        Value of the trigger before the start.
    persistent : bool
        Whether it still happens if the trigger becomes false before.
    values_of_trigger : bool
        Whether the assignments use the values from before the delay, and before other events at
        the same time.
    delay : Formula or None
        Time from the moment when the trigger becomes true to the assignments.
    """

    name: str
    where: str
    trigger: Formula
    assignments: Mapping[str, Formula]
    priority: Formula | None = None
    initial_value: bool = True
    persistent: bool = True
    values_of_trigger: bool = True
    delay: Formula | None = None


@define
class Symbol:
    """The element that an identifier names.

    Parameters
    ----------
    kind : {"compartment", "species", "parameter", "speciesReference"}
    where : str
        Place in the file, for errors.
    value : float or None
        Start value in formulas; None where the element gives none.
    unit, label : str
    """

    kind: str
    where: str
    value: float | None
    unit: str = ""
    label: str = ""


@define
class Species:
    """Attributes of a species in addition to its symbol."""

    compartment: str
    as_amount: bool
    amount: float | None
    concentration: float | None
    changed_by_reactions: bool
    conversion: str


@define
class Effect:
    """Change of a species by one reactant or product of a reaction."""

    species: str
    sign: float
    coefficient: Formula
    where: str


@define
class Reaction:
    """A reaction: its rate and its effects on species."""

    where: str
    rate: Formula | None
    label: str
    effects: list[Effect] = field(factory=list)
    fast: bool = False


class SbmlReader:
    """Reads one model, section by section.

    Parameters
    ----------
    libsbml : module
    document : libsbml.SBMLDocument
    markup : Markup
    name : str
        Name of a model without an identifier.
    file : str
        Names the file in errors.
    """

    def __init__(self, libsbml: Any, document: Any, markup: Markup, name: str, file: str) -> None:
        self.libsbml = libsbml
        self.model = document.getModel()
        self.level = document.getLevel()
        self.markup = markup
        self.file = file
        self.name = system_name(self.model.getId(), name)
        self.source = f"SBML level {self.level} version {document.getVersion()}"
        #: Level 1 does not say what is constant.
        self.variable_by_default = False
        #: What a user has to know about the model as it is read.
        self.notes: list[str] = []
        self.symbols: dict[str, Symbol] = {}
        self.species: dict[str, Species] = {}
        self.reactions: dict[str, Reaction] = {}
        self.assigned: dict[str, Formula] = {}
        self.rates: dict[str, Formula] = {}
        self.initial: dict[str, Formula] = {}
        #: Formulas of algebraic rules, which are zero, each with its place.
        self.algebraic: list[tuple[Formula, str]] = []
        #: Identifiers that an algebraic rule may determine, the most likely first.
        self.unknowns: list[str] = []
        self.constant: set[str] = set()
        #: Species that take part in reactions.
        self.reacting: set[str] = set()
        #: Places of rules and of initial assignments in the file.
        self.rule_places: dict[str, str] = {}
        self.initial_places: dict[str, str] = {}
        self.builder = Builder()
        self.events: list[SbmlEvent] = []

    def read(self) -> None:
        """Read the model; each section uses those before it.

        Raises
        ------
        FlowError
            For the first thing that is not supported, with its place.
        """
        self._check_supported()
        self.builder = Builder(self._functions())
        self._rules()
        self._compartments()
        self._parameters()
        self._species()
        self._reactions()
        self.reacting = {
            effect.species for item in self.reactions.values() for effect in item.effects
        }
        self.events = self._events()
        if self.algebraic:
            self.unknowns = self._unknowns()

    # contents of the file ----------------------------------------------------------------------

    def refuse(self, where: str, reason: str) -> NoReturn:
        """Raise an error that names the file and a place in it."""
        raise FlowError(f"'{self.file}', {where}: {reason}")

    def _place(self, element: str, key: str) -> str:
        """Return the place of an element in the file."""
        return self.markup.place(element, key)

    def _formula(self, math: Any, where: str, local: Mapping[str, str] | None = None) -> Formula:
        return formula_of(self.libsbml, math, f"'{self.file}', {where}", local or {})

    def _check_supported(self) -> None:
        for number, item in enumerate(self.model.getListOfConstraints(), 1):
            if item.getMath() is not None:
                where = f"constraint {number}"
                if self.markup.first:
                    where = f"line {item.getLine()}, {where}"
                self.refuse(where, "constraints are not supported")

    def _functions(self) -> dict[str, Function]:
        functions = {}
        for item in self.model.getListOfFunctionDefinitions():
            name = item.getId()
            where = self._place("functionDefinition", name)
            arguments = tuple(item.getArgument(i).getName() for i in range(item.getNumArguments()))
            if item.getBody() is None:
                continue
            functions[name] = Function(arguments, self._formula(item.getBody(), where))
        return functions

    def _rules(self) -> None:
        for rule in self.model.getListOfRules():
            variable, written = rule.getVariable(), rule.getMath()
            if written is None:  # a rule without a formula has no effect (L3V2, 4.9)
                continue
            if rule.isAlgebraic():
                where = f"algebraicRule {len(self.algebraic) + 1}"
                if self.markup.first and rule.getLine():
                    where = f"line {rule.getLine()}, {where}"
                self.algebraic.append((self._formula(written, where), where))
                continue
            kind = "rateRule" if rule.isRate() else "assignmentRule"
            where = self._place(kind, variable)
            group = self.rates if rule.isRate() else self.assigned
            group[variable] = self._formula(written, where)
            self.rule_places[variable] = where
        for item in self.model.getListOfInitialAssignments():
            if item.getMath() is not None:
                where = self._place("initialAssignment", item.getSymbol())
                self.initial[item.getSymbol()] = self._formula(item.getMath(), where)
                self.initial_places[item.getSymbol()] = where

    def _label(self, item: Any) -> str:
        return sentence(item.getName()) if item.isSetName() else ""

    def _compartments(self) -> None:
        for item in self.model.getListOfCompartments():
            value = item.getSize() if item.isSetSize() else None
            if value is None and _is_point(item):
                continue  # it has no size
            name = item.getId()
            if value is None and not (name in self.assigned or name in self.initial):
                value = 1.0
                if self.level != 2 or not self.variable_by_default:  # level 1 has this default
                    self.notes.append(f"compartment '{name}' has no size, which counts as 1")
            self.symbols[item.getId()] = Symbol(
                "compartment",
                self._place("compartment", item.getId()),
                value,
                unit_text(self.libsbml, item.getDerivedUnitDefinition()),
                self._label(item),
            )
            self._note_constant(item, item.getId())

    def _note_constant(self, item: Any, name: str) -> None:
        if item.getConstant() and not self.variable_by_default:
            self.constant.add(name)

    def _parameters(self) -> None:
        for item in self.model.getListOfParameters():
            self.symbols[item.getId()] = Symbol(
                "parameter",
                self._place("parameter", item.getId()),
                item.getValue() if item.isSetValue() else None,
                unit_text(self.libsbml, item.getDerivedUnitDefinition()),
                self._label(item),
            )
            self._note_constant(item, item.getId())

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
            self._note_constant(item, name)

    def _reactions(self) -> None:
        mentioned = self._mentioned()
        for item in self.model.getListOfReactions():
            name = item.getId()
            where = self._place("reaction", name)
            fast = bool(item.isSetFast() and item.getFast())
            reaction = Reaction(where, None, self._label(item), fast=fast)
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
        """Return every identifier that a formula of the model uses or computes."""
        formulas = [*self.assigned.values(), *self.rates.values(), *self.initial.values()]
        formulas += [formula for formula, _ in self.algebraic]
        names = {*self.assigned, *self.rates, *self.initial}
        for event in self.model.getListOfEvents():
            changes = list(event.getListOfEventAssignments())
            names |= {change.getVariable() for change in changes}
            parts = (event.getTrigger(), event.getDelay(), event.getPriority(), *changes)
            formulas += self._formulas_of(parts, self._place("event", event.getId()))
        for reaction in self.model.getListOfReactions():
            where = self._place("reaction", reaction.getId())
            formulas += self._formulas_of([reaction.getKineticLaw()], where)
        for formula in formulas:
            names |= {part.value for part in formula.walk() if part.op in ("name", "rate")}
        return names

    def _formulas_of(self, owners: Iterable[Any], where: str) -> list[Formula]:
        """Return the formulas of elements; an element without one has no effect."""
        return [
            self._formula(owner.getMath(), where)
            for owner in owners
            if owner is not None and owner.getMath() is not None
        ]

    def _local(self, reaction: str, law: Any, where: str) -> dict[str, str]:
        """Add local parameters as ``<reaction>_<parameter>``; return these names by identifier."""
        items = law.getListOfParameters() if self.level == 2 else law.getListOfLocalParameters()
        renamed = {}
        for item in items:
            name = f"{reaction}_{item.getId()}"
            while name in self.symbols or self.model.getElementBySId(name) is not None:
                name += "_"
            renamed[item.getId()] = name
            self.symbols[name] = Symbol(
                "parameter",
                f"{where}, parameter '{item.getId()}'",
                item.getValue() if item.isSetValue() else None,
                unit_text(self.libsbml, item.getDerivedUnitDefinition()),
                self._label(item) or f"{item.getId()} of {reaction}",
            )
            self.constant.add(name)
        return renamed

    def _effect(self, item: Any, sign: float, reaction: str, mentioned: set[str]) -> Effect:
        """Return the effect of a reactant or product, whose stoichiometry may be a formula."""
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
            self._note_constant(item, name)
            return Effect(item.getSpecies(), sign, Formula("name", name), where)
        if value is None:
            self.refuse(where, "its stoichiometry is not given")
        if not math.isfinite(value):
            self.refuse(where, f"its stoichiometry is {value}, which is not finite")
        return Effect(item.getSpecies(), sign, Formula("number", value), where)

    def _events(self) -> list[SbmlEvent]:
        """Return the events."""
        records = []
        for number, item in enumerate(self.model.getListOfEvents(), 1):
            key = item.getId() or item.getName()
            where = self._place("event", key) if key else f"event {number}"
            trigger = item.getTrigger()
            if trigger is None or trigger.getMath() is None:
                continue  # without a condition it never happens (L3V2, 4.12)

            def part(owner: Any, where: str = where) -> Formula | None:
                has = owner is not None and owner.getMath() is not None
                return self._formula(owner.getMath(), where) if has else None

            assignments = {
                a.getVariable(): self._formula(a.getMath(), where)
                for a in item.getListOfEventAssignments()
                if a.getMath() is not None
            }
            new = self.level == 3
            records.append(
                SbmlEvent(
                    name=key or "event",
                    where=where,
                    trigger=self._formula(trigger.getMath(), where),
                    assignments=assignments,
                    priority=part(item.getPriority()) if new else None,
                    initial_value=trigger.getInitialValue() if new else True,
                    persistent=trigger.getPersistent() if new else True,
                    values_of_trigger=item.getUseValuesFromTriggerTime(),
                    delay=part(item.getDelay()),
                )
            )
        return records

    def _unknowns(self) -> list[str]:
        """Return the identifiers that algebraic rules use and nothing else determines.

        The specification leaves open which of several is meant. Here it is one that no event sets,
        that is not a boundary species, and that has no value of its own; of level 1, where every
        parameter may change, a species.
        """
        used: set[str] = set()
        waiting = [name for formula, _ in self.algebraic for name in formula.names]
        while waiting:
            name = waiting.pop()
            if name in used:
                continue
            used.add(name)
            inner = self.assigned.get(name)
            if inner is None and name in self.reactions:
                inner = self.reactions[name].rate
            waiting += inner.names if inner is not None else ()

        def determined(name: str) -> bool:
            own = self.species.get(name)
            reacts = own is not None and own.changed_by_reactions and name in self.reacting
            return reacts or name in self.assigned or name in self.rates or name in self.constant

        def rank(name: str) -> tuple[bool, bool, bool, bool]:
            own, item = self.species.get(name), self.symbols[name]
            given = item.value is not None or name in self.initial
            if own is not None:
                given = given or own.amount is not None or own.concentration is not None
            boundary = own is not None and not own.changed_by_reactions
            unlikely = own is None and self.variable_by_default
            return name in self.set_by_events, boundary, unlikely, given

        return sorted(
            (name for name in self.symbols if name in used and not determined(name)), key=rank
        )

    # for the equations --------------------------------------------------------------------------

    def where_of(self, name: str) -> str:
        """Return the place of the rule or element of an identifier."""
        if name in self.rule_places:
            return self.rule_places[name]
        return self.symbols[name].where if name in self.symbols else self.reactions[name].where

    def in_order(self, uses: Mapping[str, Iterable[str]]) -> list[str]:
        """Return identifiers in an order in which each follows those it uses."""

        def refuse(circle: list[str]) -> NoReturn:
            reason = f"values use each other in a circle: {' -> '.join(circle)}"
            self.refuse(self.where_of(circle[0]), reason)

        return dependency_order(uses, refuse)

    def refuse_missing_value(self, name: str) -> NoReturn:
        """Raise the error for an identifier without a value."""
        if name not in self.symbols and name not in self.reactions:
            raise FlowError(f"'{self.file}': '{name}' is not defined")
        self.refuse(self.where_of(name), "it has no value, and no rule or initial assignment")

    def refuse_start(self, name: str, value: float) -> NoReturn:
        """Raise the error for an infinite start value."""
        where = self.initial_places.get(name) or self.where_of(name)
        self.refuse(where, f"its value at the start is {value}, not finite")

    def build(self, formula: Formula, names: Mapping[str, Node], where: str) -> Node:
        """Return the graph of a formula, in terms of `names`.

        Parameters
        ----------
        formula : Formula
        names : mapping
            Node of every quantity.
        where : str
            Place in the file, for errors.
        """
        return self.builder.build(formula, names, f"'{self.file}', {where}")

    def moves(self, name: str) -> bool:
        """Return whether a rule or an event changes `name` over time."""
        return self.may_jump(name) or name in self.rates

    def may_jump(self, name: str) -> bool:
        """Return whether an event may make `name` jump, by assignment or through its rule."""
        return name in self.assigned or name in self.set_by_events or name in self.unknowns

    @property
    def set_by_events(self) -> set[str]:
        """Identifiers that events assign."""
        return {name for event in self.events for name in event.assignments}


def _is_point(compartment: Any) -> bool:
    """Return whether a compartment has no dimensions, and therefore no size."""
    set_ = compartment.isSetSpatialDimensions()
    return bool(set_ and compartment.getSpatialDimensionsAsDouble() == 0)
