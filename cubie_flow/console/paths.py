"""Paths as messages show them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cubie_flow.storage import Location


def short_path(path: Path) -> str:
    """Return a path relative to the current folder if it is inside it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def resume_command(folder: Path, words: Sequence[str] = ()) -> str:
    """Return the command that finishes the study of a folder, as a shell takes it.

    Parameters
    ----------
    folder
        The folder of the run.
    words
        What the folder cannot say itself: engines, addresses and options.
    """
    quoted = " ".join(quote(word) for word in (f"resume={short_path(folder)}", *words))
    return f"python -m cubie_flow {quoted}"


def location_text(location: Location) -> str:
    """Return where a store or its group is: the URL, or the short path of the folder."""
    folder = location.folder
    return location.name if folder is None else short_path(folder / location.group)
