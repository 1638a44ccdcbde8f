"""The registered memory of a lane that every part of the loop reads: ``clock`` and ``counters``.

Counts are floats: they are exact up to 2**24 in float32, and one vector width serves all buffers.
"""

from __future__ import annotations

from cubie_flow.expressions.graph import Node, load

#: Codes of a lane whose run has not ended, and of a lane without a run.
RUNNING, IDLE = 100, 101

#: Elements of the buffer ``clock``: the time and its rounding error, the start and the end of the
#: run, the next time to sample, and the start and the length of the last accepted step.
T, T_LOW, T_START, T_END, T_NEXT, T_PREVIOUS, H, CLOCK = range(8)

#: Elements of the buffer ``counters``: status code, accepted steps, attempts, samples.
CODE, STEPS, TRIED, SAVED, COUNTERS = range(5)

#: Rows of the counts of a run: status, accepted and rejected steps, right-hand sides.
COUNTS = 4


def clock(element: int) -> Node:
    """Return an element of the buffer ``clock``."""
    return load("clock", element)


def counter(element: int) -> Node:
    """Return an element of the buffer ``counters``."""
    return load("counters", element)
