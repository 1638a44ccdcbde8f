"""``ds.flow``: what this package adds to a result that is open in xarray.

Importing this module registers it; `cubie_flow.open_results` does so.
"""

from __future__ import annotations

import xarray as xr


@xr.register_dataset_accessor("flow")  # type: ignore[no-untyped-call]
class FlowAccessor:
    """The accessor ``.flow`` of a dataset of results.

    Parameters
    ----------
    data : xarray.Dataset
        A result, or runs selected from one.
    """

    def __init__(self, data: xr.Dataset) -> None:
        self._data = data

    @property
    def path(self) -> str | None:
        """The store that the dataset was opened from, or None for one made in memory."""
        source = self._data.encoding.get("source")
        return None if source is None else str(source)
