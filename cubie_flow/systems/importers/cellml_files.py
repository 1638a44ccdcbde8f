"""CellML files, and the imports of components and units from other files.

libcellml would open every file that a model names. Here, imported files must be inside the folder
of the model and pass the same checks as the model; libcellml gets their text and opens no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NoReturn

from attrs import define, field, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.systems.importers.inclusion import (
    MAX_DEPTH,
    MAX_FILES,
    MAX_PARTS,
    included_path,
)
from cubie_flow.systems.importers.markup import MAX_BYTES, Markup
from cubie_flow.systems.importers.names import MAX_REASON, sentence

VERSIONS = {
    "http://www.cellml.org/cellml/1.0#": "1.0",
    "http://www.cellml.org/cellml/1.1#": "1.1",
    "http://www.cellml.org/cellml/2.0#": "2.0",
}
#: Units that define one unit; the time of libcellml grows with the cube.
MAX_UNITS = 200
_ELEMENT = re.compile(r"'(\w+)' element")
_COMPONENT = re.compile(r"component '(\w+)'")
#: A number of MathML, with its attributes.
_NUMBER = re.compile(r"<cn((?:\s[^<>]*)?)>([^<>]{1,64})</cn>")
_PLAIN_TYPE = re.compile(r"""\s+type=(?:"(?:real|integer)"|'(?:real|integer)')""")
_PLAIN = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
#: Prefixes of the namespace of CellML, formulas, their elements, and attributes with a prefix.
_PREFIX = re.compile(r"""xmlns:(\w+)\s*=\s*["']http://www\.cellml\.org/cellml/""")
_MATH = re.compile(r"<math[\s>].*?</math>", re.DOTALL)
_ELEMENTS = re.compile(r"<[a-zA-Z][^<>]*>")
_PREFIXED = re.compile(r"""\s+([\w.-]+):[\w.-]+\s*=\s*(?:"[^"]*"|'[^']*')""")
#: A start value that is a number, with its quotes.
_INITIAL = re.compile(
    r"""(\binitial_value\s*=\s*)(["'])\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*\2"""
)
_EXPONENT = re.compile(r"\s*([-+]?)([0-9.]+)[eE]([-+]?)([0-9]+)\s*")


@frozen
class CellmlFile:
    """One CellML file, and the places in it.

    Parameters
    ----------
    path : Path
        Names it in errors.
    markup : Markup
    """

    path: Path
    markup: Markup

    @property
    def version(self) -> str:
        """The version of CellML.

        Raises
        ------
        FlowError
            If the namespace is not one of CellML.
        """
        space = self.markup.namespace
        if self.markup.root != "model" or space not in VERSIONS:
            self.refuse("", f"its namespace '{space}' is not one of CellML")
        return VERSIONS[space]

    def refuse(self, where: str, reason: str) -> NoReturn:
        """Raise an error that names the file and a place in it."""
        place = f", {where}" if where else ""
        raise FlowError(f"'{self.path}'{place}: {reason}")

    def place(self, component: str, variable: str = "") -> str:
        """Return the place of a component or of its variable."""
        place = self.markup.place("component", component)
        return f"{place}, variable '{variable}'" if variable else place

    def refuse_issues(self, logger: Any, what: str) -> None:
        """Raise the first error that a part of libcellml reports."""
        if logger.errorCount():
            text = sentence(logger.error(0).description()).rstrip(".")[:MAX_REASON]
            self.refuse(self._issue_place(text), f"{what}: {text}")

    def _issue_place(self, text: str) -> str:
        """Return the place of an issue, as far as libcellml's text gives it."""
        element, component = _ELEMENT.search(text), _COMPONENT.search(text)
        lines = self.markup.first
        if element and element[1] in lines and "import" not in lines:
            return f"line {self.markup.first[element[1]]}"
        return self.place(component[1]) if component else ""

    def parse(self, libcellml: Any) -> Any:
        """Return libcellml's model of the file alone.

        Raises
        ------
        FlowError
            If it is not valid CellML, or has elements that are not supported.
        """
        if self.version != "2.0" and "reaction" in self.markup.first:
            # libcellml ignores elements that the newest version no longer has.
            self.refuse(
                f"line {self.markup.first['reaction']}", "reaction elements are not supported"
            )
        # The non-strict parser reads older versions as the newest.
        parser = libcellml.Parser(self.version == "2.0")
        text = self.markup.text if self.version == "2.0" else normalised(self.markup.text)
        model = parser.parseModel(text)
        self.refuse_issues(parser, f"it is not valid CellML {self.version}")
        self.check_units(model)
        return model

    def check_units(self, model: Any) -> None:
        """Refuse units that are defined by too many others, because libcellml expands them."""
        uses = {
            units.name(): [
                units.unitAttributeReference(number) for number in range(units.unitCount())
            ]
            for units in units_of(model)
        }
        try:
            order = list(TopologicalSorter(uses).static_order())
        except CycleError as error:
            circle = sentence(" -> ".join(reversed(error.args[1])))[:MAX_REASON]
            self.refuse("", f"units define each other in a circle: {circle}")
        parts: dict[str, int] = {}
        for name in order:
            parts[name] = 1 + sum(parts[used] for used in uses.get(name, ()))
            if parts[name] > MAX_UNITS:
                self.refuse(
                    self.markup.place("units", name),
                    f"more than {MAX_UNITS} other units define it, directly and indirectly",
                )


