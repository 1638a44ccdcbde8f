"""Models in formats of others, turned into an `OdeSystem`: SBML, CellML and Antimony."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from cubie_flow.errors import FlowError, nearest
from cubie_flow.systems.importers.markup import Markup, read_text
from cubie_flow.systems.system import OdeSystem

#: Module that reads a file, by the ending of its name. XML says by its root what it holds.
FORMATS = {
    ".xml": "",
    ".sbml": "sbml",
    ".cellml": "cellml",
    ".ant": "antimony",
}
_ROOTS = {"sbml": "sbml", "model": "cellml"}


def imports(path: Path) -> bool:
    """Tell whether `path` has the ending of a format that is imported."""
    return path.suffix.lower() in FORMATS


def import_model(path: Path) -> OdeSystem:
    """Return the system of a model file in a format of others.

    Parameters
    ----------
    path : Path
        Its ending says what it holds: one of `FORMATS`.

    Raises
    ------
    FlowError
        If the file cannot be read, its importer is not installed, or it uses what is not
        supported, naming what and where.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise FlowError(
            f"model file '{path}' has the ending '{ending}'; it must be one of "
            f"{', '.join(FORMATS)}{nearest(ending, FORMATS)}"
        )
    if ending == ".ant":
        return _reader("antimony")(path.stem, read_text(path), str(path))
    markup = Markup.read(path)
    kind = _ROOTS.get(markup.root)
    if kind is None or FORMATS[ending] not in ("", kind):
        wanted = {"sbml": "<sbml>", "cellml": "<model>"}.get(FORMATS[ending], "<sbml> or <model>")
        raise FlowError(f"'{path}' begins with <{markup.root}>; it must begin with {wanted}")
    return _reader(kind)(path.stem, markup, str(path))


def _reader(kind: str) -> Callable[..., OdeSystem]:
    module = import_module(f"{__name__}.{kind}")
    return module.read  # type: ignore[no-any-return]
