"""Whether the runs of a dataset are still those of its store, each in its place.

A dataset that xarray has sorted, rolled or selected from keeps the attributes and the encoding of
the one it came from; only its data is another. So the data of ``status`` is remembered, the
smallest of what lies along ``run``: as long as a dataset holds that very object, no run of it has
moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cubie_flow.batches.store_names import STATUS

if TYPE_CHECKING:
    from xarray import Dataset

_KEY = "opened"


class _Opened:
    """Remembers the data of ``status``; a copy remembers nothing."""

    def __init__(self, status: Any = None) -> None:
        self.status = status

    def __deepcopy__(self, memo: Any) -> _Opened:
        return _Opened()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Opened, ()


def mark_as_opened(data: Dataset) -> None:
    """Note that the runs of a dataset are all runs of a study in their order."""
    if STATUS in data.variables:
        data.encoding[_KEY] = _Opened(_held(data))


def is_as_opened(data: Dataset) -> bool:
    """Return whether no run has moved since the dataset was opened; False where nobody knows."""
    opened = data.encoding.get(_KEY)
    if not isinstance(opened, _Opened) or STATUS not in data.variables:
        return False
    return opened.status is not None and opened.status is _held(data)


def _held(data: Dataset) -> Any:
    # Private, as xarray 2025.1 to 2026.9 have it: what is public would read the values.
    return data.variables[STATUS]._data
