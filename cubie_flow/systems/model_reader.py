"""Models read from plain mappings, such as YAML files and composed configs.

A model is a mapping with these keys; only `states` and `equations` are needed::

    name: heat                          # name of the system: letters, digits, _ - .
    title: A heated rod                 # and description, source: text
    time: {unit: s, duration: 10.0}
    settings: {size: 20}                # whole numbers, fixed when the model is compiled
    indices:                            # of indexed families, from 0 to size - 1
      i: {size: size, boundary: clamp}  # boundary: none (the default), periodic or clamp
    constants: {length: 0.5}            # numbers, inserted into the equations
    parameters: {k: 1e-4}               # what a batch may vary
    states:                             # initial values
      T[i]: where(i == 0, 100, 0)       # or a list, [100, 0, 0, ...]
    definitions: {dx: length/size}      # named parts of expressions, not saved
    equations:                          # time derivative of every state
      T[i]: k*(T[i-1] - 2*T[i] + T[i+1])/dx**2
    events: {...}                       # see `cubie_flow.systems.events_reader`
    doses: [{into: x, amount: 1.0}]     # see `cubie_flow.systems.events_reader`
    algebraic: {z: x + y - z}           # instead of an equation: what is zero, and determines z
    history: {x: 1 + 0.1*t}             # of states before the start; else the start value
    mass: {z: 0}                        # factors of time derivatives that are not 1
    observables: {mean: sum(T[i], i)/size}   # computed from states, parameters and t
    drivers:                            # series over time, see `cubie_flow.systems.drivers`
      u: {file: data.csv, column: u, interpolation: linear, outside: hold}
    units: {T: degC, mean: degC}        # of any quantity; a family by its plain name
    long_names: {T: temperature}
    suggested: {k: {loguniform: [1e-5, 1e-3]}}   # values of a batch that names none
    unused: []                          # names that nothing uses, on purpose

Every value is a number or an expression. Constants may use numbers, settings, other constants and
the index of their own family. All other values may use every quantity and ``t``. The value of a
parameter or state that uses more than a constant may is computed at the start of every run. In it,
the name of a state means its initial value, and ``t`` the time of the start; the parameter is
constant from then on. A value may also be a mapping ``{value: 1.0, unit: m, long_name: height}``,
with ``expression`` instead of ``value`` for definitions and observables.

An indexed family ``T[i]`` is expanded: its elements have the names ``T_0``, ``T_1`` and so on,
those of ``u[i, j]`` the names ``u_0_0`` and so on. An index may be an expression, ``T[2*i + 1]``,
and ``sum(T[i], i)`` sums over an index. A condition of ``where`` that depends on indices only is
decided when the model is read, so ``where(i == 0, 0, T[i-1])`` never needs ``T[-1]``.

``delay(x, tau)`` in an equation or observable is x as it was a time `tau` ago; see `history`
and `cubie_flow.systems.delays`.

An equation gives ``mass*dz/dt``. A mass of 0 makes it algebraic, ``0 = expression``, as does an
entry of ``algebraic``. The system is then a differential-algebraic system of index 1, which stiff
methods solve from a consistent start near the initial value. Masses are constant numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, NoReturn

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.expressions.traversal import free_symbols
from cubie_flow.systems.events import Event
from cubie_flow.systems.events_reader import EventsReader, add_inflow
from cubie_flow.systems.model_items import (
    KEYS,
    SECTIONS,
    Item,
    ModelItems,
    plain_values,
    text_line,
)
from cubie_flow.systems.ordering import dependency_order
from cubie_flow.systems.parser import Expression, as_number
from cubie_flow.systems.quantities import (
    Observable,
    Quantity,
    check_keys,
    check_name,
    check_unique,
    finite,
    shortened,
)
from cubie_flow.systems.scope import BOUNDARIES, Index, Scope, element_name, elements
from cubie_flow.systems.starts import with_start

#: Quantities that one model may have, elements of families included.
MAX_ELEMENTS = 100_000

_SYSTEM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def read_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the `OdeSystem` that a mapping describes.

    Parameters
    ----------
    model : mapping
        Keys as in the description of this module.

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
    check_keys(model, KEYS, f"system {name}")
    return _ModelReader(name, model).read()


class _ModelReader:
    """Reads one model; every step adds to the scope that the next one needs."""

    def __init__(self, name: str, model: Mapping[str, Any]) -> None:
        self.name = name
        self.where = f"system {name}"
        self.given = ModelItems(model, self.where)
        self.scope = Scope()
        self.used: set[str] = set()

    def read(self) -> dict[str, Any]:
        """Return the fields of the system."""
        time = self.given.section("time")
        check_keys(time, ("unit", "duration"), f"{self.where}, time")
        self._check_declared()
        self._settings()
        self._indices()
        self._check_families()
        self._check_equations()
        self._constants()
        duration = self._value(
            Item("duration", (), time.get("duration", 1.0), f"{self.where}, duration"), {}
        )
        choices = self.given.choices()
        self._symbols(choices)
        observables = self._derived()
        parameters = self._quantities("parameters") + choices
        states = self._quantities("states")
        masses = self._mass(states)
        events, running, derivatives = self._events(states, masses)
        history = self._history()
        self._check_used()
        return {
            "name": self.name,
            **{key: self.given.text(key) for key in ("title", "description", "source")},
            "states": tuple(states),
            "parameters": tuple(parameters + running),
            "observables": observables,
            "drivers": self.given.drivers,
            "derivatives": derivatives,
            "history": history,
            "mass": masses,
            "events": events,
            "duration": duration,
            "time_unit": text_line(time.get("unit"), f"{self.where}, time.unit"),
            "suggested": plain_values(self.given.section("suggested")),
        }

    def _events(
        self, states: list[Quantity], masses: tuple[float, ...]
    ) -> tuple[tuple[Event, ...], list[Quantity], tuple[Node, ...]]:
        """Return events and doses, counters of infusions, and derivatives with infusions."""
        derivatives = self._derivatives(states)
        names = [state.name for state in states]
        reader = EventsReader(self.given.model, self.scope, self.where, names)
        events = reader.events()
        doses, running, inflow = reader.doses()
        named = [(kind, name) for name, kind in self.kinds.items()]
        check_unique([*named, *(("dose", count.name) for count in running)], self.name)
        self.used |= reader.used
        derivatives = add_inflow(states, derivatives, masses, inflow, self.where)
        return (*events, *doses), running, derivatives

    def _history(self) -> tuple[tuple[str, Node], ...]:
        """Return the histories by the names of their states."""
        return tuple(
            (element_name(name, at), as_number(node, item.expression))
            for name, item in self.given.history.items()
            for at, node in self._build(item)
        )

    # names ----------------------------------------------------------------------------------

    def _check_declared(self) -> None:
        named = [(kind, name) for s, kind in SECTIONS.items() for name in self.given.sections[s]]
        for section, kind in (("settings", "setting"), ("indices", "index")):
            for name in self.given.section(section):
                named.append((kind, check_name(name, f"{self.where}: the {kind}")))
        named += [("driver", driver.name) for driver in self.given.drivers]
        declared = self.given.sections["parameters"]
        chosen = dict.fromkeys(driver.series for driver in self.given.drivers if driver.series)
        named += [("parameter", name) for name in chosen if name not in declared]
        self.used |= chosen.keys()
        check_unique(named, self.name)
        self.kinds = {name: kind for kind, name in named}
        for key in ("units", "long_names"):
            check_keys(self.given.section(key), self.kinds, f"{self.where}, {key}")
        for name in self.given.section("suggested"):
            if self.kinds.get(name) not in ("state", "parameter") and name != "duration":
                known = [
                    *self.given.sections["states"],
                    *self.given.sections["parameters"],
                    "duration",
                ]
                if not self._is_element(name):
                    raise FlowError(
                        f"{self.where}: 'suggested' names {shortened(name)}, which is not a state, "
                        f"parameter or duration{nearest(str(name), known)}"
                    )

    def _is_element(self, name: object) -> bool:
        base = re.sub(r"(_\d+)+$", "", str(name))
        return self.kinds.get(base) in ("state", "parameter")

    def _settings(self) -> None:
        for name, given in self.given.section("settings").items():
            where = f"{self.where}, setting {name}"
            self.scope.names[name] = const(self._whole(given, where))

    def _indices(self) -> None:
        for name, given in self.given.section("indices").items():
            where = f"{self.where}, index {name}"
            described = given if isinstance(given, Mapping) else {"size": given}
            check_keys(described, ("size", "boundary"), where)
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
            for item in self.given.sections[section].values():
                indices = self._indices_of(item)
                if indices:
                    self.scope.families[item.name] = indices
                total += prod(index.size for index in indices)
                if total > MAX_ELEMENTS:
                    raise FlowError(
                        f"{self.where}: it has more than {MAX_ELEMENTS} quantities, elements of "
                        "families included"
                    )
                flat += ((kind, element_name(item.name, at)) for at in elements(indices))
        flat += (("driver", driver.name) for driver in self.given.drivers)
        check_unique(flat, self.name)

    def _indices_of(self, item: Item) -> tuple[Index, ...]:
        for letter in item.letters:
            if letter not in self.scope.indices:
                raise FlowError(
                    f"{item.where}: '{letter}' is not an index{nearest(letter, self.scope.indices)}"
                )
            if item.letters.count(letter) > 1:
                raise FlowError(f"{item.where}: the index '{letter}' occurs twice")
        return tuple(self.scope.indices[letter] for letter in item.letters)

    def _check_equations(self) -> None:
        states = self.given.sections["states"]
        given = self.given
        groups = [("an equation", given.equations), ("a mass", given.masses)]
        groups.append(("a history", given.history))
        for kind, items in groups:
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
            if name not in self.given.equations:
                hint = nearest(name, self.given.equations)
                raise FlowError(f"{self.where}: state '{name}' has no equation{hint}")

    def _check_used(self) -> None:
        allowed = set(self._unused())
        for kind in ("parameter", "constant", "setting", "definition", "driver"):
            for name in (n for n, k in self.kinds.items() if k == kind):
                if name not in self.used and name not in allowed:
                    others = [n for n, k in self.kinds.items() if k == kind and n != name]
                    raise FlowError(
                        f"{self.where}: {kind} '{name}' is used nowhere (if that is intended, list "
                        f"it under 'unused'){nearest(name, others)}"
                    )

    def _unused(self) -> Iterator[str]:
        given = self.given.model.get("unused") or ()
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise FlowError(f"{self.where}: 'unused' must be a list of names")
        for name in given:
            if name not in self.kinds:
                raise FlowError(
                    f"{self.where}: 'unused' names {shortened(name)}, which does not exist"
                    f"{nearest(str(name), self.kinds)}"
                )
            yield str(name)

    # numbers --------------------------------------------------------------------------------

    def _expression(self, item: Item) -> Expression:
        """Return the expression of an item after a check of its names, which count as used."""
        expression = item.expression
        expression.check_names(self.scope)
        self.used |= expression.names
        return expression

    def _value(self, item: Item, at: Mapping[str, int]) -> float:
        """Return the number of an item."""
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
        """Yield the indices and the content of every element of an item."""
        indices, parts = self._indices_of(item), item.parts
        if isinstance(item.content, tuple) and len(parts) != indices[0].size:
            raise FlowError(
                f"{item.where}: it has {len(parts)} values, but index '{indices[0].name}' has "
                f"size {indices[0].size}"
            )
        for number, at in enumerate(elements(indices)):
            yield at, parts[number] if isinstance(item.content, tuple) else item

    def _values(self, item: Item) -> Iterator[tuple[tuple[int, ...], float]]:
        """Yield the indices and the number of every element of an item."""
        for at, part in self._elements(item):
            yield at, self._value(part, dict(zip(item.letters, at, strict=True)))

    def _constants(self) -> None:
        constants = self.given.sections["constants"]
        for name in self._in_order(constants):
            for at, value in self._values(constants[name]):
                self.scope.names[element_name(name, at)] = const(value)

    def _quantities(self, section: str) -> list[Quantity]:
        quantities = []
        for item in self.given.sections[section].values():
            for at, part in self._elements(item):
                label = _element_label(item.long_name, at)
                node = self._start(part, dict(zip(item.letters, at, strict=True)))
                quantity = Quantity(element_name(item.name, at), math.nan, item.unit, label)
                quantities.append(with_start(quantity, node))
        return quantities

    def _start(self, item: Item, at: Mapping[str, int]) -> Node:
        """Return the value of a parameter or state: a literal, or an expression for every run."""
        if not isinstance(item.content, str):
            return const(finite(item.content, item.where))
        expression = item.expression
        node = as_number(self._expression(item).build(self.scope, at), expression)
        if node.op != "const" and not free_symbols([node]):
            raise FlowError(f"{item.where}: '{expression.text}' is not a finite number")
        return node

    def _mass(self, states: list[Quantity]) -> tuple[float, ...]:
        """Return the mass of every state; empty if all are 1."""
        for item in self.given.masses.values():
            for used in sorted(item.names):
                kind = self.kinds.get(used, "time" if used == "t" else "constant")
                if kind not in ("constant", "setting", "index"):
                    raise FlowError(
                        f"{item.where}: it depends on the {kind} '{used}'; a mass matrix must be "
                        "diagonal and constant, of numbers, settings and constants"
                    )
        given = {
            element_name(name, at): value
            for name, item in self.given.masses.items()
            for at, value in self._values(item)
        }
        masses = tuple(given.get(state.name, 1.0) for state in states)
        return () if set(masses) == {1.0} else masses

    # expressions ----------------------------------------------------------------------------

    def _symbols(self, choices: list[Quantity]) -> None:
        """Add the symbols of parameters, states, drivers and ``t`` to the scope."""
        names = [
            element_name(item.name, at)
            for section in ("parameters", "states")
            for item in self.given.sections[section].values()
            for at in elements(self._indices_of(item))
        ]
        names += [item.name for item in (*choices, *self.given.drivers)]
        self.scope.names |= {name: symbol(name) for name in ("t", *names)}

    def _in_order(self, items: Mapping[str, Item]) -> list[str]:
        """Return the names of `items` in an order in which each follows those it uses."""

        def refuse(circle: list[str]) -> NoReturn:
            raise FlowError(
                f"{self.where}: {self.kinds[circle[0]]}s use each other in a circle: "
                f"{' -> '.join(circle)}"
            )

        return dependency_order({name: item.names for name, item in items.items()}, refuse)

    def _derived(self) -> tuple[Observable, ...]:
        """Add definitions and observables to the scope; return the observables."""
        items = {**self.given.sections["definitions"], **self.given.sections["observables"]}
        for name in self._in_order(items):
            for at, node in self._build(items[name]):
                self.scope.names[element_name(name, at)] = node
        observables = []
        for item in self.given.sections["observables"].values():
            for at in elements(self._indices_of(item)):
                name = element_name(item.name, at)
                node = as_number(self.scope.names[name], item.expression)
                label = _element_label(item.long_name, at)
                observables.append(Observable(name, node, item.unit, label))
        return tuple(observables)

    def _build(self, item: Item) -> list[tuple[tuple[int, ...], Node]]:
        """Return the indices and the graph of every element of an item."""
        expression = self._expression(item)
        return [
            (at, expression.build(self.scope, dict(zip(item.letters, at, strict=True))))
            for at in elements(self._indices_of(item))
        ]

    def _derivatives(self, states: list[Quantity]) -> tuple[Node, ...]:
        derivatives: dict[str, Node] = {}
        for name in self.given.sections["states"]:
            equation = self.given.equations[name]
            for at, node in self._build(equation):
                derivatives[element_name(name, at)] = as_number(node, equation.expression)
        return tuple(derivatives[state.name] for state in states)


def _label(item: Item) -> str:
    return f"{item.name}[{', '.join(item.letters)}]" if item.letters else item.name


def _element_label(long_name: str, at: tuple[int, ...]) -> str:
    return f"{long_name} [{', '.join(map(str, at))}]" if long_name and at else long_name


def _a(kind: str | None) -> str:
    return f"a {kind}, not a state" if kind else "not a state"
