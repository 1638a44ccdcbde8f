"""Blocks emitted as LLVM IR: vectors of lanes for a CPU core, scalars for a CUDA thread.

Multiply-adds are emitted fused and nothing is left to contraction, so bits do not depend on
the width of vectors or on the compiler.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from attrs import frozen
from llvmlite import ir

from cubie_flow.expressions import block as blocks
from cubie_flow.expressions.block import (
    Block,
    Evaluate,
    Function,
    Nest,
    Repeat,
    Statement,
    Stride,
    Sweep,
    When,
    flattened,
)
from cubie_flow.expressions.elementary import lower
from cubie_flow.expressions.graph import ALONE, Node, as_node, load
from cubie_flow.expressions.traversal import fuse, substitute, topological

I1, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
Arena = Literal["shared", "local", "persistent"]
ARENAS: tuple[Arena, ...] = ("shared", "local", "persistent")


@frozen
class Place:
    """Where a buffer lives: its arena, the byte offset of a run's copy, and its element type."""

    arena: Arena
    offset: int
    dtype: str
    elements: int


@frozen
class Dialect:
    """What differs between targets.

    Parameters
    ----------
    real : {"float32", "float64"}
        Working precision.
    lanes : int
        Runs side by side; 1 emits scalars.
    vector : int, optional
        Lanes that one vector value holds, a divisor of `lanes`; by default all. With fewer, a
        block is emitted once a group of lanes, one group after another: a processor overlaps
        them, and each needs only its own registers.
    shared_space : int
        LLVM address space of shared memory, 3 on CUDA and 0 on a CPU.
    portable : bool
        Lower elementary functions to polynomials; otherwise call `library`.
    library : callable, optional
        ``library(name, bits) -> str``: symbol of an elementary function of the target.
    """

    real: str
    lanes: int
    shared_space: int = 0
    portable: bool = True
    library: Callable[[str, int], str] | None = None
    intrinsics: Callable[[str, int], str | None] | None = None
    vector: int | None = None

    @property
    def width(self) -> int:
        """Lanes that one vector value holds."""
        return min(self.vector or self.lanes, self.lanes)

    @property
    def bits(self) -> int:
        """Width of the working precision."""
        return 64 if self.real == "float64" else 32


def prepare(nodes: Sequence[Node], dialect: Dialect) -> list[Node]:
    """Return `nodes` as they are emitted: multiply-adds fused, functions lowered."""
    known = substitute(nodes, {ALONE: as_node(dialect.lanes == 1)})
    fused = fuse(known)
    return lower(fused, dialect.bits) if dialect.portable else fused


Value = Any
_FLOAT = {"float32": ir.FloatType(), "float64": ir.DoubleType()}


class _Scope:
    """Values already computed; a child scope sees its parent's but does not add to them."""

    def __init__(self, parent: _Scope | None = None) -> None:
        self.own: dict[Node, Value] = {}
        self.parent = parent

    def get(self, node: Node) -> Value | None:
        scope: _Scope | None = self
        while scope is not None:
            if node in scope.own:
                return scope.own[node]
            scope = scope.parent
        return None


