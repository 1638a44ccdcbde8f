"""Expressions of models as plain Python functions, without code of cubie_flow.

The expressions of a model are valid Python, so that the parser and compiler of Python read them.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any

Tree = ast.expr
#: Functions and constants by name.
_NAMES: dict[str, Any] = {
    name: getattr(math, name)
    for name in (
        "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "cos", "cosh",
        "erf", "exp", "exp2", "expm1", "floor", "hypot", "log", "log10", "log1p", "log2", "sin",
        "sinh", "sqrt", "tan", "tanh", "e", "pi",
    )
} | {
    "abs": abs, "max": max, "min": min, "pow": math.pow, "mod": lambda a, b: a % b,
    "sign": lambda a: float(a > 0) - float(a < 0),
}  # fmt: skip


def parse(text: Any) -> Tree:
    """Return the tree of an expression, or of a number."""
    return ast.parse(str(text), mode="eval").body


def names_in(tree: Tree) -> set[str]:
    """Return the names of quantities in a tree."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - _NAMES.keys()


def sort_by_use(texts: Mapping[str, Any]) -> list[str]:
    """Return the names of expressions, each after the names that it uses."""
    uses = {name: names_in(parse(text)) & texts.keys() for name, text in texts.items()}
    return list(TopologicalSorter(uses).static_order())


class _Substitute(ast.NodeTransformer):
    def __init__(self, trees: Mapping[str, Tree]) -> None:
        self.trees = trees

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.trees.get(node.id, node)


def substitute(tree: Tree, trees: Mapping[str, Tree]) -> Tree:
    """Return a copy of a tree in which other trees replace names."""
    copy = ast.parse(ast.unparse(tree), mode="eval").body
    return _Substitute(trees).visit(copy)  # type: ignore[no-any-return]


class _Python(ast.NodeTransformer):
    """Replaces ``where`` by a conditional, and comparisons of states by elements of ``m``.

    Parameters
    ----------
    states : set of str
        Comparisons that use one of these names become ``m[i]``.
    flags : list of str
        Texts of these comparisons; the text of every new one is appended.
    """

    def __init__(self, states: set[str], flags: list[str]) -> None:
        self.states, self.flags = states, flags

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "where":
            test, body, other = node.args
            return ast.IfExp(test, body, other)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        if not names_in(node) & self.states:
            return self.generic_visit(node)
        text = ast.unparse(node)
        if text not in self.flags:
            self.flags.append(text)
        index = ast.Constant(self.flags.index(text))
        return ast.Subscript(ast.Name("m", ast.Load()), index, ast.Load())


def function(
    trees: Iterable[Tree],
    arguments: Sequence[str],
    unpacked: Mapping[str, Sequence[str]],
    frozen: set[str] | None = None,
    flags: list[str] | None = None,
    names: Mapping[str, Any] | None = None,
) -> Callable[..., list[float]]:
    """Return a function of plain numbers that returns the values of trees as a list.

    Parameters
    ----------
    trees : iterable of ast.expr
    arguments : sequence of str
        Names of the arguments of the function.
    unpacked : mapping
        The arguments that are sequences, with the names of their elements.
    frozen : set of str, optional
        Comparisons that use one of these names read the argument ``m`` instead.
    flags : list of str, optional
        Receives the texts of these comparisons.
    names : mapping, optional
        Values of further names.
    """
    change = _Python(frozen or set(), [] if flags is None else flags)
    body = [ast.unparse(change.visit(substitute(tree, {}))) for tree in trees]
    lines = [f"def values({', '.join(arguments)}):"]
    for argument, elements in unpacked.items():
        if elements:
            lines.append(f"    {', '.join(elements)}, = {argument}")
    lines.append(f"    return [{', '.join(body)}]")
    space: dict[str, Any] = {**_NAMES, **(names or {})}
    exec("\n".join(lines), space)  # the text is a model of the harness
    return space["values"]  # type: ignore[no-any-return]
