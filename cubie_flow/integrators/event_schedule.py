"""The state of events between steps: the layout of the buffer ``agenda``, and the sides."""

from __future__ import annotations

from cubie_flow.expressions.graph import Node, load

# Elements of the buffer `agenda`; two more for every schedule follow them.
# STOP: next scheduled time, which a step must not pass. CUT: end of a cut step.
# PENDING: whether events are due. CROWD: number of events at the present time.
# LATEST: time of the last event. CUTS: number of cuts of the present step.
# ROW: row of the final values that receives the time of an event; negative for none.
# JUMPED: whether the lane restarts. SHORT: factor by which locating is coarser, because cut steps
# ended before their event. DOUBT: uncertainty of the last located event, a span before its time.
# DOUBTED: time of that event. UNSETTLED: whether CUT, CUTS or SHORT differs from its default.
STOP, CUT, PENDING, CROWD, LATEST, CUTS, ROW, JUMPED, SHORT, DOUBT, DOUBTED, UNSETTLED = range(12)
AGENDA = 12
# The side of a condition.
# OFF, ON: false, true. BY_SLOPE: unknown; the derivative decides, after a reset that left a root at
# zero. BY_VALUE: unknown; the next evaluation decides. SLOPED: false until the root moves in the
# direction of the event. DUE: zero within rounding, so that the event happens now.
# HELD_ON, HELD_OFF: counts as true or false already, although the next steps have to confirm it.
OFF, ON, BY_SLOPE, BY_VALUE, SLOPED, DUE, HELD_ON, HELD_OFF = map(float, range(8))
# Cut steps that end before their event: from the ninth in a row on, each one makes locating coarser
# by the factor COARSER, so that the search ends for all equations and methods.
FIRST_SHORT, COARSER = 4.0**-8, 4.0
#: Times that differ by at most this many roundings are equal.
NEAR = 16.0


def agenda(element: int) -> Node:
    """Return an element of the buffer ``agenda``."""
    return load("agenda", element)
