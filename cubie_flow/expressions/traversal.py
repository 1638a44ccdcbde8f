"""Traversal of expression graphs: order, symbols, hashes and rewritten copies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

from cubie_flow.expressions.graph import Node, fma, neg, rebuild


def topological(
    nodes: Iterable[Node], operands: Callable[[Node], Sequence[Node]] = attrgetter("args")
) -> list[Node]:
    """Return every node reachable from `nodes` once, operands before the operations on them.

    Parameters
    ----------
    nodes : iterable of Node
    operands : callable
        Returns the operands of a node that are looked at; called once for each node.
    """
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
            stack.extend((arg, False) for arg in reversed(operands(node)) if arg not in seen)
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
    """Return the SHA-256 digest of a graph; it is the same in every process."""
    digest = hashlib.sha256()
    number: dict[Node, int] = {}
    for node in topological(nodes):
        number[node] = len(number)
        value = node.value.hex() if isinstance(node.value, float) else node.value
        digest.update(repr((node.op, value, [number[a] for a in node.args])).encode())
    digest.update(repr([number[node] for node in nodes]).encode())
    return digest.hexdigest()


def fuse(nodes: Sequence[Node]) -> list[Node]:
    """Return `nodes` with a fused multiply-add in place of every ``a*b + c``."""

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
