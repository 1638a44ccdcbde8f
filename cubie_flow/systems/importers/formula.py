"""Formulas of imported models, and the expression graphs that are built from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions import graph
from cubie_flow.expressions.derivatives import sparse_jacobian
from cubie_flow.expressions.graph import Node, const, symbol
from cubie_flow.expressions.traversal import free_symbols, substitute
from cubie_flow.systems.importers import vocabulary
from cubie_flow.systems.parser import is_infinite
from cubie_flow.systems.quantities import Described
from cubie_flow.systems.scope import MAX_WORK

#: Levels of nested operations, called functions included. Python allows 1000 nested calls.
MAX_DEPTH = 300
_RATE = "rate of "


@frozen
class Formula:
    """One operation of a formula.

    Parameters
    ----------
    op : str
        One of ``number`` (NaN and infinities included), ``name``, ``rate`` (the time derivative
        of a name), ``time``, ``constant``, ``apply``, ``piecewise`` and ``call``.
    value : object
        The number; the name of a quantity, function of MathML or defined function.
    args : tuple of Formula
        Operands; of ``piecewise`` value, condition, value, condition, ..., other value.
    """

    op: str
    value: Any = None
    args: tuple[Formula, ...] = ()

    def walk(self) -> Iterator[Formula]:
        """Yield every operation of the formula."""
        stack = [self]
        while stack:
            part = stack.pop()
            yield part
            stack.extend(part.args)

    @property
    def names(self) -> set[str]:
        """Every quantity whose value it uses; rates do not count."""
        return {part.value for part in self.walk() if part.op == "name"}

    @property
    def calls(self) -> set[str]:
        """Every defined function that it calls."""
        return {part.value for part in self.walk() if part.op == "call"}


@frozen
class Function:
    """A defined function: its arguments and its body."""

    arguments: tuple[str, ...]
    body: Formula


@define
class Builder:
    """Builds the graphs of the formulas of one model.

    Parameters
    ----------
    functions : mapping
        Defined functions by name; calls are inlined.
    work : int
        Operations that may still be built.
    """

    functions: Mapping[str, Function] = field(factory=dict)
    work: int = MAX_WORK
    _called: dict[tuple[Any, ...], Node] = field(factory=dict, init=False)

    def build(self, formula: Formula, names: Mapping[str, Node], where: str) -> Node:
        """Return the graph of a formula, a number.

        Parameters
        ----------
        formula : Formula
        names : mapping
            Node of every quantity.
        where : str
            Names the place in errors.

        Raises
        ------
        FlowError
            If a name is unknown, a function misused, or the formula too large.
        """
        try:
            return vocabulary.number(self._node(formula, names, (), 0))
        except FlowError as error:
            raise FlowError(f"{where}: {error}") from None

    def _node(
        self, formula: Formula, names: Mapping[str, Node], stack: tuple[str, ...], depth: int
    ) -> Node:
        self.work -= 1
        if self.work < 0:
            raise FlowError(f"the model is too large: it has more than {MAX_WORK} operations")
        if depth > MAX_DEPTH:
            raise FlowError(f"the formula is more than {MAX_DEPTH} levels deep")
        match formula.op:
            case "number":
                return vocabulary.literal(formula.value)
            case "time":
                return symbol("t")
            case "constant":
                return vocabulary.CONSTANTS[formula.value]
            case "name":
                if formula.value not in names:
                    raise FlowError(
                        f"'{formula.value}' is not defined{nearest(formula.value, names)}"
                    )
                return names[formula.value]
            case "rate":
                return symbol(rate_symbol(formula.value))
        args = [self._node(arg, names, stack, depth + 1) for arg in formula.args]
        if formula.op == "piecewise":
            pieces = list(zip(args[0::2], args[1::2], strict=False))
            other = args[-1] if len(args) % 2 else None
            return vocabulary.piecewise(pieces, other)
        if formula.op == "call":
            return self._call(formula.value, args, stack, depth)
        node = vocabulary.apply(formula.value, args)
        if is_infinite(node):  # 0/0 and 1/0 matter only where a run uses them
            from cubie_flow.expressions.evaluate import evaluate

            return vocabulary.literal(float(evaluate([node], {})[0]))
        return node

    def _call(self, name: str, args: list[Node], stack: tuple[str, ...], depth: int) -> Node:
        if name not in self.functions:
            raise FlowError(f"the function '{name}' is not defined{nearest(name, self.functions)}")
        if name in stack:
            raise FlowError(f"the function '{name}' calls itself")
        function = self.functions[name]
        if len(args) != len(function.arguments):
            raise FlowError(
                f"the function '{name}' has {len(args)} arguments; it takes "
                f"{len(function.arguments)}"
            )
        # Nodes are interned: calls with the same arguments have the same graph, built once.
        # Functions that call each other twice do not grow without bound then.
        key = (name, *args)
        if key not in self._called:
            names = dict(zip(function.arguments, args, strict=True))
            self._called[key] = self._node(function.body, names, (*stack, name), depth + 1)
        return self._called[key]


def rate_symbol(name: str) -> str:
    """Return the symbol for the time derivative of a quantity before it is known."""
    return f"{_RATE}{name}"


def rates_in(nodes: Sequence[Node]) -> set[str]:
    """Return the names of the quantities whose time derivatives graphs use."""
    used = free_symbols(nodes)
    return {name.removeprefix(_RATE) for name in used if name.startswith(_RATE)}


def without_rates(
    states: Sequence[Described],
    derivatives: Sequence[Node],
    values: Mapping[str, Node],
    where: str,
) -> tuple[list[Node], dict[str, Node]]:
    """Return graphs in which the time derivatives of quantities are replaced by expressions.

    Parameters
    ----------
    states : sequence
        Their names are those of the symbols.
    derivatives : sequence of Node, shape (states,)
    values : mapping
        Quantities by the name that rates use.
    where : str
        Names the file in errors.

    Raises
    ------
    FlowError
        If a rate is that of an unknown quantity, or uses itself.
    """
    outputs = [*derivatives, *values.values()]
    wanted = rates_in(outputs)
    for name in sorted(wanted):
        if name not in values:
            raise FlowError(
                f"{where}: the rate of '{name}' is used, which is not defined"
                f"{nearest(name, values)}"
            )
    used = {name: node for name, node in values.items() if name in wanted}
    variables = [symbol("t"), *(symbol(state.name) for state in states)]
    slopes = [const(1.0), *derivatives]
    rates: dict[Node, Node] = {}
    rows = sparse_jacobian(list(used.values()), variables)
    for name, row in zip(used, rows, strict=True):
        total = graph.ZERO
        for column, partial in row.items():
            total = graph.add(total, graph.mul(partial, slopes[column]))
        rates[symbol(rate_symbol(name))] = total
    for _ in range(len(rates) + 1):
        if not rates_in(outputs):
            count = len(derivatives)
            return outputs[:count], dict(zip(values, outputs[count:], strict=True))
        outputs = substitute(outputs, rates)
    raise FlowError(f"{where}: rates use each other in a circle")
