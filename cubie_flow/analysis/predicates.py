"""Conditions on runs, such as ``rho > 24 and status == 'success'``.

A condition is read by Python's parser and then checked node by node against the few things that
a condition may hold; it is interpreted and never executed, so a text from anywhere is safe.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from cubie_flow.errors import FlowError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

Columns = Mapping[str, Any]
Evaluate = Callable[[Columns], Any]
LONGEST = 10_000
FUNCTIONS = ("abs", "exp", "isfinite", "isnan", "log", "log10", "sqrt")
EXAMPLE = "\"rho > 24 and status == 'success'\""

_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
    ast.FloorDiv: "floor_divide",
    ast.Mod: "mod",
    ast.Pow: "power",
}
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
}
_LOGIC: dict[type[ast.AST], str] = {
    ast.And: "logical_and",
    ast.Or: "logical_or",
    ast.BitAnd: "logical_and",
    ast.BitOr: "logical_or",
}


@frozen
class Column:
    """A quantity that has one value a run.

    Attributes
    ----------
    flags
        Its numbers by the words that stand for them, where it has such (``status``).
    problem
        Why a condition cannot use it; empty if it can.
    """

    flags: Mapping[str, int] = field(factory=dict)
    problem: str = ""


@frozen
class Predicate:
    """A condition that was read and checked.

    Attributes
    ----------
    text
        As it was given.
    names
        The columns that it needs.
    """

    text: str
    names: tuple[str, ...]
    _evaluate: Evaluate

    def __call__(self, columns: Columns) -> NDArray[Any]:
        """Return which runs satisfy the condition.

        Parameters
        ----------
        columns : mapping
            An array of shape (n,) for each of `names`. Integers are compared as float64.

        Returns
        -------
        ndarray of bool, shape (n,)
            A comparison with NaN is false, ``!=`` excepted.
        """
        import numpy as np

        doubles = {
            name: np.asarray(columns[name], dtype=np.float64)
            if np.asarray(columns[name]).dtype.kind in "iu"
            else np.asarray(columns[name])
            for name in self.names
        }
        with np.errstate(all="ignore"):
            return np.asarray(self._evaluate(doubles), dtype=bool)


def read_predicate(text: object, known: Mapping[str, Column]) -> Predicate:
    """Read a condition.

    Parameters
    ----------
    text : str
        Comparisons of names and numbers, joined by ``and``, ``or`` and ``not`` (or ``&``, ``|``,
        ``~``), with arithmetic, chains such as ``1 < rho < 2``, ``in`` with a list, and the
        functions in `FUNCTIONS`. Flags such as ``status`` are compared with their words.
    known : mapping
        What may be named.

    Raises
    ------
    FlowError
        For whatever is no condition, naming the part and the nearest name.
    """
    if not isinstance(text, str) or not text.strip():
        raise FlowError(f"a condition is a text such as {EXAMPLE}, not {text!r:.60}")
    if len(text) > LONGEST:
        raise FlowError(f"a condition of {len(text)} characters is too long, allowed are {LONGEST}")
    try:
        tree = ast.parse(" ".join(text.split()), mode="eval")
        reader = _Reader(text, known)
        evaluate = reader.truth(tree.body)
    except SyntaxError as error:
        place = f" near column {error.offset}" if error.offset else ""
        raise FlowError(
            f"the condition '{text}' cannot be read{place}: {error.msg}; write it like {EXAMPLE}"
        ) from None
    except ValueError as error:
        if isinstance(error, FlowError):
            raise
        raise FlowError(f"the condition {text!r:.60} cannot be read: {error}") from None
    except (RecursionError, MemoryError):
        raise FlowError(f"the condition '{text[:40]}...' is nested too deeply") from None
    if not reader.names:
        raise FlowError(f"the condition '{text}' names no quantity; write it like {EXAMPLE}")
    return Predicate(text, tuple(reader.names), evaluate)


class _Reader:
    """Turns nodes that are allowed into functions of the columns, and refuses all others."""

    def __init__(self, text: str, known: Mapping[str, Column]) -> None:
        self.text = text
        self.known = known
        self.names: dict[str, None] = {}

    def refuse(self, node: ast.AST, reason: str) -> FlowError:
        part = ast.unparse(node)
        told = f"'{part}' in the condition" if part != self.text else "the condition"
        return FlowError(f"{told} '{self.text}' {reason}")

    # true or false ------------------------------------------------------------------------------

    def truth(self, node: ast.AST) -> Evaluate:
        if isinstance(node, ast.BoolOp):
            return self._join(_LOGIC[type(node.op)], [self.truth(value) for value in node.values])
        if isinstance(node, ast.BinOp) and type(node.op) in _LOGIC:
            return self._join(
                _LOGIC[type(node.op)], [self.truth(node.left), self.truth(node.right)]
            )
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            return _call("logical_not", self.truth(node.operand))
        if isinstance(node, ast.Compare):
            return self._compare(node)
        if isinstance(node, ast.Call) and _function(node) in ("isnan", "isfinite"):
            return _call(_function(node), self.number(self._argument(node)))
        raise self.refuse(node, f"is neither true nor false; compare it, as in {EXAMPLE}")

    @staticmethod
    def _join(operation: str, parts: list[Evaluate]) -> Evaluate:
        joined = parts[0]
        for part in parts[1:]:
            joined = _call(operation, joined, part)
        return joined

    def _compare(self, node: ast.Compare) -> Evaluate:
        sides = [node.left, *node.comparators]
        parts = [
            self._one(left, operator, right)
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return self._join("logical_and", parts)

    def _one(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Evaluate:
        if isinstance(operator, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
                raise self.refuse(right, "must be a list of values, such as [1, 2]")
            found = self._join(
                "logical_or", [self._one(left, ast.Eq(), item) for item in right.elts]
            )
            return found if isinstance(operator, ast.In) else _call("logical_not", found)
        if type(operator) not in _COMPARISONS:
            raise self.refuse(left, "is compared with 'is'; use ==")
        operation = _COMPARISONS[type(operator)]
        word, other = (left, right) if _is_text(left) else (right, left)
        if _is_text(word):
            value = self._flag(word, other)
            if operation not in ("equal", "not_equal"):
                raise self.refuse(word, "is a word, which is compared with == or != only")
            return _call(operation, self.number(other), _constant(value))
        return _call(operation, self.number(left), self.number(right))

    def _flag(self, word: ast.expr, other: ast.expr) -> float:
        assert isinstance(word, ast.Constant)
        text = str(word.value)  # type: ignore[str-bytes-safe]
        name = other.id if isinstance(other, ast.Name) else ""
        flags = self.known[name].flags if name in self.known else {}
        if name in self.known and text in flags:
            return float(flags[text])
        if flags:
            raise FlowError(
                f"{name} is never '{text}'; it is one of {', '.join(flags)}{nearest(text, flags)}"
            )
        self.number(other)  # says what is wrong with a name, if anything
        raise self.refuse(word, "is a text, but what it is compared with is a number")

    # numbers ------------------------------------------------------------------------------------

    def number(self, node: ast.AST) -> Evaluate:
        if isinstance(node, ast.Constant):
            if isinstance(node.value, bool) or not isinstance(node.value, int | float):
                raise self.refuse(node, "is no number")
            try:
                return _constant(float(node.value))
            except OverflowError:
                raise self.refuse(node, "is too large a number") from None
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            operand = self.number(node.operand)
            return _call("negative", operand) if isinstance(node.op, ast.USub) else operand
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            operation = _ARITHMETIC[type(node.op)]
            return _call(operation, self.number(node.left), self.number(node.right))
        if isinstance(node, ast.Call) and _function(node) in FUNCTIONS:
            if _function(node) in ("isnan", "isfinite"):
                raise self.refuse(node, "is true or false and no number")
            return _call(_function(node), self.number(self._argument(node)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            raise FlowError(
                f"'{name}' is no function of a condition (there are {', '.join(FUNCTIONS)})"
                f"{nearest(name, FUNCTIONS)}"
            )
        if isinstance(node, ast.BinOp) and type(node.op) in _LOGIC:
            raise self.refuse(node, "joins numbers; put the comparisons beside & and | in brackets")
        raise self.refuse(node, "is not allowed: a condition compares names and numbers")

    def _argument(self, node: ast.Call) -> ast.expr:
        if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
            raise self.refuse(node, "takes one value")
        return node.args[0]

    def _name(self, name: str) -> Evaluate:
        if name not in self.known:
            raise FlowError(
                f"the condition names '{name}', which the result does not have"
                f"{nearest(name, self.known)}"
                + ("" if nearest(name, self.known) else f" (it has {', '.join(self.known)})")
            )
        if self.known[name].problem:
            raise FlowError(f"the condition names '{name}', {self.known[name].problem}")
        self.names[name] = None
        return lambda columns: columns[name]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _function(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _constant(value: float) -> Evaluate:
    def evaluate(_: Columns) -> Any:
        import numpy as np

        # A strong double, so that a float32 column is compared exactly.
        return np.float64(value)

    return evaluate


def _call(operation: str, *parts: Evaluate) -> Evaluate:
    def evaluate(columns: Columns) -> Any:
        import numpy as np

        return getattr(np, operation)(*(part(columns) for part in parts))

    return evaluate
