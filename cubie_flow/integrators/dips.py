"""Switches on states that a solution may pass and come back from within one step.

Both ends of such a step are on the same side, and the error estimate may have seen nothing. The
tangents at the ends tell: where they meet beyond the switch, by more than the tolerances allow,
the step is repeated shorter, until it ends beyond the switch or the tangents meet before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cubie_flow.expressions.block import BlockBuilder
from cubie_flow.expressions.derivatives import differentiate, directional
from cubie_flow.expressions.graph import (
    ZERO,
    Node,
    compare,
    fabs,
    load,
    logical_and,
    logical_or,
    maximum,
    symbol,
    where,
)
from cubie_flow.expressions.traversal import substitute, topological
from cubie_flow.integrators.controllers import SETTINGS
from cubie_flow.integrators.steps.base import any_of

#: Smooth forms of one condition that are looked at; one that has more is left out.
_FORMS = 8
# What has no form with a tangent.
_STEPPED = ("floor", "compare", "and", "or", "not")
_T = symbol("t")


def find_dips(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Return what changes sign at the switches on states of bound equations, each once.

    ``abs``, ``min``, ``max`` and ``where`` in a condition are looked at in each of their forms. So
    to cross the gap of ``abs(V + 40) < 1e-6`` from one side to the other is no passage.

    Parameters
    ----------
    nodes : sequence of Node
        Equations in ``u``, ``p`` and ``t``, their switches in time replaced by slots.
    """
    found: dict[Node, None] = {}
    for node in topological(nodes):
        if node.op == "compare" and node.value not in ("==", "!="):
            found |= dict.fromkeys(_forms(node.args[0] - node.args[1]))
    return tuple(form for form in found if _reads_state(form))


def unseen(nodes: Sequence[Node]) -> int:
    """Return how many switches on states of bound equations are not looked at.

    These are whole parts of states, and conditions of too many forms.
    """
    count = 0
    for node in topological(nodes):
        if node.op == "floor":
            count += _reads_state(node)
        elif node.op == "compare" and node.value not in ("==", "!="):
            difference = node.args[0] - node.args[1]
            count += _reads_state(difference) and not _forms(difference)
    return count


def _reads_state(node: Node) -> bool:
    return any(one.op == "load" and one.value[0] == "u" for one in topological([node]))


def _forms(node: Node) -> list[Node]:
    """Return the smooth expressions that a condition's difference is made of."""
    waiting: list[Node] = [node]
    found: list[Node] = []
    while waiting and len(waiting) + len(found) <= _FORMS:
        form = waiting.pop()
        kink = next((n for n in topological([form]) if n.op in _BRANCHES and _reads_state(n)), None)
        if kink is not None:
            waiting += [substitute([form], {kink: one})[0] for one in _BRANCHES[kink.op](kink)]
        elif not any(n.op in _STEPPED and _reads_state(n) for n in topological([form])):
            found.append(form)
    return [] if waiting else found


_BRANCHES: dict[str, Callable[[Node], tuple[Node, ...]]] = {
    "fabs": lambda node: (node.args[0], -node.args[0]),
    "min": lambda node: node.args,
    "max": lambda node: node.args,
    "select": lambda node: node.args[1:],
}


def missed(
    block: BlockBuilder, dips: Sequence[Node], states: int, h: Node, t: Node, end: tuple[str, int]
) -> Node:
    """Return whether a step may have passed a switch and come back.

    Parameters
    ----------
    dips : sequence of Node
        See `find_dips`.
    states : int
    h, t : Node
        The step, and the time at its start.
    end : tuple of (str, int)
        Where the derivative at the end of the step is.
    """
    found = []
    for i, dip in enumerate(dips):
        found.append(block.let(f"dip_{i}", _dip(block, dip, states, h, t, end)))
    return any_of(found)


def _dip(
    block: BlockBuilder, dip: Node, states: int, h: Node, t: Node, end: tuple[str, int]
) -> Node:
    used = sorted({n.value[1] for n in topological([dip]) if n.op == "load" and n.value[0] == "u"})
    ways = [load("way", j) for j in used]
    pace = symbol("pace")
    (slope,) = directional([dip], [_T, *(load("u", j) for j in used)], [pace, *ways])

    def at(state: str, rate: tuple[str, int], time: Node) -> list[Node]:
        mapping: dict[Node, Node] = {_T: time, pace: h}
        for node in topological([dip, slope]):
            if node.op != "load":
                continue
            buffer, place, _ = node.value
            if buffer == "u":
                mapping[node] = load(state, place)
            elif buffer == "p":
                mapping[node] = load("parameters", place)
            else:
                mapping[node] = h * load(rate[0], rate[1] + place)
        return substitute([dip, slope], mapping)

    first, leaving = at("state", ("derivative", 0), t)
    last, arriving = at("proposed_state", end, t + h)
    first, last = block.let("dip_first", first), block.let("dip_last", last)
    # Upside down below the switch; a step that starts on it is on the side where it ends.
    on = compare("==", first, 0.0)
    below = compare("<", where(on, last, first), 0.0)
    leaving = block.let("dip_leaving", where(below, -leaving, leaving))
    arriving = block.let("dip_arriving", where(below, -arriving, arriving))
    there_and_back = logical_and(compare("<", leaving, 0.0), compare(">", arriving, 0.0))
    same = logical_or(compare(">", first * last, 0.0), on)
    # first + leaving*s = last - arriving*(1 - s), times (arriving - leaving) > 0.
    meeting = fabs(first) * arriving - leaving * (fabs(last) - arriving)
    room = ZERO
    for j in used:
        size = maximum(fabs(load("state", j)), fabs(load("proposed_state", j)))
        tolerance = load("settings", SETTINGS + j) * size
        tolerance = tolerance + load("settings", SETTINGS + states + j)
        share = fabs(differentiate(dip, load("u", j)))
        mapping: dict[Node, Node] = {_T: t}
        for node in topological([share]):
            if node.op == "load":
                buffer, place, _ = node.value
                mapping[node] = load("state" if buffer == "u" else "parameters", place)
        room = room + substitute([share], mapping)[0] * tolerance
    deep = compare("<", meeting, -room * (arriving - leaving))
    return logical_and(logical_and(same, there_and_back), deep)
