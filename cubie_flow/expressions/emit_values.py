"""Values emitted as LLVM IR: the operations of an expression graph, for any number of lanes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from cubie_flow.expressions.emit_memory import I32, I64, MemoryEmitter, Value
from cubie_flow.expressions.graph import Node
from cubie_flow.expressions.traversal import topological


class ValueScope:
    """Values already computed; a child scope reads those of its parent and adds only its own."""

    def __init__(self, parent: ValueScope | None = None) -> None:
        self.own: dict[Node, Value] = {}
        self.parent = parent

    def get(self, node: Node) -> Value | None:
        """Return the value of a node, None if it is not yet computed."""
        scope: ValueScope | None = self
        while scope is not None:
            if node in scope.own:
                return scope.own[node]
            scope = scope.parent
        return None


#: Operations that are one instruction on their operands: the method of the builder that adds it.
_INSTRUCTIONS = {
    "add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "select": "select",
    "and": "and_", "or": "or_", "iadd": "add", "isub": "sub", "imul": "mul", "iand": "and_",
    "ior": "or_", "ixor": "xor", "shl": "shl", "lshr": "lshr", "ashr": "ashr",
}  # fmt: skip


class ValueEmitter(MemoryEmitter):
    """Emit the values of expression graphs at the builder's position."""

    def _value(self, node: Node, scope: ValueScope) -> Value:
        """Return the value of a node, emitting what is not yet computed."""
        value = scope.get(node)
        if value is not None:
            return value
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

    def _rarely(self, node: Node, scope: ValueScope) -> Value:
        """Emit a branch that computes the slow alternative only if some lane needs it."""
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

    def _call_slow(self, node: Node, scope: ValueScope) -> Value:
        """Call the rarely needed part as a separate function, one for all its uses."""
        inputs, order = self._known_inputs(node, scope)
        digest = hashlib.sha256(repr(_description(inputs, order)).encode()).hexdigest()[:16]
        name = f"flow_rare_{digest}_{self.dialect.real}x{self.lanes}"
        types = [self._type(top.kind) for top in inputs]
        callee, function = self._own_function(name, ir.FunctionType(self._type(node.kind), types))
        if function is not None:
            builder = ir.IRBuilder(function.append_basic_block("entry"))
            inner = ValueEmitter(builder, self.dialect, {}, {}, bodies=self.bodies)
            inner.lanes = self.lanes
            own = ValueScope()
            own.own.update(zip(inputs, function.args, strict=True))
            builder.ret(inner._value(node, own))
        return self.b.call(callee, [scope.get(top) for top in inputs])

    @staticmethod
    def _known_inputs(node: Node, scope: ValueScope) -> tuple[list[Node], list[Node]]:
        """Return the computed values that a graph uses, and its nodes down to those, in order."""
        inputs: list[Node] = []

        def operands(top: Node) -> tuple[Node, ...]:
            # Nothing below a known value is looked at: that may be a whole chain of definitions.
            if scope.get(top) is not None and top.op not in ("const", "integer", "truth"):
                inputs.append(top)
                return ()
            return top.args

        return inputs, topological([node], operands)

    def _intrinsic(self, name: str, *args: Any) -> Any:
        """Call an intrinsic of LLVM, or the target's replacement for it."""
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
        """Return an external function, declared at its first use."""
        module = self.b.module
        if symbol in module.globals:
            return module.globals[symbol]
        return ir.Function(module, ir.FunctionType(kind, [kind] * arity), symbol)

    def _operation(self, node: Node, args: Sequence[Value]) -> Value:
        """Emit one operation on the values of its operands."""
        b = self.b
        if node.op in _INSTRUCTIONS:
            return getattr(b, _INSTRUCTIONS[node.op])(*args)
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
            case "neg":
                # NVVM has no fneg instruction; the optimiser makes one where it exists.
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
            case "not":
                return b.xor(args[0], self._literal("bool", 1))
            case "bits":
                return b.bitcast(args[0], self._type("int"))
            case "from_bits":
                return b.bitcast(args[0], self._type("float"))
            case "to_int":
                return b.fptosi(args[0], self._type("int"))
            case "to_float":
                return b.sitofp(args[0], self._type("float"))
            case "table":
                return self._table(node, args[0])
            case "fetch":
                return self._fetch(node, args[0])
            case "call" if self.dialect.library is not None:
                symbol = self.dialect.library(node.value, self.dialect.bits)
                return b.call(self._declared(symbol, args[0].type, len(args)), args)
        raise AssertionError(f"cannot emit {node.op} {node.value}")

    def _fetch(self, node: Node, index: Any) -> Value:
        """Emit the load of an external element at an index that is computed when it runs."""
        # Every lane has its own index, so only blocks of one lane fetch.
        assert self.lanes == 1, "fetch in a block of several lanes"
        pointer, step, offset = self.externals[node.value]
        index = index if index.type == I64 else self.b.sext(index, I64)
        return self.b.load(self.b.gep(pointer, [self.b.add(self.b.mul(index, step), offset)]))

    def _table(self, node: Node, index: Any) -> Any:
        """Emit a lookup in a constant table, lane by lane."""
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

    def _bitmask(self, truth: Any) -> Any:
        """Return a truth of all lanes as ``i64``, one bit per lane."""
        if self.lanes > 1:
            truth = self.b.bitcast(truth, ir.IntType(self.lanes))
        return truth if self.lanes == 64 else self.b.zext(truth, I64)

    def _own_function(self, name: str, kind: Any) -> tuple[Any, Any]:
        """Return what to call, and the function to define or None if it is defined already."""
        module = self.b.module
        home = module if self.bodies is None else self.bodies
        new = name not in home.globals
        function = ir.Function(home, kind, name) if new else home.globals[name]
        if new:
            function.attributes.add("noinline")
            function.attributes.add("nounwind")
            # The linker must find a function of another module.
            if self.bodies is None:
                function.linkage = "internal"
        if home is module:
            return function, function if new else None
        callee = module.globals.get(name) or ir.Function(module, kind, name)
        return callee, function if new else None


def _description(inputs: Sequence[Node], order: Sequence[Node]) -> list[object]:
    """Return what identifies a graph, whatever its inputs are."""
    number = {node: i for i, node in enumerate(inputs)}
    position = {node: i for i, node in enumerate(order)}
    description: list[object] = []
    for node in order:
        if node in number:
            description.append(("given", number[node], node.kind))
        else:
            value = node.value.hex() if isinstance(node.value, float) else node.value
            description.append((node.op, value, [position[arg] for arg in node.args]))
    return description
