"""What is done with results: open, select, compare, audit, export, draw.

`open_results` gives the xarray object of a store, and ``ds.flow`` what this package adds to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cubie_flow.analysis.opening import open_results

__all__ = ["open_results"]


def __getattr__(name: str) -> Any:
    """Load xarray only when something is opened, so that ``cubie-results --help`` does not."""
    if name == "open_results":
        from cubie_flow.analysis.opening import open_results

        return open_results
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
