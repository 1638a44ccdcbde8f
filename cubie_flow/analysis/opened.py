"""Whether the runs of a dataset are still those of its store, in the same order.

A dataset that xarray has sorted, rolled or selected from keeps the attributes and the encoding of
the dataset that it was made from; only its data differs. The object that holds ``status``, the
smallest array along ``run``, is therefore remembered when a store is opened. As long as a dataset
holds that very object, none of its runs has moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cubie_flow.analysis.xarray_private import data_object
from cubie_flow.batches.store_names import STATUS

if TYPE_CHECKING:
    from xarray import Dataset

_KEY = "opened"


class _Opened:
    """Remembers the object that holds ``status``; a copy remembers nothing."""

    def __init__(self, status: Any = None) -> None:
        self.status = status

    def __deepcopy__(self, memo: Any) -> _Opened:
        return _Opened()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Opened, ()


def mark_as_opened(data: Dataset) -> None:
    """Record that a dataset holds all runs of a study in their order."""
    if STATUS in data.variables:
        data.encoding[_KEY] = _Opened(data_object(data, STATUS))


def is_as_opened(data: Dataset) -> bool:
    """Return whether no run has moved since the dataset was opened; False if that is unknown."""
    opened = data.encoding.get(_KEY)
    if not isinstance(opened, _Opened) or STATUS not in data.variables:
        return False
    return opened.status is not None and opened.status is data_object(data, STATUS)
