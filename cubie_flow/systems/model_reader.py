"""Models as plain mappings, as YAML files and composed configs hold them.

A model is a mapping with these keys; only `states` and `equations` are needed::

    name: heat                          # of the system; letters, digits, _ - .
    title: A heated rod                 # and description, source: text
    time: {unit: s, duration: 10.0}
    settings: {size: 20}                # whole numbers, fixed when the model is compiled
    indices:                            # what runs in indexed families, from 0 to size - 1
      i: {size: size, boundary: clamp}  # boundary: none (the default), periodic or clamp
    constants: {length: 0.5}            # numbers, folded in
    parameters: {k: 1e-4}               # what a batch may vary
    states:                             # initial values
      T[i]: where(i == 0, 100, 0)       # or a list, [100, 0, 0, ...]
    definitions: {dx: length/size}      # named parts of expressions, not saved
    equations:                          # time derivative of every state
      T[i]: k*(T[i-1] - 2*T[i] + T[i+1])/dx**2
    events: {...}                       # see `cubie_flow.systems.events_reader`
    doses: [{into: x, amount: 1.0}]     # likewise
    mass: {z: 0}                        # factors of time derivatives where they are not 1
    observables: {mean: sum(T[i], i)/size}   # computed from states, parameters and t
    drivers:                            # series over time, see `cubie_flow.systems.drivers`
      u: {file: data.csv, column: u, interpolation: linear, outside: hold}
    units: {T: degC, mean: degC}        # of any of them, families by their plain name
    long_names: {T: temperature}
    suggested: {k: {loguniform: [1e-5, 1e-3]}}   # what a batch varies if nobody says
    unused: []                          # names that are meant to be used nowhere

Every value is a number or an expression. Constants may use numbers, settings, other constants and
the family's own index; all others may use everything, each other too, and ``t``. The value of a
parameter or state that uses more than a constant may is computed at the start of every run: a
state's name means its initial value there and ``t`` the time of the start; the parameter is
constant from then on. Instead of a value, ``{value: 1.0, unit: m,
long_name: height}`` (``expression`` for definitions and observables) may stand.

An indexed family ``T[i]`` is written out: its elements are called ``T_0``, ``T_1`` and so on,
those of ``u[i, j]`` ``u_0_0``. An index may be computed, ``T[2*i + 1]``, and ``sum(T[i], i)``
sums over one. ``where`` with a condition that only depends on indices is decided beforehand, so
``where(i == 0, 0, T[i-1])`` never asks for ``T[-1]``.

An equation gives ``mass*dz/dt``. A mass of 0 makes it algebraic, ``0 = expression``: together
with the states before it such a system is a differential-algebraic one of index 1, which stiff
methods solve; its start is made consistent. Masses are numbers, the same all the time.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from math import prod
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.expressions.infix import to_text
from cubie_flow.expressions.traversal import free_symbols, topological
from cubie_flow.systems.drivers import Driver, read_driver
from cubie_flow.systems.events_reader import Happenings, with_inflow, write_events
from cubie_flow.systems.parser import (
    BOUNDARIES,
    Expression,
    Index,
    Scope,
    as_number,
    element_name,
    elements,
)
from cubie_flow.systems.quantities import (
    Observable,
    Quantity,
    check_name,
    check_unique,
    finite,
    shortened,
)
from cubie_flow.systems.starts import with_start

if TYPE_CHECKING:
    from cubie_flow.systems.system import OdeSystem

#: Elements that one model may have, families written out.
MAX_ELEMENTS = 100_000

KEYS = (
    "name", "title", "description", "source", "time", "settings", "indices", "constants",
    "parameters", "states", "definitions", "equations", "mass", "observables", "events",
    "doses", "drivers", "units", "long_names", "suggested", "unused",
)  # fmt: skip
#: Sections that hold named items, and what one of them is called.
SECTIONS = {
    "constants": "constant",
    "parameters": "parameter",
    "states": "state",
    "definitions": "definition",
    "observables": "observable",
}
#: Sections whose items are numbers.
VALUES = ("constants", "parameters", "states")
_FAMILY = re.compile(r"\s*(\w+)\s*\[([\w\s,]*)\]\s*")
_SYSTEM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@frozen
class Item:
    """One entry of a section: a quantity, or a family of them.

    Parameters
    ----------
    name : str
    letters : tuple of str
        Names of its indices; empty for a single quantity.
    content : float, str or tuple of these
        The number or text given, or a list of them, one an element.
    where : str
        The place, as errors name it.
    unit, long_name : str
    """

    name: str
    letters: tuple[str, ...]
    content: Any
    where: str
    unit: str = ""
    long_name: str = ""

    @cached_property
    def expression(self) -> Expression:
        """The content as an expression."""
        text = self.content if isinstance(self.content, str) else repr(self.content)
        return Expression.read(text, self.where)

    @property
    def parts(self) -> tuple[Item, ...]:
        """The item, or one a value where it is a list of values."""
        if not isinstance(self.content, tuple):
            return (self,)
        return tuple(evolve(self, content=content) for content in self.content)

    @property
    def names(self) -> set[str]:
        """Every name that it uses."""
        return set().union(*(part.expression.names for part in self.parts))


def read_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the `OdeSystem` that a mapping describes.

    Raises
    ------
    FlowError
        For the first mistake, in one sentence that names it.
    """
    if not isinstance(model, Mapping):
        raise FlowError(f"a model is a mapping with states and equations, not {shortened(model)}")
    name = model.get("name") or "model"
    if not isinstance(name, str) or not _SYSTEM_NAME.fullmatch(name):
        raise FlowError(
            f"the system name {shortened(name)} must be up to 100 letters, digits, '_', '-' and "
            "'.', beginning with a letter or digit"
        )
    _check_keys(model, KEYS, f"system {name}")
    return _Reader(name, model).read()


