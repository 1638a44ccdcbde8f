"""Delays of SBML: what quantities were before the start, at the time 0.

SBML's ``delay(x, d)`` wants values before the start, too. A state had its start value, and the rate
of everything was 0. An initial assignment that uses the time holds at earlier times as well (SBML
level 3 version 2 core, section 3.4.6, and the semantic test suite).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, symbol
from cubie_flow.expressions.traversal import free_symbols, substitute, topological, transform
from cubie_flow.systems.importers.formula import rate_symbol, rates_in

_T = symbol("t")


def within_delays(nodes: Sequence[Node], replaced: Mapping[Node, Node]) -> list[Node]:
    """Return graphs in which delayed expressions read other nodes than present ones."""

    def rule(node: Node) -> Node:
        if node.op != "delay":
            return node
        return graph.delay(substitute([node.args[0]], replaced)[0], node.args[1])

    return transform(nodes, rule)


def delayed_symbols(nodes: Sequence[Node]) -> set[str]:
    """Return the names whose past graphs read."""
    delayed = [node.args[0] for node in topological(nodes) if node.op == "delay"]
    return {*free_symbols(delayed)}


def without_early_rates(nodes: Sequence[Node]) -> list[Node]:
    """Return graphs in which delayed rates are 0 before the start."""
    rates = [symbol(rate_symbol(name)) for name in sorted(rates_in(nodes))]
    before = graph.compare("<", _T, 0.0)
    return within_delays(nodes, {rate: graph.where(before, graph.ZERO, rate) for rate in rates})


def moving_starts(starts: Mapping[str, Node]) -> dict[str, Node]:
    """Return the start values, by name, that use the time."""
    return {name: node for name, node in starts.items() if "t" in free_symbols([node])}


def with_early_values(
    nodes: Sequence[Node], starts: Mapping[str, Node], names: Iterable[str]
) -> list[Node]:
    """Return graphs in which delayed parameters have their start values before the start.

    Parameters
    ----------
    nodes : sequence of Node
    starts : mapping
        Start values that use the time, by name.
    names : iterable of str
        Names of the parameters.
    """
    before = graph.compare("<", _T, 0.0)
    return within_delays(
        nodes,
        {
            symbol(name): graph.where(before, starts[name], symbol(name))
            for name in names
            if name in starts
        },
    )


def at_start(node: Node) -> Node:
    """Return a start value in which delayed expressions have their values before the start."""

    def rule(one: Node) -> Node:
        if one.op != "delay":
            return one
        return substitute([one.args[0]], {_T: _T - one.args[1]})[0]

    return transform([node], rule)[0]
