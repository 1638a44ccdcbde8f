"""Pictures of results.

Every picture is a function that takes a dataset and returns a matplotlib figure; `KINDS` lists
them. Their modules are imported when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cubie_flow.batches.store_names import RUN
from cubie_flow.errors import FlowError, in_one_sentence, nearest

if TYPE_CHECKING:
    from xarray import Dataset

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


#: Kinds that draw no runs, or those of several results.
_WITHOUT_RUNS = ("placements", "stalls", "work_precision")


def drawer(kind: str) -> Callable[..., Picture]:
    """Return the function that draws a kind of picture, from the runs that are written.

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
    return draw if kind in _WITHOUT_RUNS else _of_written(draw)


def _of_written(draw: Callable[..., Picture]) -> Callable[..., Picture]:
    """Return a picture that leaves out the runs which no process has written yet."""

    @wraps(draw)
    @in_one_sentence
    def drawn(data: Dataset, *args: Any, **options: Any) -> Picture:
        from cubie_flow.analysis.runs import written

        if RUN not in data.sizes:
            dims = ", ".join(map(str, data.sizes)) or "none"
            raise FlowError(f"this picture draws runs, but the result has none (it has {dims})")
        chosen = written(data)
        if not chosen.sizes[RUN]:
            more = ", of which none is written yet" if data.sizes[RUN] else ""
            raise FlowError(
                f"there is nothing to draw: this result has {data.sizes[RUN]} runs{more}"
            )
        return draw(chosen, *args, **options)

    return drawn
