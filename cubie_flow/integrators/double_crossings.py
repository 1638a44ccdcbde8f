"""Switches on states that a solution crosses twice within one step.

Both ends of such a step are on the same side of the switch, and the error estimate may miss what
happens in between. The tangents of the switching function at both ends show whether a double
crossing is possible. If they meet on the other side by more than the tolerances allow, the step is
repeated with a shorter length, until it ends on the other side or the tangents meet before it.

A condition made of several comparisons, such as ``x > low and x < high``, may hold inside a narrow
window only. A step that passes both ends of a window is repeated as well, if the equations inside
the window change a state by more than the tolerances allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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

#: Largest number of smooth forms of one condition; conditions with more forms are not examined.
_MAX_FORMS = 8
# Operations whose results are discontinuous or logical: such expressions have no tangent.
_STEPPED = ("floor", "compare", "and", "or", "not")
_T, _STEP = symbol("t"), symbol("pace")


def find_switching_functions(nodes: Sequence[Node], kinks: bool = False) -> tuple[Node, ...]:
    """Return the functions whose signs decide the switches on states, without duplicates.

    A comparison ``a > b`` has the switching function ``a - b``. A function that contains ``abs``,
    ``min``, ``max`` or ``where`` is replaced by its smooth forms, one per branch. Crossing the gap
    of ``abs(V + 40) < 1e-6`` from one side to the other is therefore not a double crossing.

    Parameters
    ----------
    nodes : sequence of Node
        Equations in ``u``, ``p`` and ``t``, their switches in time replaced by slots.
    kinks : bool
        Whether to include ``abs``, ``min`` and ``max`` of states outside of conditions. Taylor
        methods need them: they see the equations only at the ends of a step.
    """
    functions: dict[Node, None] = {}
    for node in topological(nodes):
        if _is_inequality(node) or (kinks and node.op in ("min", "max")):
            functions |= dict.fromkeys(_forms(node.args[0] - node.args[1]))
        elif kinks and node.op == "fabs":
            functions |= dict.fromkeys(_forms(node.args[0]))
    return tuple(form for form in functions if _states(form))


def count_unexamined(nodes: Sequence[Node]) -> int:
    """Return the number of switches on states that are not examined for double crossings.

    These are ``floor`` of states, and conditions with too many smooth forms.
    """
    count = 0
    for node in topological(nodes):
        if node.op == "floor":
            count += bool(_states(node))
        elif _is_inequality(node):
            difference = node.args[0] - node.args[1]
            count += bool(_states(difference)) and not _forms(difference)
    return count


def find_windows(nodes: Sequence[Node], functions: Sequence[Node]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of switching functions that may be the ends of one window.

    Both belong to one condition and read a common state.

    Parameters
    ----------
    nodes : sequence of Node
        Equations as in `find_switching_functions`.
    functions : sequence of Node
        The result of `find_switching_functions` for them.

    Returns
    -------
    tuple of (int, int)
        Indices in `functions`, the smaller one first, in increasing order.
    """
    index = {function: i for i, function in enumerate(functions)}
    windows: set[tuple[int, int]] = set()
    for truths in _joined(nodes):
        forms = {node: _forms(node.args[0] - node.args[1]) for node in _comparisons(truths)}
        for a, b in combinations(forms, 2):
            pairs = ((index.get(one), index.get(two)) for one in forms[a] for two in forms[b])
            for i, j in pairs:
                if (
                    i is not None
                    and j is not None
                    and _states(functions[i]) & _states(functions[j])
                ):
                    windows.add((min(i, j), max(i, j)))
    return tuple(sorted(pair for pair in windows if pair[0] != pair[1]))


