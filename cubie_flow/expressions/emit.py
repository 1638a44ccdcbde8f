"""Blocks emitted as LLVM IR: vectors of lanes for a CPU core, scalars for a CUDA thread.

Multiply-adds are emitted fused and nothing is left to contraction, so bits do not depend on
the width of vectors or on the compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
from cubie_flow.expressions.dialect import Place, prepare
from cubie_flow.expressions.emit_memory import I8, I64, Value
from cubie_flow.expressions.emit_values import ValueEmitter, ValueScope
from cubie_flow.expressions.graph import Node, load
from cubie_flow.expressions.traversal import substitute, topological


class BlockEmitter(ValueEmitter):
    """Emit the statements of one block at the builder's position."""

    def run(self, block: Block) -> Value | None:
        """Emit every statement; return the mask as ``i64`` if the block has one."""
        self._statements(block.statements)
        return None if block.mask is None else self._truth(block.mask)

    def _truth(self, node: Node) -> Any:
        """Return a truth as an integer with one bit per lane."""
        (mask,) = prepare([node], self.dialect)
        return self._bitmask(self._value(mask, ValueScope()))

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
        """Return the temporary values that are set both before a body and in it."""
        written: dict[tuple[str, int], None] = {}
        for statement in flattened(body):
            sweep = statement.inlined() if isinstance(statement, Evaluate) else statement
            for buffer, base, stride in sweep.targets:
                if not self._in_memory(buffer):
                    step = stride if isinstance(stride, int) else 0
                    written |= dict.fromkeys((buffer, base + step * j) for j in range(sweep.count))
        return [key for key in written if key in self.temporaries]

    def _phis(self, keys: Sequence[tuple[str, int]], before: Any) -> dict[tuple[str, int], Any]:
        """Replace temporary values by phi nodes whose first source is the block `before`."""
        phis = {}
        for key in keys:
            value = self.temporaries[key]
            phis[key] = self.b.phi(value.type)
            phis[key].add_incoming(value, before)
            self.temporaries[key] = phis[key]
        return phis

    def _forget_but(self, known: set[tuple[str, int]]) -> None:
        """Remove the temporary values that a body made and nothing after it may use."""
        for key in set(self.temporaries) - known:
            del self.temporaries[key]

    def _repeat(self, statement: Repeat) -> None:
        """Emit a loop that ends when no lane needs another pass, or at its limit."""
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
        """Emit a branch around a body that no lane may need."""
        b, known = self.b, set(self.temporaries)
        carried = self._carried(statement.body)
        wanted = b.icmp_unsigned("!=", self._truth(statement.wanted), I64(0))
        before = b.block
        body, after = b.append_basic_block("when"), b.append_basic_block("whether")
        branch = b.cbranch(wanted, body, after)
        if statement.rare:
            branch.set_weights([1, 1000])
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
        """Return the bound of a counted loop."""
        if isinstance(bound, int):
            return I64(bound)
        return self.b.add(self.counters[bound[0]], I64(bound[1]))

    def _nest(self, statement: Nest) -> None:
        """Emit a counted loop."""
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

    def _sweep(self, sweep: Sweep) -> None:
        """Emit an elementwise statement, unrolled or as a loop."""
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
        """Emit element `j` of a statement; all reads come before a write they could see."""
        targets = [
            (buffer, base + stride * j, 0) if isinstance(stride, int) else (buffer, base, stride)
            for buffer, base, stride in targets
        ]
        scope = ValueScope()
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
        """Emit an elementwise statement as a loop over its elements."""
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
        scope = ValueScope()
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
        """Emit a call of a function, or its body where it is small or not in memory."""
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
            pointers.append((self._byte_pointer(self.arenas[place.arena], place, base), place))
        scope = ValueScope()
        scalars = [
            self._value(node, scope) for node in prepare(list(call.scalars.values()), self.dialect)
        ]
        self.b.call(
            self._outlined(call.function, formals, [p for _, p in pointers]),
            [pointer for pointer, _ in pointers] + scalars,
        )

    def _outlined(self, function: Function, formals: Sequence[str], places: Sequence[Place]) -> Any:
        """Return the function that is called, defined at its first use."""
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
