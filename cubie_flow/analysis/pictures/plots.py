"""``ds.flow.plot``: the pictures as methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import TYPE_CHECKING

from cubie_flow.analysis.pictures import KINDS, drawer

if TYPE_CHECKING:
    from xarray import Dataset

    from cubie_flow.analysis.pictures.style import Picture


class Plots:
    """The pictures of a result: ``ds.flow.plot.bands("z")``.

    Every kind in `cubie_flow.analysis.pictures.KINDS` is a method that returns a matplotlib
    figure. A notebook shows the figure, and its method ``save`` writes a file.

    Parameters
    ----------
    data : xarray.Dataset
        A result, or runs selected from one.
    """

    def __init__(self, data: Dataset) -> None:
        self._data = data

    def __getattr__(self, kind: str) -> Callable[..., Picture]:
        if kind not in KINDS:
            raise AttributeError(f"'{kind}' is not a kind of picture (known: {', '.join(KINDS)})")
        if kind == "work_precision":
            return self._work_precision
        draw = drawer(kind)
        return update_wrapper(partial(draw, self._data), draw)

    def __dir__(self) -> list[str]:
        return [*KINDS]

    def __call__(self) -> Picture:
        """Draw the overview of a result, or the ranking of a placement study."""
        kind = "placements" if "placement" in self._data.sizes else "overview"
        return drawer(kind)(self._data)

    def _work_precision(self, *others: Dataset, reference: int | None = None) -> Picture:
        """Draw error over cost of this result and others of its study; see `work_precision`."""
        return drawer("work_precision")([self._data, *others], reference)

    def __repr__(self) -> str:
        return "\n".join(f"{kind:<15} {text}" for kind, (_, text) in KINDS.items())