class BlockEmitter:
    """Emits one block at the builder's position.

    Parameters
    ----------
    builder : llvmlite.ir.IRBuilder
    dialect : Dialect
    places : mapping
        Place of every buffer that lives in memory; others are values of the block.
    arenas : mapping
        Pointer (``i8*``, generic) to the start of each arena.
    externals : mapping
        (pointer, stride, offset) of every external array.
    lane : llvmlite value, optional
        Lane of a per-lane block.
    first : int
        First lane of the group that a vector block works on.
    bodies : llvmlite.ir.Module, optional
        Where functions of their own are defined; by default in the builder's module.
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
        self.scalar = _FLOAT[dialect.real]
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
        element = {"float": self.scalar, "int": self.whole, "bool": I1}[kind]
        return ir.VectorType(element, self.lanes) if self.lanes > 1 else element

    def _literal(self, kind: str, value: Any) -> Any:
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
        if self.lanes == 1:
            return value
        vector = ir.VectorType(value.type, self.lanes)
        first = self.b.insert_element(ir.Constant(vector, ir.Undefined), value, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [I32(0)] * self.lanes)
        return self.b.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)

    # memory

    def _moving(self, stride: Stride) -> list[tuple[Any, int]]:
        """Return the loop counters that an index moves with, and how far."""
        if isinstance(stride, tuple):
            return [(self.counters[name], step) for name, step in stride]
        return [(self.index, stride)] if stride and self.index is not None else []

    def _address(self, buffer: str, base: int, stride: Stride) -> tuple[Any, Any, int]:
        place = self.places[buffer]
        memory_type = I32 if place.dtype == "int32" else _FLOAT[place.dtype]
        size = 8 if place.dtype == "float64" else 4
        offset: Any = I64((place.offset + base * size) * self.row + self.first * size)
        for counter, step in self._moving(stride):
            offset = self.b.add(offset, self.b.mul(counter, I64(step * size * self.row)))
        if self.lane is not None and self.row > 1:
            offset = self.b.add(offset, self.b.mul(self.lane, I64(size)))
        start = self.pointers.get(buffer) or self.arenas[place.arena]
        pointer = self.b.gep(start, [offset])
        element = ir.VectorType(memory_type, self.lanes) if self.lanes > 1 else memory_type
        space = self.dialect.shared_space if place.arena == "shared" else 0
        return self.b.bitcast(pointer, ir.PointerType(element, space)), element, size

    def _external_pointer(self, name: str, base: int, stride: Stride) -> Any:
        pointer, step, offset = self.externals[name]
        index: Any = I64(base)
        for counter, by in self._moving(stride):
            index = self.b.add(index, self.b.mul(counter, I64(by)))
        position = self.b.add(self.b.mul(index, step), offset)
        return self.b.gep(pointer, [position])

    def _load(self, buffer: str, base: int, stride: Stride, kind: str) -> Value:
        if (buffer, base) in self.temporaries and not self._moving(stride):
            return self.temporaries[buffer, base]
        if buffer in self.externals:
            value = self.b.load(self._external_pointer(buffer, base, stride))
            return self._splat(self._from_memory(value, kind, scalar=True))
        if buffer not in self.places:
            raise AssertionError(f"{buffer}[{base}] is read before it is written")
        pointer, _, size = self._address(buffer, base, stride)
        value = self.b.load(pointer)
        value.align = size
        self._keep_shared(value, buffer)
        return self._from_memory(value, kind)

    def _from_memory(self, value: Any, kind: str, scalar: bool = False) -> Any:
        if kind == "int":
            goal = self.whole if scalar else self._type("int")
            return self.b.sext(value, goal) if value.type != goal else value
        return value

    def _store(self, buffer: str, base: int, stride: Stride, value: Value) -> None:
        if buffer in self.externals:
            pointer = self._external_pointer(buffer, base, stride)
            goal = pointer.type.pointee
            if isinstance(goal, ir.IntType) and value.type != goal:
                value = self.b.trunc(value, goal)
            self.b.store(value, pointer)
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
        # Without this the compiler promotes a shared buffer to registers and a placement
        # study would measure nothing.
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

    # statements

    def run(self, block: Block) -> Value | None:
        """Emit every statement; return the mask as ``i64`` if the block has one."""
        self._statements(block.statements)
        return None if block.mask is None else self._truth(block.mask)

    def _truth(self, node: Node) -> Any:
        """Return a truth as an integer with one bit a lane."""
        (mask,) = prepare([node], self.dialect)
        return self._bitmask(self._value(mask, _Scope()))

    def _statements(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            match statement:
                case Evaluate():
                    self._evaluate(statement)
                case Sweep():
                    self._sweep(statement)
                case Repeat():
                    self._repeat(statement)
                case When():
                    self._when(statement)
                case Nest():
                    self._nest(statement)

    def _carried(self, body: Sequence[Statement]) -> list[tuple[str, int]]:
        """Return the values that are set before a body and again in it."""
        found: dict[tuple[str, int], None] = {}
        for statement in flattened(body):
            sweep = statement.inlined() if isinstance(statement, Evaluate) else statement
            for buffer, base, stride in sweep.targets:
                if not self._in_memory(buffer):
                    step = stride if isinstance(stride, int) else 0
                    found |= dict.fromkeys((buffer, base + step * j) for j in range(sweep.count))
        return [key for key in found if key in self.temporaries]

    def _phis(self, keys: Sequence[tuple[str, int]], before: Any) -> dict[tuple[str, int], Any]:
        """Make the values `keys` ones that depend on where the flow comes from."""
        phis = {}
        for key in keys:
            value = self.temporaries[key]
            phis[key] = self.b.phi(value.type)
            phis[key].add_incoming(value, before)
            self.temporaries[key] = phis[key]
        return phis

    def _forget_but(self, known: set[tuple[str, int]]) -> None:
        for key in set(self.temporaries) - known:
            del self.temporaries[key]

    def _repeat(self, statement: Repeat) -> None:
        b, known = self.b, set(self.temporaries)
        carried, before = self._carried(statement.body), self.b.block
        body, after = b.append_basic_block("repeat"), b.append_basic_block("repeated")
        b.branch(body)
        b.position_at_end(body)
        count = b.phi(I64)
        count.add_incoming(I64(0), before)
        phis = self._phis(carried, before)
        self._statements(statement.body)
        more = b.icmp_unsigned("!=", self._truth(statement.again), I64(0))
        following = b.add(count, I64(1))
        count.add_incoming(following, b.block)
        for key, phi in phis.items():
            phi.add_incoming(self.temporaries[key], b.block)
        again = b.and_(more, b.icmp_signed("<", following, I64(statement.limit)))
        b.cbranch(again, body, after)
        b.position_at_end(after)
        self._forget_but(known)

    def _when(self, statement: When) -> None:
        b, known = self.b, set(self.temporaries)
        carried = self._carried(statement.body)
        wanted = b.icmp_unsigned("!=", self._truth(statement.wanted), I64(0))
        before = b.block
        body, after = b.append_basic_block("when"), b.append_basic_block("whether")
        b.cbranch(wanted, body, after)
        old = {key: self.temporaries[key] for key in carried}
        b.position_at_end(body)
        self._statements(statement.body)
        end = b.block
        new = {key: self.temporaries[key] for key in carried}
        b.branch(after)
        b.position_at_end(after)
        for key in carried:
            phi = b.phi(old[key].type)
            phi.add_incoming(old[key], before)
            phi.add_incoming(new[key], end)
            self.temporaries[key] = phi
        self._forget_but(known)

    def _bound(self, bound: int | tuple[str, int]) -> Any:
        if isinstance(bound, int):
            return I64(bound)
        return self.b.add(self.counters[bound[0]], I64(bound[1]))

    def _nest(self, statement: Nest) -> None:
        b, known = self.b, set(self.temporaries)
        carried = self._carried(statement.body)
        start, stop, before = self._bound(statement.start), self._bound(statement.stop), b.block
        head = b.append_basic_block("nest")
        body, after = b.append_basic_block("inside"), b.append_basic_block("outside")
        b.branch(head)
        b.position_at_end(head)
        counter = b.phi(I64)
        counter.add_incoming(start, before)
        phis = self._phis(carried, before)
        b.cbranch(b.icmp_signed("<", counter, stop), body, after)
        b.position_at_end(body)
        self.counters[statement.variable] = counter
        self._statements(statement.body)
        del self.counters[statement.variable]
        counter.add_incoming(b.add(counter, I64(1)), b.block)
        for key, phi in phis.items():
            phi.add_incoming(self.temporaries[key], b.block)
            self.temporaries[key] = phi
        b.branch(head)
        b.position_at_end(after)
        self._forget_but(known)

    def _bitmask(self, truth: Any) -> Any:
        if self.lanes > 1:
            truth = self.b.bitcast(truth, ir.IntType(self.lanes))
        return truth if self.lanes == 64 else self.b.zext(truth, I64)

    def _in_memory(self, buffer: str) -> bool:
        return buffer in self.places or buffer in self.externals

    def _sweep(self, sweep: Sweep) -> None:
        nodes = prepare(sweep.nodes, self.dialect)
        if sweep.count == 1:
            self._write(sweep.targets, nodes, 0)
            return
        strided = {buffer for buffer, _, stride in sweep.targets if stride}
        strided |= {n.value[0] for n in topological(nodes) if n.op == "load" and n.value[2]}
        unrolled = sweep.count <= blocks.UNROLL_LIMIT
        if unrolled or not all(map(self._in_memory, strided)):
            for j in range(sweep.count):
                mapping = {
                    node: load(node.value[0], node.value[1] + j * node.value[2], kind=node.kind)
                    for node in topological(nodes)
                    if node.op == "load" and node.value[2]
                }
                self._write(sweep.targets, substitute(nodes, mapping), j)
        else:
            self._rolled(sweep, nodes)

    def _write(
        self, targets: Sequence[tuple[str, int, Stride]], nodes: Sequence[Node], j: int
    ) -> None:
        targets = [
            (buffer, base + stride * j, 0) if isinstance(stride, int) else (buffer, base, stride)
            for buffer, base, stride in targets
        ]
        scope = _Scope()
        written = {buffer for buffer, _, _ in targets}
        reads = {n.value[0] for n in topological(nodes) if n.op == "load"}
        if written & reads:
            values = [self._value(node, scope) for node in nodes]
            for (buffer, base, stride), value in zip(targets, values, strict=True):
                self._store(buffer, base, stride, value)
        else:
            # Stored as soon as computed, so that large systems need few registers at once.
            for (buffer, base, stride), node in zip(targets, nodes, strict=True):
                self._store(buffer, base, stride, self._value(node, scope))

    def _rolled(self, sweep: Sweep, nodes: Sequence[Node]) -> None:
        carried = [
            (buffer, base)
            for buffer, base, stride in sweep.targets
            if not stride and not self._in_memory(buffer)
        ]
        b = self.b
        before = b.block
        body = b.append_basic_block("sweep")
        after = b.append_basic_block("swept")
        b.branch(body)
        b.position_at_end(body)
        index = b.phi(I64)
        index.add_incoming(I64(0), before)
        phis = self._phis([key for key in carried if key in self.temporaries], before)
        self.index = index
        scope = _Scope()
        values = [self._value(node, scope) for node in nodes]
        for (buffer, base, stride), value in zip(sweep.targets, values, strict=True):
            self._store(buffer, base, stride, value)
        self.index = None
        following = b.add(index, I64(1))
        index.add_incoming(following, b.block)
        for key, phi in phis.items():
            phi.add_incoming(self.temporaries[key], b.block)
        b.cbranch(b.icmp_signed("<", following, I64(sweep.count)), body, after)
        b.position_at_end(after)

    def _evaluate(self, call: Evaluate) -> None:
        buffers = [buffer for buffer, _ in call.arrays.values()]
        small = len(call.function.outputs) <= blocks.UNROLL_LIMIT and not call.function.apart
        if small or not all(b in self.places for b in buffers):
            self._sweep(call.inlined())
            return
        formals = list(call.arrays)
        pointers = []
        for formal in formals:
            buffer, base = call.arrays[formal]
            place = self.places[buffer]
            size = 8 if place.dtype == "float64" else 4
            offset: Any = I64((place.offset + base * size) * self.row + self.first * size)
            if self.lane is not None and self.row > 1:
                offset = self.b.add(offset, self.b.mul(self.lane, I64(size)))
            pointers.append((self.b.gep(self.arenas[place.arena], [offset]), place))
        scope = _Scope()
        scalars = [
            self._value(node, scope) for node in prepare(list(call.scalars.values()), self.dialect)
        ]
        self.b.call(
            self._outlined(call.function, formals, [p for _, p in pointers]),
            [pointer for pointer, _ in pointers] + scalars,
        )

    def _outlined(self, function: Function, formals: Sequence[str], places: Sequence[Place]) -> Any:
        spaces = "".join(p.arena[0] for p in places)
        shape = f"{self.dialect.real}x{self.lanes}of{self.row}{spaces}"
        name = f"flow_{function.name}_{function.content_hash[:16]}_{shape}"
        space = self.dialect.shared_space
        types = [ir.PointerType(I8, space if p.arena == "shared" else 0) for p in places]
        types += [self._type("float")] * len(function.scalars)
        callee, outlined = self._own_function(name, ir.FunctionType(ir.VoidType(), types))
        if outlined is None:
            return callee
        arguments = list(outlined.args)
        builder = ir.IRBuilder(outlined.append_basic_block("entry"))
        inner = BlockEmitter(builder, self.dialect, {}, {}, bodies=self.bodies)
        inner.lanes = self.lanes
        inner.pointers = {f: arguments[i] for i, f in enumerate(formals)}
        inner.places = {
            f: Place(p.arena, 0, p.dtype, p.elements) for f, p in zip(formals, places, strict=True)
        }
        nodes = prepare(function.nodes, self.dialect)
        mapping = {}
        for position, scalar in enumerate(function.scalars):
            inner.temporaries[scalar, 0] = arguments[len(formals) + position]
        for node in topological(nodes):
            if node.op == "symbol":
                mapping[node] = load(node.value, 0)
        targets = [(formal, index, 0) for formal, index in function.outputs]
        inner._write(targets, substitute(nodes, mapping), 0)
        builder.ret_void()
        return callee

    def _own_function(self, name: str, kind: Any) -> tuple[Any, Any]:
        """Return (what to call, the function to define or None if it is there already)."""
        module = self.b.module
        home = module if self.bodies is None else self.bodies
        new = name not in home.globals
        function = ir.Function(home, kind, name) if new else home.globals[name]
        if new:
            function.attributes.add("noinline")
            function.attributes.add("nounwind")
            # What lies in a module of its own must be found from the other one.
            if self.bodies is None:
                function.linkage = "internal"
        if home is module:
            return function, function if new else None
        callee = module.globals.get(name) or ir.Function(module, kind, name)
        return callee, function if new else None

    # values

    def _value(self, node: Node, scope: _Scope) -> Value:
        found = scope.get(node)
        if found is not None:
            return found
        # An explicit stack: graphs are deeper than Python's recursion limit allows.
        stack = [node]
        while stack:
            top = stack[-1]
            if scope.get(top) is not None:
                stack.pop()
                continue
            needed = top.args if top.op != "rarely" else (top.args[0], top.args[2])
            waiting = [arg for arg in needed if scope.get(arg) is None]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            stack.pop()
            if top.op == "rarely":
                scope.own[top] = self._rarely(top, scope)
            else:
                scope.own[top] = self._operation(top, [scope.get(arg) for arg in top.args])
        return scope.get(node)

    def _rarely(self, node: Node, scope: _Scope) -> Value:
        b = self.b
        condition, fast = scope.get(node.args[0]), scope.get(node.args[2])
        needed = self._bitmask(condition)
        before = b.block
        with b.if_then(b.icmp_unsigned("!=", needed, I64(0)), likely=False):
            slow = self._call_slow(node.args[1], scope)
            chosen = b.select(condition, slow, fast)
            end = b.block
        phi = b.phi(chosen.type)
        phi.add_incoming(fast, before)
        phi.add_incoming(chosen, end)
        return phi

    def _call_slow(self, node: Node, scope: _Scope) -> Value:
        """Call the rarely needed part as a function of its own, one for all its uses."""
        given: list[Node] = []
        seen: set[Node] = set()
        described: list[object] = []
        stack = [node]
        while stack:
            top = stack.pop()
            if top in seen:
                continue
            seen.add(top)
            if scope.get(top) is not None and top.op not in ("const", "integer", "truth"):
                given.append(top)
            else:
                stack.extend(reversed(top.args))
        number = {top: i for i, top in enumerate(given)}
        order = [top for top in topological([node]) if top in seen]
        place = {top: i for i, top in enumerate(order)}
        for top in order:
            if top in number:
                described.append(("given", number[top], top.kind))
            else:
                value = top.value.hex() if isinstance(top.value, float) else top.value
                described.append((top.op, value, [place[arg] for arg in top.args]))
        digest = hashlib.sha256(repr(described).encode()).hexdigest()[:16]
        name = f"flow_rare_{digest}_{self.dialect.real}x{self.lanes}"
        types = [self._type(top.kind) for top in given]
        callee, function = self._own_function(name, ir.FunctionType(self._type(node.kind), types))
        if function is not None:
            builder = ir.IRBuilder(function.append_basic_block("entry"))
            inner = BlockEmitter(builder, self.dialect, {}, {}, bodies=self.bodies)
            inner.lanes = self.lanes
            own = _Scope()
            own.own.update(zip(given, function.args, strict=True))
            builder.ret(inner._value(node, own))
        return self.b.call(callee, [scope.get(top) for top in given])

    def _intrinsic(self, name: str, *args: Any) -> Any:
        kind = args[0].type
        override = self.dialect.intrinsics and self.dialect.intrinsics(name, self.dialect.bits)
        if override:
            symbol = override
        else:
            suffix = f"f{self.dialect.bits}"
            symbol = (
                f"llvm.{name}.v{self.lanes}{suffix}" if self.lanes > 1 else f"llvm.{name}.{suffix}"
            )
        return self.b.call(self._declared(symbol, kind, len(args)), args)

    def _declared(self, symbol: str, kind: Any, arity: int) -> Any:
        module = self.b.module
        if symbol in module.globals:
            return module.globals[symbol]
        return ir.Function(module, ir.FunctionType(kind, [kind] * arity), symbol)

    def _operation(self, node: Node, args: Sequence[Value]) -> Value:
        b = self.b
        match node.op:
            case "const":
                return self._literal("float", node.value)
            case "integer":
                return self._literal("int", node.value)
            case "truth":
                return self._literal("bool", int(node.value))
            case "load":
                buffer, base, stride = node.value
                return self._load(buffer, base, stride, node.kind)
            case "add":
                return b.fadd(*args)
            case "sub":
                return b.fsub(*args)
            case "mul":
                return b.fmul(*args)
            case "div":
                return b.fdiv(*args)
            case "neg":
                # NVVM's dialect has no fneg; the optimiser makes it one where it exists.
                return b.fsub(self._literal("float", -0.0), args[0])
            case "fma" | "sqrt" | "fabs" | "floor":
                return self._intrinsic(node.op, *args)
            case "round":
                return self._intrinsic("rint", *args)
            case "min":
                return b.select(b.fcmp_ordered("<", *args), *args)
            case "max":
                return b.select(b.fcmp_ordered(">", *args), *args)
            case "compare":
                if node.value == "!=":
                    return b.fcmp_unordered("!=", *args)
                return b.fcmp_ordered(node.value, *args)
            case "icompare":
                return b.icmp_signed(node.value, *args)
            case "and":
                return b.and_(*args)
            case "or":
                return b.or_(*args)
            case "not":
                return b.xor(args[0], self._literal("bool", 1))
            case "select":
                return b.select(*args)
            case "bits":
                return b.bitcast(args[0], self._type("int"))
            case "from_bits":
                return b.bitcast(args[0], self._type("float"))
            case "to_int":
                return b.fptosi(args[0], self._type("int"))
            case "to_float":
                return b.sitofp(args[0], self._type("float"))
            case "iadd":
                return b.add(*args)
            case "isub":
                return b.sub(*args)
            case "imul":
                return b.mul(*args)
            case "iand":
                return b.and_(*args)
            case "ior":
                return b.or_(*args)
            case "ixor":
                return b.xor(*args)
            case "shl":
                return b.shl(*args)
            case "lshr":
                return b.lshr(*args)
            case "ashr":
                return b.ashr(*args)
            case "table":
                return self._table(node, args[0])
            case "fetch":
                # Every lane has an index of its own: only blocks of one lane look up.
                assert self.lanes == 1, "fetch in a block of several lanes"
                pointer, step, offset = self.externals[node.value]
                index = args[0] if args[0].type == I64 else b.sext(args[0], I64)
                return b.load(b.gep(pointer, [b.add(b.mul(index, step), offset)]))
            case "call" if self.dialect.library is not None:
                symbol = self.dialect.library(node.value, self.dialect.bits)
                return b.call(self._declared(symbol, args[0].type, len(args)), args)
        raise AssertionError(f"cannot emit {node.op} {node.value}")

    def _table(self, node: Node, index: Any) -> Any:
        module = self.b.module
        name = "flow_table_" + hashlib.sha256(repr(node.value).encode()).hexdigest()[:16]
        name += self.dialect.real
        if name in module.globals:
            constant = module.globals[name]
        else:
            array = ir.ArrayType(self.scalar, len(node.value))
            constant = ir.GlobalVariable(module, array, name)
            constant.initializer = ir.Constant(
                array, [ir.Constant(self.scalar, v) for v in node.value]
            )
            constant.linkage = "internal"
            constant.global_constant = True
        if self.lanes == 1:
            return self.b.load(self.b.gep(constant, [I64(0), index]))
        result: Any = ir.Constant(self._type("float"), ir.Undefined)
        for lane in range(self.lanes):
            position = self.b.extract_element(index, I32(lane))
            item = self.b.load(self.b.gep(constant, [I64(0), position]))
            result = self.b.insert_element(result, item, I32(lane))
        return result
