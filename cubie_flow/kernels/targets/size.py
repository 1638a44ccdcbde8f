"""How large a kernel is, and how long compiling it may take."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from cubie_flow.errors import FlowError
from cubie_flow.expressions.block import UNROLL_LIMIT, Block, Evaluate, Sweep, flattened
from cubie_flow.expressions.traversal import topological
from cubie_flow.process.startup import process

#: What is done, in messages.
COMPILING = "compiling"
#: Seconds of an operation and of an elementary function, on a machine that does other work too.
OPERATION, CALL = 0.001, 0.06
#: Seconds above which the size is printed, and above which a kernel is refused.
PRINTED, MOST = 5.0, 3600.0


def size_of(blocks: Mapping[str, Block]) -> tuple[int, int]:
    """Return the operations of blocks, and how many of them are elementary functions."""
    every = calls = 0
    seen: set[str] = set()
    for block in blocks.values():
        for statement in flattened(block.statements):
            nodes = statement.nodes if isinstance(statement, Sweep) else statement.function.nodes
            order = topological(nodes)
            if isinstance(statement, Evaluate) and len(order) > UNROLL_LIMIT:
                # A large function is compiled once, however often it is called.
                if (name := statement.function.content_hash) in seen:
                    continue
                seen.add(name)
            every += len(order)
            calls += sum(node.op == "call" for node in order)
    return every, calls


def announce(blocks: Mapping[str, Block]) -> None:
    """Say how large a kernel is if compiling it takes more than a few seconds.

    Raises
    ------
    FlowError
        If compiling it would take hours.
    """
    every, calls = size_of(blocks)
    seconds = OPERATION * every + CALL * calls
    size = f"a kernel of {every:,} operations, {calls:,} of them elementary functions"
    if seconds > MOST:
        raise FlowError(
            f"the model makes {size}, which would compile for about {seconds / 3600:.0f} h; "
            "write chains of definitions more simply, divide the model, or use a table (series) "
            "in place of a long formula"
        )
    if seconds > PRINTED and process.owned:
        print(f"compiling {size}, which may take {seconds:.0f} s", file=sys.stderr, flush=True)
