"""Blocks: interpreted and compiled give the same bits, whatever the width of vectors."""

from __future__ import annotations

import ctypes
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from cubie_flow.expressions import block as blocks
from cubie_flow.expressions import emit_values
from cubie_flow.expressions import graph as g
from cubie_flow.expressions.bit_operations import iadd, integer
from cubie_flow.expressions.block import Block, BlockBuilder, Function
from cubie_flow.expressions.dialect import Dialect, Place
from cubie_flow.expressions.emit import BlockEmitter
from cubie_flow.expressions.emit_memory import I8, I64
from cubie_flow.expressions.interpret import BlockInterpreter


def run_compiled(block: Block, dialect: Dialect, places: dict[str, Place], arena: np.ndarray):  # type: ignore[no-untyped-def]
    """Compile a block without externals through llvmlite alone and run it on one arena."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = ir.Module("test")
    kind = ir.FunctionType(I64, [ir.PointerType(I8)])
    function = ir.Function(module, kind, "entry")
    builder = ir.IRBuilder(function.append_basic_block())
    mask = BlockEmitter(builder, dialect, places, {"local": function.args[0]}).run(block)
    builder.ret(mask if mask is not None else I64(0))
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(engine.get_function_address("entry"))
    return call(arena.ctypes.data)


def aligned(bytes_needed: int) -> np.ndarray:
    store = np.zeros(bytes_needed + 64, np.uint8)
    start = -store.ctypes.data % 64
    return store[start : start + bytes_needed]


def rotation(n: int) -> tuple[Block, dict[str, Place]]:
    """A block with a sweep, a sum, a function and a mask over `n` elements."""
    b = BlockBuilder()
    u = [g.load("u", i) for i in range(n)]
    function = Function(
        "turn", ("u",), ("t",), tuple(("du", i) for i in range(n)),
        tuple(u[(i + 1) % n] * u[i - 1] - g.symbol("t") * u[i] for i in range(n)),
    )  # fmt: skip
    h = b.let("h", g.load("clock", 0) * 0.125)
    b.evaluate(function, {"u": ("state", 0), "du": ("slope", 0)}, t=h)
    b.assign([("total", 0)], [g.const(0.0)])
    change = g.load("slope", 0, 1) * h + g.load("state", 0, 1)
    b.sweep(n, {"state": change})
    b.sweep(n, [("total", 0, 0, g.fabs(g.load("state", 0, 1)) + g.load("total", 0))])
    b.assign([("clock", 0)], [g.sqrt(g.load("total", 0))])
    b.assign([("count", 0)], [iadd(g.load("count", 0, kind="int"), integer(3))])
    mask = g.load("total", 0) > 0.5 * n
    places = {
        "clock": Place("local", 0, "float64", 1),
        "state": Place("local", 8, "float64", n),
        "slope": Place("local", 8 + 8 * n, "float64", n),
        "count": Place("local", 8 + 16 * n, "int32", 1),
    }
    return b.build("rotation", mask=mask), places


@pytest.mark.parametrize("n", [3, 20])
@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_compiled_block_is_the_interpreted_one(n: int, lanes: int) -> None:
    assert n == 3 or n > blocks.UNROLL_LIMIT
    block, places = rotation(n)
    size = (16 + 16 * n) * lanes
    rng = np.random.default_rng(7)
    start = rng.normal(size=(1 + 2 * n, lanes))
    arenas = [aligned(size) for _ in range(2)]
    for arena in arenas:
        arena[: start.nbytes] = start.reshape(-1).view(np.uint8)
    dialect = Dialect("float64", lanes)
    empty = np.zeros(0, np.uint8)
    expected = BlockInterpreter(block, dialect, places)((empty, arenas[0], empty), 0)
    got = run_compiled(block, dialect, places, arenas[1])
    assert got == expected
    np.testing.assert_array_equal(arenas[0], arenas[1])


def test_results_do_not_depend_on_rolling(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = []
    for limit in (0, 100):
        monkeypatch.setattr(blocks, "UNROLL_LIMIT", limit)
        block, places = rotation(12)
        arena = aligned((16 + 16 * 12) * 8)
        arena[: 8 * 8 * 25] = np.linspace(-1, 2, 8 * 25).view(np.uint8)
        run_compiled(block, Dialect("float64", 8), places, arena)
        outcomes.append(arena.copy())
    np.testing.assert_array_equal(*outcomes)


def test_reading_before_writing_is_an_error() -> None:
    block = BlockBuilder()
    block.assign([("clock", 0)], [g.load("nowhere", 0)])
    with pytest.raises(AssertionError, match="nowhere"):
        run_compiled(
            block.build("bad"), Dialect("float64", 1),
            {"clock": Place("local", 0, "float64", 1)}, aligned(64),
        )  # fmt: skip


def test_rare_part_counts_only_where_asked() -> None:
    x = g.load("x", 0)
    block = BlockBuilder()
    block.assign([("x", 0)], [g.rarely(x > 2.0, g.sqrt(x), -x)])
    arena = aligned(64)
    arena[:] = np.array([1, 4, 9, 2, 16, 0, 3, 25], float).view(np.uint8)
    places = {"x": Place("local", 0, "float64", 1)}
    run_compiled(block.build("rare"), Dialect("float64", 8), places, arena)
    expected = [-1, 2, 3, -2, 4, 0, np.sqrt(3), 5]
    np.testing.assert_array_equal(arena.view(float), expected)


def loops(n: int) -> tuple[Block, dict[str, Place]]:
    """A block that eliminates a matrix, iterates until every lane is done, and branches."""
    b = BlockBuilder()
    with b.nest("k", 0, n):
        pivot = b.let("pivot", 1.0 / g.load("m", 0, (("k", n + 1),)))
        with b.nest("i", ("k", 1), n):
            factor = g.load("m", 0, (("i", n), ("k", 1))) * pivot
            b.put(("m", 0, (("i", n), ("k", 1)), factor))
            factor = b.let("factor", g.load("m", 0, (("i", n), ("k", 1))))
            with b.nest("j", ("k", 1), n):
                at = (("i", n), ("j", 1))
                change = factor * g.load("m", 0, (("k", n), ("j", 1)))
                b.put(("m", 0, at, g.load("m", 0, at) - change))
    x = g.load("root", 0)
    b.assign([("root", 0), ("passes", 0)], [g.load("m", 0), g.const(0.0)])

    def unfinished() -> g.Node:
        return g.fabs(x * x - g.load("m", 0)) > 1e-3

    with b.repeat(unfinished, 50):
        wanted = b.let("wanted", unfinished())
        halved = g.where(wanted, 0.5 * (x + g.load("m", 0) / x), x)
        count = g.load("passes", 0)
        b.assign([("root", 0), ("passes", 0)], [halved, g.where(wanted, count + 1.0, count)])
    b.assign([("flag", 0)], [g.const(0.0)])
    with b.when(x > 2.5):
        b.assign([("flag", 0)], [g.where(x > 2.5, g.const(7.0), g.load("flag", 0))])
    b.assign([("out", i) for i in range(3)], [x, g.load("passes", 0), g.load("flag", 0)])
    places = {
        "m": Place("local", 0, "float64", n * n),
        "out": Place("local", 8 * n * n, "float64", 3),
    }
    return b.build("loops", mask=g.load("out", 2) > 1.0), places


@pytest.mark.parametrize("lanes", [1, 8])
def test_loops_and_branches(lanes: int) -> None:
    n = 5
    block, places = loops(n)
    rng = np.random.default_rng(3)
    start = rng.uniform(-1, 1, (n, n, lanes)) + 5.0 * np.eye(n)[:, :, None]
    start[0, 0] = np.linspace(2.0, 40.0, lanes)
    arena = aligned((n * n + 3) * lanes * 8)
    arena.view(float)[: n * n * lanes] = start.ravel()
    expected = arena.copy()
    dialect = Dialect("float64", lanes)
    empty = np.zeros(0, np.uint8)
    mask = BlockInterpreter(block, dialect, places)((empty, expected, empty), 0)
    assert run_compiled(block, dialect, places, arena) == mask
    np.testing.assert_array_equal(arena.view(float), expected.view(float))
    found = arena.view(float)[: n * n * lanes].reshape(n, n, lanes)
    lower = np.tril(found[:, :, 0], -1) + np.eye(n)
    np.testing.assert_allclose(lower @ np.triu(found[:, :, 0]), start[:, :, 0], atol=1e-12)
    out = arena.view(float)[n * n * lanes :].reshape(3, lanes)
    np.testing.assert_allclose(out[0] ** 2, start[0, 0], atol=2e-3)
    if lanes > 1:
        assert len(set(out[1])) > 1, "every lane stops at its own time"
        assert 0 < mask < (1 << lanes) - 1


def test_a_chain_of_functions_is_emitted_in_time_that_grows_with_its_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rarely needed part of a function is not looked for below the function's argument."""
    visited = 0
    order = emit_values.topological

    def counted(*given: Any) -> list[g.Node]:
        nonlocal visited
        nodes = order(*given)
        visited += len(nodes)
        return nodes

    monkeypatch.setattr(emit_values, "topological", counted)

    def visits(length: int) -> int:
        nonlocal visited
        visited, node = 0, g.load("x", 0)
        for _ in range(length):
            node = 0.9 * g.call("sin", node) + 0.1 * node
        b = BlockBuilder()
        b.assign([("x", 0)], [node])
        function = ir.Function(ir.Module("chain"), ir.FunctionType(I64, [ir.PointerType(I8)]), "f")
        places = {"x": Place("local", 0, "float64", 1)}
        BlockEmitter(
            ir.IRBuilder(function.append_basic_block()), Dialect("float64", 8), places,
            {"local": function.args[0]},
        ).run(b.build("chain"))  # fmt: skip
        return visited

    assert 0 < visits(20) <= 2.1 * visits(10)
