"""The right-hand side of a problem for every peer, generated from the graph of its model.

All peers integrate the same equations, and a new model needs no code here. Components are written
one by one, as by hand for a small model. Large models have an additional array form and loop form,
which `tests/test_benchmarks.py` compares with the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.problems import Problem
from cubie_flow.errors import FlowError
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.expressions.traversal import substitute, topological

_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_COMPARE = {
    "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal", "==": "equal",
    "!=": "not_equal",
}  # fmt: skip


def bound(problem: Problem) -> list[Node]:
    """Return the derivatives with numbers for all parameters except the varied one."""
    system = problem.system
    fixed = {symbol(p.name): const(p.value) for p in system.parameters if p.name != problem.varied}
    return substitute(list(system.derivatives), fixed)


def source(problem: Problem, scalar: bool) -> str:
    """Return the right-hand side as Python source.

    Parameters
    ----------
    problem : Problem
    scalar : bool
        Write ``rhs(t, u, du, p)`` for numba, which sets `du` and calls functions of ``math``;
        otherwise ``field(t, u, p)``, which returns a list and calls functions of `m`. In both
        `p` is the varied parameter.
    """
    nodes = bound(problem)
    places = {state.name: f"u[{i}]" for i, state in enumerate(problem.system.states)}
    places |= {problem.varied: "p[0]" if scalar else "p", "t": "t"}
    names: dict[Node, str] = {}
    lines = ["def rhs(t, u, du, p):" if scalar else "def field(t, u, p):"]
    for node in topological(nodes):
        args = [names[arg] for arg in node.args]
        if node.op == "const":
            names[node] = f"({float(node.value)!r})"
        elif node.op == "symbol" and node.value in places:
            names[node] = places[node.value]
        else:
            names[node] = f"v{len(names)}"
            lines.append(f"    {names[node]} = {_written(node, args, scalar)}")
    outputs = [names[node] for node in nodes]
    if scalar:
        lines += [f"    du[{i}] = {name}" for i, name in enumerate(outputs)]
    else:
        lines.append(f"    return [{', '.join(outputs)}]")
    return "\n".join(lines) + "\n"


def _written(node: Node, args: list[str], scalar: bool) -> str:
    def function(name: str) -> str:
        return f"m.{name}({', '.join(args)})"

    op = node.op
    if op in _SIGNS:
        return f"{args[0]} {_SIGNS[op]} {args[1]}"
    if op == "fma":
        return f"{args[0]} * {args[1]} + {args[2]}"
    if op == "neg":
        return f"-{args[0]}"
    if op == "fabs":
        return f"abs({args[0]})"
    if op == "compare":
        return f"{args[0]} {node.value} {args[1]}" if scalar else function(_COMPARE[node.value])
    if op in ("select", "rarely"):
        return f"{args[1]} if {args[0]} else {args[2]}" if scalar else function("where")
    if op in ("min", "max"):
        return f"{op}({', '.join(args)})" if scalar else function(f"{op}imum")
    if op in ("and", "or", "not"):
        if scalar:
            return f"not {args[0]}" if op == "not" else f"{args[0]} {op} {args[1]}"
        return function(f"logical_{op}")
    if op in ("sqrt", "floor"):
        return function(op)
    if op == "call" and node.value == "pow":
        return f"{args[0]} ** {args[1]}"
    if op == "call":
        return function(node.value)
    raise FlowError(f"benchmarks cannot write '{op}' for peers; add it to benchmarks/fields.py")


def field(problem: Problem, m: Any) -> Callable[[Any, Any, Any], Any]:
    """Return ``f(t, u, p) -> du`` that uses the functions of `m`.

    States are along the first axis of `u`. `du` is an array if the problem has an array form and
    `m` can roll arrays, otherwise a list of components.
    """
    array = problem.array
    if array is not None and hasattr(m, "roll"):
        return lambda t, u, p: array(m, u, p)
    scope: dict[str, Any] = {"m": m}
    exec(compile(source(problem, scalar=False), f"<{problem.name}>", "exec"), scope)
    made: Callable[[Any, Any, Any], Any] = scope["field"]
    return made


def scalar_field(problem: Problem) -> Callable[..., None]:
    """Return ``rhs(t, u, du, p)`` on numbers, which numba can compile."""
    import math

    scope: dict[str, Any] = {"m": math, "n": len(problem.system.states)}
    text = source(problem, True) if problem.loops is None else _looped(problem.loops)
    exec(compile(text, f"<{problem.name}>", "exec"), scope)
    made: Callable[..., None] = scope["rhs"]
    return made


def _looped(body: str) -> str:
    return f"def rhs(t, u, du, p):\n{body}"
