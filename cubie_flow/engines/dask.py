"""The registration of the Dask engine; Dask is imported once the options are consistent."""

from __future__ import annotations

from cubie_flow.engines.base import Engine, EngineOptions
from cubie_flow.engines.clusters import check_options
from cubie_flow.errors import FlowError


def make_dask(options: EngineOptions) -> Engine:
    """Return the Dask engine.

    Raises
    ------
    FlowError
        If the options contradict each other, or Dask is missing.
    """
    check_options(options.cluster, options.options, "engine.options")
    if options.scheduler is not None and (options.cluster, options.workers) != (None, None):
        raise FlowError(
            f"engine.scheduler is '{options.scheduler}', which has workers of its own; leave "
            "engine.workers and engine.cluster null"
        )
    try:
        from cubie_flow.engines.dask_engine import DaskEngine
    except ImportError as error:
        raise FlowError("engine=dask needs Dask: pip install 'cubie-flow[dask]'") from error
    return DaskEngine(options)
