"""SBML, levels 1, 2 and 3, through libsbml.

What the elements mean follows the specification "SBML Level 3 Version 2 Core" (Hucka et al.,
Journal of Integrative Bioinformatics 16, 2019) and "SBML Level 2 Version 5".

A species is a state with the meaning that its name has in the model's formulas: a concentration,
or an amount if ``hasOnlySubstanceUnits`` is true. If the size of its compartment changes, the state
is the amount, named ``<species>_amount``, and the concentration is an observable, because a new
size does not change amounts. There is one exception: if a rate rule gives the concentration and the
compartment's size cannot jump, the state is the concentration.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve

from cubie_flow.errors import FlowError
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.names import package
from cubie_flow.systems.importers.sbml_equations import Equations, SbmlModel
from cubie_flow.systems.importers.sbml_hierarchy import PACKAGE, flattened
from cubie_flow.systems.importers.sbml_messages import ignore_units, refuse_first
from cubie_flow.systems.importers.sbml_reader import SbmlReader
from cubie_flow.systems.system import OdeSystem

__all__ = ["SbmlModel", "read", "read_sbml"]

#: Largest number of levels over which functions call each other.
MAX_CHAIN = 64


def read(name: str, markup: Markup, file: str) -> OdeSystem:
    """Return the system of an SBML model.

    Parameters
    ----------
    name : str
        Name of the system if the model has none.
    markup : Markup
    file : str
        Names the file in errors.

    Raises
    ------
    FlowError
        For a mistake, or the first feature that is not supported, with its place.
    """
    return read_sbml(name, markup, file).system


def read_sbml(name: str, markup: Markup, file: str) -> SbmlModel:
    """Return the system of an SBML model, and what its identifiers mean in it.

    Parameters
    ----------
    name : str
        Name of the system if the model has none.
    markup : Markup
    file : str
        Names the file in errors.

    Raises
    ------
    FlowError
        For a mistake, or the first feature that is not supported, with its place.
    """
    libsbml = package("libsbml", "sbml", "SBML models")
    document = libsbml.readSBMLFromString(markup.text)
    _check_document(libsbml, document, markup, file)
    whole = flattened(libsbml, document, markup, file)
    if whole is not document:  # lines of the flattened model are not those of the file
        document, markup = whole, evolve(markup, lines={}, first={})
    notes = _check_consistency(libsbml, document, markup, file)
    level, version = document.getLevel(), document.getVersion()
    if level == 1 and not document.setLevelAndVersion(2, 5, False):
        raise FlowError(f"'{file}': libsbml cannot convert it from level 1 to level 2")
    reader = SbmlReader(libsbml, document, markup, name, file)
    reader.source = f"SBML level {level} version {version}"
    reader.variable_by_default = level == 1
    reader.notes = notes
    reader.read()
    return Equations(reader).model()


def _check_document(libsbml: Any, document: Any, markup: Markup, file: str) -> None:
    """Refuse packages that are needed and not read."""
    refuse_first(libsbml, document, markup, file)
    for number in range(document.getNumPlugins() if document.getLevel() == 3 else 0):
        plugin = document.getPlugin(number)
        prefix, used = plugin.getPrefix(), plugin.getURI() in markup.spaces
        if used and prefix != PACKAGE and document.getPackageRequired(prefix):
            raise FlowError(f"'{file}': the SBML package '{prefix}' is not supported")
    if document.getModel() is None:
        raise FlowError(f"'{file}': it holds no model")


def _check_consistency(libsbml: Any, document: Any, markup: Markup, file: str) -> list[str]:
    """Refuse a document with a mistake; return notes about what is accepted."""
    ignore_units(libsbml, document)
    _check_chains(libsbml, document.getModel(), file)
    document.checkConsistency()
    return refuse_first(libsbml, document, markup, file)


def _check_chains(libsbml: Any, model: Any, file: str) -> None:
    """Refuse long chains of functions, whose check by libsbml takes hours."""
    calls: dict[str, set[str]] = {}
    for function in model.getListOfFunctionDefinitions():
        calls[function.getId()], waiting = set(), [function.getMath()]
        while waiting:
            node = waiting.pop()
            if node is None:
                continue
            if node.getType() == libsbml.AST_FUNCTION:
                calls[function.getId()].add(node.getName())
            waiting += [node.getChild(i) for i in range(node.getNumChildren())]
    if len(calls) <= MAX_CHAIN:
        return  # libsbml names the line of one that calls itself
    left = set(calls)
    for _ in range(MAX_CHAIN):
        left = {name for name in left if calls[name] & left}
    if left:
        raise FlowError(
            f"'{file}': function '{min(left)}' calls others over more than {MAX_CHAIN} levels, or "
            "itself; write it with fewer"
        )
