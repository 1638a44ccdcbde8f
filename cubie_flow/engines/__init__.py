"""Who solves the shards of a study: this process, or worker processes on any machine.

An engine knows no kernel. It is given work that makes a solver for a seat and opens the store,
and it tells a listener of every shard that is complete.
"""

from cubie_flow.engines.account import Account
from cubie_flow.engines.base import Engine, Listener, Record, Seat, Solver, Work
from cubie_flow.engines.local import LocalEngine

__all__ = ["Account", "Engine", "Listener", "LocalEngine", "Record", "Seat", "Solver", "Work"]