def _joined(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Yield the truths that decide together: in one condition, choice or product."""
    for node in topological(nodes):
        if node.op in ("and", "or"):
            yield [node]
        elif node.op == "select":
            chosen, others = node.args[1:]
            for inner, other in ((chosen, others), (others, chosen)):
                # The equations outside the window are the same on both sides of it.
                if inner.op == "select" and other in inner.args[1:]:
                    yield [node.args[0], inner.args[0]]
        elif node.op == "mul" and all(factor.op == "select" for factor in node.args):
            yield [factor.args[0] for factor in node.args]


def _comparisons(truths: Sequence[Node]) -> list[Node]:
    """Return the comparisons on states in some truths."""
    comparisons: dict[Node, None] = {}
    waiting = list(truths)
    while waiting:
        node = waiting.pop()
        if node.op in ("and", "or", "not"):
            waiting += node.args
        elif _is_inequality(node) and _states(node):
            comparisons[node] = None
    return list(comparisons)


def _is_inequality(node: Node) -> bool:
    return node.op == "compare" and node.value not in ("==", "!=")


def _states(node: Node) -> set[int]:
    """Return the numbers of the states that an expression reads."""
    return {
        int(one.value[1]) for one in topological([node]) if one.op == "load" and one.value[0] == "u"
    }


def _forms(node: Node) -> list[Node]:
    """Return the smooth forms of a switching function; none if there are too many."""
    waiting: list[Node] = [node]
    forms: list[Node] = []
    while waiting and len(waiting) + len(forms) <= _MAX_FORMS:
        form = waiting.pop()
        kink = next((n for n in topological([form]) if n.op in _BRANCHES and _states(n)), None)
        if kink is not None:
            waiting += [substitute([form], {kink: one})[0] for one in _BRANCHES[kink.op](kink)]
        elif not any(n.op in _STEPPED and _states(n) for n in topological([form])):
            forms.append(form)
    return [] if waiting else forms


_BRANCHES: dict[str, Callable[[Node], tuple[Node, ...]]] = {
    "fabs": lambda node: (node.args[0], -node.args[0]),
    "min": lambda node: node.args,
    "max": lambda node: node.args,
    "select": lambda node: node.args[1:],
}


def detect(
    block: BlockBuilder, functions: Sequence[Node], windows: Sequence[tuple[int, int]],
    event_windows: Sequence[tuple[int, int]], states: int, h: Node, t: Node, end: tuple[str, int],
) -> tuple[Node, Node, Node]:  # fmt: skip
    """Write whether the step just tried may contain a double crossing or an event window.

    Parameters
    ----------
    block : BlockBuilder
    functions : sequence of Node
        See `find_switching_functions`.
    windows, event_windows : sequence of (int, int)
        Windows of the equations and of the conditions of events, see `find_windows`. A step must
        not pass an event window, however narrow that is.
    states : int
    h, t : Node
        Length of the step, and the time at its start.
    end : tuple of (str, int)
        Buffer and first element of the derivative at the end of the step.

    Returns
    -------
    Node, Node, Node
        Whether the step has to be repeated; the width of the widest window of the equations that
        it passes, as a part of the step (0 for none); and the middle of that window.
    """
    truths = []
    ends = {i for window in (*windows, *event_windows) for i in window}
    passed: dict[int, tuple[Node, ...]] = {}
    for i, function in enumerate(functions):
        truth, *values = _double_crossing(block, function, states, h, t, end)
        truths.append(block.let(f"dip_{i}", truth))
        if i in ends:
            names = ("first", "last", "room")
            passed[i] = tuple(
                block.let(f"window_{name}_{i}", value)
                for name, value in zip(names, values, strict=True)
            )
    for i, j in event_windows:
        truths.append(block.let(f"moment_{i}_{j}", _is_passed(passed[i], passed[j])))
    return any_of(truths), *_widest_window(block, windows, passed)


def _widest_window(
    block: BlockBuilder, windows: Sequence[tuple[int, int]], passed: Mapping[int, tuple[Node, ...]]
) -> tuple[Node, Node]:
    """Return the width and the middle of the widest passed window, as parts of the step."""
    width = middle = ZERO
    for i, j in windows:
        (a, c, _), (b, d, _) = passed[i], passed[j]
        one = block.let(f"window_{i}_{j}", a / (a - c))
        other = block.let(f"window_{j}_{i}", b / (b - d))
        wider = logical_and(
            _is_passed(passed[i], passed[j]), compare(">", fabs(one - other), width)
        )
        wider = block.let(f"window_wider_{i}_{j}", wider)
        width = block.let("window_width", where(wider, fabs(one - other), width))
        middle = block.let("window_middle", where(wider, 0.5 * (one + other), middle))
    return width, middle


def _is_passed(one: tuple[Node, ...], two: tuple[Node, ...]) -> Node:
    """Return whether a step crosses two switches that are apart by more than the tolerance."""
    (a, c, room), (b, d, space) = one, two
    both = logical_and(compare("<", a * c, 0.0), compare("<", b * d, 0.0))
    # The value of one function where a straight line of the other is zero, times its change.
    apart = compare(">", fabs(a * d - b * c), maximum(space * fabs(a - c), room * fabs(b - d)))
    return logical_and(both, apart)


def window_matters(
    block: BlockBuilder, step: Step, width: Node, middle: Node, states: int, h: Node, t: Node,
    active: Node,
) -> Node:  # fmt: skip
    """Write whether a passed window changes a state by more than its tolerance.

    The right-hand side in the middle of the window decides. Inside a guard, such as
    ``V > -40.001 and V < -39.999``, it is nearly the same as outside.

    Parameters
    ----------
    block : BlockBuilder
    step : Step
        It has just been tried.
    width, middle : Node
        See `detect`.
    states : int
    h, t : Node
        Length of the step, and the time at its start.
    active : Node
        Lanes that integrate.
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


def _double_crossing(
    block: BlockBuilder, function: Node, states: int, h: Node, t: Node, end: tuple[str, int]
) -> tuple[Node, Node, Node, Node]:
    """Return whether a double crossing is possible, both end values, and their tolerance."""
    used = sorted(_states(function))
    directions = [load("way", j) for j in used]
    (slope,) = directional([function], [_T, *(load("u", j) for j in used)], [_STEP, *directions])
    both = [function, slope]
    first, leaving = _values(both, "state", ("derivative", 0), t, h)
    last, arriving = _values(both, "proposed_state", end, t + h, h)
    first, last = block.let("dip_first", first), block.let("dip_last", last)
    # Signs are turned below the switch. A step that starts on the switch is on the side of its end.
    on = compare("==", first, 0.0)
    below = compare("<", where(on, last, first), 0.0)
    leaving = block.let("dip_leaving", where(below, -leaving, leaving))
    arriving = block.let("dip_arriving", where(below, -arriving, arriving))
    returns = logical_and(compare("<", leaving, 0.0), compare(">", arriving, 0.0))
    same = logical_or(compare(">", first * last, 0.0), on)
    # first + leaving*s = last - arriving*(1 - s), times (arriving - leaving) > 0.
    meeting = fabs(first) * arriving - leaving * (fabs(last) - arriving)
    tolerance = _tolerance(function, used, states, t, h)
    deep = compare("<", meeting, -tolerance * (arriving - leaving))
    return logical_and(logical_and(same, returns), deep), first, last, tolerance


def _values(
    nodes: Sequence[Node], state: str, rate: tuple[str, int], time: Node, h: Node
) -> list[Node]:
    """Return expressions at one end of a step, slopes per step of length `h`."""
    mapping: dict[Node, Node] = {_T: time, _STEP: h}
    for node in topological(nodes):
        if node.op != "load":
            continue
        buffer, element, _ = node.value
        if buffer == "u":
            mapping[node] = load(state, element)
        elif buffer == "p":
            mapping[node] = load("parameters", element)
        else:
            mapping[node] = h * load(rate[0], rate[1] + element)
    return substitute(nodes, mapping)


def _tolerance(function: Node, used: Sequence[int], states: int, t: Node, h: Node) -> Node:
    """Return how much a switching function may change within the tolerances of its states."""
    total = ZERO
    for j in used:
        size = maximum(fabs(load("state", j)), fabs(load("proposed_state", j)))
        tolerance = load("settings", SETTINGS + j) * size
        tolerance = tolerance + load("settings", SETTINGS + states + j)
        sensitivity = fabs(differentiate(function, load("u", j)))
        total = total + _values([sensitivity], "state", ("derivative", 0), t, h)[0] * tolerance
    return total
