"""Paths as messages show them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cubie_flow.storage import Location


def short_path(path: Path) -> str:
    """Return a path relative to the current folder if it is inside it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def location_text(location: Location) -> str:
    """Return where a store or its group is: the URL, or the short path of the folder."""
    folder = location.folder
    return location.name if folder is None else short_path(folder / location.group)
