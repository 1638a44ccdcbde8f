"""The expression graph: interned nodes, built simplified, differentiated exactly.

Equal subexpressions are one object, so common subexpressions cost nothing and a node can be
compared with ``is``. A node knows no precision: it is chosen when the graph is emitted or
evaluated.

Building folds constants and drops neutral elements. That changes no value, special ones included,
but where `DELIBERATE` says so.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakValueDictionary

from cubie_flow.errors import FlowError, nearest

Kind = Literal["float", "int", "bool"]

_SWAPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}

#: Elementary functions a model may call, with the number of arguments.
FUNCTIONS: dict[str, int] = {
    "abs": 1, "acos": 1, "acosh": 1, "asin": 1, "asinh": 1, "atan": 1, "atan2": 2, "atanh": 1,
    "cbrt": 1, "ceil": 1, "cos": 1, "cosh": 1, "erf": 1, "exp": 1, "exp2": 1, "expm1": 1,
    "floor": 1, "hypot": 2, "log": 1, "log10": 1, "log1p": 1, "log2": 1, "max": 2, "min": 2,
    "mod": 2, "pow": 2, "sign": 1, "sin": 1, "sinh": 1, "sqrt": 1, "tan": 1, "tanh": 1,
}  # fmt: skip


#: Rules of building that may change a value: for which x, and why they are kept. The tests hold
#: that exactly these do.
DELIBERATE: dict[str, str] = {
    "0*x, 0/x, x - x, fma(0, x, c)": "0 where x is not finite, and 0/x where x is zero: a term "
    "that a zero switches off costs nothing, and zeros of a Jacobian are no entries of it. What "
    "is finite for no value of its symbols, as 1/0, is not taken for a finite x",
    "x + 0, 0 - x, -(a - b), 0*x, fma(a, b, 0)": "another sign of a result that is zero",
    "x**0.5, x**-0.5, x**1.5": "NaN where x is -inf, another sign where it is -0.0, and rounded "
    "as square roots are, which is correctly",
    "x**n, n whole and at most 64": "rounded as products are, and not as pow is",
    "numbers": "operations on numbers are done in double precision, whatever the kernel's",
}


class Node:
    """One interned operation.

    Attributes
    ----------
    op : str
        The operation, for instance ``"add"``, ``"const"`` or ``"call"``.
    args : tuple of Node
        Operands, in order.
    value : object
        What the operation needs besides operands: a number, a name, a buffer and index.
    kind : {"float", "int", "bool"}
        What the node evaluates to.
    singular : bool
        Whether it is finite for no value of its symbols, as ``x/0``.
    """

    __slots__ = ("__weakref__", "args", "kind", "op", "singular", "value")
    op: str
    args: tuple[Node, ...]
    value: Any
    kind: Kind
    singular: bool

    def __add__(self, other: Node | float) -> Node:
        return add(self, other)

    def __radd__(self, other: float) -> Node:
        return add(other, self)

    def __sub__(self, other: Node | float) -> Node:
        return sub(self, other)

    def __rsub__(self, other: float) -> Node:
        return sub(other, self)

    def __mul__(self, other: Node | float) -> Node:
        return mul(self, other)

    def __rmul__(self, other: float) -> Node:
        return mul(other, self)

    def __truediv__(self, other: Node | float) -> Node:
        return div(self, other)

    def __rtruediv__(self, other: float) -> Node:
        return div(other, self)

    def __pow__(self, other: Node | float) -> Node:
        return power(self, other)

    def __rpow__(self, other: float) -> Node:
        return power(other, self)

    def __mod__(self, other: Node | float) -> Node:
        return call("mod", self, other)

    def __neg__(self) -> Node:
        return neg(self)

    def __pos__(self) -> Node:
        return self

    def __abs__(self) -> Node:
        return fabs(self)

    def __lt__(self, other: Node | float) -> Node:
        return compare("<", self, other)

    def __le__(self, other: Node | float) -> Node:
        return compare("<=", self, other)

    def __gt__(self, other: Node | float) -> Node:
        return compare(">", self, other)

    def __ge__(self, other: Node | float) -> Node:
        return compare(">=", self, other)

    def __and__(self, other: Node) -> Node:
        return logical_and(self, other)

    def __or__(self, other: Node) -> Node:
        return logical_or(self, other)

    def __invert__(self) -> Node:
        return logical_not(self)

    def __bool__(self) -> bool:
        raise FlowError(
            "a model cannot branch on a value that is known only when it runs; "
            "use where(condition, a, b) instead of if, and, or, not"
        )

    def __float__(self) -> float:
        if self.op == "const":
            return float(self.value)
        raise FlowError(
            "a model quantity is not a number yet; use the functions of cubie_flow.maths "
            "instead of those of math or numpy"
        )

    def __repr__(self) -> str:
        return to_text(self, limit=200)


_interned: WeakValueDictionary[tuple[Any, ...], Node] = WeakValueDictionary()


def _make(op: str, args: tuple[Node, ...] = (), value: Any = None, kind: Kind = "float") -> Node:
    stamp = value.hex() if isinstance(value, float) else value
    key = (op, tuple(map(id, args)), stamp, kind)
    found = _interned.get(key)
    if found is None:
        found = Node()
        found.op, found.args, found.value, found.kind = op, args, value, kind
        found.singular = _is_singular(op, args, value)
        _interned[key] = found
    return found


#: Operations that are not finite where an operand is not.
_PASSING = frozenset(("add", "sub", "mul", "neg", "fabs", "floor", "round"))


def _is_singular(op: str, args: tuple[Node, ...], value: Any) -> bool:
    if op == "const":
        return not math.isfinite(value)
    if op == "div":
        return args[0].singular or (args[1].op == "const" and args[1].value == 0.0)
    return op in _PASSING and any(arg.singular for arg in args)


def const(value: float) -> Node:
    """Return the float literal `value`."""
    return _make("const", value=float(value))


def symbol(name: str) -> Node:
    """Return the named free variable."""
    return _make("symbol", value=name)


def load(
    buffer: str, base: int, stride: int | tuple[tuple[str, int], ...] = 0, kind: Kind = "float"
) -> Node:
    """Return element ``base + stride*j`` of a named buffer; `j` is the loop index of a sweep.

    A tuple of (counter, stride) moves with the counters of nested loops instead.
    """
    return _make("load", value=(buffer, base, stride), kind=kind)


def as_node(value: Node | float) -> Node:
    """Return `value` as a node, numbers becoming literals."""
    if isinstance(value, Node):
        return value
    if isinstance(value, bool):
        return _make("truth", value=value, kind="bool")
    return const(float(value))


ZERO, ONE = const(0.0), const(1.0)
TRUE, FALSE = as_node(True), as_node(False)
#: Whether a run has no neighbours in its block of lanes, as a CUDA thread has none.
ALONE = _make("alone", kind="bool")


def is_const(node: Node, value: float | None = None) -> bool:
    """Tell whether `node` is a literal, and of that value if one is given."""
    return node.op == "const" and (value is None or node.value == value)


def _folded(
    function: Callable[..., float], op: str, args: tuple[Node, ...], value: Any = None
) -> Node:
    """Return the literal `function` gives for literal operands, else the operation."""
    if all(arg.op == "const" for arg in args):
        try:
            result = function(*(arg.value for arg in args))
        except (ArithmeticError, ValueError):
            result = math.nan
        if isinstance(result, float) and math.isfinite(result):
            return const(result)
    return _make(op, args, value)


# arithmetic -----------------------------------------------------------------------------------


def add(a: Node | float, b: Node | float) -> Node:
    """Return ``a + b``."""
    a, b = as_node(a), as_node(b)
    if is_const(a, 0.0):
        return b
    if is_const(b, 0.0):
        return a
    if b.op == "neg":
        return sub(a, b.args[0])
    if a.op == "neg":
        return sub(b, a.args[0])
    return _folded(lambda x, y: x + y, "add", (a, b))


def sub(a: Node | float, b: Node | float) -> Node:
    """Return ``a - b``."""
    a, b = as_node(a), as_node(b)
    if is_const(b, 0.0):
        return a
    if is_const(a, 0.0):
        return neg(b)
    if a is b and not a.singular:
        return ZERO
    if b.op == "neg":
        return add(a, b.args[0])
    return _folded(lambda x, y: x - y, "sub", (a, b))


def mul(a: Node | float, b: Node | float) -> Node:
    """Return ``a * b``."""
    a, b = as_node(a), as_node(b)
    if is_const(b) and not is_const(a):
        a, b = b, a
    if is_const(a):
        if a.value == 0.0 and not b.singular:
            return ZERO
        if a.value == 1.0:
            return b
        if a.value == -1.0:
            return neg(b)
    if a.op == "neg" and b.op == "neg":
        return mul(a.args[0], b.args[0])
    if a.op == "neg":
        return neg(mul(a.args[0], b))
    if b.op == "neg":
        return neg(mul(a, b.args[0]))
    return _folded(lambda x, y: x * y, "mul", (a, b))


def div(a: Node | float, b: Node | float) -> Node:
    """Return ``a / b``; division by a power of two becomes an exact multiplication."""
    a, b = as_node(a), as_node(b)
    if is_const(a, 0.0) and not is_const(b, 0.0) and not b.singular:
        return ZERO
    if is_const(b):
        if b.value == 1.0:
            return a
        if b.value == -1.0:
            return neg(a)
        if b.value != 0.0 and abs(math.frexp(b.value)[0]) == 0.5 and 1e-30 < abs(b.value) < 1e30:
            return mul(1.0 / b.value, a)
    if a.op == "neg":
        return neg(div(a.args[0], b))
    if b.op == "neg":
        return neg(div(a, b.args[0]))
    return _folded(lambda x, y: x / y, "div", (a, b))


def neg(a: Node | float) -> Node:
    """Return ``-a``."""
    a = as_node(a)
    if a.op == "neg":
        return a.args[0]
    if a.op == "const":
        return const(-a.value)
    if a.op == "sub":
        return sub(a.args[1], a.args[0])
    return _make("neg", (a,))


def fma(a: Node | float, b: Node | float, c: Node | float) -> Node:
    """Return ``a*b + c`` with one rounding."""
    a, b, c = as_node(a), as_node(b), as_node(c)
    if (is_const(a, 0.0) and not b.singular) or (is_const(b, 0.0) and not a.singular):
        return c
    if is_const(c, 0.0):
        return mul(a, b)
    if is_const(a, 1.0):
        return add(b, c)
    if is_const(b, 1.0):
        return add(a, c)
    return _make("fma", (a, b, c))


def power(a: Node | float, b: Node | float) -> Node:
    """Return ``a ** b``; small whole and half exponents become products and square roots."""
    a, b = as_node(a), as_node(b)
    if is_const(b):
        exponent = b.value
        if math.isfinite(exponent) and exponent == int(exponent) and abs(exponent) <= 64:
            whole = _whole_power(a, abs(int(exponent)))
            return whole if exponent >= 0 else div(ONE, whole)
        if exponent == 0.5:
            return sqrt(a)
        if exponent == -0.5:
            return div(ONE, sqrt(a))
        if exponent == 1.5:
            return mul(a, sqrt(a))
    if is_const(a, 1.0):
        return ONE
    return _folded(math.pow, "call", (a, b), "pow")


def _whole_power(base: Node, exponent: int) -> Node:
    result, square = ONE, base
    while exponent:
        if exponent & 1:
            result = mul(result, square)
        exponent >>= 1
        if exponent:
            square = mul(square, square)
    return result


def sqrt(a: Node | float) -> Node:
    """Return the square root, correctly rounded."""
    a = as_node(a)
    return _folded(math.sqrt, "sqrt", (a,))


def fabs(a: Node | float) -> Node:
    """Return the absolute value."""
    a = as_node(a)
    if a.op in ("neg", "fabs"):
        return fabs(a.args[0]) if a.op == "neg" else a
    return _folded(abs, "fabs", (a,))


def floor(a: Node | float) -> Node:
    """Return the largest whole number not above `a`."""
    a = as_node(a)
    return _folded(lambda x: math.copysign(math.floor(x), x), "floor", (a,))


def round_even(a: Node | float) -> Node:
    """Return the nearest whole number, ties to even."""
    a = as_node(a)
    return _folded(lambda x: math.copysign(round(x), x), "round", (a,))


def minimum(a: Node | float, b: Node | float) -> Node:
    """Return ``a if a < b else b``."""
    a, b = as_node(a), as_node(b)
    return a if a is b else _folded(lambda x, y: x if x < y else y, "min", (a, b))


def maximum(a: Node | float, b: Node | float) -> Node:
    """Return ``a if a > b else b``."""
    a, b = as_node(a), as_node(b)
    return a if a is b else _folded(lambda x, y: x if x > y else y, "max", (a, b))


# logic ----------------------------------------------------------------------------------------


def compare(op: str, a: Node | float, b: Node | float) -> Node:
    """Return the truth of ``a op b``; comparisons with NaN are false, except ``!=``."""
    a, b = as_node(a), as_node(b)
    if is_const(a) and is_const(b):
        return TRUE if _COMPARE[op](a.value, b.value) else FALSE
    if is_const(a):
        a, b, op = b, a, _SWAPPED[op]
    return _make("compare", (a, b), op, "bool")


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
    "==": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
}


def logical_and(a: Node, b: Node) -> Node:
    """Return the conjunction of two truths."""
    if a is TRUE or a is b:
        return b
    if b is TRUE:
        return a
    return FALSE if FALSE in (a, b) else _make("and", (a, b), kind="bool")


def logical_or(a: Node, b: Node) -> Node:
    """Return the disjunction of two truths."""
    if a is FALSE or a is b:
        return b
    if b is FALSE:
        return a
    return TRUE if TRUE in (a, b) else _make("or", (a, b), kind="bool")


def logical_not(a: Node) -> Node:
    """Return the negation of a truth."""
    if a.op == "not":
        return a.args[0]
    if a.op == "truth":
        return FALSE if a.value else TRUE
    return _make("not", (a,), kind="bool")


def where(condition: Node, a: Node | float, b: Node | float) -> Node:
    """Return `a` where the condition holds, else `b`; both sides are evaluated."""
    if isinstance(condition, bool):
        condition = as_node(condition)
    a, b = as_node(a), as_node(b)
    if condition.kind != "bool":
        raise FlowError("where(condition, a, b) needs a comparison as its condition, such as x > 0")
    if condition.op == "truth":
        return a if condition.value else b
    if a is b:
        return a
    return _make("select", (condition, a, b), kind=a.kind)


def rarely(condition: Node, slow: Node, fast: Node) -> Node:
    """Return `slow` where the condition holds, else `fast`.

    At run time the slow part is skipped when no lane needs it, so `slow` may be expensive.
    """
    return _make("rarely", (condition, slow, fast), kind=fast.kind)


# bit level ------------------------------------------------------------------------------------


def integer(value: int) -> Node:
    """Return an integer literal, as wide as the precision it is used with."""
    return _make("integer", value=int(value), kind="int")


def bits(a: Node) -> Node:
    """Return the bit pattern of a float as an integer of the same width."""
    return _make("bits", (a,), kind="int")


def from_bits(a: Node) -> Node:
    """Return the float whose bit pattern is the integer `a`."""
    return _make("from_bits", (a,))


def to_int(a: Node) -> Node:
    """Return `a` truncated to an integer."""
    return _make("to_int", (a,), kind="int")


def to_float(a: Node) -> Node:
    """Return the integer `a` as a float, rounded to nearest."""
    return _make("to_float", (a,))


def _integer_operation(op: str) -> Callable[[Node, Node], Node]:
    def build(a: Node, b: Node) -> Node:
        return _make(op, (a, b), kind="int")

    build.__name__ = op
    build.__doc__ = f"Return the integer operation ``{op}`` of two integers."
    return build


iadd = _integer_operation("iadd")
isub = _integer_operation("isub")
imul = _integer_operation("imul")
iand = _integer_operation("iand")
ior = _integer_operation("ior")
ixor = _integer_operation("ixor")
shl = _integer_operation("shl")
lshr = _integer_operation("lshr")
ashr = _integer_operation("ashr")


def icompare(op: str, a: Node, b: Node) -> Node:
    """Return the truth of ``a op b`` for signed integers."""
    return _make("icompare", (a, b), op, "bool")


def table(values: Sequence[float], index: Node) -> Node:
    """Return ``values[index]`` from a constant table; the index must be in range."""
    return _make("table", (index,), tuple(float(v) for v in values))


def fetch(buffer: str, index: Node) -> Node:
    """Return an element of an array outside the run's memory at an index known when it runs."""
    return _make("fetch", (index,), buffer)


