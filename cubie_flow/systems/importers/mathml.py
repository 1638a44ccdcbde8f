"""Conversion of formulas of libsbml."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from cubie_flow.errors import FlowError
from cubie_flow.systems.importers import vocabulary
from cubie_flow.systems.importers.formula import Formula

#: Names of MathML for names of libsbml.
_FUNCTIONS = {
    "FUNCTION_CEILING": "ceiling",
    "PLUS": "plus",
    "MINUS": "minus",
    "TIMES": "times",
    "DIVIDE": "divide",
    "POWER": "power",
    "FUNCTION_POWER": "power",
    **{f"RELATIONAL_{name.upper()}": name for name in vocabulary.RELATIONS},
    **{f"LOGICAL_{name.upper()}": name for name in vocabulary.LOGICAL},
    **{f"FUNCTION_{name.upper()}": name for name in vocabulary.NUMERIC},
}
_CONSTANTS = {
    "CONSTANT_E": "exponentiale",
    "CONSTANT_PI": "pi",
    "CONSTANT_TRUE": "true",
    "CONSTANT_FALSE": "false",
}
#: Operations with any number of operands; libsbml nests them in pairs.
_LONG = {"plus", "times", "and", "or"}


@cache
def _types(libsbml: Any) -> dict[int, str]:
    """Return the names of the operations of libsbml by number."""
    return {
        number: name.removeprefix("AST_")
        for name, number in vars(libsbml).items()
        if name.startswith("AST_") and isinstance(number, int)
    }


def formula_of(libsbml: Any, node: Any, where: str, local: Mapping[str, str]) -> Formula:
    """Return the formula of a syntax tree of libsbml.

    Parameters
    ----------
    libsbml : module
    node : libsbml.ASTNode
    where : str
        Names the place in errors.
    local : mapping
        Replacements of names: the local parameters of a kinetic law.

    Raises
    ------
    FlowError
        If it has an element that is not supported.
    """
    kind = _types(libsbml).get(node.getType(), "")
    if node.isNumber():
        return Formula("number", float(node.getValue()))
    if kind in ("NAME", "NAME_TIME", "NAME_AVOGADRO"):
        if kind == "NAME_TIME":
            return Formula("time")
        if kind == "NAME_AVOGADRO":
            return Formula("number", float(node.getValue()))
        name = node.getName()
        return Formula("name", local.get(name, name))
    if kind in _CONSTANTS:
        return Formula("constant", _CONSTANTS[kind])

    def inner(child: Any) -> Formula:
        return formula_of(libsbml, child, where, local)

    name = _FUNCTIONS.get(kind, "")
    children = _operands(libsbml, node, name)
    if name:
        if len(children) == 1 and name in ("root", "log"):
            default = 2.0 if name == "root" else 10.0
            return Formula("apply", name, (Formula("number", default), inner(children[0])))
        return Formula("apply", name, tuple(map(inner, children)))
    if kind == "FUNCTION_PIECEWISE":
        return Formula("piecewise", None, tuple(map(inner, children)))
    if kind == "FUNCTION":
        return Formula("call", node.getName(), tuple(map(inner, children)))
    if kind == "FUNCTION_RATE_OF":
        target = inner(children[0])
        if target.op != "name":
            raise FlowError(f"{where}: rateOf takes the name of a quantity")
        return Formula("rate", target.value)
    if kind == "FUNCTION_DELAY":
        # Its name in the file is free, and means nothing.
        return Formula("apply", "delay", tuple(map(inner, children)))
    if kind == "UNKNOWN":
        raise FlowError(f"{where}: an element of its formula is empty")
    element = node.getName() or kind.lower() or "an unknown element"
    raise FlowError(f"{where}: '{element}' in a formula is not supported")


def _operands(libsbml: Any, node: Any, name: str) -> list[Any]:
    """Return the operands; nested pairs of a long sum or product are flattened."""
    last: list[Any] = []
    kind = node.getType()
    while name in _LONG and node.getNumChildren() == 2 and node.getChild(0).getType() == kind:
        last.append(node.getChild(1))
        node = node.getChild(0)
    first = [node.getChild(number) for number in range(node.getNumChildren())]
    return first + last[::-1]
