"""Hierarchical SBML models (the package ``comp``), flattened by libsbml.

libsbml would open every file that a model names. Here, external files must be inside the folder of
the model and pass the same checks as the model. libsbml gets copies of them in a folder of its own.
What a model would become is counted before it is flattened, since a few nested submodels can stand
for any number of them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from attrs import define, field

from cubie_flow.errors import FlowError
from cubie_flow.systems.importers.inclusion import (
    MAX_DEPTH,
    MAX_FILES,
    MAX_PARTS,
    included_path,
)
from cubie_flow.systems.importers.markup import MAX_BYTES, Markup
from cubie_flow.systems.importers.sbml_messages import ignore_units, reason, refuse_first

PACKAGE = "comp"
#: Levels of submodels in submodels.
MAX_NESTED = 64


@define
class _File:
    """One file: its path, its text, libsbml's document, and its number."""

    path: Path
    markup: Markup
    document: Any
    number: int

    def refuse(self, where: str, reason: str) -> NoReturn:
        """Raise an error that names the file and a place in it."""
        raise FlowError(f"'{self.path}', {where}: {reason}")

    def place(self, kind: str, key: str) -> str:
        """Return the place of an element."""
        return self.markup.place(kind, key)


def flattened(libsbml: Any, document: Any, markup: Markup, file: str) -> Any:
    """Return the document of a model without submodels; other documents are returned unchanged.

    Parameters
    ----------
    libsbml : module
    document : libsbml.SBMLDocument
    markup : Markup
    file : str
        Path of the file; its folder may hold the files of external models.

    Raises
    ------
    FlowError
        For a mistake, an external model that is refused, or a model that would be too large.
    """
    if document.getModel() is None or document.getPlugin(PACKAGE) is None:
        return document
    hierarchy = _Hierarchy(libsbml, Path(file).parent)
    main = hierarchy.add(Path(file), markup, document)
    hierarchy.extent(main, document.getModel().getId(), ())
    return hierarchy.flat(main)


@define
class _Hierarchy:
    """The files of one model, and the size of the models in them."""

    libsbml: Any
    folder: Path
    files: dict[Path, _File] = field(factory=dict)
    #: File of an external model, by the number of the file that defines it and its identifier.
    externals: dict[tuple[int, str], _File] = field(factory=dict)
    size: int = 0
    #: Submodels and characters of a model with all models in it, by file and identifier.
    extents: dict[tuple[int, str], tuple[int, int]] = field(factory=dict)

    def add(self, path: Path, markup: Markup, document: Any) -> _File:
        """Add a file."""
        file = self.files[path] = _File(path, markup, document, len(self.files))
        self.size += len(markup.text)
        if self.size > MAX_BYTES:
            raise FlowError(f"'{path}': the files of the model have more than {MAX_BYTES} bytes")
        return file

    def _external(self, file: _File, definition: Any) -> _File:
        """Return the file of an external model, which is read where it is used."""
        source = definition.getSource()
        where = file.place("externalModelDefinition", definition.getId())
        path = included_path(self.folder, file.path.parent, source, partial(file.refuse, where))
        if path not in self.files:
            if len(self.files) == MAX_FILES:
                file.refuse(where, f"the model uses more than {MAX_FILES} files")
            markup = Markup.read(path)
            document = self.libsbml.readSBMLFromString(markup.text)
            refuse_first(self.libsbml, document, markup, str(path))
            if document.getModel() is None:
                raise FlowError(f"'{path}': it holds no model")
            self.add(path, markup, document)
        self.externals[file.number, definition.getId()] = self.files[path]
        return self.files[path]

    def extent(self, file: _File, name: str, above: tuple[tuple[int, str], ...]) -> tuple[int, int]:
        """Return the submodels and characters of a model, with all models in it.

        Parameters
        ----------
        file : _File
        name : str
            Identifier of the model, of a model definition, or of an external one.
        above : tuple
            Models in which it is.
        """
        key = (file.number, name)
        if key in above:
            file.refuse(file.place("modelDefinition", name), "the model contains itself")
        if len(above) > MAX_NESTED:
            file.refuse(
                file.place("modelDefinition", name),
                f"submodels are nested more than {MAX_NESTED} deep",
            )
        if key not in self.extents:
            self.extents[key] = self._extent(file, name, (*above, key))
        return self.extents[key]

    def _extent(
        self, file: _File, name: str, above: tuple[tuple[int, str], ...]
    ) -> tuple[int, int]:
        plugin = file.document.getPlugin(PACKAGE)
        if plugin is not None and (external := plugin.getExternalModelDefinition(name)):
            other = self._external(file, external)
            if len({number for number, _ in above} | {other.number}) > MAX_DEPTH:
                file.refuse(
                    file.place("externalModelDefinition", name),
                    f"external models go more than {MAX_DEPTH} files deep",
                )
            own = external.getModelRef() or other.document.getModel().getId()
            return self.extent(other, own, above)
        model = file.document.getModel()
        if plugin is not None and (definition := plugin.getModelDefinition(name)):
            model = definition
        if model.getId() != name:
            file.refuse(file.place("modelDefinition", name), "no model has this identifier")
        count, characters = 1, len(model.toSBML())
        part = model.getPlugin(PACKAGE)
        for number in range(part.getNumSubmodels() if part is not None else 0):
            below = self.extent(file, part.getSubmodel(number).getModelRef(), above)
            count, characters = count + below[0], characters + below[1]
            if count > MAX_PARTS or characters > MAX_BYTES:
                file.refuse(
                    file.place("submodel", part.getSubmodel(number).getId()),
                    f"with its submodels the model has more than {MAX_PARTS} of them or "
                    f"{MAX_BYTES} characters",
                )
        return count, characters

    def flat(self, main: _File) -> Any:
        """Return libsbml's flattened document."""
        properties = self.libsbml.ConversionProperties()
        for option in ("flatten comp", "performValidation"):
            properties.addOption(option, True)
        with TemporaryDirectory(prefix="cubie_flow_sbml_") as folder:
            for file in self.files.values():
                self._copy(file, Path(folder))
            document = self.libsbml.readSBMLFromFile(str(Path(folder) / _name(main)))
            ignore_units(self.libsbml, document)
            done = document.convert(properties)
        if done != self.libsbml.LIBSBML_OPERATION_SUCCESS:
            errors = [document.getError(n) for n in range(document.getNumErrors())]
            bad = [e for e in errors if e.getSeverity() >= self.libsbml.LIBSBML_SEV_ERROR]
            text = reason(bad[-1].getMessage()) if bad else "libsbml gives no reason"
            raise FlowError(f"'{main.path}': its submodels cannot be flattened: {text}")
        return document

    def _copy(self, file: _File, folder: Path) -> None:
        """Write a file with the names of the copies in place of those of external files."""
        plugin = file.document.getPlugin(PACKAGE)
        count = plugin.getNumExternalModelDefinitions() if plugin is not None else 0
        for number in reversed(range(count)):
            definition = plugin.getExternalModelDefinition(number)
            used = self.externals.get((file.number, definition.getId()))
            if used is None:  # no submodel refers to it
                plugin.removeExternalModelDefinition(number)
            else:
                definition.setSource(_name(used))
        self.libsbml.writeSBMLToFile(file.document, str(folder / _name(file)))


def _name(file: _File) -> str:
    return f"model_{file.number}.xml"
