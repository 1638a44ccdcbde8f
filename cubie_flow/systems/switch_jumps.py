"""Jumps of sensitivities where a condition in the equations changes.

If a condition of the equations changes at a time tau(p), the derivative jumps from f- to f+. Then
``s = dy/dp`` jumps too, although y does not::

    s+ = s- + (f- - f+) dtau/dp
    dtau/dp = -(g_y s- + g_p) / (g_y f- + g_t)

with g the difference of the compared values (Rozenvasser 1967, see `event_jumps`). Every such
condition becomes an event that resets the sensitivities. A condition that only avoids a gap of a
formula, where both branches meet, causes no jump and needs no event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from attrs import frozen

from cubie_flow.expressions.derivatives import directional
from cubie_flow.expressions.evaluate import evaluate
from cubie_flow.expressions.graph import (
    ONE,
    TRUE,
    ZERO,
    Node,
    as_node,
    call,
    compare,
    fabs,
    floor,
    logical_and,
    symbol,
    where,
)
from cubie_flow.expressions.traversal import free_symbols, substitute, topological
from cubie_flow.systems.events import Event

#: Distance in time of a crossing, relative to the time, up to which a condition is taken to change
#: by itself, and not because an event has changed the states.
_BY_ITSELF = 1e-4
#: Relative jump of an equation below which the branches of a condition meet.
_MEETS = 1e-4
_SAMPLES, _NEWTON = 4, 30
_T = symbol("t")


@frozen
class _Switch:
    """A change of form of the equations.

    Parameters
    ----------
    root : Node
        Zero at the change.
    crossed : Node
        Increases or decreases through the change.
    low, high : mapping
        Replacements of conditions while `crossed` is below and above.
    """

    root: Node
    crossed: Node
    low: Mapping[Node, Node]
    high: Mapping[Node, Node]


@frozen
class SwitchJumps:
    """Makes the events at which the equations of a system change form.

    Parameters
    ----------
    flow : sequence of Node, shape (states,)
        Time derivatives of the states.
    states : sequence of str
    names : sequence of str
        Quantities of the sensitivities.
    own : callable
        ``own(state, name)``: name of the sensitivity.
    slopes : callable
        ``slopes(nodes, name)``: derivatives of nodes at a fixed time.
    values : mapping
        Values of states and parameters, near which branches are compared.
    """

    flow: Sequence[Node]
    states: Sequence[str]
    names: Sequence[str]
    own: Callable[[str, str], str]
    slopes: Callable[[Sequence[Node], str], list[Node]]
    values: Mapping[str, float]

    def events(self) -> tuple[Event, ...]:
        """Return the events, which set sensitivities and are not recorded."""
        events: list[Event] = []
        for switch in (*self._conditions(), *self._floors()):
            resets = self._resets(switch)
            if resets:
                name = f"switch_{len(events)}"
                events.append(
                    Event(name, root=switch.root, direction="both", resets=resets, record=False)
                )
        return tuple(events)

    def _conditions(self) -> list[_Switch]:
        """Return the comparisons of the equations, grouped by root."""
        groups: dict[Node, list[tuple[Node, bool]]] = {}
        for node in topological(self.flow):
            if node.op != "compare":
                continue
            root = node.args[0] - node.args[1]
            if -root in groups:
                groups[-root].append((node, True))
            else:
                groups.setdefault(root, []).append((node, False))
        switches = []
        for root, members in groups.items():
            low: dict[Node, Node] = {}
            high: dict[Node, Node] = {}
            for node, turned in members:
                below = as_node(node.value in ("<", "<=", "!="))
                above = as_node(node.value in (">", ">=", "!="))
                low[node], high[node] = (above, below) if turned else (below, above)
            switches.append(_Switch(root, root, low, high))
        return switches

    def _floors(self) -> list[_Switch]:
        """Return the places where ``floor`` of time and parameters jumps."""
        switches = []
        for node in topological(self.flow):
            argument = node.args[0] if node.op == "floor" else None
            if argument is None or set(free_symbols([argument])) & set(self.states):
                continue
            number = floor(argument + 0.5)
            root = call("sin", math.pi * argument)
            switches.append(_Switch(root, argument, {node: number - 1.0}, {node: number}))
        return switches

    def _along(self, node: Node, flow: Sequence[Node]) -> Node:
        inputs = [*(symbol(state) for state in self.states), _T]
        return directional([node], inputs, [*flow, ONE])[0]

    def _resets(self, switch: _Switch) -> tuple[tuple[str, Node], ...]:
        """Return the sensitivities that a change of form sets, with their new values."""
        gained = {name: self.slopes([switch.crossed], name)[0] for name in self.names}
        if all(node is ZERO for node in gained.values()):
            return ()
        low, high = (substitute(self.flow, side) for side in (switch.low, switch.high))
        if all(a is b for a, b in zip(low, high, strict=True)):
            return ()
        stated = bool(set(free_symbols([switch.crossed])) & set(self.states))
        if stated and self._meets(switch.crossed, low, high):
            return ()
        paces = [self._along(switch.crossed, side) for side in (low, high)]
        rising = compare(">=", switch.crossed, 0.0) if stated else compare(">", paces[0], 0.0)
        pace = where(rising, *paces)
        crossing = TRUE
        if switch.root is switch.crossed:
            near = compare("<=", fabs(switch.crossed), _BY_ITSELF * fabs(pace * _T))
            crossing = logical_and(crossing, near)
        resets = []
        for state, below, above in zip(self.states, low, high, strict=True):
            if below is above:
                continue
            jump = where(rising, below - above, above - below)
            for name, gain in gained.items():
                if gain is not ZERO:
                    own = self.own(state, name)
                    moved = symbol(own) - jump * (gain / pace)
                    resets.append((own, where(crossing, moved, symbol(own))))
        return tuple(resets)

    def _meets(self, root: Node, low: Sequence[Node], high: Sequence[Node]) -> bool:
        """Return whether both branches are equal where the condition changes.

        The test uses a few points near the values of the model, moved to the root along one state.
        """
        pairs = [(a, b) for a, b in zip(low, high, strict=True) if a is not b]
        names = [name for name in free_symbols([root]) if name in self.states]
        rng = np.random.default_rng(0)
        known = sorted(set(free_symbols([root, *low, *high])) - {"t"})
        met = False
        for sample in range(_SAMPLES * len(names)):
            name = names[sample % len(names)]
            point = {
                one: self.values.get(one, 0.0) * rng.uniform(0.8, 1.2) + rng.uniform(-0.1, 0.1)
                for one in known
            }
            point["t"] = rng.uniform(0.0, 1.0)
            with np.errstate(all="ignore"):
                if not _move_to_root(root, name, point):
                    continue
                sides = np.asarray(evaluate([one for pair in pairs for one in pair], point))
            below, above = sides[0::2], sides[1::2]
            if not np.isfinite(sides).all():
                continue
            met = True
            if (np.abs(below - above) > _MEETS * (np.abs(below) + np.abs(above))).any():
                return False
        return met


def _move_to_root(root: Node, name: str, point: dict[str, float]) -> bool:
    """Move a point along one state to a root, by Newton's method; return whether it is there."""
    slope_node = directional([root], [symbol(name)], [ONE])[0]
    for _ in range(_NEWTON):
        value, slope = (float(v) for v in evaluate([root, slope_node], point))
        step = value / slope if slope else math.nan
        if not math.isfinite(step):
            break
        point[name] -= step
    value = float(evaluate([root], point)[0])
    return abs(value) <= 1e-9 * (1.0 + abs(point[name]))
