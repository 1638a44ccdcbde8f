"""Stores whose making was cut short, so that nothing is in them yet."""

from __future__ import annotations

import shutil
from pathlib import Path

from cubie_flow.batches.store_names import CONFIG, MEMORY, STATUS, TIME
from cubie_flow.storage.inspection import METADATA

#: Arrays and groups whose chunks are written while a store is made.
_MADE_WITH = (TIME, MEMORY, CONFIG)


def is_unfinished(store: Path) -> bool:
    """Return whether a folder is a store of a study that was killed while it was made.

    It has no ``status``, which is made last, no values of any run, and nothing of others. The
    folder of ``status`` may exist without what describes it.

    Parameters
    ----------
    store : Path
    """
    if store.is_symlink() or not store.is_dir() or (store / STATUS / METADATA).exists():
        return False
    for path in store.rglob("*"):
        first, *more = path.relative_to(store).parts
        if path.is_symlink() or first.startswith("job_"):
            return False
        if path.is_dir() or path.name == METADATA or path.name.endswith(".partial"):
            continue
        if first not in _MADE_WITH or "c" not in more:
            return False
    return True


def delete_unfinished(store: Path) -> None:
    """Delete a store that `is_unfinished`."""
    if is_unfinished(store):
        shutil.rmtree(store)
