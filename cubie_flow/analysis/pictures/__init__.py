"""Pictures of results.

Every picture is a function that takes a dataset and returns a matplotlib figure; `KINDS` lists
them. Their modules are imported when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from cubie_flow.errors import FlowError, nearest

if TYPE_CHECKING:
    from cubie_flow.analysis.pictures.style import Picture

#: Kind of picture, its module (whose function has the same name), and what it shows in one line.
KINDS: dict[str, tuple[str, str]] = {
    "overview": ("overview", "what a result holds; every study saves this one"),
    "trajectories": ("trajectories", "single runs over time"),
    "bands": ("trajectories", "quantiles over the runs, over time"),
    "phase": ("trajectories", "one variable over another, run by run"),
    "heatmap": ("sweeps", "a metric over two quantities that vary"),
    "bifurcation": ("sweeps", "local maxima of a variable over a quantity that varies"),
    "work_precision": ("performance", "error over cost of several results of one study"),
    "placements": ("placements", "the ranking of a placement study"),
    "stalls": ("performance", "when shards were solved and written, and what waited"),
}


def drawer(kind: str) -> Callable[..., Picture]:
    """Return the function that draws a kind of picture.

    Raises
    ------
    FlowError
        If the kind is unknown.
    """
    if kind not in KINDS:
        raise FlowError(
            f"'{kind}' is not a kind of picture (known: {', '.join(KINDS)}){nearest(kind, KINDS)}"
        )
    module, _ = KINDS[kind]
    draw: Callable[..., Picture] = getattr(import_module(f"{__name__}.{module}"), kind)
    return draw
