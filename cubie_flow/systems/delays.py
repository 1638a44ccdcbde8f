"""Delayed values in the equations of a model: their plain form, and what is refused.

``delay(value, lag)`` is an expression as it was a time `lag` ago. Its plain form delays states
alone: ``delay(x*k + t, 2)`` is ``delay(x, 2)*k + (t - 2)``, and a delay of a delay has the sum of
both lags. Before a run starts, its states have the values of their histories: expressions of
``t``, or the start values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from cubie_flow.errors import FlowError, nearest
from cubie_flow.expressions.graph import Node, delay, is_const, make_node, rebuild, symbol
from cubie_flow.expressions.infix import to_text
from cubie_flow.expressions.traversal import free_symbols, topological, transform

_T = symbol("t")


def has_delays(nodes: Iterable[Node]) -> bool:
    """Return whether an expression reads the past."""
    return any(node.op == "delay" for node in topological(nodes))


def delayed_names(nodes: Iterable[Node]) -> set[str]:
    """Return the names of the states whose past is read by expressions in the plain form."""
    return {node.args[0].value for node in topological(nodes) if node.op == "delay"}


def without_delays(nodes: Sequence[Node]) -> list[Node]:
    """Return expressions that read present values in place of past ones."""
    return transform(nodes, lambda node: node.args[0] if node.op == "delay" else node)


class PlainDelays:
    """Brings delayed values of one model into the plain form.

    Parameters
    ----------
    states, drivers : collection of str
        Names of the states and the drivers.
    changed : collection of str
        Names of the parameters that events change.
    """

    def __init__(
        self, states: Collection[str], drivers: Collection[str], changed: Collection[str]
    ) -> None:
        self.states, self.drivers, self.changed = states, drivers, changed

    def plain(self, node: Node, where: str) -> Node:
        """Return an expression in the plain form.

        Raises
        ------
        FlowError
            If a lag is a number below zero, or the past of a driver or of a parameter that events
            change is wanted.
        """

        def rule(one: Node) -> Node:
            if one.op != "delay":
                return one
            value, lag = one.args
            if is_const(lag) and not lag.value >= 0.0:
                raise FlowError(
                    f"{where}: '{to_text(one, 30)}' has the delay {lag.value:g}; it must be "
                    "positive, since the future is not known"
                )
            if is_const(lag, 0.0):
                return value
            return self._earlier(value, lag, where)

        return transform([node], rule)[0]

    def _earlier(self, value: Node, lag: Node, where: str) -> Node:
        """Return a plain expression as it was a time `lag` ago."""
        done: dict[Node, Node] = {}
        for node in topological([value]):
            if node.op == "delay":
                # The inner lag is that of the earlier time.
                done[node] = delay(node.args[0], lag + done[node.args[1]])
            elif node is _T:
                done[node] = _T - lag
            elif node.op == "symbol":
                done[node] = self._earlier_quantity(node, lag, where)
            else:
                done[node] = rebuild(node, tuple(done[arg] for arg in node.args))
        return done[value]

    def _earlier_quantity(self, node: Node, lag: Node, where: str) -> Node:
        name = node.value
        if name in self.states:
            return make_node("delay", (node, lag))
        if name in self.drivers:
            raise FlowError(
                f"{where}: '{name}' is a driver, of which only the present is known; give the "
                "delayed series as a driver of its own"
            )
        if name in self.changed:
            raise FlowError(
                f"{where}: the past of the parameter '{name}' is wanted, but an event changes it; "
                "make it a state with the equation 0"
            )
        return node


def refuse_delays(nodes: Iterable[Node], where: str, remedy: str) -> None:
    """Refuse expressions that read the past.

    Raises
    ------
    FlowError
        Naming the first delayed value.
    """
    for node in topological(nodes):
        if node.op == "delay":
            raise FlowError(f"{where}: '{to_text(node, 30)}' reads the past; {remedy}")


def check_history(
    history: Mapping[str, Node], delayed: Collection[str], known: Collection[str], where: str
) -> None:
    """Refuse a history of what is not delayed, or that uses what it must not.

    Parameters
    ----------
    history : mapping
        Expressions by name.
    delayed : collection of str
        States whose past is read.
    known : collection of str
        Names that an expression may use.
    where : str
        Names the system in errors.

    Raises
    ------
    FlowError
        For the first mistake.
    """
    for name, node in history.items():
        place = f"{where}, history of {name}"
        if name not in delayed:
            raise FlowError(
                f"{place}: no equation reads the past of '{name}' by delay({name}, ...)"
                f"{nearest(name, delayed)}"
            )
        refuse_delays([node], place, "a history is an expression of t, parameters and start values")
        for used in free_symbols([node]):
            if used not in known:
                raise FlowError(
                    f"{place}: '{used}' is not t, a parameter or a state{nearest(used, known)}"
                )
