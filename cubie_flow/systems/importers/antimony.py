"""Antimony, through its package, which writes a model as SBML.

Places in errors are names only: lines are those of SBML that nobody sees.
"""

from __future__ import annotations

import re

from attrs import evolve

from cubie_flow.errors import FlowError
from cubie_flow.systems.importers import sbml
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.names import package, sentence
from cubie_flow.systems.system import OdeSystem

_COMMENT = re.compile(r"//[^\n]*|#[^\n]*|/\*.*?\*/", re.DOTALL)
_IMPORT = re.compile(r"^[ \t]*import\b.*$", re.MULTILINE)


def read(name: str, text: str, file: str) -> OdeSystem:
    """Return the system of a model in Antimony.

    Parameters
    ----------
    name : str
        Of the system where the model has none.
    text : str
    file : str
        Names the file in errors.

    Raises
    ------
    FlowError
        For a mistake, or the first thing used that is not supported.
    """
    antimony = package("antimony", "antimony", "Antimony models")
    other = _IMPORT.search(_COMMENT.sub(_blanked, text))
    if other:
        line = text.count("\n", 0, other.start()) + 1
        raise FlowError(f"'{file}', line {line}: imports of other files are not supported")
    antimony.clearPreviousLoads()
    try:
        if antimony.loadAntimonyString(text) < 0:
            reason = sentence(antimony.getLastError()).rstrip(".")
            raise FlowError(f"'{file}': it is no valid Antimony: {reason}")
        content = antimony.getSBMLString(antimony.getMainModuleName())
    finally:
        antimony.clearPreviousLoads()
    markup = evolve(Markup.check(content.encode(), file), lines={})
    return evolve(sbml.read(name, markup, file), source="Antimony")


def _blanked(match: re.Match[str]) -> str:
    """Return a comment's place with nothing in it, its lines kept."""
    return re.sub(r"[^\n]", " ", match[0])
