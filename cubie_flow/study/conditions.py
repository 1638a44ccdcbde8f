"""Conditions on runs, such as ``rho > 24 and status == success``.

``output.trajectories.where`` and ``sel_runs`` read the same language. Python's parser reads the
text, then every node is checked against what a condition may hold. A condition is interpreted and
never executed, so a text from anywhere is safe.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions import graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

Columns = Mapping[str, Any]
Evaluate = Callable[[Columns], Any]
#: Characters and operators of a condition: Python's parser needs stack for every operator.
MAX_LENGTH, MAX_OPERATORS = 32_768, 5_000
_OPERATOR = re.compile(r"\*\*|[-+*/%~&|]|\b(?:not|if|and|or)\b")
#: Functions that are true or false.
TESTS = ("isfinite", "isnan")
#: Functions of a condition: those of the equations of a model, and tests of a number.
FUNCTIONS = (*graph.FUNCTIONS, "where", *TESTS)
CONSTANTS = {"e": math.e, "pi": math.pi}
EXAMPLE = '"rho > 24 and status == success"'

_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide",
    ast.FloorDiv: "floor_divide", ast.Mod: "mod", ast.Pow: "power",
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal",
    ast.Eq: "equal", ast.NotEq: "not_equal",
}  # fmt: skip
_LOGIC: dict[type[ast.AST], str] = {
    ast.And: "logical_and", ast.Or: "logical_or",
    ast.BitAnd: "logical_and", ast.BitOr: "logical_or",
}  # fmt: skip


@frozen
class Column:
    """A quantity that has one value per run.

    Attributes
    ----------
    flags
        Its numbers by the words that stand for them, if it has any (``status``).
    problem
        Why a condition cannot use it; empty if it can.
    """

    flags: Mapping[str, int] = field(factory=dict)
    problem: str = ""


@frozen
class Condition:
    """A condition that was read and checked.

    Attributes
    ----------
    text
        The condition as it was given.
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
            An array of shape (n,) for each of `names`. Numbers are compared as float64.

        Returns
        -------
        ndarray of bool, shape (n,)
            A comparison with NaN is false, except ``!=``.
        """
        import numpy as np

        doubles = {}
        for name in self.names:
            values = np.asarray(columns[name])
            doubles[name] = values.astype(np.float64) if values.dtype.kind in "iufb" else values
        with np.errstate(all="ignore"):
            return np.asarray(self._evaluate(doubles), dtype=bool)


def read_condition(text: object, known: Mapping[str, Column], key: str = "condition") -> Condition:
    """Read a condition.

    Parameters
    ----------
    text : str
        Comparisons of names and numbers, joined by ``and``, ``or`` and ``not`` (or ``&``, ``|``,
        ``~``), with arithmetic, chains such as ``1 < rho < 2``, ``in`` with a list, ``a if c else
        b`` and the functions in `FUNCTIONS`. Words such as ``success`` are written with or
        without quotes.
    known : mapping
        The quantities that a condition may name.
    key : str
        Where the condition is from, for messages.

    Raises
    ------
    FlowError
        For a text that is not a condition, naming the part and the nearest name.
    """
    if not isinstance(text, str) or not text.strip():
        raise FlowError(f"{key}: a condition is a text such as {EXAMPLE}, not {text!r:.60}")
    if len(text) > MAX_LENGTH:
        raise FlowError(f"{key}: {len(text)} characters are too long, allowed are {MAX_LENGTH}")
    if sum(1 for _ in _OPERATOR.finditer(text)) > MAX_OPERATORS:
        raise FlowError(f"{key}: '{text[:40]}...' is nested too deeply")
    try:
        tree = ast.parse(" ".join(text.split()), mode="eval")
        reader = _Reader(key, known)
        evaluate = reader.truth(tree.body)
    except SyntaxError as error:
        place = f" near column {error.offset}" if error.offset else ""
        raise FlowError(
            f"{key}: '{text}' cannot be read{place}: {error.msg}; write it like {EXAMPLE}"
        ) from None
    except ValueError as error:
        if isinstance(error, FlowError):
            raise
        raise FlowError(f"{key}: {text!r:.60} cannot be read: {error}") from None
    except (RecursionError, MemoryError, SystemError):
        raise FlowError(f"{key}: '{text[:40]}...' is nested too deeply") from None
    if not reader.names:
        raise FlowError(f"{key}: '{text}' names no quantity; write it like {EXAMPLE}")
    return Condition(text, tuple(reader.names), evaluate)


class _Reader:
    """Turns allowed nodes into functions of the columns, and refuses all others."""

    def __init__(self, key: str, known: Mapping[str, Column]) -> None:
        self.key = key
        self.known = known
        self.names: dict[str, None] = {}

    def _refuse(self, node: ast.AST, reason: str) -> FlowError:
        return FlowError(f"{self.key}: '{ast.unparse(node):.200}' {reason}")

    # true or false ------------------------------------------------------------------------------

    def truth(self, node: ast.AST) -> Evaluate:
        """Return the function of a node that is true or false."""
        match node:
            case ast.BoolOp(op=op, values=values):
                return self._join(_LOGIC[type(op)], [self.truth(value) for value in values])
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _LOGIC:
                return self._join(_LOGIC[type(op)], [self.truth(left), self.truth(right)])
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return _call("logical_not", self.truth(operand))
            case ast.Compare():
                return self._compare(node)
            case ast.Call(func=ast.Name(id=name)) if name in TESTS:
                (value,) = self._arguments(node, 1)
                return _call(name, value)
        raise self._refuse(node, f"is neither true nor false; compare it, as in {EXAMPLE}")

    @staticmethod
    def _join(operation: str, parts: list[Evaluate]) -> Evaluate:
        return reduce(lambda one, two: _call(operation, one, two), parts)

    def _compare(self, node: ast.Compare) -> Evaluate:
        sides = [node.left, *node.comparators]
        parts = [
            self._pair(left, operator, right)
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return self._join("logical_and", parts)

    def _pair(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Evaluate:
        """Return the comparison of two sides."""
        if isinstance(operator, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
                raise self._refuse(right, "must be a list of values, such as [1, 2]")
            among = self._join(
                "logical_or", [self._pair(left, ast.Eq(), item) for item in right.elts]
            )
            return among if isinstance(operator, ast.In) else _call("logical_not", among)
        if type(operator) not in _COMPARISONS:
            raise self._refuse(left, "is compared with 'is'; use ==")
        operation = _COMPARISONS[type(operator)]
        for word, other in ((left, right), (right, left)):
            if flags := self._flags(other):
                self._check_word(word, other, flags)
            if isinstance(word, ast.Constant) and isinstance(word.value, str):
                if not flags:
                    self.number(other)  # names what is wrong with a name, if anything
                    raise self._refuse(word, "is a text, but is compared with a number")
                if operation not in ("equal", "not_equal"):
                    raise self._refuse(word, "is a word, which is compared with == or != only")
                return _call(operation, self.number(other), _constant(float(flags[word.value])))
        return _call(operation, self.number(left), self.number(right))

    def _flags(self, node: ast.expr) -> Mapping[str, int]:
        """Return the words of a column; empty for anything else."""
        column = self.known.get(node.id) if isinstance(node, ast.Name) else None
        return column.flags if column is not None else {}

    def _check_word(self, word: ast.expr, other: ast.expr, flags: Mapping[str, int]) -> None:
        """Refuse a word that a column never has, or that is also the name of a quantity."""
        match word:
            case ast.Constant(value=str() as text):
                pass
            case ast.Name(id=text) if text in flags or text not in self.known:
                if text in self.known:
                    column = ast.unparse(other)
                    reason = f"is a {column} and a quantity; write the {column} in quotes"
                    raise self._refuse(word, reason)
            case _:
                return
        if text not in flags:
            raise FlowError(
                f"{self.key}: {ast.unparse(other)} is never '{text}'; it is one of "
                f"{', '.join(flags)}{nearest(text, flags)}"
            )

    # numbers ------------------------------------------------------------------------------------

    def number(self, node: ast.AST) -> Evaluate:
        """Return the function of a node that is a number."""
        match node:
            case ast.Constant(value=bool()):
                raise self._refuse(node, "is not a number")
            case ast.Constant(value=int() | float() as value):
                try:
                    return _constant(float(value))
                except OverflowError:
                    raise self._refuse(node, "is too large a number") from None
            case ast.Constant():
                raise self._refuse(node, "is not a number")
            case ast.Name(id=name):
                return self._name(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _call("negative", self.number(operand))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.number(operand)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
                return _call(_ARITHMETIC[type(op)], self.number(left), self.number(right))
            case ast.BinOp(op=op) if type(op) in _LOGIC:
                raise self._refuse(node, "joins numbers; put brackets around the comparisons")
            case ast.IfExp(test=test, body=body, orelse=other):
                return _call("where", self.truth(test), self.number(body), self.number(other))
            case ast.Call(func=ast.Name(id=name)):
                return self._function(node, name)
        raise self._refuse(node, "is not allowed: a condition compares names and numbers")

    def _function(self, node: ast.Call, name: str) -> Evaluate:
        if name in TESTS:
            raise self._refuse(node, "is true or false, not a number")
        if name == "where" and len(node.args) == 3:
            test, *choices = node.args
            return _call("where", self.truth(test), *map(self.number, choices))
        if name not in FUNCTIONS:
            raise FlowError(
                f"{self.key}: '{name}' is not a function of a condition (allowed: "
                f"{', '.join(FUNCTIONS)}){nearest(name, FUNCTIONS)}"
            )
        if name in ("min", "max") and len(node.args) > 2:
            parts = self._arguments(node, len(node.args))
            return reduce(lambda one, two: _elementary(name, one, two), parts)
        return _elementary(name, *self._arguments(node, graph.FUNCTIONS.get(name, 3)))

    def _arguments(self, node: ast.Call, count: int) -> list[Evaluate]:
        starred = any(isinstance(item, ast.Starred) for item in node.args)
        if len(node.args) != count or node.keywords or starred:
            raise self._refuse(node, f"takes {count} value{'s'[: count > 1]}")
        return [self.number(item) for item in node.args]

    def _name(self, name: str) -> Evaluate:
        if name not in self.known:
            words = [column.flags for column in self.known.values() if name in column.flags]
            if words or name in CONSTANTS:
                return _constant(float(words[0][name] if words else CONSTANTS[name]))
            hint = nearest(name, self.known) or f" (there are {', '.join(self.known)})"
            raise FlowError(f"{self.key}: '{name}' is not kept of every run{hint}")
        if self.known[name].problem:
            raise FlowError(f"{self.key}: '{name}' cannot be used, {self.known[name].problem}")
        self.names[name] = None
        return lambda columns: columns[name]


def _constant(value: float) -> Evaluate:
    def evaluate(_: Columns) -> Any:
        import numpy as np

        return np.float64(value)

    return evaluate


def _call(operation: str, *parts: Evaluate) -> Evaluate:
    """Return a function of NumPy, applied to the values of the parts."""

    def evaluate(columns: Columns) -> Any:
        import numpy as np

        return getattr(np, operation)(*(part(columns) for part in parts))

    return evaluate


def _elementary(name: str, *parts: Evaluate) -> Evaluate:
    """Return a function that the equations of a model have, applied to the values of the parts."""
    symbols = [graph.symbol(f"value_{i}") for i in range(len(parts))]
    node = graph.call(name, *symbols)

    def compute(columns: Columns) -> Any:
        from cubie_flow.expressions.evaluate import evaluate

        values = {str(one.value): part(columns) for one, part in zip(symbols, parts, strict=True)}
        return evaluate([node], values)[0]

    return compute
