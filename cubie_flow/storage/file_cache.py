"""Files of stores that were made in memory, kept for the next store of the same layout."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import zarr

#: Number of layouts whose files are kept.
KEPT = 64
_files: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()


def cached_files(key: tuple[Any, ...], make: Callable[[Any], None]) -> dict[str, Any]:
    """Return the files that `make` writes into an empty store.

    Parameters
    ----------
    key : tuple
        Everything on which the files depend.
    make : callable
        ``make(store)``; called for a key that is not cached.
    """
    if key not in _files:
        files: dict[str, Any] = {}
        make(zarr.storage.MemoryStore(files))
        _files[key] = files
    _files.move_to_end(key)
    while len(_files) > KEPT:
        _files.popitem(last=False)
    return _files[key]
