"""Designs: from a grid, a list, a Sobol sequence or a table to the runs of one batch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cubie_flow.batches.design import Design
    from cubie_flow.batches.designs import make_design
    from cubie_flow.batches.swept import SEED, SEED_LABEL, swept_design

__all__ = ["SEED", "SEED_LABEL", "Design", "make_design", "swept_design"]

_HOMES = {
    "Design": "cubie_flow.batches.design",
    "make_design": "cubie_flow.batches.designs",
    **dict.fromkeys(("SEED", "SEED_LABEL", "swept_design"), "cubie_flow.batches.swept"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: models need the store's names, not numpy."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
