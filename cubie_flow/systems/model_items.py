"""Entries of a model given as a mapping: its sections, and the quantities and families in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from attrs import evolve, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.systems.drivers import Driver
from cubie_flow.systems.drivers_reader import read_driver
from cubie_flow.systems.parser import Expression
from cubie_flow.systems.quantities import Quantity, check_name, finite, shortened

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
        self.drivers = self._drivers()

    def section(self, key: str) -> Mapping[Any, Any]:
        found = self.model.get(key)
        if found is None:
            return {}
        if not isinstance(found, Mapping):
            raise FlowError(f"{self.where}: '{key}' must be a mapping, not {shortened(found)}")
        return found

    def text(self, key: str) -> str:
        return text_line(self.model.get(key), f"{self.where}, {key}")

    def _items(self, section: str) -> dict[str, Item]:
        kind = SECTIONS.get(section, "equation")
        items: dict[str, Item] = {}
        for key, given in self.section(section).items():
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
            key: text_line(self.section(f"{key}s").get(name), f"{self.where}, {key} of '{name}'")
            for key in ("unit", "long_name")
        }
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

    def _drivers(self) -> tuple[Driver, ...]:
        found = []
        for name, given in self.section("drivers").items():
            driver = read_driver(name, given, self.where)
            unit, label = (
                text_line(self.section(f"{key}s").get(name), f"{self.where}, {key} of '{name}'")
                for key in ("unit", "long_name")
            )
            label = label or driver.long_name
            found.append(evolve(driver, unit=unit or driver.unit, long_name=label))
        return tuple(found)

    def choices(self) -> list[Quantity]:
        """Return the parameters that choose a series and that the model does not declare."""
        names = dict.fromkeys(driver.series for driver in self.drivers if driver.series)
        text = "number of the series, from 0"
        return [
            Quantity(name, 0.0, "1", text)
            for name in names
            if name not in self.sections["parameters"]
        ]


def check_keys(given: Mapping[Any, Any], known: Iterable[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise FlowError(
                f"{where}: unknown key {shortened(key)} (known: {', '.join(known)})"
                f"{nearest(str(key), known)}"
            )


def _letters(text: str) -> tuple[str, ...]:
    return tuple(letter.strip() for letter in text.split(","))


def text_line(given: Any, where: str) -> str:
    if given is None:
        return ""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise FlowError(f"{where} must be text, not {shortened(given)}")
    return " ".join(str(given).split())


def plain_values(given: Any) -> Any:
    """Return `given` as dicts, lists and scalars, whatever mapping types it came in."""
    if isinstance(given, Mapping):
        return {str(key): plain_values(value) for key, value in given.items()}
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [plain_values(value) for value in given]
    return given
