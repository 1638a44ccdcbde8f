"""Names of other formats made usable here, and the packages that read those formats."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from attrs import define, field

from cubie_flow.errors import FlowError
from cubie_flow.process.python_path import import_library
from cubie_flow.systems.quantities import MAX_NAME, check_name

#: Characters that errors quote of a message of a library.
MAX_REASON = 400
#: Renamed quantities that a note lists.
MAX_LISTED = 20


def package(module: str, extra: str, what: str) -> Any:
    """Return an optional package that reads a format.

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
    """Return the error that says which extra reads a format."""
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
    """Gives every quantity a name that an equation may use, and no two the same.

    Parameters
    ----------
    taken : set of str
        Names that are in use.
    renamed : dict
        Names of the model that others stand for here.
    """

    taken: set[str] = field(factory=set)
    renamed: dict[str, str] = field(factory=dict)

    def reserve(self, wanted: Iterable[str]) -> dict[str, str]:
        """Return the name of each of `wanted`; those that can keep theirs do."""
        wanted = list(wanted)
        found: dict[str, str] = {}
        for name in wanted:
            if name not in self.taken and _usable(name):
                self.taken.add(name)
                found[name] = name
        for name in wanted:
            if name not in found:
                found[name] = self.renamed[name] = self.new(name)
        return found

    @property
    def note(self) -> str:
        """What a reader of the model must know of its names; empty where all are kept."""
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
