"""One command turns an ODE model and a parameter sweep into a labelled Zarr dataset.

>>> from cubie_flow import OdeSystem, solve
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cubie_flow import maths
    from cubie_flow.analysis.opening import open_results
    from cubie_flow.api import solve
    from cubie_flow.errors import FlowError
    from cubie_flow.study.options import ControllerChoice, TargetChoice
    from cubie_flow.systems import OdeSystem

__version__ = "0.1.0"
__all__ = [
    "ControllerChoice",
    "FlowError",
    "OdeSystem",
    "TargetChoice",
    "maths",
    "open_results",
    "solve",
]

_HOMES = {
    "ControllerChoice": "cubie_flow.study.options",
    "FlowError": "cubie_flow.errors",
    "OdeSystem": "cubie_flow.systems",
    "TargetChoice": "cubie_flow.study.options",
    "open_results": "cubie_flow.analysis.opening",
    "solve": "cubie_flow.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import cubie_flow`` alone loads nothing."""
    if name == "maths":
        return import_module("cubie_flow.maths")
    if name == "solve":
        import_module("cubie_flow.analysis.accessor")  # the result of solve has ``.flow``
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