def _check_keys(given: Mapping[Any, Any], known: Iterable[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise FlowError(
                f"{where}: unknown key {shortened(key)} (known: {', '.join(known)})"
                f"{nearest(str(key), known)}"
            )


class _Reader:
    """Reads one model; every step fills the scope that the next one needs."""

    def __init__(self, name: str, model: Mapping[str, Any]) -> None:
        self.name = name
        self.model = model
        self.where = f"system {name}"
        self.scope = Scope()
        self.used: set[str] = set()
        self.items = {section: self._items(section) for section in SECTIONS}
        self.equations = self._items("equations")
        self.masses = self._items("mass")
        self.drivers = self._drivers()

    def read(self) -> dict[str, Any]:
        time = self._section("time")
        _check_keys(time, ("unit", "duration"), f"{self.where}, time")
        self._check_declared()
        self._settings()
        self._indices()
        self._check_families()
        self._check_equations()
        self._constants()
        duration = self._value(
            Item("duration", (), time.get("duration", 1.0), f"{self.where}, duration"), {}
        )
        choices = self._choices()
        self._symbols(choices)
        observables = self._derived()
        parameters = self._quantities("parameters") + choices
        states = self._quantities("states")
        derivatives = self._derivatives(states)
        happenings = Happenings(
            self.model, self.scope, self.where, [state.name for state in states]
        )
        events = happenings.events()
        doses, running, inflow = happenings.doses()
        named = [(kind, name) for name, kind in self.kinds.items()]
        check_unique([*named, *(("dose", count.name) for count in running)], self.name)
        parameters += running
        masses = self._mass(states)
        derivatives = with_inflow(states, derivatives, masses, inflow, self.where)
        self.used |= happenings.used
        self._check_used()
        return {
            "name": self.name,
            **{key: self._text(key) for key in ("title", "description", "source")},
            "states": tuple(states),
            "parameters": tuple(parameters),
            "observables": observables,
            "drivers": self.drivers,
            "derivatives": derivatives,
            "mass": masses,
            "events": (*events, *doses),
            "duration": duration,
            "time_unit": _text(time.get("unit"), f"{self.where}, time.unit"),
            "suggested": _plain(self._section("suggested")),
        }

    # what is written ------------------------------------------------------------------------

    def _section(self, key: str) -> Mapping[Any, Any]:
        found = self.model.get(key)
        if found is None:
            return {}
        if not isinstance(found, Mapping):
            raise FlowError(f"{self.where}: '{key}' must be a mapping, not {shortened(found)}")
        return found

    def _text(self, key: str) -> str:
        return _text(self.model.get(key), f"{self.where}, {key}")

    def _items(self, section: str) -> dict[str, Item]:
        kind = SECTIONS.get(section, "equation")
        items: dict[str, Item] = {}
        for key, given in self._section(section).items():
            family = _FAMILY.fullmatch(key) if isinstance(key, str) else None
            bare, letters = (key, ()) if family is None else (family[1], _letters(family[2]))
            name = check_name(bare, f"{self.where}: the {kind}")
            label = f"{name}[{', '.join(letters)}]" if letters else name
            places = {"states": "initial value of", "equations": "equation of", "mass": "mass of"}
            place = places.get(section, kind)
            where = f"{self.where}, {place} {label}"
            if name in items:
                raise FlowError(f"{self.where}: {kind} '{name}' is given twice")
            items[name] = self._item(section, name, letters, given, where)
        return items

    def _item(
        self, section: str, name: str, letters: tuple[str, ...], given: Any, where: str
    ) -> Item:
        labels = {
            key: _text(self._section(f"{key}s").get(name), f"{self.where}, {key} of '{name}'")
            for key in ("unit", "long_name")
        }
        content = given
        if isinstance(given, Mapping) and section in SECTIONS:
            value = "expression" if section in ("definitions", "observables") else "value"
            _check_keys(given, (value, "unit", "long_name"), where)
            if value not in given:
                raise FlowError(f"{where}: '{value}' is missing")
            content = given[value]
            for key in ("unit", "long_name"):
                if key in given:
                    if labels[key]:
                        raise FlowError(f"{where}: its {key} is also given under '{key}s'")
                    labels[key] = _text(given[key], f"{where}, {key}")
        if isinstance(content, Sequence) and not isinstance(content, str):
            if section not in VALUES or len(letters) != 1:
                raise FlowError(
                    f"{where}: a list of values is only for a constant, parameter or state with "
                    "one index"
                )
            content = tuple(
                part if isinstance(part, str) else finite(part, where) for part in content
            )
        elif not isinstance(content, str):
            content = finite(content, where)
        return Item(name, letters, content, where, **labels)

    def _drivers(self) -> tuple[Driver, ...]:
        found = []
        for name, given in self._section("drivers").items():
            driver = read_driver(name, given, self.where)
            unit, label = (
                _text(self._section(f"{key}s").get(name), f"{self.where}, {key} of '{name}'")
                for key in ("unit", "long_name")
            )
            label = label or driver.long_name
            found.append(evolve(driver, unit=unit or driver.unit, long_name=label))
        return tuple(found)

    def _choices(self) -> list[Quantity]:
        """Return the parameters that choose a series and that the model does not declare."""
        names = dict.fromkeys(driver.series for driver in self.drivers if driver.series)
        text = "number of the series, from 0"
        return [
            Quantity(name, 0.0, "1", text) for name in names if name not in self.items["parameters"]
        ]

    # names ----------------------------------------------------------------------------------

    def _check_declared(self) -> None:
        named = [(kind, name) for s, kind in SECTIONS.items() for name in self.items[s]]
        for section, kind in (("settings", "setting"), ("indices", "index")):
            for name in self._section(section):
                named.append((kind, check_name(name, f"{self.where}: the {kind}")))
        named += [("driver", driver.name) for driver in self.drivers]
        declared = self.items["parameters"]
        chosen = dict.fromkeys(driver.series for driver in self.drivers if driver.series)
        named += [("parameter", name) for name in chosen if name not in declared]
        self.used |= chosen.keys()
        check_unique(named, self.name)
        self.kinds = {name: kind for kind, name in named}
        for key in ("units", "long_names"):
            _check_keys(self._section(key), self.kinds, f"{self.where}, {key}")
        for name in self._section("suggested"):
            if self.kinds.get(name) not in ("state", "parameter") and name != "duration":
                known = [*self.items["states"], *self.items["parameters"], "duration"]
                if not self._is_element(name):
                    raise FlowError(
                        f"{self.where}: 'suggested' names {shortened(name)}, which is no state, "
                        f"parameter or duration{nearest(str(name), known)}"
                    )

    def _is_element(self, name: object) -> bool:
        base = re.sub(r"(_\d+)+$", "", str(name))
        return self.kinds.get(base) in ("state", "parameter")

    def _settings(self) -> None:
        for name, given in self._section("settings").items():
            where = f"{self.where}, setting {name}"
            self.scope.names[name] = const(self._whole(given, where))

    def _indices(self) -> None:
        for name, given in self._section("indices").items():
            where = f"{self.where}, index {name}"
            described = given if isinstance(given, Mapping) else {"size": given}
            _check_keys(described, ("size", "boundary"), where)
            if "size" not in described:
                raise FlowError(f"{where}: 'size' is missing")
            size = self._whole(described["size"], f"{where}, size")
            boundary = described.get("boundary", "none")
            if boundary not in BOUNDARIES:
                raise FlowError(
                    f"{where}: boundary is {shortened(boundary)}; it must be one of "
                    f"{', '.join(BOUNDARIES)}{nearest(str(boundary), BOUNDARIES)}"
                )
            if not 1 <= size <= MAX_ELEMENTS:
                raise FlowError(f"{where}: size is {size}; it must be 1 to {MAX_ELEMENTS}")
            self.scope.indices[name] = Index(name, size, boundary)

    def _whole(self, given: Any, where: str) -> int:
        value = self._value(Item("", (), given, where), {})
        if value != int(value) or abs(value) > 1e9:
            raise FlowError(f"{where} is {value}, which is not a whole number up to 1e9")
        return int(value)

    def _check_families(self) -> None:
        flat: list[tuple[str, str]] = [
            (self.kinds[name], name) for name in (*self.scope.names, *self.scope.indices)
        ]
        total = 0
        for section, kind in SECTIONS.items():
            for item in self.items[section].values():
                indices = self._indices_of(item)
                if indices:
                    self.scope.families[item.name] = indices
                total += prod(index.size for index in indices)
                if total > MAX_ELEMENTS:
                    raise FlowError(
                        f"{self.where}: it has more than {MAX_ELEMENTS} quantities, families "
                        "written out"
                    )
                flat += ((kind, element_name(item.name, at)) for at in elements(indices))
        flat += (("driver", driver.name) for driver in self.drivers)
        check_unique(flat, self.name)

    def _indices_of(self, item: Item) -> tuple[Index, ...]:
        for letter in item.letters:
            if letter not in self.scope.indices:
                raise FlowError(
                    f"{item.where}: '{letter}' is no index{nearest(letter, self.scope.indices)}"
                )
            if item.letters.count(letter) > 1:
                raise FlowError(f"{item.where}: the index '{letter}' stands twice")
        return tuple(self.scope.indices[letter] for letter in item.letters)

    def _check_equations(self) -> None:
        states = self.items["states"]
        for kind, items in (("an equation", self.equations), ("a mass", self.masses)):
            for name, item in items.items():
                if name not in states:
                    raise FlowError(
                        f"{self.where}: there is {kind} for '{name}', which is "
                        f"{_a(self.kinds.get(name))}{nearest(name, states)}"
                    )
                if self._indices_of(item) != self._indices_of(states[name]):
                    raise FlowError(
                        f"{self.where}: the state is '{_label(states[name])}', but there is "
                        f"{kind} for '{_label(item)}'"
                    )
        for name in states:
            if name not in self.equations:
                raise FlowError(
                    f"{self.where}: state '{name}' has no equation{nearest(name, self.equations)}"
                )

    def _check_used(self) -> None:
        allowed = set(self._unused())
        for kind in ("parameter", "constant", "setting", "definition", "driver"):
            for name in (n for n, k in self.kinds.items() if k == kind):
                if name not in self.used and name not in allowed:
                    others = [n for n, k in self.kinds.items() if k == kind and n != name]
                    raise FlowError(
                        f"{self.where}: {kind} '{name}' is used nowhere (if that is meant, list "
                        f"it under 'unused'){nearest(name, others)}"
                    )

    def _unused(self) -> Iterator[str]:
        given = self.model.get("unused") or ()
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise FlowError(f"{self.where}: 'unused' must be a list of names")
        for name in given:
            if name not in self.kinds:
                raise FlowError(
                    f"{self.where}: 'unused' names {shortened(name)}, which is not there"
                    f"{nearest(str(name), self.kinds)}"
                )
            yield str(name)

    # numbers --------------------------------------------------------------------------------

    def _expression(self, item: Item) -> Expression:
        """Return the expression of an item, its names checked and noted as used."""
        expression = item.expression
        expression.check_names(self.scope)
        self.used |= expression.names
        return expression

    def _value(self, item: Item, at: Mapping[str, int]) -> float:
        """Return the number that an item is."""
        if not isinstance(item.content, str):
            return finite(item.content, item.where)
        expression = item.expression
        for name in sorted(expression.names):
            if not self.scope.knows(name) and name in self.kinds:
                raise FlowError(
                    f"{item.where}: '{name}' is a {self.kinds[name]}; a value may use numbers, "
                    "settings and constants only"
                )
        node = as_number(self._expression(item).build(self.scope, at), expression)
        if node.op != "const":
            raise FlowError(f"{item.where}: '{expression.text}' is not a finite number")
        return float(node.value)

    def _elements(self, item: Item) -> Iterator[tuple[tuple[int, ...], Item]]:
        """Yield the place and content of every element of an item of values."""
        indices, parts = self._indices_of(item), item.parts
        if isinstance(item.content, tuple) and len(parts) != indices[0].size:
            raise FlowError(
                f"{item.where}: it has {len(parts)} values, but index '{indices[0].name}' has "
                f"size {indices[0].size}"
            )
        for number, at in enumerate(elements(indices)):
            yield at, parts[number] if isinstance(item.content, tuple) else item

    def _values(self, item: Item) -> Iterator[tuple[tuple[int, ...], float]]:
        """Yield the place and number of every element of an item."""
        for at, part in self._elements(item):
            yield at, self._value(part, dict(zip(item.letters, at, strict=True)))

    def _constants(self) -> None:
        constants = self.items["constants"]
        for name in self._in_order(constants):
            for at, value in self._values(constants[name]):
                self.scope.names[element_name(name, at)] = const(value)

    def _quantities(self, section: str) -> list[Quantity]:
        found = []
        for item in self.items[section].values():
            for at, part in self._elements(item):
                label = _element_label(item.long_name, at)
                node = self._start(part, dict(zip(item.letters, at, strict=True)))
                quantity = Quantity(element_name(item.name, at), math.nan, item.unit, label)
                found.append(with_start(quantity, node))
        return found

    def _start(self, item: Item, at: Mapping[str, int]) -> Node:
        """Return the value of a parameter or state: a literal, or what a run computes."""
        if not isinstance(item.content, str):
            return const(finite(item.content, item.where))
        expression = item.expression
        node = as_number(self._expression(item).build(self.scope, at), expression)
        if node.op != "const" and not free_symbols([node]):
            raise FlowError(f"{item.where}: '{expression.text}' is not a finite number")
        return node

    def _mass(self, states: list[Quantity]) -> tuple[float, ...]:
        """Return the mass of every state, or nothing where all are 1."""
        for item in self.masses.values():
            for used in sorted(item.names):
                kind = self.kinds.get(used, "time" if used == "t" else "constant")
                if kind not in ("constant", "setting", "index"):
                    raise FlowError(
                        f"{item.where}: it depends on the {kind} '{used}'; a mass matrix must be "
                        "diagonal and constant, of numbers, settings and constants"
                    )
        found = {
            element_name(name, at): value
            for name, item in self.masses.items()
            for at, value in self._values(item)
        }
        masses = tuple(found.get(state.name, 1.0) for state in states)
        return () if set(masses) == {1.0} else masses

    # expressions ----------------------------------------------------------------------------

    def _symbols(self, choices: list[Quantity]) -> None:
        """Let every name of a parameter, state or driver, and ``t``, stand in expressions."""
        names = [
            element_name(item.name, at)
            for section in ("parameters", "states")
            for item in self.items[section].values()
            for at in elements(self._indices_of(item))
        ]
        names += [item.name for item in (*choices, *self.drivers)]
        self.scope.names |= {name: symbol(name) for name in ("t", *names)}

    def _in_order(self, items: Mapping[str, Item]) -> list[str]:
        """Return the names of `items`, each after those it uses."""
        uses = {name: sorted(item.names & items.keys()) for name, item in items.items()}
        try:
            return list(TopologicalSorter(uses).static_order())
        except CycleError as error:
            circle = " -> ".join(reversed(error.args[1]))
            raise FlowError(
                f"{self.where}: {self.kinds[error.args[1][0]]}s use each other in a circle: "
                f"{circle}"
            ) from None

    def _derived(self) -> tuple[Observable, ...]:
        """Build definitions and observables into the scope; return the observables."""
        items = {**self.items["definitions"], **self.items["observables"]}
        # Their names are known while they are built in order: each finds those it uses.
        for name in self._in_order(items):
            for at, node in self._built(items[name]):
                self.scope.names[element_name(name, at)] = node
        found = []
        for item in self.items["observables"].values():
            for at in elements(self._indices_of(item)):
                name = element_name(item.name, at)
                node = as_number(self.scope.names[name], item.expression)
                label = _element_label(item.long_name, at)
                found.append(Observable(name, node, item.unit, label))
        return tuple(found)

    def _built(self, item: Item) -> list[tuple[tuple[int, ...], Node]]:
        expression = self._expression(item)
        return [
            (at, expression.build(self.scope, dict(zip(item.letters, at, strict=True))))
            for at in elements(self._indices_of(item))
        ]

    def _derivatives(self, states: list[Quantity]) -> tuple[Node, ...]:
        found: dict[str, Node] = {}
        for name in self.items["states"]:
            equation = self.equations[name]
            for at, node in self._built(equation):
                found[element_name(name, at)] = as_number(node, equation.expression)
        return tuple(found[state.name] for state in states)


def _letters(text: str) -> tuple[str, ...]:
    return tuple(letter.strip() for letter in text.split(","))


def _label(item: Item) -> str:
    return f"{item.name}[{', '.join(item.letters)}]" if item.letters else item.name


def _element_label(long_name: str, at: tuple[int, ...]) -> str:
    return f"{long_name} [{', '.join(map(str, at))}]" if long_name and at else long_name


def _a(kind: str | None) -> str:
    return f"a {kind} and no state" if kind else "no state"


def _text(given: Any, where: str) -> str:
    if given is None:
        return ""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise FlowError(f"{where} must be text, not {shortened(given)}")
    return " ".join(str(given).split())


def _plain(given: Any) -> Any:
    """Return `given` as dicts, lists and scalars, whatever mapping types it came in."""
    if isinstance(given, Mapping):
        return {str(key): _plain(value) for key, value in given.items()}
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [_plain(value) for value in given]
    return given


# writing --------------------------------------------------------------------------------------

#: A part of an expression becomes a definition when it is shared and at least this large, ...
_SHARED = 32
#: ... or by itself so large or so deep that one text would be hard to read, for machines too.
_LARGE = 200
_DEEP = 50


def write_model(system: OdeSystem) -> dict[str, Any]:
    """Return a mapping that `read_model` turns into the same system, graphs included.

    Families are written out and constants folded. Large shared parts become definitions, so that
    the text is never much longer than the graph.
    """
    given = (*system.parameters, *system.states)
    quantities = (*given, *system.observables)
    outputs = [*system.derivatives, *(item.expression for item in system.observables)]
    plain = len(outputs)
    outputs += [node for event in system.events for node in event.nodes]
    eventful = len(outputs)
    outputs += [item.start for item in given if item.start is not None]
    taken = {item.name for item in (*quantities, *system.drivers)}
    definitions, written = _with_definitions(outputs, taken)
    texts = [to_text(node) for node in written]
    reaching = system.reaching
    starts = iter(texts[eventful:])
    values = {item.name: item.value if item.start is None else next(starts) for item in given}
    derived = zip(system.observables, texts[len(system.states) : plain], strict=True)
    model = {
        "name": system.name,
        "title": system.title,
        "description": system.description,
        "source": system.source,
        "time": {"unit": system.time_unit, "duration": system.duration},
        "parameters": {item.name: values[item.name] for item in system.parameters},
        "states": {item.name: values[item.name] for item in system.states},
        "definitions": definitions,
        "equations": {item.name: text for item, text in zip(system.states, texts, strict=False)},
        "mass": {
            item.name: value
            for item, value in zip(system.states, system.mass, strict=False)
            if value != 1.0
        },
        "observables": {item.name: text for item, text in derived},
        "events": write_events(system.events, texts[plain:eventful]),
        "drivers": {driver.name: driver.to_mapping() for driver in system.drivers},
        "units": {item.name: item.unit for item in quantities if item.unit},
        "long_names": {item.name: item.long_name for item in quantities if item.long_name},
        "suggested": _plain(system.suggested),
        "unused": [item.name for item in system.parameters if item.name not in reaching],
    }
    return {key: value for key, value in model.items() if value not in ("", {}, [])}


def _with_definitions(outputs: list[Node], taken: set[str]) -> tuple[dict[str, str], list[Node]]:
    """Return texts of definitions, and `outputs` in which they stand as symbols."""
    order = topological(outputs)
    uses = Counter([*outputs, *(arg for node in order for arg in node.args)])
    size: dict[Node, int] = {}
    depth: dict[Node, int] = {}
    definitions: dict[str, str] = {}
    done: dict[Node, Node] = {}
    for node in order:
        size[node] = 1 + sum(size[arg] for arg in node.args)
        depth[node] = 1 + max((depth[arg] for arg in node.args), default=0)
        done[node] = graph.rebuild(node, tuple(done[arg] for arg in node.args))
        shared = uses[node] > 1 and size[node] >= _SHARED
        large = size[node] >= _LARGE or depth[node] >= _DEEP
        if (shared or large) and node.kind == "float":
            number = len(definitions)
            while f"part_{number}" in taken:
                number += 1
            name = f"part_{number}"
            taken.add(name)
            definitions[name] = to_text(done[node])
            done[node] = symbol(name)
            size[node] = depth[node] = 1
    return definitions, [done[node] for node in outputs]