def normalised(text: str) -> str:
    """Return a model of an older version in the stricter form that libcellml reads.

    Other programs read all of this: numbers such as ``1.7e-3`` and ``+2`` in ``<cn>`` and in
    ``initial_value``, whole numbers (``type="integer"``), and identifiers of metadata in formulas.
    The number of lines stays.
    """
    own = {"xmlns", *_PREFIX.findall(text)}

    def attribute(match: re.Match[str]) -> str:
        return match[0] if match[1] in own else "\n" * match[0].count("\n")

    def element(match: re.Match[str]) -> str:
        return _PREFIXED.sub(attribute, match[0])

    def formula(match: re.Match[str]) -> str:
        return _ELEMENTS.sub(element, match[0])

    text = _NUMBER.sub(_number, _MATH.sub(formula, text))
    return _INITIAL.sub(lambda match: f'{match[1]}"{match[3].removeprefix("+")}"', text)


def _number(match: re.Match[str]) -> str:
    """Return a number of MathML as libcellml reads it."""
    attributes, written = _PLAIN_TYPE.sub("", match[1]), match[2]
    if "type=" in attributes or "base=" in attributes:
        return match[0]
    number = _EXPONENT.fullmatch(written)
    if number is None:
        plain = written.strip().removeprefix("+")
        return f"<cn{attributes}>{plain}</cn>" if _PLAIN.fullmatch(plain) else match[0]
    sign, digits, below, exponent = (part.replace("+", "") for part in number.groups())
    return f'<cn type="e-notation"{attributes}>{sign}{digits}<sep/>{below}{exponent}</cn>'


def whole_model(libcellml: Any, file: CellmlFile) -> Any:
    """Return libcellml's model of a file, with its imports inserted.

    Parameters
    ----------
    libcellml : module
    file : CellmlFile
        Imports are read from files inside its folder only.

    Raises
    ------
    FlowError
        For a mistake in one of the files, or an import that is refused, naming file and import.
    """
    return _Linker(libcellml, file.path.parent).link(file)


