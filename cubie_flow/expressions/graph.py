"""The expression graph: interned nodes, and the functions that build them simplified.

Equal subexpressions are one object, so common subexpressions cost nothing and nodes can be
compared with ``is``. A node has no precision: the precision is chosen when the graph is emitted
or evaluated.

The builders fold constants and drop neutral elements. That changes no value, special values
included, except where `DELIBERATE` lists it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal
from weakref import WeakValueDictionary

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions.infix import to_text

Kind = Literal["float", "int", "bool"]

_SWAPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}

#: Elementary functions a model may call, with the number of arguments.
FUNCTIONS: dict[str, int] = {
    "abs": 1, "acos": 1, "acosh": 1, "asin": 1, "asinh": 1, "atan": 1, "atan2": 2, "atanh": 1,
    "cbrt": 1, "ceil": 1, "cos": 1, "cosh": 1, "erf": 1, "exp": 1, "exp2": 1, "expm1": 1,
    "floor": 1, "hypot": 2, "log": 1, "log10": 1, "log1p": 1, "log2": 1, "max": 2, "min": 2,
    "mod": 2, "pow": 2, "sign": 1, "sin": 1, "sinh": 1, "sqrt": 1, "tan": 1, "tanh": 1,
}  # fmt: skip


#: Simplifications that may change a value, and how. A test checks that the list is complete.
DELIBERATE: dict[str, str] = {
    "0*x, 0/x, x - x, fma(0, x, c)": "0 where x is not finite, and 0/x where x is zero: a term "
    "that a zero switches off costs nothing, and the Jacobian has no entries for zeros. The rules "
    "do not apply to an x that is finite for no value of its symbols, such as 1/0",
    "x + 0, 0 - x, -(a - b), 0*x, fma(a, b, 0)": "a result of zero may have the other sign",
    "x**0.5, x**-0.5, x**1.5": "NaN where x is -inf, the other sign where x is -0.0, and the "
    "correct rounding of a square root",
    "x**n, n whole and at most 64": "rounding of repeated products instead of that of pow",
    "numbers": "operations on numbers use double precision, whatever the precision of the kernel",
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
        What the operation needs in addition to operands: a number, a name, a buffer and index.
    kind : {"float", "int", "bool"}
        Type of the value.
    singular : bool
        Whether the value is finite for no value of the symbols, such as ``x/0``.
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

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Return the graph of a function of NumPy, such as ``np.sin(x)``, for each element."""
        build = _of_ufunc(ufunc.__name__)
        if method != "__call__" or options or build is None:
            return NotImplemented
        if any(getattr(one, "ndim", 0) for one in inputs):
            import numpy as np

            arrays = [np.empty((), object) if isinstance(one, Node) else one for one in inputs]
            for array, one in zip(arrays, inputs, strict=True):
                if isinstance(one, Node):
                    array[()] = one
            return np.frompyfunc(build, len(inputs), 1)(*arrays)
        return build(*(one if isinstance(one, Node) else one.item() if hasattr(one, "item") else one
                       for one in inputs))  # fmt: skip

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


def make_node(
    op: str, args: tuple[Node, ...] = (), value: Any = None, kind: Kind = "float"
) -> Node:
    """Return the unique node of an operation, without simplification.

    Parameters
    ----------
    op : str
    args : tuple of Node
        Operands, in order.
    value : object
        What the operation needs in addition to operands; hashable.
    kind : {"float", "int", "bool"}
    """
    stamp = value.hex() if isinstance(value, float) else value
    key = (op, tuple(map(id, args)), stamp, kind)
    node = _interned.get(key)
    if node is None:
        node = Node()
        node.op, node.args, node.value, node.kind = op, args, value, kind
        node.singular = _is_singular(op, args, value)
        _interned[key] = node
    return node


#: Operations whose result is not finite where an operand is not finite.
_PASSING = frozenset(("add", "sub", "mul", "neg", "fabs", "floor", "round"))


def _is_singular(op: str, args: tuple[Node, ...], value: Any) -> bool:
    if op == "const":
        return not math.isfinite(value)
    if op == "div":
        return args[0].singular or (args[1].op == "const" and args[1].value == 0.0)
    return op in _PASSING and any(arg.singular for arg in args)


