"""The parser of equations: it turns infix text into an expression graph and executes nothing.

The text is Python arithmetic: ``+ - * / ** %``, comparisons and chains of them, ``and``, ``or``,
``not``, ``a if c else b``, numbers, names, and calls of the functions of
`cubie_flow.expressions.graph.FUNCTIONS`, of ``where(condition, a, b)``, ``sum(expression, index)``
and ``delay(expression, lag)``. Python's grammar reads it; every part of the syntax tree must then
be one of these. Length, depth and work have limits, so that hostile text is refused quickly.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from functools import reduce
from typing import NoReturn

from attrs import define, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, const
from cubie_flow.systems.scope import CALLABLE, MAX_WORK, NUMBERS, Scope, element_name

#: Characters of one expression.
MAX_LENGTH = 32_768
#: Operators of one expression. Python's parser recurses into signs, powers and sums without a check
#: of the stack: several times as many overflow the 512 KiB that some threads have.
MAX_OPERATORS = 2_000
#: Levels of nested parentheses, calls, signs and exponents.
MAX_DEPTH = 100
_ALLOWED = re.compile(r"[A-Za-z0-9_.+\-*/%(),<>=!\[\] ]*")
_OPERATOR = re.compile(r"\*\*|[-+*/%]|\b(?:not|if|and|or)\b")
_ADVICE = {
    "^": "use ** for powers",
    "&": "use 'and'",
    "|": "use 'or'",
    "~": "use 'not'",
    "'": "an expression holds no text",
    '"': "an expression holds no text",
}
_OPERATORS: dict[type[ast.operator], Callable[[Node, Node], Node]] = {
    ast.Add: graph.add,
    ast.Sub: graph.sub,
    ast.Mult: graph.mul,
    ast.Div: graph.div,
    ast.Pow: graph.power,
    ast.Mod: lambda a, b: graph.call("mod", a, b),
}
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip


@frozen
class Expression:
    """The syntax tree of an expression.

    Parameters
    ----------
    text : str
        The expression on one line.
    where : str
        Place of the expression, for errors.
    tree : ast.expr
    """

    text: str
    where: str
    tree: ast.expr

    @classmethod
    def read(cls, text: str, where: str) -> Expression:
        """Return the syntax tree of a text.

        Raises
        ------
        FlowError
            If it is empty, too long, too deeply nested or not an expression.
        """
        cls._check_amount(len(text), MAX_LENGTH, "characters", where)
        line = " ".join(text.split())
        if not line:
            raise FlowError(f"{where}: the expression is empty")
        operators = sum(1 for _ in _OPERATOR.finditer(line))
        cls._check_amount(operators, MAX_OPERATORS, "operators", where)
        readable = _ALLOWED.match(line)
        good = readable.end() if readable else 0
        if good < len(line):
            bad = line[good]
            other = "names have ASCII letters" if bad.isalpha() else "it means nothing here"
            raise FlowError(
                f"{where}: {bad!r} in {_quoted(line)} is not allowed; {_ADVICE.get(bad, other)}"
            )
        try:
            tree = ast.parse(line, mode="eval").body
        except (MemoryError, RecursionError, SystemError):
            raise FlowError(
                f"{where}: the expression {_quoted(line)} is too long or too deeply nested; name "
                "parts of it under 'definitions'"
            ) from None
        except (SyntaxError, ValueError) as error:
            at = getattr(error, "offset", None)
            place = f" at character {at}" if at else ""
            reason = str(getattr(error, "msg", error)).split(";")[0].split(". ")[0]
            raise FlowError(
                f"{where}: {_quoted(line)} cannot be read as an expression: {reason}{place}"
            ) from None
        return cls(line, where, tree)

    @staticmethod
    def _check_amount(count: int, limit: int, what: str, where: str) -> None:
        if count > limit:
            raise FlowError(
                f"{where}: the expression has {count} {what}, allowed are {limit}; name parts of "
                "it under 'definitions'"
            )

    @property
    def names(self) -> set[str]:
        """Every name in it, except those of called functions."""
        called = {id(node.func) for node in ast.walk(self.tree) if isinstance(node, ast.Call)}
        return {
            node.id
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Name) and id(node) not in called
        }

    def check_names(self, scope: Scope) -> None:
        """Refuse a name that is not defined, even in a branch that is not used.

        Raises
        ------
        FlowError
            For the first such name, with the nearest known name.
        """
        for name in sorted(self.names):
            if not scope.knows(name):
                raise FlowError(f"{self.where}: '{name}' {_unknown(name, scope)}")

    def build(self, scope: Scope, at: Mapping[str, int] | None = None) -> Node:
        """Return the graph.

        Parameters
        ----------
        scope : Scope
        at : mapping, optional
            Value of every index of the element.

        Raises
        ------
        FlowError
            If an operation is not allowed, a name is unknown, or a truth stands for a number.
        """
        return _Builder(self, scope, dict(at or {})).build(self.tree, 0)


def parse_expression(text: str, names: Mapping[str, Node], where: str) -> Node:
    """Return the graph of an expression, a number.

    Parameters
    ----------
    text : str
        Such as ``"sigma*(y - x)"``.
    names : mapping
        Node of every allowed name; ``pi`` and ``e`` are numbers unless named here.
    where : str
        Place of `text` for errors, such as ``"system lorenz, equation of x"``.

    Raises
    ------
    FlowError
        For the first mistake, with the place and the wrong part of the text.
    """
    scope = Scope(dict(names))
    expression = Expression.read(text, where)
    expression.check_names(scope)
    return as_number(expression.build(scope), expression)


def written_number(text: str) -> float | None:
    """Return the number of a text such as ``"1e-3"`` or ``"1/3"``, None for any other text.

    A text with a name is not a number, not even ``pi`` or ``e``: a model may redefine them.
    """
    try:
        expression = Expression.read(text, "number")
        node = None if expression.names else as_number(expression.build(Scope()), expression)
    except FlowError:
        return None
    return float(node) if node is not None and node.op == "const" else None


def as_number(node: Node, expression: Expression) -> Node:
    """Return `node` if it is a number.

    Raises
    ------
    FlowError
        If it is a truth such as ``x > 0``.
    """
    if node.kind != "float":
        raise FlowError(
            f"{expression.where}: {_quoted(expression.text)} is true or false, not a number; "
            "use where(condition, a, b)"
        )
    return node


def _unknown(name: str, scope: Scope) -> str:
    if name in CALLABLE:
        return f"is a function; write {name}(...)"
    return f"is not defined{nearest(name, scope.known())}"


def _quoted(text: str) -> str:
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return f"'{short}'" if short.isprintable() else ascii(short)


def is_infinite(node: Node) -> bool:
    """Return whether `node` is an operation on numbers without a finite result, such as ``1/0``."""
    # The builders fold every operation on numbers whose result is finite.
    numbers = bool(node.args) and all(arg.op == "const" for arg in node.args)
    return node.kind == "float" and numbers


@define
class _Builder:
    """Builds the graph of one expression, for one element of its family."""

    expression: Expression
    scope: Scope
    at: dict[str, int]

    def refuse(self, piece: ast.expr, reason: str) -> NoReturn:
        # The text is ASCII on one line, so offsets in bytes are offsets in characters.
        text = self.expression.text[piece.col_offset : piece.end_col_offset]
        raise FlowError(f"{self.expression.where}: {_quoted(text)} {reason}")

    def build(self, piece: ast.expr, depth: int) -> Node:
        self.scope.work -= 1
        if self.scope.work < 0:
            raise FlowError(
                f"{self.expression.where}: the model is too large: with families and sums expanded "
                f"it has more than {MAX_WORK} operations"
            )
        if depth > MAX_DEPTH:
            self.refuse(piece, f"is nested more than {MAX_DEPTH} levels deep")
        node = self.dispatch(piece, depth + 1)
        if is_infinite(node):
            self.refuse(piece, "is not a finite number")
        return node

    def dispatch(self, piece: ast.expr, deeper: int) -> Node:
        match piece:
            case ast.Constant(value=bool()):
                self.refuse(piece, "is not a number; write a comparison such as x > 0")
            case ast.Constant(value=int() | float()):
                return self.literal(piece)
            case ast.Name(id=name):
                return self.name(piece, name)
            case ast.Subscript():
                return self.element(piece, deeper)
            case ast.BinOp():
                return self.chain(piece, deeper)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return graph.logical_not(self.truth(operand, deeper))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return graph.neg(self.number(operand, deeper))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.number(operand, deeper)
            case ast.BoolOp(op=op, values=values):
                join = graph.logical_and if isinstance(op, ast.And) else graph.logical_or
                return reduce(join, [self.truth(value, deeper) for value in values])
            case ast.Compare():
                return self.comparison(piece, deeper)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.choice(piece, test, body, orelse, deeper)
            case ast.Call(func=ast.Name(id=function), args=args, keywords=[]):
                return self.call(piece, function, args, deeper)
        self.refuse(
            piece,
            "is not allowed: an expression holds numbers, names, + - * / ** %, comparisons, "
            "'and', 'or', 'not' and calls of functions",
        )

    def number(self, piece: ast.expr, depth: int) -> Node:
        node = self.build(piece, depth)
        if node.kind != "float":
            self.refuse(piece, "is true or false, not a number; use where(condition, a, b)")
        return node

    def truth(self, piece: ast.expr, depth: int) -> Node:
        node = self.build(piece, depth)
        if node.kind != "bool":
            self.refuse(piece, "is a number, not a condition; write a comparison such as x > 0")
        return node

    def literal(self, piece: ast.Constant) -> Node:
        try:
            value = float(piece.value)  # type: ignore[arg-type]
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            self.refuse(piece, "is too large for a floating-point number")
        return const(value)

    def name(self, piece: ast.expr, name: str) -> Node:
        if name in self.at:
            return const(self.at[name])
        for known in (self.scope.names, NUMBERS):
            if name in known:
                return known[name]
        if name in self.scope.families:
            letters = ", ".join(index.name for index in self.scope.families[name])
            self.refuse(piece, f"is an indexed family; write {name}[{letters}]")
        if name in self.scope.indices:
            self.refuse(piece, "is an index that has no value here; use it inside sum(..., index)")
        self.refuse(piece, _unknown(name, self.scope))

    def element(self, piece: ast.Subscript, depth: int) -> Node:
        if not isinstance(piece.value, ast.Name):
            self.refuse(piece, "is not allowed; only an indexed family takes an index")
        family = piece.value.id
        if family not in self.scope.families:
            self.refuse(
                piece,
                f"takes an index, but '{family}' is not an indexed family"
                f"{nearest(family, self.scope.families)}",
            )
        indices = self.scope.families[family]
        parts = piece.slice.elts if isinstance(piece.slice, ast.Tuple) else [piece.slice]
        if len(parts) != len(indices):
            self.refuse(piece, f"has {len(parts)} indices, but '{family}' has {len(indices)}")
        places = []
        for part, index in zip(parts, indices, strict=True):
            node = self.number(part, depth)
            if node.op != "const" or node.value != int(node.value):
                self.refuse(part, f"is not an index of '{family}': it must be a whole number")
            place = index.place(int(node.value))
            if place is None:
                self.refuse(
                    piece,
                    f"asks for element {int(node.value)} of '{family}', which has 0 to "
                    f"{index.size - 1}; give index '{index.name}' a boundary: periodic or clamp",
                )
            places.append(place)
        return self.scope.names[element_name(family, tuple(places))]

    def chain(self, piece: ast.BinOp, depth: int) -> Node:
        # A long sum is a tree that is deep on the left; a loop over it needs no recursion.
        links: list[ast.BinOp] = []
        first: ast.expr = piece
        while isinstance(first, ast.BinOp):
            if type(first.op) not in _OPERATORS:
                self.refuse(first, "uses an operator that is not allowed; use + - * / ** %")
            links.append(first)
            first = first.left
        node = self.number(first, depth)
        for link in reversed(links):
            node = _OPERATORS[type(link.op)](node, self.number(link.right, depth))
        return node

    def comparison(self, piece: ast.Compare, depth: int) -> Node:
        sides = [self.number(side, depth) for side in (piece.left, *piece.comparators)]
        result = graph.TRUE
        for op, left, right in zip(piece.ops, sides, sides[1:], strict=False):
            if type(op) not in _COMPARISONS:
                self.refuse(piece, "is not allowed; compare with < <= > >= == !=")
            result = graph.logical_and(result, graph.compare(_COMPARISONS[type(op)], left, right))
        return result

    def choice(
        self, piece: ast.expr, test: ast.expr, yes: ast.expr, no: ast.expr, depth: int
    ) -> Node:
        condition = self.truth(test, depth)
        if condition.op == "truth":
            # The other branch may name elements that do not exist.
            return self.build(yes if condition.value else no, depth)
        a, b = self.build(yes, depth), self.build(no, depth)
        if a.kind != b.kind:
            self.refuse(piece, "chooses between a number and a condition")
        return graph.where(condition, a, b)

    def call(self, piece: ast.Call, function: str, args: list[ast.expr], depth: int) -> Node:
        if function == "where":
            if len(args) != 3:
                self.refuse(piece, f"has {len(args)} arguments; it is where(condition, a, b)")
            return self.choice(piece, args[0], args[1], args[2], depth)
        if function == "sum":
            return self.total(piece, args, depth)
        if function == "delay":
            if len(args) != 2:
                self.refuse(piece, f"has {len(args)} arguments; it is delay(expression, lag)")
            return graph.delay(*(self.number(arg, depth) for arg in args))
        if function not in graph.FUNCTIONS:
            self.refuse(piece, f"calls an unknown function{nearest(function, CALLABLE)}")
        nodes = [self.number(arg, depth) for arg in args]
        if function in ("min", "max") and len(nodes) >= 2:
            return reduce(lambda a, b: graph.call(function, a, b), nodes)
        if len(nodes) != graph.FUNCTIONS[function]:
            self.refuse(piece, f"has {len(nodes)} arguments; it takes {graph.FUNCTIONS[function]}")
        return graph.call(function, *nodes)

    def total(self, piece: ast.Call, args: list[ast.expr], depth: int) -> Node:
        index = args[1].id if len(args) == 2 and isinstance(args[1], ast.Name) else None
        if index is None:
            self.refuse(piece, "must be sum(expression, index)")
        if index not in self.scope.indices:
            hint = nearest(index, self.scope.indices)
            self.refuse(piece, f"sums over '{index}', which is not an index{hint}")
        if index in self.at:
            self.refuse(piece, f"sums over '{index}', which already has a value here")
        result = graph.ZERO
        for value in range(self.scope.indices[index].size):
            self.at[index] = value
            result = graph.add(result, self.number(args[0], depth))
        del self.at[index]
        return result
