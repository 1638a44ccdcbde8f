"""What the loop remembers of events between steps: the layout of the buffers `agenda` and sides."""

from __future__ import annotations

from cubie_flow.expressions.graph import Node, load

# Elements of the buffer `agenda`, before two for every schedule: the next time to land on, where
# a cut step ends, whether events are due, how many happened without time going on, when the last
# one did, how often the step was cut, where the time of an event is to be stored, whether the lane
# begins anew, by how much locating is coarser because cut steps ended short of their event, how
# long before the last located event it may have happened, the time of that event, and whether CUT,
# CUTS or SHORT is not what it is between events.
STOP, CUT, PENDING, CROWD, LATEST, CUTS, ROW, JUMPED, SHORT, DOUBT, DOUBTED, UNSETTLED = range(12)
AGENDA = 12
# What is known of the side a condition is on: false, true, to be told by the derivative (just
# after a reset that left a root at zero) or by the next look at it, false as long as the root
# does not move in the direction of the event, about to change within rounding so that its event
# happens now, and counted as true or as false already although the next steps have to show it.
OFF, ON, BY_SLOPE, BY_VALUE, SLOPED, DUE, HELD_ON, HELD_OFF = map(float, range(8))
# Steps that were cut at an event and ended short of it: from the ninth in a row on each one makes
# locating coarser by a factor, so that it ends whatever the equations and the method do.
FIRST_SHORT, COARSER = 4.0**-8, 4.0
#: Times nearer than so many roundings are one.
NEAR = 16.0


def agenda(place: int) -> Node:
    """Return an element of the buffer."""
    return load("agenda", place)
