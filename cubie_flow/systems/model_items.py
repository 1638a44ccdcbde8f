"""Entries of the mapping of a model: its sections, quantities and families."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from attrs import evolve, frozen

from cubie_flow.errors import FlowError
from cubie_flow.systems.drivers import Driver
from cubie_flow.systems.drivers_reader import read_driver
from cubie_flow.systems.parser import Expression
from cubie_flow.systems.quantities import Quantity, check_keys, check_name, finite, shortened

KEYS = (
    "name", "title", "description", "source", "time", "settings", "indices", "constants",
    "parameters", "states", "definitions", "equations", "algebraic", "mass", "observables",
    "events", "doses", "drivers", "history", "units", "long_names", "suggested", "unused",
)  # fmt: skip
#: Sections of named items, with the word for one item.
SECTIONS = {
    "constants": "constant",
    "parameters": "parameter",
    "states": "state",
    "definitions": "definition",
    "observables": "observable",
}
#: Sections of items that may be lists of values.
VALUES = ("constants", "parameters", "states")
_FAMILY = re.compile(r"\s*(\w+)\s*\[([\w\s,]*)\]\s*")


@frozen
class Item:
    """One entry of a section: a quantity, or a family of them.

    Parameters
    ----------
    name : str
    letters : tuple of str
        Names of its indices; empty for a single quantity.
    content : float, str or tuple of these
        A number or text, or a list of them with one per element.
    where : str
        Place of the entry, for errors.
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
        """The item, or one item per value if it is a list of values."""
        if not isinstance(self.content, tuple):
            return (self,)
        return tuple(evolve(self, content=content) for content in self.content)

    @property
    def names(self) -> set[str]:
        """Every name in its expressions."""
        return set().union(*(part.expression.names for part in self.parts))


class ModelItems:
    """Entries of one model, by section.

    Parameters
    ----------
    model : mapping
    where : str
        Names the system in errors.
    """

    def __init__(self, model: Mapping[str, Any], where: str) -> None:
        self.model = model
        self.where = where
        self.sections = {section: self._items(section) for section in SECTIONS}
        self.equations = self._items("equations")
        self.masses = self._items("mass")
        self.history = self._items("history")
        self._add_algebraic()
        self.drivers = self._drivers()

    def _add_algebraic(self) -> None:
        """Add algebraic equations to the others, with a mass of 0."""
        for name, item in self._items("algebraic").items():
            for other, kind in ((self.equations, "an equation"), (self.masses, "a mass")):
                if name in other:
                    raise FlowError(
                        f"{item.where}: there is also {kind} for '{name}'; leave one of them out"
                    )
            self.equations[name] = item
            self.masses[name] = evolve(item, content=0.0)

    def section(self, key: str) -> Mapping[Any, Any]:
        """Return a section; empty if the model does not have it.

        Raises
        ------
        FlowError
            If it is not a mapping.
        """
        section = self.model.get(key)
        if section is None:
            return {}
        if not isinstance(section, Mapping):
            raise FlowError(f"{self.where}: '{key}' must be a mapping, not {shortened(section)}")
        return section

    def text(self, key: str) -> str:
        """Return a text of the model; empty if the model does not have it."""
        return text_line(self.model.get(key), f"{self.where}, {key}")

    def _items(self, section: str) -> dict[str, Item]:
        kind = SECTIONS.get(section, "equation")
        items: dict[str, Item] = {}
        for key, given in self.section(section).items():
            family = _FAMILY.fullmatch(key) if isinstance(key, str) else None
            bare, letters = (key, ()) if family is None else (family[1], _letters(family[2]))
            name = check_name(bare, f"{self.where}: the {kind}")
            label = f"{name}[{', '.join(letters)}]" if letters else name
            places = {
                "states": "initial value of", "equations": "equation of", "mass": "mass of",
                "algebraic": "algebraic equation of",
                "history": "history of",
            }  # fmt: skip
            place = places.get(section, kind)
            where = f"{self.where}, {place} {label}"
            if name in items:
                raise FlowError(f"{self.where}: {kind} '{name}' is given twice")
            items[name] = self._item(section, name, letters, given, where)
        return items

    def _item(
        self, section: str, name: str, letters: tuple[str, ...], given: Any, where: str
    ) -> Item:
        """Return an entry, from a value or from a mapping of value, unit and long name."""
        labels = self._labels(name)
        content = given
        if isinstance(given, Mapping) and section in SECTIONS:
            value = "expression" if section in ("definitions", "observables") else "value"
            check_keys(given, (value, "unit", "long_name"), where)
            if value not in given:
                raise FlowError(f"{where}: '{value}' is missing")
            content = given[value]
            for key in ("unit", "long_name"):
                if key in given:
                    if labels[key]:
                        raise FlowError(f"{where}: its {key} is also given under '{key}s'")
                    labels[key] = text_line(given[key], f"{where}, {key}")
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

    def _labels(self, name: object) -> dict[str, str]:
        """Return the unit and long name of a quantity in the sections of these."""
        return {
            key: text_line(self.section(f"{key}s").get(name), f"{self.where}, {key} of '{name}'")
            for key in ("unit", "long_name")
        }

    def _drivers(self) -> tuple[Driver, ...]:
        drivers = []
        for name, given in self.section("drivers").items():
            driver = read_driver(name, given, self.where)
            labels = self._labels(name)
            unit, long_name = labels["unit"] or driver.unit, labels["long_name"] or driver.long_name
            drivers.append(evolve(driver, unit=unit, long_name=long_name))
        return tuple(drivers)

    def choices(self) -> list[Quantity]:
        """Return the parameters that choose a series and are not declared in the model."""
        names = dict.fromkeys(driver.series for driver in self.drivers if driver.series)
        text = "number of the series, from 0"
        return [
            Quantity(name, 0.0, "1", text)
            for name in names
            if name not in self.sections["parameters"]
        ]


def _letters(text: str) -> tuple[str, ...]:
    return tuple(letter.strip() for letter in text.split(","))


def text_line(given: Any, where: str) -> str:
    """Return a text on one line; empty for None.

    Raises
    ------
    FlowError
        If it is not a text or number.
    """
    if given is None:
        return ""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise FlowError(f"{where} must be text, not {shortened(given)}")
    return " ".join(str(given).split())


def plain_values(given: Any) -> Any:
    """Return mappings and sequences of any type as dicts and lists."""
    if isinstance(given, Mapping):
        return {str(key): plain_values(value) for key, value in given.items()}
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [plain_values(value) for value in given]
    return given
