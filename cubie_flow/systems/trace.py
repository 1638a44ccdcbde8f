"""Expression graphs of Python functions, from one call with symbols."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.expressions.infix import to_text
from cubie_flow.expressions.traversal import topological
from cubie_flow.systems.parser import is_infinite

#: Operations that an equation may consist of.
_OPERATIONS = {
    "const", "symbol", "truth", "add", "sub", "mul", "div", "neg", "sqrt", "fabs", "floor", "min",
    "max", "compare", "and", "or", "not", "select", "call", "delay",
}  # fmt: skip
_TRUTHS = ("and", "or", "not")


class Named:
    """Symbols of quantities, by name or position: ``y.x``, ``y["x"]``, ``y[0]``."""

    __slots__ = ("_kind", "_nodes")

    def __init__(self, kind: str, names: Iterable[str]) -> None:
        self._kind = kind
        self._nodes = {name: symbol(name) for name in names}

    def __getattr__(self, name: str) -> Node:
        if name.startswith("__"):  # copying and NumPy look for such names
            raise AttributeError(name)
        return self[name]  # type: ignore[no-any-return]

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return list(self._nodes.values())[key]
        if key not in self._nodes:
            raise FlowError(f"there is no {self._kind} '{key}'{nearest(key, self._nodes)}")
        return self._nodes[key]

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)


def trace(
    function: Callable[[Any, Any, Any], Any],
    states: Sequence[str],
    parameters: Sequence[str],
    where: str,
    wanted: Sequence[str] | None,
) -> dict[str, Node]:
    """Return the results of ``function(t, y, p)`` by name.

    Parameters
    ----------
    function : callable
    states, parameters : sequence of str
    where : str
        Names the system in errors.
    wanted : sequence of str or None
        Names of the results, in order; None accepts any mapping.

    Raises
    ------
    FlowError
        If the function cannot be traced, or returns something else.
    """
    label = "the observables" if wanted is None else "the function"
    try:
        returned = function(symbol("t"), Named("state", states), Named("parameter", parameters))
    except FlowError as error:
        raise FlowError(f"{where}: {label}: {error}") from error
    except TypeError as error:
        # NumPy looks for a method of an operand that has the name of the function.
        raise FlowError(
            f"{where}: {label} cannot be traced ({error}); use the functions of "
            "cubie_flow.maths instead of those of numpy or math"
        ) from error
    if isinstance(returned, Mapping):
        results = {str(name): _node(value, f"{where}: {name}") for name, value in returned.items()}
        if wanted is None:
            return results
        for name in results:
            if name not in wanted:
                raise FlowError(
                    f"{where}: the function returns '{name}', which is not a state"
                    f"{nearest(name, wanted)}"
                )
        for name in wanted:
            if name not in results:
                raise FlowError(f"{where}: the function returns no derivative of '{name}'")
        return {name: results[name] for name in wanted}
    if wanted is None:
        raise FlowError(f"{where}: the observables must be a mapping of names to values")
    if isinstance(returned, str | Node) or not hasattr(returned, "__iter__"):
        raise FlowError(
            f"{where}: the function must return a mapping or a sequence of derivatives, not "
            f"{type(returned).__name__}"
        )
    values = list(returned)
    if len(values) != len(wanted):
        raise FlowError(
            f"{where}: the function returns {len(values)} derivatives for {len(wanted)} states"
        )
    return {n: _node(v, f"{where}: {n}") for n, v in zip(wanted, values, strict=True)}


def _node(value: Any, where: str) -> Node:
    if isinstance(value, Node):
        return value
    try:
        return const(float(value))
    except (TypeError, ValueError, OverflowError):
        raise FlowError(f"{where} is {type(value).__name__}, not a number or expression") from None


def check_graph(outputs: Sequence[tuple[str, Node]], known: Iterable[str], where: str) -> None:
    """Refuse graphs with unknown symbols, truths in place of numbers, or infinities.

    Parameters
    ----------
    outputs : sequence of (str, Node)
        Name of each graph for errors, and the graph.
    known : iterable of str
        Symbols they may use.
    where : str
        Names the system in errors.

    Raises
    ------
    FlowError
        Naming the first output that is wrong.
    """
    known = set(known)
    checked: set[Node] = set()
    for label, output in outputs:
        if output.kind != "float":
            raise FlowError(
                f"{where}, {label}: it is true or false, not a number; use where(condition, a, b)"
            )
        for node in topological([output]):
            if node not in checked:
                problem = _problem(node, known)
                if problem:
                    raise FlowError(f"{where}, {label}: {problem}")
                checked.add(node)


def _problem(node: Node, known: set[str]) -> str:
    """Return why an equation may not have a node; empty if it may."""
    if node.op not in _OPERATIONS:
        return f"the operation '{node.op}' is not for equations"
    if node.op == "symbol" and node.value not in known:
        return f"'{node.value}' is not defined{nearest(node.value, known)}"
    if is_infinite(node) or (node.op == "const" and not isfinite(node.value)):
        return f"'{to_text(node, 30)}' is not a finite number"
    kinds = [arg.kind for arg in node.args]
    wanted = ["float"] * len(kinds)
    if node.op in _TRUTHS:
        wanted = ["bool"] * len(kinds)
    elif node.op == "select":
        wanted = ["bool", node.kind, node.kind]
    if kinds != wanted:
        return (
            f"a comparison is used as a number, or the reverse, in "
            f"'{to_text(node, 30)}'; use where(condition, a, b)"
        )
    return ""