def const(value: float) -> Node:
    """Return the float literal `value`."""
    return make_node("const", value=float(value))


def symbol(name: str) -> Node:
    """Return the named free variable."""
    return make_node("symbol", value=name)


def load(
    buffer: str, base: int, stride: int | tuple[tuple[str, int], ...] = 0, kind: Kind = "float"
) -> Node:
    """Return element ``base + stride*j`` of a named buffer.

    A counter may be `lane_counter`, an index that every lane computes for itself.

    Parameters
    ----------
    buffer : str
    base : int
    stride : int or tuple of (str, int)
        Elements per step of the loop index `j` of a sweep, or (counter, stride) for each counter
        of nested loops.
    kind : {"float", "int"}
    """
    return make_node("load", value=(buffer, base, stride), kind=kind)


def lane_counter(name: str) -> str:
    """Return the name, for strides, of an index that is a value of every lane, a whole number.

    The value must be assigned to element 0 of this name before.
    """
    return f"@{name}"


def is_per_lane(stride: object) -> bool:
    """Return whether the index of a load or target differs between lanes."""
    return isinstance(stride, tuple) and any(name.startswith("@") for name, _ in stride)


def as_node(value: Node | float) -> Node:
    """Return a node as it is, and a number or truth as a literal."""
    if isinstance(value, Node):
        return value
    if isinstance(value, bool):
        return make_node("truth", value=value, kind="bool")
    return const(float(value))


ZERO, ONE = const(0.0), const(1.0)
TRUE, FALSE = as_node(True), as_node(False)
#: Truth that a run is alone in its block of lanes, such as in a CUDA thread.
ALONE = make_node("alone", kind="bool")


def is_const(node: Node, value: float | None = None) -> bool:
    """Return whether `node` is a literal, and has `value` if one is given."""
    return node.op == "const" and (value is None or node.value == value)


def _folded(
    function: Callable[..., float], op: str, args: tuple[Node, ...], value: Any = None
) -> Node:
    """Return the literal result for literal operands, otherwise the operation."""
    if all(arg.op == "const" for arg in args):
        try:
            result = function(*(arg.value for arg in args))
        except (ArithmeticError, ValueError):
            result = math.nan
        if isinstance(result, float) and math.isfinite(result):
            return const(result)
    return make_node(op, args, value)


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
    """Return ``a / b``; a division by a power of two becomes an exact multiplication."""
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
    return make_node("neg", (a,))


def fma(a: Node | float, b: Node | float, c: Node | float) -> Node:
    """Return ``a*b + c`` with one rounding.

    Parameters
    ----------
    a, b, c : Node or float
    """
    a, b, c = as_node(a), as_node(b), as_node(c)
    if (is_const(a, 0.0) and not b.singular) or (is_const(b, 0.0) and not a.singular):
        return c
    if is_const(c, 0.0):
        return mul(a, b)
    if is_const(a, 1.0):
        return add(b, c)
    if is_const(b, 1.0):
        return add(a, c)
    return make_node("fma", (a, b, c))


def power(a: Node | float, b: Node | float) -> Node:
    """Return ``a ** b``; small whole exponents become products, half ones square roots."""
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
    """Return the largest whole number that is at most `a`."""
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
    """Return the truth of ``a op b``; comparisons with NaN are false, except ``!=``.

    Parameters
    ----------
    op : str
        One of ``<``, ``<=``, ``>``, ``>=``, ``==`` and ``!=``.
    a, b : Node or float
    """
    a, b = as_node(a), as_node(b)
    if is_const(a) and is_const(b):
        return TRUE if _COMPARE[op](a.value, b.value) else FALSE
    if is_const(a):
        a, b, op = b, a, _SWAPPED[op]
    return make_node("compare", (a, b), op, "bool")


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
    return FALSE if FALSE in (a, b) else make_node("and", (a, b), kind="bool")


def logical_or(a: Node, b: Node) -> Node:
    """Return the disjunction of two truths."""
    if a is FALSE or a is b:
        return b
    if b is FALSE:
        return a
    return TRUE if TRUE in (a, b) else make_node("or", (a, b), kind="bool")


