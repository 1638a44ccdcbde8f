"""Names for the quantities of imported models, and the optional packages that read them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from attrs import define, field

from cubie_flow.errors import FlowError
from cubie_flow.process.python_path import import_library
from cubie_flow.systems.quantities import MAX_NAME, check_name

#: Characters of a library's message that errors quote.
MAX_REASON = 400
#: Renamed quantities in the note of a model.
MAX_LISTED = 20


def package(module: str, extra: str, what: str) -> Any:
    """Return an optional package that reads a format.

    Parameters
    ----------
    module : str
    extra : str
        Extra of cubie-flow that installs it.
    what : str
        What it reads, for errors.

    Raises
    ------
    FlowError
        If it is not installed, with the command that installs it.
    """
    try:
        return import_library(module)
    except ImportError:
        raise missing(extra, what) from None


def missing(extra: str, what: str) -> FlowError:
    """Return the error for a missing package, with the extra that installs it."""
    return FlowError(
        f'{what} are read by a package that is not installed; pip install "cubie-flow[{extra}]"'
    )


def system_name(*wanted: str) -> str:
    """Return the first of `wanted` that has a letter or digit, as the name of a system."""
    for text in wanted:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", text).lstrip("_.-")[:100]
        if name:
            return name
    return "model"


def sentence(text: str) -> str:
    """Return a text of any length as one line."""
    return " ".join(text.split())


@define
class Names:
    """Gives every quantity a unique name that an equation may use.

    Parameters
    ----------
    taken : set of str
        Names in use.
    renamed : dict
        New names by names of the model.
    """

    taken: set[str] = field(factory=set)
    renamed: dict[str, str] = field(factory=dict)

    def reserve(self, wanted: Iterable[str]) -> dict[str, str]:
        """Return the name of each of `wanted`, unchanged if possible."""
        wanted = list(wanted)
        names: dict[str, str] = {}
        for name in wanted:
            if name not in self.taken and _usable(name):
                self.taken.add(name)
                names[name] = name
        for name in wanted:
            if name not in names:
                names[name] = self.renamed[name] = self.new(name)
        return names

    @property
    def note(self) -> str:
        """Note about the changed names of a model; empty if there are none."""
        if not self.renamed:
            return ""
        pairs = [f"'{wanted}' is '{name}'" for wanted, name in self.renamed.items()]
        more = len(pairs) - MAX_LISTED
        listed = ", ".join(pairs[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
        return f"names that cannot be used here are changed: {listed}"

    def new(self, wanted: str) -> str:
        """Return a name like `wanted` that is not in use."""
        plain = re.sub(r"\W+", "_", wanted, flags=re.ASCII) or "x"
        plain = f"x{plain}" if plain[0].isdigit() else plain
        name, number = plain[:MAX_NAME], 1
        while name in self.taken or not _usable(name):
            end = "_" * number if number < 3 else f"_{number}"
            name = plain[: MAX_NAME - len(end)] + end
            number += 1
        self.taken.add(name)
        return name


def _usable(name: str) -> bool:
    try:
        check_name(name, "")
    except FlowError:
        return False
    return True
