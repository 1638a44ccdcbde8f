"""Exact derivatives of expression graphs, as expression graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from cubie_flow.errors import FlowError
from cubie_flow.expressions.graph import ONE, ZERO, Node, call, compare, fabs, power, sqrt, where
from cubie_flow.expressions.traversal import topological


def differentiate(node: Node, variable: Node) -> Node:
    """Return the exact derivative of `node` with respect to a symbol or load.

    At a kink (``abs``, ``min``, ``where``) it is the derivative of the branch that is taken; the
    derivative of ``floor`` and ``sign`` is zero.

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
    """Return ``d nodes[i] / d variables[j]`` as rows ``{j: derivative}`` without zeros."""
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
        # Visit only the nodes that depend on the variable: large models are sparse.
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

    The result of this forward differentiation is about as large as `nodes`, even if the Jacobian
    is dense.

    Parameters
    ----------
    nodes : sequence of Node
    variables : sequence of Node
        Symbols or loads.
    direction : sequence of Node, shape of `variables`

    Raises
    ------
    FlowError
        If the graph has an operation without a derivative.
    """
    d = dict(zip(variables, direction, strict=True))
    for node in topological(nodes):
        if node not in d and node.kind == "float":
            inner = tuple(d.get(arg, ZERO) for arg in node.args)
            if any(part is not ZERO for part in inner):
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
        case "past":
            return x[1] * d[2]
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


#: Functions that overflow; a quotient goes to zero where its divisor does.
_STEEP = frozenset(("cosh", "exp", "exp2", "expm1", "pow", "sinh"))
#: Above this divisor, the derivative of a constant over it is taken as zero in every precision.
_VAST = 1e30


_steep: WeakKeyDictionary[Node, bool] = WeakKeyDictionary()


def _is_steep(node: Node) -> bool:
    """Return whether an expression calls a function that overflows; answers are cached."""
    stack = [node]
    while stack:
        top = stack[-1]
        waiting = [arg for arg in top.args if arg not in _steep]
        if waiting and top not in _steep:
            stack += waiting
            continue
        own = top.op == "call" and top.value in _STEEP
        _steep[top] = own or any(_steep[arg] for arg in top.args)
        stack.pop()
    return _steep[node]


def _quotient_derivative(node: Node, upper: Node, lower: Node) -> Node:
    """Return the derivative of a quotient from those of its operands.

    Where a steep divisor overflows, the quotient and its derivative go to zero. The plain formula
    would give zero times infinity there.
    """
    divisor = node.args[1]
    derivative = (upper - node * lower) / divisor
    if lower is ZERO or not _is_steep(divisor):
        return derivative
    largest = _VAST if upper is ZERO else math.nextafter(math.inf, 0.0)
    return where(compare("<", fabs(divisor), largest), derivative, ZERO)


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
