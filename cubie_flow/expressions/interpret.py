"""Interpretation of blocks in NumPy: the simulator, and the reference for compiled targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cubie_flow.expressions.block import (
    Block,
    Evaluate,
    Nest,
    Repeat,
    Statement,
    Stride,
    Sweep,
    When,
    conditions,
    flattened,
)
from cubie_flow.expressions.dialect import Dialect, Place, prepare
from cubie_flow.expressions.evaluate import Evaluator
from cubie_flow.expressions.graph import Node, is_per_lane
from cubie_flow.expressions.traversal import topological

Array = Any


class BlockInterpreter:
    """A block as a Python function ``(memory, lane, *externals) -> mask or None``.

    Parameters
    ----------
    block : Block
    dialect : Dialect
    places : mapping
        Place of every buffer in memory.

    Notes
    -----
    ``memory`` is the tuple of the shared, local and persistent arena as ``uint8`` arrays, each of
    exactly one group of lanes. An external is a tuple (flat array, stride, offset).
    """

    def __init__(self, block: Block, dialect: Dialect, places: Mapping[str, Place]) -> None:
        self.block = block
        self.dialect = dialect
        self.places = places
        self.evaluator = Evaluator(dialect.real)
        self.prepared: dict[int, tuple[Sweep, list[Node], list[Node]]] = {}
        for statement in flattened(block.statements):
            sweep = statement.inlined() if isinstance(statement, Evaluate) else statement
            nodes = prepare(sweep.nodes, dialect)
            self.prepared[id(statement)] = (sweep, nodes, topological(nodes))
        self.truths = {
            id(node): prepare([node], dialect)[0] for node in conditions(block.statements)
        }
        self.mask = prepare([block.mask], dialect) if block.mask is not None else None

    def __call__(self, memory: Sequence[Array], lane: int, *externals: Any) -> Any:
        frame = _Frame(self, memory, lane, dict(zip(self.block.externals, externals, strict=True)))
        with np.errstate(all="ignore"):
            frame.run(self.block.statements)
            if self.mask is None:
                return None
            truth = frame.values(topological(self.mask), 0)[self.mask[0]]
        if self.mask[0].kind == "int":
            return int(np.ravel(truth)[0])
        flags = np.broadcast_to(np.ravel(truth), (1 if self.block.per_lane else frame.lanes,))
        return sum(1 << position for position, flag in enumerate(flags) if flag)


class _Frame:
    """One call of a block."""

    def __init__(
        self,
        owner: BlockInterpreter,
        memory: Sequence[Array],
        lane: int,
        externals: dict[str, tuple[Array, int, int]],
    ) -> None:
        self.owner = owner
        self.evaluator = owner.evaluator
        self.counters: dict[str, int] = {}
        self.places = owner.places
        self.lanes = owner.dialect.lanes
        self.memory = dict(zip(("shared", "local", "persistent"), memory, strict=True))
        self.lane = lane if owner.block.per_lane else None
        self.externals = externals
        self.temporaries: dict[tuple[str, int], Array] = {}

    def run(self, statements: Sequence[Statement]) -> None:
        """Run statements in order."""
        for statement in statements:
            match statement:
                case Repeat():
                    for _ in range(statement.limit):
                        self.run(statement.body)
                        if not self.any(statement.again):
                            break
                case When():
                    if self.any(statement.wanted):
                        self.run(statement.body)
                case Nest():
                    for i in range(self.bound(statement.start), self.bound(statement.stop)):
                        self.counters[statement.variable] = i
                        self.run(statement.body)
                case _:
                    sweep, nodes, order = self.owner.prepared[id(statement)]
                    for j in range(sweep.count):
                        values = self.values(order, j)
                        for (buffer, base, stride), node in zip(sweep.targets, nodes, strict=True):
                            self.store(buffer, self.index(base, stride, j), values[node])

    def any(self, condition: Node) -> bool:
        """Return whether a truth holds in any lane."""
        node = self.owner.truths[id(condition)]
        return bool(np.any(self.values(topological([node]), 0)[node]))

    def bound(self, bound: int | tuple[str, int]) -> int:
        """Return the bound of a counted loop."""
        return bound if isinstance(bound, int) else self.counters[bound[0]] + bound[1]

    def index(self, base: int, stride: Stride, j: int) -> Any:
        """Return the index of an element at loop index `j` and the current loop counters.

        It is an array if every lane has its own index.
        """
        if isinstance(stride, int):
            return base + stride * j
        if is_per_lane(stride):
            parts = [step * np.ravel(self.temporaries[name, 0]) for name, step in stride]
            return base + sum(parts)
        return base + sum(step * self.counters[name] for name, step in stride)

    def own_elements(self, buffer: str, index: Array) -> tuple[Array, Array]:
        """Return a buffer with a row per element, and the places in it of an index per lane."""
        place = self.places[buffer]
        assert np.all((index >= 0) & (index < place.elements)), f"{buffer}[{index}]"
        size = np.dtype(place.dtype).itemsize
        start = place.offset * self.lanes
        raw = self.memory[place.arena][start : start + place.elements * size * self.lanes]
        lanes = np.arange(self.lanes) if self.lane is None else np.array([self.lane])
        rows = raw.view(place.dtype).reshape(place.elements, self.lanes)
        return rows, (np.broadcast_to(index, lanes.shape), lanes)

    def row(self, buffer: str, index: int) -> Array:
        """Return a view of one element of a buffer: in every lane, or in the lane of the block."""
        place = self.places[buffer]
        assert 0 <= index < place.elements, f"{buffer}[{index}] of {place.elements}"
        size = np.dtype(place.dtype).itemsize
        start = (place.offset + index * size) * self.lanes
        raw = self.memory[place.arena][start : start + size * self.lanes]
        assert raw.nbytes == size * self.lanes, f"{buffer}[{index}] is outside its arena"
        view = raw.view(place.dtype)
        return view if self.lane is None else view[self.lane : self.lane + 1]

    def values(self, order: Sequence[Node], j: int) -> dict[Node, Array]:
        """Return the value of every node of a statement."""
        done: dict[Node, Array] = {}
        for node in order:
            if node.op == "load":
                done[node] = self.load(node, j)
            elif node.op == "fetch":
                array, step, offset = self.externals[node.value]
                index = int(np.ravel(done[node.args[0]])[0]) * step + offset
                assert 0 <= index < len(array), f"{node.value}[{index}] of {len(array)}"
                done[node] = array[index]
            else:
                done[node] = self.evaluator.apply(node, [done[arg] for arg in node.args])
        return done

    def load(self, node: Node, j: int) -> Array:
        """Return the value of a load at loop index `j`."""
        buffer, base, stride = node.value
        index = self.index(base, stride, j)
        if is_per_lane(stride):
            rows, places = self.own_elements(buffer, index)
            return rows[places]
        if (buffer, index) in self.temporaries:
            return self.temporaries[buffer, index]
        if buffer in self.externals:
            array, step, offset = self.externals[buffer]
            value = array[index * step + offset]
        else:
            value = self.row(buffer, index).copy()
        return np.asarray(value, self.evaluator.whole) if node.kind == "int" else value

    def store(self, buffer: str, index: Any, value: Array) -> None:
        """Write one element."""
        if isinstance(index, np.ndarray):
            rows, places = self.own_elements(buffer, index)
            rows[places] = value
            return
        if buffer in self.externals:
            array, step, offset = self.externals[buffer]
            array[index * step + offset] = np.ravel(value)[0]
        elif buffer in self.places:
            self.row(buffer, index)[:] = value
        else:
            self.temporaries[buffer, index] = value