@define
class _Linker:
    """Inserts imports, the innermost first, so that nothing is flattened twice."""

    libcellml: Any
    folder: Path
    #: Every imported file.
    files: dict[Path, CellmlFile] = field(factory=dict)
    #: Flat models of imported files, by path and imported components.
    flat: dict[tuple[Path, frozenset[str]], Any] = field(factory=dict)
    #: Characters parsed so far.
    size: int = 0

    def link(
        self, file: CellmlFile, above: tuple[Path, ...] = (), wanted: frozenset[str] | None = None
    ) -> Any:
        """Return a file's model with its imports inserted.

        Parameters
        ----------
        file : CellmlFile
        above : tuple of Path
            The files through which it is imported.
        wanted : frozenset of str, optional
            Components that are imported from it. Others are left out, so that imports of these
            need not exist.
        """
        model = file.parse(self.libcellml)
        if wanted is not None:
            _keep(model, wanted)
        imported = [item for item in _importable(model) if item.isImport()]
        if not imported:
            return model
        importer = self.libcellml.Importer(file.version == "2.0")
        groups: dict[str, list[Any]] = {}
        for item in imported:
            groups.setdefault(item.importSource().url(), []).append(item)
        extent = _Extent.of(components_of(model))
        taken = {component.name() for component in components_of(model)}
        for url, items in groups.items():
            where = file.markup.place("import", url)
            source = self._source(file, where, url, (*above, file.path), items)
            for item in items:
                if isinstance(item, self.libcellml.Component):
                    own, size = self._component(item, source, taken)
                    importer.addModel(own, item.name())  # a source only knows of it
                    extent += size
                else:
                    item.importSource().setModel(source)
            if extent.components > MAX_PARTS or extent.formulas > MAX_BYTES:
                file.refuse(
                    where,
                    f"with what it imports the model has more than {MAX_PARTS} components or "
                    f"{MAX_BYTES} characters of formulas",
                )
        flat = importer.flattenModel(model)
        file.refuse_issues(importer, "its imports cannot be inserted")
        file.check_units(flat)
        return flat

    def _component(self, item: Any, source: Any, taken: set[str]) -> tuple[Any, _Extent]:
        """Give an imported component its own source, without a name in `taken`."""
        # libcellml renames equal names of two imports, but not to unused names.
        own = source.clone()
        tree = list(_below(own.component(item.importReference(), True)))
        for part in tree[1:]:
            name, number = part.name(), 1
            while name in taken:
                name = f"{item.name()}_{part.name()}" + (f"_{number}" if number > 1 else "")
                number += 1
            taken.add(name)
            part.setName(name)
        origin = self.libcellml.ImportSource()
        origin.setUrl(item.importSource().url())
        origin.setModel(own)
        item.setImportSource(origin)
        return own, _Extent.of(tree)

    def _source(
        self, file: CellmlFile, where: str, url: str, chain: tuple[Path, ...], items: list[Any]
    ) -> Any:
        """Return the flat model of an imported file, which has all of `items`."""
        path = included_path(
            self.folder, file.path.parent, url, lambda reason: file.refuse(where, reason)
        )
        if path in chain:
            circle = " -> ".join(str(step) for step in (*chain[chain.index(path) :], path))
            file.refuse(where, f"the files import each other in a circle: {circle}")
        if len(chain) == MAX_DEPTH:
            file.refuse(where, f"imports go more than {MAX_DEPTH} files deep")
        components = [item for item in items if isinstance(item, self.libcellml.Component)]
        key = (path, frozenset(item.importReference() for item in components))
        if key not in self.flat:
            source = self._read(file, where, path)
            self.flat[key] = self.link(source, chain, key[1])
            # In another model, the first of two units of one name would be used without an error.
            validator = self.libcellml.Validator()
            validator.validateModel(self.flat[key])
            source.refuse_issues(validator, f"it is not valid CellML {source.version}")
        flat = self.flat[key]
        for item in items:
            kind, names = "units", [part.name() for part in units_of(flat)]
            if item in components:
                kind, names = "component", [part.name() for part in components_of(flat)]
            name = item.importReference()
            if name not in names:
                file.refuse(where, f"'{path}' has no {kind} '{name}'{nearest(name, names)}")
        return flat

    def _read(self, file: CellmlFile, where: str, path: Path) -> CellmlFile:
        """Return an imported file."""
        if path not in self.files:
            if len(self.files) == MAX_FILES:
                file.refuse(where, f"the model imports more than {MAX_FILES} files")
            self.files[path] = CellmlFile(path, Markup.read(path))
        self.size += len(self.files[path].markup.text)
        if self.size > MAX_BYTES:
            file.refuse(where, f"the imported files have more than {MAX_BYTES} characters")
        return self.files[path]


@frozen
class _Extent:
    """Size of a part of a model."""

    components: int = 0
    #: Characters.
    formulas: int = 0

    @classmethod
    def of(cls, components: Iterable[Any]) -> _Extent:
        """Return the extent of components."""
        lengths = [len(component.math()) for component in components]
        return cls(len(lengths), sum(lengths))

    def __add__(self, other: _Extent) -> _Extent:
        return _Extent(self.components + other.components, self.formulas + other.formulas)


def _keep(model: Any, wanted: frozenset[str]) -> None:
    """Remove from a model every tree of components without a wanted one."""
    for component in [model.component(number) for number in range(model.componentCount())]:
        tree = list(_below(component))
        if not any(part.name() in wanted for part in tree):
            for part in tree:
                for number in range(part.variableCount()):
                    part.variable(number).removeAllEquivalences()
            model.removeComponent(component)


def _importable(model: Any) -> Iterator[Any]:
    """Yield everything that may be an import: units and components."""
    yield from units_of(model)
    yield from components_of(model)


def units_of(model: Any) -> Iterator[Any]:
    """Yield all units of a model."""
    yield from (model.units(number) for number in range(model.unitsCount()))


def components_of(model: Any) -> Iterator[Any]:
    """Yield every component of a model, including encapsulated ones."""
    for number in range(model.componentCount()):
        yield from _below(model.component(number))


def _below(component: Any) -> Iterator[Any]:
    """Yield a component and all components that are encapsulated in it."""
    stack = [component]
    while stack:
        part = stack.pop()
        yield part
        stack.extend(part.component(number) for number in range(part.componentCount()))
