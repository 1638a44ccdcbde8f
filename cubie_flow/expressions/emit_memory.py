"""Memory accesses emitted as LLVM IR: loads and stores of buffers, for any number of lanes."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from llvmlite import ir

from cubie_flow.expressions.block import Stride
from cubie_flow.expressions.dialect import Dialect, Place
from cubie_flow.expressions.graph import is_per_lane

I1, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
FLOAT = {"float32": ir.FloatType(), "float64": ir.DoubleType()}
Value = Any


def element_size(place: Place) -> int:
    """Return the bytes per element of a buffer."""
    return 8 if place.dtype == "float64" else 4


class MemoryEmitter:
    """Emit literals, loads and stores at the builder's position.

    Parameters
    ----------
    builder : llvmlite.ir.IRBuilder
    dialect : Dialect
    places : mapping
        Place of every buffer in memory; the others are values of the block.
    arenas : mapping
        Pointer (``i8*``, generic) to the start of each arena.
    externals : mapping
        (pointer, stride, offset) of every external array.
    lane : llvmlite value, optional
        Lane of a per-lane block.
    first : int
        First lane of the group that a vector block works on.
    bodies : llvmlite.ir.Module, optional
        Module in which called functions are defined; by default that of the builder.
    """

    def __init__(
        self,
        builder: Any,
        dialect: Dialect,
        places: Mapping[str, Place],
        arenas: Mapping[str, Any],
        externals: Mapping[str, tuple[Any, Any, Any]] | None = None,
        lane: Any = None,
        first: int = 0,
        bodies: Any = None,
    ) -> None:
        self.b = builder
        self.bodies = bodies
        self.dialect = dialect
        self.places = places
        self.arenas = dict(arenas)
        self.externals = dict(externals or {})
        self.lane = lane
        self.first = first
        self.row = dialect.lanes
        self.lanes = 1 if lane is not None else dialect.width
        self.scalar = FLOAT[dialect.real]
        self.whole = I64 if dialect.bits == 64 else I32
        self.pointers: dict[str, Any] = {}
        self.temporaries: dict[tuple[str, int], Value] = {}
        self.index: Any = None
        self.counters: dict[str, Any] = {}
        if dialect.shared_space and "shared" in self.arenas:
            space = ir.PointerType(I8, dialect.shared_space)
            pointer = self.arenas["shared"]
            if pointer.type != space:
                self.arenas["shared"] = builder.addrspacecast(pointer, space)

    # types and literals

    def _type(self, kind: str) -> Any:
        """Return the type of a value of all lanes."""
        element = {"float": self.scalar, "int": self.whole, "bool": I1}[kind]
        return ir.VectorType(element, self.lanes) if self.lanes > 1 else element

    def _literal(self, kind: str, value: Any) -> Any:
        """Return a constant, rounded to the working precision, the same in all lanes."""
        element = {"float": self.scalar, "int": self.whole, "bool": I1}[kind]
        if kind == "float" and self.dialect.real == "float32":
            try:
                value = struct.unpack("f", struct.pack("f", value))[0]
            except OverflowError:
                value = float("inf") if value > 0 else float("-inf")
        constant = ir.Constant(element, value)
        if self.lanes == 1:
            return constant
        return ir.Constant(ir.VectorType(element, self.lanes), [constant] * self.lanes)

    def _splat(self, value: Any) -> Any:
        """Return a scalar as a value of all lanes."""
        if self.lanes == 1:
            return value
        vector = ir.VectorType(value.type, self.lanes)
        first = self.b.insert_element(ir.Constant(vector, ir.Undefined), value, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [I32(0)] * self.lanes)
        return self.b.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)

    # memory

    def _in_memory(self, buffer: str) -> bool:
        """Return whether a buffer is in memory, and not a temporary value of the block."""
        return buffer in self.places or buffer in self.externals

    def _moving(self, stride: Stride) -> list[tuple[Any, int]]:
        """Return the loop counters that an index depends on, each with its stride."""
        if isinstance(stride, tuple):
            return [(self._counter(name), step) for name, step in stride]
        return [(self.index, stride)] if stride and self.index is not None else []

    def _counter(self, name: str) -> Any:
        """Return the value of a loop counter, or of an index of the present lane."""
        if name in self.counters:
            return self.counters[name]
        value = self.temporaries[name, 0]
        return value if value.type == I64 else self.b.sext(value, I64)

    def _lane_pointers(self, buffer: str, base: int, stride: Stride) -> list[Any]:
        """Return the pointer to the element of every lane, where each has its own index."""
        place = self.places[buffer]
        size = element_size(place)
        space = self.dialect.shared_space if place.arena == "shared" else 0
        kind = ir.PointerType(I32 if place.dtype == "int32" else FLOAT[place.dtype], space)
        start = self.pointers.get(buffer) or self.arenas[place.arena]
        pointers = []
        for lane in range(self.lanes):
            offset: Any = I64((place.offset + base * size) * self.row + (self.first + lane) * size)
            assert isinstance(stride, tuple)
            for name, step in stride:
                index = self.b.extract_element(self.temporaries[name, 0], I32(lane))
                index = index if index.type == I64 else self.b.sext(index, I64)
                offset = self.b.add(offset, self.b.mul(index, I64(step * size * self.row)))
            pointers.append(self.b.bitcast(self.b.gep(start, [offset]), kind))
        return pointers

    def _gather(self, buffer: str, base: int, stride: Stride) -> Any:
        """Return one element per lane, each at its own index."""
        result: Any = ir.Constant(self._type("float"), ir.Undefined)
        for lane, pointer in enumerate(self._lane_pointers(buffer, base, stride)):
            item = self.b.load(pointer)
            item.align = element_size(self.places[buffer])
            result = self.b.insert_element(result, item, I32(lane))
        return result

    def _scatter(self, buffer: str, base: int, stride: Stride, value: Any) -> None:
        """Store one element per lane, each at its own index."""
        for lane, pointer in enumerate(self._lane_pointers(buffer, base, stride)):
            instruction = self.b.store(self.b.extract_element(value, I32(lane)), pointer)
            instruction.align = element_size(self.places[buffer])

    def _byte_pointer(self, start: Any, place: Place, base: int, stride: Stride = 0) -> Any:
        """Return the pointer to an element of a buffer whose arena begins at `start`."""
        size = element_size(place)
        offset: Any = I64((place.offset + base * size) * self.row + self.first * size)
        for counter, step in self._moving(stride):
            offset = self.b.add(offset, self.b.mul(counter, I64(step * size * self.row)))
        if self.lane is not None and self.row > 1:
            offset = self.b.add(offset, self.b.mul(self.lane, I64(size)))
        return self.b.gep(start, [offset])

    def _address(self, buffer: str, base: int, stride: Stride) -> tuple[Any, Any, int]:
        """Return the typed pointer to an element of a buffer, the type, and its alignment."""
        place = self.places[buffer]
        memory_type = I32 if place.dtype == "int32" else FLOAT[place.dtype]
        start = self.pointers.get(buffer) or self.arenas[place.arena]
        pointer = self._byte_pointer(start, place, base, stride)
        element = ir.VectorType(memory_type, self.lanes) if self.lanes > 1 else memory_type
        space = self.dialect.shared_space if place.arena == "shared" else 0
        return self.b.bitcast(pointer, ir.PointerType(element, space)), element, element_size(place)

    def _external_pointer(self, name: str, base: int, stride: Stride) -> Any:
        """Return the pointer to an element of an external array."""
        pointer, step, offset = self.externals[name]
        index: Any = I64(base)
        for counter, by in self._moving(stride):
            index = self.b.add(index, self.b.mul(counter, I64(by)))
        position = self.b.add(self.b.mul(index, step), offset)
        return self.b.gep(pointer, [position])

    def _load(self, buffer: str, base: int, stride: Stride, kind: str) -> Value:
        """Return an element of a buffer, loaded if it is in memory."""
        if (buffer, base) in self.temporaries and not (is_per_lane(stride) or self._moving(stride)):
            return self.temporaries[buffer, base]
        if buffer in self.externals:
            value = self.b.load(self._external_pointer(buffer, base, stride))
            return self._splat(self._from_memory(value, kind, scalar=True))
        if buffer not in self.places:
            raise AssertionError(f"{buffer}[{base}] is read before it is written")
        if self.lanes > 1 and is_per_lane(stride):
            return self._gather(buffer, base, stride)
        pointer, _, size = self._address(buffer, base, stride)
        value = self.b.load(pointer)
        value.align = size
        self._keep_shared(value, buffer)
        return self._from_memory(value, kind)

    def _from_memory(self, value: Any, kind: str, scalar: bool = False) -> Any:
        """Return a loaded value as wide as values of its kind are."""
        if kind == "int":
            goal = self.whole if scalar else self._type("int")
            return self.b.sext(value, goal) if value.type != goal else value
        return value

    def _store(self, buffer: str, base: int, stride: Stride, value: Value) -> None:
        """Store an element of a buffer, or keep it as a temporary value."""
        if buffer in self.externals:
            pointer = self._external_pointer(buffer, base, stride)
            goal = pointer.type.pointee
            if isinstance(goal, ir.IntType) and value.type != goal:
                value = self.b.trunc(value, goal)
            self.b.store(value, pointer)
        elif buffer in self.places and self.lanes > 1 and is_per_lane(stride):
            self._scatter(buffer, base, stride, value)
        elif buffer in self.places:
            pointer, element, size = self._address(buffer, base, stride)
            if self.places[buffer].dtype == "int32" and value.type != element:
                value = self.b.trunc(value, element)
            instruction = self.b.store(value, pointer)
            instruction.align = size
            self._keep_shared(instruction, buffer)
        else:
            self.temporaries[buffer, base] = value

    def _keep_shared(self, instruction: Any, buffer: str) -> None:
        """Make an access to shared memory volatile.

        Otherwise the compiler promotes a shared buffer to registers, and a placement study
        measures nothing.
        """
        if self.dialect.shared_space and self.places[buffer].arena == "shared":
            instruction_text = instruction.descr

            def volatile(buf: list[str]) -> None:
                start = len(buf)
                instruction_text(buf)
                text = "".join(buf[start:])
                name = "store" if "store " in text else "load"
                del buf[start:]
                buf.append(text.replace(f"{name} ", f"{name} volatile ", 1))

            instruction.descr = volatile
