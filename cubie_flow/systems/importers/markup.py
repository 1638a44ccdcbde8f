"""Check of XML before a library reads it: limits, no entities and no inclusion of files.

The libraries that read models use different XML parsers. Document types, and with them all
entities, are therefore refused here, and size and depth have limits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.parsers import expat

from attrs import define, field, frozen

from cubie_flow.errors import FlowError
from cubie_flow.systems.bounded_read import read_bytes

#: Bytes of a model file, of XML and of plain text.
MAX_BYTES, MAX_TEXT = 20_000_000, 2_000_000
#: Levels of nested elements. The libraries process formulas recursively.
MAX_DEPTH = 256
#: Elements of one file.
MAX_ELEMENTS = 1_000_000
#: Children of an element of a formula: a library makes a sum of n terms n levels deep.
MAX_CHILDREN = 5_000
#: Elements of one formula: the time of the libraries grows with the square.
MAX_FORMULA = 50_000
MATHML = "http://www.w3.org/1998/Math/MathML"
CELLML = "http://www.cellml.org/cellml/"
XINCLUDE = "http://www.w3.org/2001/XInclude"
#: Characters of a name or value.
MAX_ATTRIBUTE = 65_536
#: Attributes that identify an element.
_KEYS = ("http://www.w3.org/1999/xlink href", "id", "variable", "symbol", "name")


@frozen
class Markup:
    """XML that is well-formed, within limits and free of entities.

    Parameters
    ----------
    text : str
    root : str
        Name of the outermost element, without its namespace.
    namespace : str
        Namespace of the outermost element.
    lines : dict
        Line of every element with a name, by kind and name.
    first : dict
        Line of the first element of every kind.
    spaces : frozenset of str
        Namespaces of the elements and of the attributes, other than ``required``.
    """

    text: str
    root: str
    namespace: str
    lines: dict[tuple[str, str], int] = field(factory=dict)
    first: dict[str, int] = field(factory=dict)
    spaces: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: Path) -> Markup:
        """Return the markup of a file.

        Raises
        ------
        FlowError
            If it cannot be read or is refused.
        """
        return cls.check(read_bytes(path, MAX_BYTES), str(path))

    @classmethod
    def check(cls, content: bytes, where: str) -> Markup:
        """Return `content` as markup; `where` names it in errors.

        Raises
        ------
        FlowError
            If it is not XML, has a document type, or is too large or too deep.
        """
        checker = _Checker(where)
        text = checker.check(content)
        space, _, root = checker.root.rpartition(" ")
        return cls(text, root, space, checker.lines, checker.first, frozenset(checker.spaces))

    def place(self, element: str, key: str) -> str:
        """Return the place of an element, such as ``line 12, reaction 'R1'``."""
        line = self.lines.get((element, key))
        named = f"{element} '{key}'"
        return named if line is None else f"line {line}, {named}"


def read_text(path: Path) -> str:
    """Return the text of a model file.

    Raises
    ------
    FlowError
        If it cannot be read, is too large, or is not UTF-8.
    """
    return _decoded(read_bytes(path, MAX_TEXT), "utf-8", str(path))


def _decoded(content: bytes, encoding: str, where: str) -> str:
    try:
        return content.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        raise FlowError(f"model file '{where}' is not {encoding.upper()} text") from None


@define
class _Open:
    """An open element: its kind, whether it belongs to a formula, and its number of children."""

    kind: str
    formula: bool
    children: int = 0


class _Checker:
    """Checks every element once, without a tree of them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.root = ""
        self.count = 0
        #: Elements since the last formula began.
        self.formula = 0
        self.open: list[_Open] = []
        self.lines: dict[tuple[str, str], int] = {}
        self.first: dict[str, int] = {}
        self.spaces: set[str] = set()
        self.encoding = "utf-8"
        self.parser: Any = None

    def check(self, content: bytes) -> str:
        """Return the text of the content after a check of all elements."""
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.namespace_prefixes = True
        self.parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        self.parser.XmlDeclHandler = self.declaration
        self.parser.StartDoctypeDeclHandler = self.doctype
        self.parser.EntityDeclHandler = self.doctype
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        try:
            self.parser.Parse(content, True)
        except FlowError:
            raise
        except (LookupError, ValueError):
            raise FlowError(
                f"'{self.where}': its encoding '{self.encoding}' is not supported; save it as UTF-8"
            ) from None
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            raise FlowError(
                f"'{self.where}', line {error.lineno}: it is not XML: {reason}"
            ) from None
        return _without_declaration(_decoded(content, self.encoding, self.where))

    def refuse(self, reason: str) -> None:
        raise FlowError(f"'{self.where}', line {self.parser.CurrentLineNumber}: {reason}")

    def declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None:
            # A byte order mark is not part of the text.
            self.encoding = {"utf-8": "utf-8-sig"}.get(encoding.lower(), encoding.lower())

    def doctype(self, *_: Any) -> None:
        self.refuse("a document type (DOCTYPE) with its entities is refused")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name, prefix = _split(name)
        attributes = {_split(key)[0]: value for key, value in attributes.items()}
        self.root = self.root or name
        self.count += 1
        if self.count > MAX_ELEMENTS:
            self.refuse(f"the file has more than {MAX_ELEMENTS} elements")
        kind = name.rpartition(" ")[2]
        self.first.setdefault(kind, self.parser.CurrentLineNumber)
        for one in (name, *attributes):
            space, _, own = one.rpartition(" ")
            if own != "required":
                self.spaces.add(space)
        if name.startswith(XINCLUDE):
            self.refuse("including other files (XInclude) is refused")
        if self.root.startswith(CELLML) and name.startswith(MATHML):
            self.formula_of_cellml(kind, prefix)
        if self.open:
            parent = self.open[-1]
            parent.children += 1
            if parent.children > MAX_CHILDREN and parent.formula:
                self.refuse(f"an element of a formula holds more than {MAX_CHILDREN} others")
            if parent.kind == "math":
                self.formula = 0  # each equation of CellML, and the one formula of SBML
        # Lists of a model may be long, formulas may not.
        self.open.append(_Open(kind, name.startswith(MATHML)))
        self.formula += 1
        if self.formula > MAX_FORMULA and self.open[-1].formula:
            self.refuse(f"a formula has more than {MAX_FORMULA} elements")
        if len(self.open) > MAX_DEPTH:
            self.refuse(f"elements are nested more than {MAX_DEPTH} deep")
        if any(len(value) > MAX_ATTRIBUTE for value in attributes.values()):
            self.refuse(f"an attribute has more than {MAX_ATTRIBUTE} characters")
        # Attributes of an SBML package have its namespace, as its elements have.
        space = name.rpartition(" ")[0]
        for key in (*_KEYS, f"{space} id"):
            if key in attributes:
                self.lines.setdefault((kind, attributes[key]), self.parser.CurrentLineNumber)
                break

    def formula_of_cellml(self, kind: str, prefix: str) -> None:
        """Refuse MathML that libcellml misreads, or reports in an unclear way."""
        if prefix:
            self.refuse(
                f"<{prefix}:{kind}> is MathML with the prefix '{prefix}', which libcellml does not "
                f'read; write <math xmlns="{MATHML}"> and its elements without one'
            )
        inside = self.open[-1] if self.open else None
        first = inside is not None and inside.kind == "apply" and not inside.children
        if first and kind in ("ci", "cn", "apply", "piecewise"):
            self.refuse(
                f"an <apply> begins with <{kind}>, which is not an operation of CellML; it must "
                "begin with an operation, such as <times/>; expand the calls of defined functions"
            )

    def end(self, name: str) -> None:
        self.open.pop()


def _split(name: str) -> tuple[str, str]:
    """Return a name with its namespace, and its prefix; the prefix may be empty."""
    parts = name.split(" ")
    return " ".join(parts[:2]), parts[2] if len(parts) > 2 else ""


def _without_declaration(text: str) -> str:
    """Return text with a declaration of UTF-8 and the same numbers of lines."""
    text = text.lstrip("\ufeff")
    if text.startswith("<?xml"):
        head, _, rest = text.partition("?>")
        return '<?xml version="1.0" encoding="UTF-8"?>' + "\n" * head.count("\n") + rest
    return text
