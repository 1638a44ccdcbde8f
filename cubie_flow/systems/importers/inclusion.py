"""Names of files that a model includes: only files inside its own folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NoReturn
from urllib.parse import unquote, urlsplit

#: Different files that one model may include.
MAX_FILES = 100
#: Files of one chain of inclusions, including the model.
MAX_DEPTH = 16
#: Parts of a model with what it includes; a file may be included many times.
MAX_PARTS = 5_000


def included_path(
    folder: Path, folder_of: Path, address: str, refuse: Callable[[str], NoReturn]
) -> Path:
    """Return the path of a file that another one includes.

    Parameters
    ----------
    folder : Path
        Folder of the model, which must contain the file.
    folder_of : Path
        Folder of the file that includes it.
    address : str
        As it is written in that file.
    refuse : callable
        Raises the error for a reason: an absolute path, an address of a machine, ``..``, a link
        that leads out of the folder, or a file that does not exist.
    """
    allowed = f"imports are read from files inside '{folder}', named without '..'"
    try:
        parts = urlsplit(address)
    except ValueError:
        refuse(f"it is not an address; {allowed}")
    name = unquote(parts.path)
    relative = PurePosixPath(name)
    if address != parts.path or not name.isprintable() or "\\" in name or ":" in name:
        refuse(f"it is not the name of a file; {allowed}")
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        refuse(allowed)
    path = folder_of / relative
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        exists = path.is_file()
    except (OSError, RuntimeError):  # a name too long, links in a circle
        inside, exists = True, False
    if not inside:
        refuse(f"a link leads out of the folder; {allowed}")
    if not exists:
        refuse(f"the file '{path}' does not exist; {allowed}")
    return path
