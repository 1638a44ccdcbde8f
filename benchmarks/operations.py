"""Floating-point operations of a step, counted in its emitted graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from cubie_flow.expressions.block import Evaluate, Nest, Repeat, Statement, Sweep, When
from cubie_flow.expressions.dialect import Dialect, prepare
from cubie_flow.expressions.graph import Node
from cubie_flow.expressions.traversal import topological
from cubie_flow.kernels.kernel import BatchSolverKernel

#: Floating-point operations per graph operation; a division or a square root counts as one.
WEIGHTS = {"add": 1, "sub": 1, "mul": 1, "div": 1, "sqrt": 1, "fma": 2}


def operations(kernel: BatchSolverKernel) -> dict[str, float]:
    """Return the number of each floating-point operation in an attempted step of a run.

    The body of a loop whose length is known only at run time counts once. The operations of a pass
    over several steps of fixed size are divided among these steps.
    """
    run = kernel.run
    counted = _of(run.product["attempt"].statements, kernel.dialect)
    steps = 1 + (run.step.batched_steps if run.loop.batches_steps(run.step, run.controller) else 0)
    return {name: times / steps for name, times in counted.items()}


def flops(counted: Mapping[str, float]) -> float:
    """Return the number of operations; a fused multiply-add counts as two."""
    return sum(WEIGHTS[name] * times for name, times in counted.items())


def _of(statements: Sequence[Statement], dialect: Dialect) -> Counter[str]:
    total: Counter[str] = Counter()
    for statement in statements:
        if isinstance(statement, Sweep):
            times, found = statement.count, _nodes(statement.nodes, dialect)
        elif isinstance(statement, Evaluate):
            times, found = 1, _nodes(statement.function.nodes, dialect)
        elif isinstance(statement, Nest):
            times, found = _length(statement), _of(statement.body, dialect)
        else:
            assert isinstance(statement, Repeat | When)
            times, found = 1, _of(statement.body, dialect)
        for name, number in found.items():
            total[name] += times * number
    return total


def _nodes(nodes: Sequence[Node], dialect: Dialect) -> Counter[str]:
    real = (node for node in topological(prepare(nodes, dialect)) if node.kind == "float")
    return Counter(node.op for node in real if node.op in WEIGHTS)


def _length(nest: Nest) -> int:
    """Return the passes of a counted loop; of a triangular loop, those of its longest row."""
    bounds = [value if isinstance(value, int) else value[1] for value in (nest.start, nest.stop)]
    return max(0, bounds[1] - bounds[0])
