"""Models written as plain mappings, which `cubie_flow.systems.model_reader` reads."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from cubie_flow.expressions import graph
from cubie_flow.expressions.graph import Node, symbol
from cubie_flow.expressions.infix import to_text
from cubie_flow.expressions.traversal import topological
from cubie_flow.systems.events_reader import write_events
from cubie_flow.systems.model_items import plain_values

if TYPE_CHECKING:
    from cubie_flow.systems.system import OdeSystem

#: Nodes from which on a shared part of an expression becomes a definition.
_SHARED = 32
#: Nodes and levels from which on any part becomes a definition, to keep texts readable.
_LARGE = 200
_DEEP = 50


def write_model(system: OdeSystem) -> dict[str, Any]:
    """Return a mapping from which `read_model` makes the same system, graphs included.

    Families are expanded and constants are inserted. Large shared parts become definitions, so
    that the text is not much longer than the graph.
    """
    given = (*system.parameters, *system.states)
    quantities = (*given, *system.observables)
    outputs = [*system.derivatives, *(item.expression for item in system.observables)]
    plain = len(outputs)
    outputs += [node for event in system.events for node in event.nodes]
    eventful = len(outputs)
    outputs += [item.start for item in given if item.start is not None]
    started = len(outputs)
    outputs += [node for _, node in system.history]
    taken = {item.name for item in (*quantities, *system.drivers)}
    definitions, written = _with_definitions(outputs, taken)
    texts = [to_text(node) for node in written]
    reaching = system.reaching
    starts = iter(texts[eventful:started])
    values = {item.name: item.value if item.start is None else next(starts) for item in given}
    derived = zip(system.observables, texts[len(system.states) : plain], strict=True)
    model = {
        "name": system.name,
        "title": system.title,
        "description": system.description,
        "source": system.source,
        "time": {"unit": system.time_unit, "duration": system.duration},
        "parameters": {item.name: values[item.name] for item in system.parameters},
        "states": {item.name: values[item.name] for item in system.states},
        "definitions": definitions,
        "equations": {item.name: text for item, text in zip(system.states, texts, strict=False)},
        "mass": {
            item.name: value
            for item, value in zip(system.states, system.mass, strict=False)
            if value != 1.0
        },
        "history": {
            name: text for (name, _), text in zip(system.history, texts[started:], strict=True)
        },
        "observables": {item.name: text for item, text in derived},
        "events": write_events(system.events, texts[plain:eventful]),
        "drivers": {driver.name: driver.to_mapping() for driver in system.drivers},
        "units": {item.name: item.unit for item in quantities if item.unit},
        "long_names": {item.name: item.long_name for item in quantities if item.long_name},
        "suggested": plain_values(system.suggested),
        "unused": [item.name for item in system.parameters if item.name not in reaching],
    }
    return {key: value for key, value in model.items() if value not in ("", {}, [])}


def _with_definitions(outputs: list[Node], taken: set[str]) -> tuple[dict[str, str], list[Node]]:
    """Return the texts of definitions, and `outputs` with symbols in place of these."""
    order = topological(outputs)
    uses = Counter([*outputs, *(arg for node in order for arg in node.args)])
    size: dict[Node, int] = {}
    depth: dict[Node, int] = {}
    definitions: dict[str, str] = {}
    done: dict[Node, Node] = {}
    for node in order:
        size[node] = 1 + sum(size[arg] for arg in node.args)
        depth[node] = 1 + max((depth[arg] for arg in node.args), default=0)
        done[node] = graph.rebuild(node, tuple(done[arg] for arg in node.args))
        shared = uses[node] > 1 and size[node] >= _SHARED
        large = size[node] >= _LARGE or depth[node] >= _DEEP
        if (shared or large) and node.kind == "float":
            number = len(definitions)
            while f"part_{number}" in taken:
                number += 1
            name = f"part_{number}"
            taken.add(name)
            definitions[name] = to_text(done[node])
            done[node] = symbol(name)
            size[node] = depth[node] = 1
    return definitions, [done[node] for node in outputs]
