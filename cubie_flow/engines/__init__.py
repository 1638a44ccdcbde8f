"""Engines solve the shards of a study: in this process, or in workers on any machine.

An engine does not depend on kernels. It gets work that makes solvers and opens the store, and it
reports every complete shard to a listener.
"""

from __future__ import annotations

from typing import Any

from cubie_flow.engines.base import (
    Engine,
    EngineOptions,
    Listener,
    Part,
    Record,
    Solver,
    Work,
    WorkerResources,
)
from cubie_flow.engines.local import LocalEngine
from cubie_flow.engines.statistics import RunStatistics
from cubie_flow.engines.worker_resources import pick_devices
from cubie_flow.registries import ENGINES

__all__ = [
    "Engine",
    "EngineOptions",
    "Listener",
    "LocalEngine",
    "Part",
    "Record",
    "RunStatistics",
    "Solver",
    "Work",
    "WorkerResources",
    "make_engine",
    "pick_devices",
]


def make_engine(kind: str, **options: Any) -> Engine:
    """Return an engine.

    Parameters
    ----------
    kind : str
        A name of `cubie_flow.registries.ENGINES`.
    **options
        Attributes of `EngineOptions`; None stands for the default of ``options``.

    Raises
    ------
    FlowError
        If the kind is unknown, the options contradict each other, or a package is missing.
    """
    if options.get("options", ()) is None:
        del options["options"]
    engine: Engine = ENGINES.get(kind)(EngineOptions(**options))
    return engine