# functions ------------------------------------------------------------------------------------

_SIMPLE: dict[str, Callable[..., Node]] = {
    "abs": fabs,
    "sqrt": sqrt,
    "floor": floor,
    "ceil": lambda a: neg(floor(neg(a))),
    "min": minimum,
    "max": maximum,
    "pow": power,
    "sign": lambda a: where(
        compare(">", a, 0.0), 1.0, where(compare("<", a, 0.0), -1.0, as_node(a))
    ),
    "mod": lambda a, b: sub(a, mul(b, floor(div(a, b)))),
}


def _python_function(name: str) -> Callable[..., float]:
    return getattr(math, name)  # type: ignore[no-any-return]


def call(name: str, *args: Node | float) -> Node:
    """Return the elementary function `name` of `args`.

    Raises
    ------
    FlowError
        If the function is unknown or takes another number of arguments.
    """
    arity = FUNCTIONS.get(name)
    if arity is None:
        raise FlowError(f"unknown function '{name}'{nearest(name, FUNCTIONS)}")
    if len(args) != arity:
        raise FlowError(f"{name}() takes {arity} argument(s), not {len(args)}")
    nodes = tuple(as_node(arg) for arg in args)
    if name in _SIMPLE:
        return _SIMPLE[name](*nodes)
    return _folded(_python_function(name), "call", nodes, name)