def logical_not(a: Node) -> Node:
    """Return the negation of a truth."""
    if a.op == "not":
        return a.args[0]
    if a.op == "truth":
        return FALSE if a.value else TRUE
    return make_node("not", (a,), kind="bool")


def where(condition: Node, a: Node | float, b: Node | float) -> Node:
    """Return `a` where the condition holds, otherwise `b`; both are evaluated.

    Parameters
    ----------
    condition : Node
        A truth.
    a, b : Node or float

    Raises
    ------
    FlowError
        If the condition is a number.
    """
    if isinstance(condition, bool):
        condition = as_node(condition)
    a, b = as_node(a), as_node(b)
    if condition.kind != "bool":
        raise FlowError("where(condition, a, b) needs a comparison as its condition, such as x > 0")
    if condition.op == "truth":
        return a if condition.value else b
    if a is b:
        return a
    return make_node("select", (condition, a, b), kind=a.kind)


def rarely(condition: Node, slow: Node, fast: Node) -> Node:
    """Return `slow` where the condition holds, otherwise `fast`.

    `slow` may be expensive: it is computed only if some lane needs it.

    Parameters
    ----------
    condition : Node
        A truth.
    slow, fast : Node
    """
    return make_node("rarely", (condition, slow, fast), kind=fast.kind)


# the past -------------------------------------------------------------------------------------


def delay(value: Node | float, lag: Node | float) -> Node:
    """Return `value` as it was a time `lag` ago; a number is the same at all times."""
    value, lag = as_node(value), as_node(lag)
    return value if is_const(value) else make_node("delay", (value, lag))


def past_value(value: Node, slope: Node, time: Node) -> Node:
    """Return a value that was looked up in the past, with what its derivatives need.

    Parameters
    ----------
    value, slope : Node
        The value and its derivative by time, as they are read.
    time : Node
        The time that it belongs to, an expression of ``t``, states and parameters.
    """
    return make_node("past", (value, slope, time))


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


#: Functions of NumPy that have another name here.
_UFUNCS = {
    "absolute": "abs", "fabs": "abs", "arccos": "acos", "arccosh": "acosh", "arcsin": "asin",
    "arcsinh": "asinh", "arctan": "atan", "arctan2": "atan2", "arctanh": "atanh", "maximum": "max",
    "minimum": "min", "fmax": "max", "fmin": "min", "power": "pow", "float_power": "pow",
    "remainder": "mod",
}  # fmt: skip


def _of_ufunc(name: str) -> Callable[..., Node] | None:
    """Return what builds the graph of a function of NumPy; None if there is no such graph."""
    operations: dict[str, Callable[..., Node]] = {
        "add": add, "subtract": sub, "multiply": mul, "divide": div, "true_divide": div,
        "negative": neg, "positive": as_node, "sqrt": sqrt, "square": lambda a: mul(a, a),
        "reciprocal": lambda a: div(1.0, a),
    }  # fmt: skip
    comparisons = {"less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">="}
    if name in comparisons:
        return lambda a, b: compare(comparisons[name], a, b)
    if name in operations:
        return operations[name]
    function = _UFUNCS.get(name, name)
    if function not in FUNCTIONS:
        return None
    return lambda *args: call(function, *args)


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
    """Return the operation of `node` on other operands, simplified again."""
    if args == node.args:
        return node
    if node.op in _BUILDERS:
        return _BUILDERS[node.op](*args)
    if node.op == "call":
        return power(*args) if node.value == "pow" else call(node.value, *args)
    if node.op == "compare":
        return compare(node.value, *args)
    if node.op == "delay":
        return delay(*args)
    return make_node(node.op, args, node.value, node.kind)


_BUILDERS: dict[str, Callable[..., Node]] = {
    "add": add, "sub": sub, "mul": mul, "div": div, "neg": neg, "fma": fma, "sqrt": sqrt,
    "fabs": fabs, "floor": floor, "round": round_even, "min": minimum, "max": maximum,
    "and": logical_and, "or": logical_or, "not": logical_not, "select": where,
}  # fmt: skip
