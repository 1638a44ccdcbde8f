"""SBML, levels 2 and 3, through libsbml.

What the elements mean follows the specification "SBML Level 3 Version 2 Core" (Hucka et al.,
Journal of Integrative Bioinformatics 16, 2019) and "SBML Level 2 Version 5".

A species is a state with the meaning that its name has in the model's formulas: a concentration,
or an amount if ``hasOnlySubstanceUnits`` is true. If the size of its compartment changes, the state
is the amount, named ``<species>_amount``, and the concentration is an observable, because a new
size does not change amounts. There is one exception: if a rate rule gives the concentration and the
compartment's size cannot jump, the state is the concentration.
"""

from __future__ import annotations

import re
from typing import Any

from cubie_flow.errors import FlowError
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.names import MAX_REASON, package, sentence
from cubie_flow.systems.importers.sbml_equations import Equations, SbmlModel
from cubie_flow.systems.importers.sbml_reader import SbmlReader
from cubie_flow.systems.system import OdeSystem

__all__ = ["SbmlModel", "read", "read_sbml", "reason"]

_REFERENCE = re.compile(
    r"\(?References?: [^()]*?(?:Sections?|Appendix) [\w.]+(?: and [\d.]+\d)?\)?"
)
_PACKAGE = re.compile(r"Package ('\w+') is a required package")
#: Categories of libsbml's checks that are left out: they concern units and style only.
_IGNORED_CHECKS = (
    "UNITS_CONSISTENCY",
    "SBO_CONSISTENCY",
    "MODELING_PRACTICE",
    "OVERDETERMINED_MODEL",
)


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
    _check_document(libsbml, document, file)
    reader = SbmlReader(libsbml, document, markup, name, file)
    reader.read()
    return Equations(reader).model()


def reason(message: str) -> str:
    """Return the part of a message of libsbml that concerns the model, in one line.

    A message quotes a rule and its reference before it describes the mistake, if it does.
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
                    f"'{file}', line {error.getLine()}: it is not valid SBML: "
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