def rebuild(node: Node, args: tuple[Node, ...]) -> Node:
    """Return `node` with other operands, simplified again."""
    if args == node.args:
        return node
    if node.op in _BUILDERS:
        return _BUILDERS[node.op](*args)
    if node.op == "call":
        return power(*args) if node.value == "pow" else call(node.value, *args)
    if node.op == "compare":
        return compare(node.value, *args)
    return _make(node.op, args, node.value, node.kind)


_BUILDERS: dict[str, Callable[..., Node]] = {
    "add": add, "sub": sub, "mul": mul, "div": div, "neg": neg, "fma": fma, "sqrt": sqrt,
    "fabs": fabs, "floor": floor, "round": round_even, "min": minimum, "max": maximum,
    "and": logical_and, "or": logical_or, "not": logical_not, "select": where,
}  # fmt: skip


# walking --------------------------------------------------------------------------------------


def topological(nodes: Iterable[Node]) -> list[Node]:
    """Return every node reachable from `nodes`, operands first, each once."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(node, False) for node in reversed(list(nodes))]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((arg, False) for arg in reversed(node.args) if arg not in seen)
    return order


def transform(nodes: Sequence[Node], rule: Callable[[Node], Node]) -> list[Node]:
    """Return `nodes` with `rule` applied to every node, operands first."""
    done: dict[Node, Node] = {}
    for node in topological(nodes):
        done[node] = rule(rebuild(node, tuple(done[arg] for arg in node.args)))
    return [done[node] for node in nodes]


def substitute(nodes: Sequence[Node], mapping: Mapping[Node, Node]) -> list[Node]:
    """Return `nodes` with every key of `mapping` replaced by its value, simplified again."""
    return transform(nodes, lambda node: mapping.get(node, node))


def free_symbols(nodes: Iterable[Node]) -> tuple[str, ...]:
    """Return the names of the free variables, in order of first appearance."""
    return tuple(node.value for node in topological(nodes) if node.op == "symbol")


def content_hash(nodes: Sequence[Node]) -> str:
    """Return a SHA-256 digest of the graph, the same in every process."""
    digest = hashlib.sha256()
    number: dict[Node, int] = {}
    for node in topological(nodes):
        number[node] = len(number)
        value = node.value.hex() if isinstance(node.value, float) else node.value
        digest.update(repr((node.op, value, [number[a] for a in node.args])).encode())
    digest.update(repr([number[node] for node in nodes]).encode())
    return digest.hexdigest()


def fuse(nodes: Sequence[Node]) -> list[Node]:
    """Return `nodes` with every ``a*b + c`` made an explicit fused multiply-add."""

    def rule(node: Node) -> Node:
        if node.op == "add":
            a, b = node.args
            if a.op == "mul":
                return fma(a.args[0], a.args[1], b)
            if b.op == "mul":
                return fma(b.args[0], b.args[1], a)
        elif node.op == "sub":
            a, b = node.args
            if b.op == "mul":
                return fma(neg(b.args[0]), b.args[1], a)
            if a.op == "mul":
                return fma(a.args[0], a.args[1], neg(b))
        return node

    return transform(nodes, rule)


# calculus -------------------------------------------------------------------------------------


def differentiate(node: Node, variable: Node) -> Node:
    """Return the exact derivative of `node` with respect to a symbol or load.

    At a kink (``abs``, ``min``, ``where``) the derivative is that of the branch taken; ``floor``
    and ``sign`` have derivative zero.

    Raises
    ------
    FlowError
        If the graph holds an operation that has no derivative.
    """
    return jacobian([node], [variable])[0][0]


def jacobian(nodes: Sequence[Node], variables: Sequence[Node]) -> list[list[Node]]:
    """Return ``d nodes[i] / d variables[j]`` as rows, zero where there is no dependence."""
    rows = [[ZERO] * len(variables) for _ in nodes]
    for i, row in enumerate(sparse_jacobian(nodes, variables)):
        for column, node in row.items():
            rows[i][column] = node
    return rows


def sparse_jacobian(nodes: Sequence[Node], variables: Sequence[Node]) -> list[dict[int, Node]]:
    """Return ``d nodes[i] / d variables[j]`` as rows ``{j: derivative}`` without the zeros."""
    order = topological(nodes)
    number = {node: i for i, node in enumerate(order)}
    users: dict[Node, list[Node]] = {}
    for node in order:
        for arg in dict.fromkeys(node.args):
            users.setdefault(arg, []).append(node)
    positions: dict[Node, list[int]] = {}
    for i, node in enumerate(nodes):
        positions.setdefault(node, []).append(i)
    rows: list[dict[int, Node]] = [{} for _ in nodes]
    for column, variable in enumerate(variables):
        if variable not in number:
            continue
        # Only what depends on the variable is visited: large models are sparse.
        reached, stack = {variable}, [variable]
        while stack:
            for user in users.get(stack.pop(), ()):
                if user not in reached:
                    reached.add(user)
                    stack.append(user)
        d: dict[Node, Node] = {variable: ONE}
        for node in sorted(reached, key=number.__getitem__):
            if node is not variable:
                if node.kind != "float" or all(d.get(arg, ZERO) is ZERO for arg in node.args):
                    continue
                d[node] = operation_derivative(node, tuple(d.get(arg, ZERO) for arg in node.args))
            if d[node] is not ZERO:
                for i in positions.get(node, ()):
                    rows[i][column] = d[node]
    return rows


def directional(
    nodes: Sequence[Node], variables: Sequence[Node], direction: Sequence[Node]
) -> list[Node]:
    """Return ``sum over j of d nodes[i] / d variables[j] * direction[j]``.

    Forward differentiation: the result is about as large as `nodes`, however dense the Jacobian.
    """
    d = dict(zip(variables, direction, strict=True))
    for node in topological(nodes):
        if node not in d and node.kind == "float":
            inner = tuple(d.get(arg, ZERO) for arg in node.args)
            if any(one is not ZERO for one in inner):
                d[node] = operation_derivative(node, inner)
    return [d.get(node, ZERO) for node in nodes]


def operation_derivative(node: Node, d: tuple[Node, ...]) -> Node:
    """Return the derivative of one operation from those of its arguments.

    Raises
    ------
    FlowError
        If the operation has no derivative.
    """
    x = node.args
    match node.op:
        case "add":
            return d[0] + d[1]
        case "sub":
            return d[0] - d[1]
        case "neg":
            return -d[0]
        case "mul":
            return d[0] * x[1] + x[0] * d[1]
        case "div":
            return _quotient_derivative(node, d[0], d[1])
        case "fma":
            return d[0] * x[1] + x[0] * d[1] + d[2]
        case "sqrt":
            return d[0] / (2.0 * node)
        case "fabs":
            return where(x[0] < 0.0, -d[0], d[0])
        case "min":
            return where(x[0] < x[1], d[0], d[1])
        case "max":
            return where(x[0] > x[1], d[0], d[1])
        case "select" | "rarely":
            return where(x[0], d[1], d[2])
        case "floor" | "round":
            return ZERO
        case "call":
            terms = _PARTIALS[node.value](node, *x)
            total = ZERO
            for term, inner in zip(terms, d, strict=True):
                if inner is not ZERO:
                    total = total + term() * inner
            return total
    raise FlowError(f"'{node.op}' has no derivative")


#: Functions that overflow where what is divided by them goes to zero.
_STEEP = frozenset(("cosh", "exp", "exp2", "expm1", "pow", "sinh"))
#: A divisor from which on the derivative of a constant over it counts as zero, in every precision.
_VAST = 1e30


_steep: WeakKeyDictionary[Node, bool] = WeakKeyDictionary()


def _is_steep(node: Node) -> bool:
    """Return whether an expression calls a function that overflows, asked once of every node."""
    stack = [node]
    while stack:
        one = stack[-1]
        waiting = [arg for arg in one.args if arg not in _steep]
        if waiting and one not in _steep:
            stack += waiting
            continue
        own = one.op == "call" and one.value in _STEEP
        _steep[one] = own or any(_steep[arg] for arg in one.args)
        stack.pop()
    return _steep[node]


def _quotient_derivative(node: Node, upper: Node, lower: Node) -> Node:
    """Return the derivative of a quotient from those of its operands.

    Where a steep divisor overflows, the quotient and its derivative go to zero, and the formula
    alone would give zero times infinity.
    """
    divisor = node.args[1]
    found = (upper - node * lower) / divisor
    if lower is ZERO or not _is_steep(divisor):
        return found
    largest = _VAST if upper is ZERO else math.nextafter(math.inf, 0.0)
    return where(compare("<", fabs(divisor), largest), found, ZERO)


def partials(node: Node) -> list[Node]:
    """Return the derivative of a call of an elementary function by each of its arguments.

    Raises
    ------
    FlowError
        If the function has no derivative.
    """
    if node.value not in _PARTIALS:
        raise FlowError(f"'{node.value}' has no derivative")
    return [term() for term in _PARTIALS[node.value](node, *node.args)]


_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)
_Partial = Callable[..., tuple[Callable[[], Node], ...]]
_PARTIALS: dict[str, _Partial] = {
    "exp": lambda f, x: (lambda: f,),
    "exp2": lambda f, x: (lambda: math.log(2.0) * f,),
    "expm1": lambda f, x: (lambda: f + 1.0,),
    "log": lambda f, x: (lambda: 1.0 / x,),
    "log2": lambda f, x: (lambda: 1.0 / (math.log(2.0) * x),),
    "log10": lambda f, x: (lambda: 1.0 / (math.log(10.0) * x),),
    "log1p": lambda f, x: (lambda: 1.0 / (1.0 + x),),
    "sin": lambda f, x: (lambda: call("cos", x),),
    "cos": lambda f, x: (lambda: -call("sin", x),),
    "tan": lambda f, x: (lambda: 1.0 + f * f,),
    "asin": lambda f, x: (lambda: 1.0 / sqrt(1.0 - x * x),),
    "acos": lambda f, x: (lambda: -1.0 / sqrt(1.0 - x * x),),
    "atan": lambda f, x: (lambda: 1.0 / (1.0 + x * x),),
    "atan2": lambda f, y, x: (
        lambda: x / (x * x + y * y),
        lambda: -y / (x * x + y * y),
    ),
    "sinh": lambda f, x: (lambda: call("cosh", x),),
    "cosh": lambda f, x: (lambda: call("sinh", x),),
    "tanh": lambda f, x: (lambda: 1.0 - f * f,),
    "asinh": lambda f, x: (lambda: 1.0 / sqrt(x * x + 1.0),),
    "acosh": lambda f, x: (lambda: 1.0 / sqrt(x * x - 1.0),),
    "atanh": lambda f, x: (lambda: 1.0 / (1.0 - x * x),),
    "erf": lambda f, x: (lambda: _TWO_OVER_SQRT_PI * call("exp", -(x * x)),),
    "cbrt": lambda f, x: (lambda: f / (3.0 * x),),
    "hypot": lambda f, x, y: (lambda: x / f, lambda: y / f),
    "pow": lambda f, x, y: (
        lambda: y * power(x, y - 1.0),
        lambda: where(x > 0.0, f * call("log", x), ZERO),
    ),
}


# reading --------------------------------------------------------------------------------------

#: Operations whose negative is that operation behind a sign.
_WHOLE = {"symbol", "load", "add", "sqrt", "fabs", "floor", "min", "max", "select", "call"}
_INFIX = {"add": (" + ", 1), "sub": (" - ", 1), "mul": ("*", 2), "div": ("/", 2)}


def to_text(node: Node, limit: int | None = None) -> str:
    """Return `node` as infix text that the equation parser reads back.

    Parameters
    ----------
    node : Node
        What to write.
    limit : int, optional
        Give up with ``"..."`` beyond this many nodes (shared ones written each time).
    """
    budget = [limit if limit is not None else 1 << 62]

    def write(node: Node, level: int) -> str:
        budget[0] -= 1
        if budget[0] < 0:
            return "..."
        text, own = _write(node, write)
        return f"({text})" if own < level else text

    return write(node, 0)


def _write(node: Node, write: Callable[[Node, int], str]) -> tuple[str, int]:
    a = node.args
    match node.op:
        case "const":
            return (repr(node.value), 9) if node.value >= 0 else (repr(node.value), 1)
        case "symbol":
            return node.value, 9
        case "truth":
            return ("1 == 1" if node.value else "1 == 0"), 0
        case "add" | "sub" | "mul" | "div":
            sign, level = _INFIX[node.op]
            return write(a[0], level) + sign + write(a[1], level + 1), level
        case "neg":
            # Read back, a sign belongs to the first factor, and must not change that one.
            first = a[0]
            while first.op in ("mul", "div"):
                first = first.args[0]
            return "-" + write(a[0], 2 if first.op in _WHOLE else 3), 1
        case "compare":
            return f"{write(a[0], 1)} {node.value} {write(a[1], 1)}", 0
        case "and" | "or":
            return f"({write(a[0], 1)}) {node.op} ({write(a[1], 1)})", 0
        case "not":
            return f"not ({write(a[0], 0)})", 0
        case "load":
            buffer, base, stride = node.value
            return f"{buffer}[{base}{f'+{stride}*j' if stride else ''}]", 9
    name = {"select": "where", "fabs": "abs", "call": node.value}.get(node.op, node.op)
    return f"{name}({', '.join(write(arg, 0) for arg in a)})", 9
