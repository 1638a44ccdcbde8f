"""Every table of functions and operations has all of them: a new one is missing nowhere."""

from __future__ import annotations

import ast

import numpy as np
import pytest
from llvmlite import ir

from cubie_flow import maths
from cubie_flow.expressions import bit_operations, derivatives, elementary, evaluate, graph
from cubie_flow.expressions.dialect import Dialect
from cubie_flow.expressions.emit_values import ValueEmitter, ValueScope
from cubie_flow.expressions.evaluate import Evaluator
from cubie_flow.expressions.graph import FUNCTIONS, Node, call, compare, symbol
from cubie_flow.expressions.intervals import bounds
from cubie_flow.systems import parser, trace
from cubie_flow.systems.importers import vocabulary
from cubie_flow.systems.scope import CALLABLE

X, Y = symbol("x"), symbol("y")
#: Functions that stay calls until they are lowered or taken from a library.
CALLED = sorted(
    name for name, arity in FUNCTIONS.items() if call(name, *[X, Y][:arity]).op == "call"
)
TRUTH = compare("<", X, Y)
WHOLE = bit_operations.to_int(X)
OPERATIONS: dict[str, Node] = {
    node.op: node
    for node in (
        graph.const(2.0), graph.TRUE, bit_operations.integer(3), X + Y, X - Y, X * Y, X / Y, -X,
        graph.fma(X, Y, X), graph.sqrt(X), graph.fabs(X), graph.floor(X), graph.round_even(X),
        graph.minimum(X, Y), graph.maximum(X, Y), TRUTH, graph.logical_and(TRUTH, ~TRUTH),
        graph.logical_or(TRUTH, ~TRUTH), ~TRUTH, graph.where(TRUTH, X, Y), bit_operations.bits(X),
        bit_operations.from_bits(WHOLE), WHOLE, bit_operations.to_float(WHOLE),
        bit_operations.icompare("<", WHOLE, WHOLE), bit_operations.table([1.0, 2.0], WHOLE),
        *(getattr(bit_operations, name)(WHOLE, WHOLE) for name in (
            "iadd", "isub", "imul", "iand", "ior", "ixor", "shl", "lshr", "ashr")),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_a_model_is_in_maths_and_in_the_parser(name: str) -> None:
    own = {"abs": "sign", "min": "minimum", "max": "maximum", "pow": "power"}.get(name, name)
    assert callable(getattr(maths, own))
    assert name in CALLABLE


@pytest.mark.parametrize("name", CALLED)
def test_a_called_function_is_evaluated_lowered_and_differentiated(name: str) -> None:
    assert name in evaluate._NUMPY_FUNCTIONS or name == "erf"
    assert name in elementary._EXPANSIONS
    assert name in derivatives._PARTIALS
    node = call(name, *[X, Y][: FUNCTIONS[name]])
    assert bounds([node], X, graph.const(0.1), graph.const(0.2))


def test_no_table_has_a_function_that_does_not_exist() -> None:
    for table in (evaluate._NUMPY_FUNCTIONS, elementary._EXPANSIONS, derivatives._PARTIALS):
        assert set(table) <= set(CALLED)


@pytest.mark.parametrize("op", OPERATIONS)
def test_an_operation_is_evaluated_and_emitted(op: str) -> None:
    node = OPERATIONS[op]
    values = {"float": np.float64(1.0), "int": np.int64(1), "bool": np.bool_(True)}
    Evaluator("float64").apply(node, [values[arg.kind] for arg in node.args])
    types = {"float": ir.DoubleType(), "int": ir.IntType(64), "bool": ir.IntType(1)}
    function = ir.Function(
        ir.Module(), ir.FunctionType(ir.VoidType(), [types[arg.kind] for arg in node.args]), "f"
    )
    emitter = ValueEmitter(
        ir.IRBuilder(function.append_basic_block()), Dialect("float64", 1), {}, {}
    )
    scope = ValueScope()
    scope.own.update(zip(node.args, function.args, strict=True))
    assert emitter._value(node, scope) is not None


def test_operations_of_equations_exist() -> None:
    assert trace._OPERATIONS - {"symbol", "call", "delay"} <= set(OPERATIONS)
    assert set(graph._BUILDERS) <= set(OPERATIONS)


def test_comparisons_are_the_same_everywhere() -> None:
    known = set(graph._COMPARE)
    assert known == set(graph._SWAPPED) == set(evaluate._COMPARE)
    assert known == set(parser._COMPARISONS.values())
    assert len(vocabulary.RELATIONS) == len(known)
    assert set(parser._OPERATORS) <= set(ast.operator.__subclasses__())
