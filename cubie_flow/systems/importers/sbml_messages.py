"""Messages of libsbml about mistakes in a model."""

from __future__ import annotations

import re
from typing import Any

from cubie_flow.errors import FlowError
from cubie_flow.systems.importers.markup import Markup
from cubie_flow.systems.importers.names import MAX_REASON, sentence

_REFERENCE = re.compile(
    r"\(?References?: [^()]*?(?:Sections?|Appendix) [\w.]+(?: and [\d.]+\d)?\)?"
)
_PACKAGE = re.compile(r"Package '(\w+)' is a required package")
#: Categories of libsbml's checks that are left out: they concern units and style only.
_IGNORED_CHECKS = (
    "UNITS_CONSISTENCY",
    "SBO_CONSISTENCY",
    "MODELING_PRACTICE",
    "OVERDETERMINED_MODEL",
)


def reason(message: str) -> str:
    """Return the part of a message of libsbml that concerns the model, in one line.

    A message quotes a rule and its reference before it describes the mistake, if it does.
    """
    required = _PACKAGE.search(message)
    if required:
        return f"the SBML package '{required[1]}' is not supported"
    parts = [part.strip(" .[]\n") for part in _REFERENCE.split(sentence(message))]
    text = parts[1] if len(parts) > 1 and parts[1] else parts[0]
    text = text.partition(" For more information, see")[0].strip(" .")
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


def ignore_units(libsbml: Any, document: Any) -> None:
    """Switch off the checks that concern units and style."""
    for check in _IGNORED_CHECKS:
        document.setConsistencyChecks(getattr(libsbml, f"LIBSBML_CAT_{check}"), False)


#: What is used although libsbml calls it an error, with a note about it.
_ACCEPTED = {
    **dict.fromkeys(
        ("DanglingUnitReference", "DanglingUnitSIdRef", "InvalidUnitsValue"),
        "units that the file does not define are ignored, since no number depends on them",
    ),
    **dict.fromkeys(
        ("BooleanOpsNeedBooleanArgs", "PieceNeedsBoolean", "MathResultMustBeNumeric"),
        "truths and numbers stand for each other, as in level 3 version 2",
    ),
}


def refuse_first(libsbml: Any, document: Any, markup: Markup, file: str) -> list[str]:
    """Raise the first error of a document; return notes about what is accepted.

    A package that libsbml does not know counts only if the file uses it.

    Parameters
    ----------
    libsbml : module
    document : libsbml.SBMLDocument
    markup : Markup
        Of the file; without lines if the document is not the one in the file.
    file : str
        Names the file in errors.
    """
    accepted = {getattr(libsbml, name): note for name, note in _ACCEPTED.items()}
    notes = []
    lines = bool(markup.first)
    for number in range(document.getNumErrors()):
        error = document.getError(number)
        if error.getSeverity() < libsbml.LIBSBML_SEV_ERROR:
            continue
        if error.getErrorId() in accepted:
            notes.append(accepted[error.getErrorId()])
            continue
        needed = _PACKAGE.search(error.getMessage())
        if needed and document.getNamespaces().getURI(needed[1]) not in markup.spaces:
            continue
        where = f"'{file}', line {error.getLine()}" if lines else f"'{file}'"
        raise FlowError(f"{where}: it is not valid SBML: {reason(error.getMessage())}")
    return list(dict.fromkeys(notes))
