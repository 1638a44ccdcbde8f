"""Find the switches on states in the equations: functions whose signs decide, and their windows.

Steps are examined for what they pass of these (`cubie_flow.integrators.double_crossings`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product

from cubie_flow.expressions.derivatives import differentiate
from cubie_flow.expressions.graph import ZERO, Node, const, load
from cubie_flow.expressions.traversal import substitute, topological

#: Largest number of smooth forms of one condition; conditions with more forms are not examined.
_MAX_FORMS = 8
#: Largest number of kinks on which steps land; 80 take 4 s to compile.
MOST_KINKS = 40
# Operations whose results are discontinuous or logical: such expressions have no tangent.
_STEPPED = ("floor", "compare", "and", "or", "not")


def find_switching_functions(nodes: Sequence[Node], kinks: bool = False) -> tuple[Node, ...]:
    """Return the functions whose signs decide the switches on states, without duplicates.

    A comparison ``a > b`` has the switching function ``a - b``. A function that contains ``abs``,
    ``min``, ``max`` or ``where`` is replaced by its smooth forms, one per branch.

    Parameters
    ----------
    nodes : sequence of Node
        Equations in ``u``, ``p`` and ``t``, their switches in time replaced by slots.
    kinks : bool
        Whether to include ``abs``, ``min`` and ``max`` of states outside of conditions.
    """
    functions: dict[Node, None] = {}
    bare = _outside_conditions(nodes) if kinks else set()
    for node in topological(nodes):
        if _is_inequality(node) or (node in bare and node.op in ("min", "max")):
            functions |= dict.fromkeys(_forms(node.args[0] - node.args[1]))
        elif node in bare and node.op == "fabs":
            functions |= dict.fromkeys(_forms(node.args[0]))
    return tuple(form for form in functions if states_read(form))


def _outside_conditions(nodes: Sequence[Node]) -> set[Node]:
    """Return the nodes that expressions use outside of conditions."""
    found: set[Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found and node.kind != "bool":
            found.add(node)
            waiting += node.args
    return found


def count_unexamined(nodes: Sequence[Node]) -> int:
    """Return the number of switches on states that are not examined for double crossings.

    These are ``floor`` of states, and conditions with too many smooth forms.
    """
    count = 0
    for node in topological(nodes):
        if node.op == "floor":
            count += bool(states_read(node))
        elif _is_inequality(node):
            difference = node.args[0] - node.args[1]
            count += bool(states_read(difference)) and not _forms(difference)
    return count


def find_windows(nodes: Sequence[Node], functions: Sequence[Node]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of switching functions that may be the ends of one window.

    Both belong to one condition and read a common state. They may be two forms of one comparison,
    such as ``abs(x - 0.2) < 0.01``.

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
        pairs = [pair for a, b in combinations(forms, 2) for pair in product(forms[a], forms[b])]
        pairs += [pair for own in forms.values() for pair in combinations(own, 2)]
        for pair in pairs:
            i, j = (index.get(form, -1) for form in pair)
            if min(i, j) >= 0 and states_read(functions[i]) & states_read(functions[j]):
                windows.add((min(i, j), max(i, j)))
    return tuple(sorted(pair for pair in windows if pair[0] != pair[1]))


def find_kinks(nodes: Sequence[Node], functions: Sequence[Node]) -> tuple[int, ...]:
    """Return the numbers of the functions at whose zeros equations have a kink, but no jump.

    These are the functions of ``abs``, ``min`` and ``max`` outside of conditions, and those of
    choices such as ``where(x > 0, x, 0.5*x)``, whose branches are equal where the state is at its
    limit.

    Parameters
    ----------
    nodes : sequence of Node
        Equations as in `find_switching_functions`.
    functions : sequence of Node
        Functions of these equations and of others.
    """
    kinks: set[Node] = set()
    for node in _outside_conditions(nodes):
        if node.op in ("min", "max"):
            kinks |= set(_forms(node.args[0] - node.args[1]))
        elif node.op == "fabs":
            kinks |= set(_forms(node.args[0]))
        elif node.op == "select" and _is_inequality(node.args[0]):
            difference = node.args[0].args[0] - node.args[0].args[1]
            if _are_equal(node.args[1], node.args[2], difference):
                kinks.add(difference)
    return tuple(i for i, one in enumerate(functions) if one in kinks)


def _are_equal(one: Node, other: Node, difference: Node) -> bool:
    """Return whether two expressions are equal where a linear function of one state is zero."""
    zero = _zero(difference)
    if zero is None:
        return False
    (state,) = states_read(difference)
    a, b = substitute([one, other], {load("u", state): const(zero)})
    return a == b


def _zero(function: Node) -> float | None:
    """Return the zero of a function that is linear in one state, with constant coefficients."""
    read = states_read(function)
    if len(read) != 1:
        return None
    state = load("u", next(iter(read)))
    slope = differentiate(function, state)
    (rest,) = substitute([function], {state: ZERO})
    if slope.op != "const" or rest.op != "const" or not slope.value:
        return None
    return -float(rest.value) / float(slope.value)


def constant_width(one: Node, two: Node) -> float | None:
    """Return the distance of the zeros of two functions, None if it is not known.

    It is known if both are linear in the same state, with constant coefficients.
    """
    zeros = (_zero(one), _zero(two))
    if zeros[0] is None or zeros[1] is None or states_read(one) != states_read(two):
        return None
    return abs(zeros[0] - zeros[1])


def _joined(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Yield the truths that decide together: in one condition, choice or product."""
    for node in topological(nodes):
        if node.op in ("and", "or") or _is_inequality(node):
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
        elif _is_inequality(node) and states_read(node):
            comparisons[node] = None
    return list(comparisons)


def _is_inequality(node: Node) -> bool:
    return node.op == "compare" and node.value not in ("==", "!=")


def states_read(node: Node) -> set[int]:
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
        kink = next((n for n in topological([form]) if n.op in _BRANCHES and states_read(n)), None)
        if kink is not None:
            waiting += [substitute([form], {kink: one})[0] for one in _BRANCHES[kink.op](kink)]
        elif not any(n.op in _STEPPED and states_read(n) for n in topological([form])):
            forms.append(form)
    return [] if waiting else forms


_BRANCHES: dict[str, Callable[[Node], tuple[Node, ...]]] = {
    "fabs": lambda node: (node.args[0], -node.args[0]),
    "min": lambda node: node.args,
    "max": lambda node: node.args,
    "select": lambda node: node.args[1:],
}
