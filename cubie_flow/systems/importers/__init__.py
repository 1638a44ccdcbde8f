"""Importers of models in the formats SBML, CellML and Antimony."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from cubie_flow.errors import FlowError, nearest
from cubie_flow.systems.importers.markup import Markup, read_text
from cubie_flow.systems.system import OdeSystem

#: Module that reads a file, by the ending of its name; the root of ``.xml`` gives the format.
FORMATS = {
    ".xml": "",
    ".sbml": "sbml",
    ".cellml": "cellml",
    ".ant": "antimony",
}
_ROOTS = {"sbml": "sbml", "model": "cellml"}


def imports(path: Path) -> bool:
    """Return whether `path` has the ending of an imported format."""
    return path.suffix.lower() in FORMATS


def import_model(path: Path) -> OdeSystem:
    """Return the system of a model file in an imported format.

    Parameters
    ----------
    path : Path
        Its ending is one of `FORMATS`.

    Raises
    ------
    FlowError
        If the file cannot be read, its importer is not installed, or it has a feature that is
        not supported, with its place.
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
