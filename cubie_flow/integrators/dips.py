"""Switches on states that a solution may pass and come back from within one step.

Both ends of such a step are on the same side, and the error estimate may have seen nothing. The
tangents at the ends tell: where they meet beyond the switch, by more than the tolerances allow,
the step is repeated shorter, until it ends beyond the switch or the tangents meet before it.

A condition made of several comparisons, such as ``x > low and x < high``, may hold in between only:
a step that passes both ends of such a window is repeated shorter as well, if what holds in between
adds more to a state than the tolerances allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

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
from cubie_flow.integrators.steps.base import Step, any_of

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


def find_windows(nodes: Sequence[Node], dips: Sequence[Node]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of `dips` that are in one condition and read a common state.

    Parameters
    ----------
    nodes : sequence of Node
        Equations as in `find_dips`.
    dips : sequence of Node
        What `find_dips` returned for them.
    """
    place = {dip: i for i, dip in enumerate(dips)}
    found: set[tuple[int, int]] = set()
    for truths in _joined(nodes):
        forms = {node: _forms(node.args[0] - node.args[1]) for node in _comparisons(truths)}
        for a, b in combinations(forms, 2):
            pairs = ((place.get(one), place.get(two)) for one in forms[a] for two in forms[b])
            for i, j in pairs:
                if i is not None and j is not None and _states(dips[i]) & _states(dips[j]):
                    found.add((min(i, j), max(i, j)))
    return tuple(sorted(pair for pair in found if pair[0] != pair[1]))


def _joined(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Yield truths that decide together: of one condition, of one choice, of one product."""
    for node in topological(nodes):
        if node.op in ("and", "or"):
            yield [node]
        elif node.op == "select":
            chosen, others = node.args[1:]
            for inner, other in ((chosen, others), (others, chosen)):
                # The same before and after what holds in between.
                if inner.op == "select" and other in inner.args[1:]:
                    yield [node.args[0], inner.args[0]]
        elif node.op == "mul" and all(factor.op == "select" for factor in node.args):
            yield [factor.args[0] for factor in node.args]


def _comparisons(truths: Sequence[Node]) -> list[Node]:
    """Return the comparisons on states that truths are made of."""
    found: dict[Node, None] = {}
    waiting = list(truths)
    while waiting:
        node = waiting.pop()
        if node.op in ("and", "or", "not"):
            waiting += node.args
        elif node.op == "compare" and node.value not in ("==", "!=") and _reads_state(node):
            found[node] = None
    return list(found)


def _states(node: Node) -> set[int]:
    return {
        int(one.value[1]) for one in topological([node]) if one.op == "load" and one.value[0] == "u"
    }


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
    block: BlockBuilder, dips: Sequence[Node], windows: Sequence[tuple[int, int]],
    moments: Sequence[tuple[int, int]], states: int, h: Node, t: Node, end: tuple[str, int],
) -> tuple[Node, Node, Node]:  # fmt: skip
    """Return whether a step may have passed a switch and come back, and the widest window passed.

    Of the window, the part of the step that it takes, 0 without one, and where its middle is.

    Parameters
    ----------
    dips : sequence of Node
        See `find_dips`.
    windows, moments : sequence of (int, int)
        Windows of equations and of events, see `find_windows`. An event in between is missed
        however short its window is.
    states : int
    h, t : Node
        The step, and the time at its start.
    end : tuple of (str, int)
        Where the derivative at the end of the step is.
    """
    found = []
    ends = {i for window in (*windows, *moments) for i in window}
    passed: dict[int, tuple[Node, ...]] = {}
    for i, dip in enumerate(dips):
        truth, *values = _dip(block, dip, states, h, t, end)
        found.append(block.let(f"dip_{i}", truth))
        if i in ends:
            names = ("first", "last", "room")
            passed[i] = tuple(
                block.let(f"window_{name}_{i}", value)
                for name, value in zip(names, values, strict=True)
            )
    for i, j in moments:
        found.append(block.let(f"moment_{i}_{j}", _between(passed[i], passed[j])))
    width = middle = ZERO
    for i, j in windows:
        (a, c, _), (b, d, _) = passed[i], passed[j]
        one = block.let(f"window_{i}_{j}", a / (a - c))
        other = block.let(f"window_{j}_{i}", b / (b - d))
        wider = logical_and(_between(passed[i], passed[j]), compare(">", fabs(one - other), width))
        wider = block.let(f"window_wider_{i}_{j}", wider)
        width = block.let("window_width", where(wider, fabs(one - other), width))
        middle = block.let("window_middle", where(wider, 0.5 * (one + other), middle))
    return any_of(found), width, middle


def _between(one: tuple[Node, ...], two: tuple[Node, ...]) -> Node:
    """Return whether a step passes two switches, and there is something in between."""
    (a, c, room), (b, d, space) = one, two
    both = logical_and(compare("<", a * c, 0.0), compare("<", b * d, 0.0))
    # The value of one where a straight line of the other is zero, times its change.
    there = compare(">", fabs(a * d - b * c), maximum(space * fabs(a - c), room * fabs(b - d)))
    return logical_and(both, there)


def matters(
    block: BlockBuilder, step: Step, width: Node, middle: Node, states: int, h: Node, t: Node,
    active: Node,
) -> Node:  # fmt: skip
    """Return whether a window that a step passes adds more to a state than its tolerance.

    The right-hand side in the middle of the window tells; that of a guard, such as
    ``V > -40.001 and V < -39.999``, is hardly another than beside it.
    """
    inside = block.let("window_passed", logical_and(active, compare(">", width, 0.0)))
    block.let("window_effect", ZERO)
    with block.when(inside):
        old, new = load("state", 0, 1), load("proposed_state", 0, 1)
        block.sweep(states, {"window_state": middle * (new - old) + old})
        step.evaluate(block, "window_state", ("window_rate", 0), middle * h + t)
        rate = load("derivative", 0, 1)
        line = middle * (step.end_derivative - rate) + rate
        size = maximum(fabs(old), fabs(new))
        tolerance = load("settings", SETTINGS, 1) * size + load("settings", SETTINGS + states, 1)
        effect = fabs((width * h) * (load("window_rate", 0, 1) - line)) / tolerance
        largest = maximum(load("window_effect", 0), effect)
        block.sweep(states, [("window_effect", 0, 0, largest)])
    return logical_and(inside, compare(">", load("window_effect", 0), 1.0))


def _dip(
    block: BlockBuilder, dip: Node, states: int, h: Node, t: Node, end: tuple[str, int]
) -> tuple[Node, Node, Node, Node]:
    """Return whether a switch may be passed and come back from, its values, and what they allow."""
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
    truth = logical_and(logical_and(same, there_and_back), deep)
    return truth, first, last, room
