"""Where a run puts its outputs."""

from __future__ import annotations

from datetime import datetime
from itertools import count
from pathlib import Path

from cubie_flow.errors import FlowError


def new_run_folder(root: str | Path, study: str, now: datetime) -> Path:
    """Make and return ``<root>/<study>/<date>/<time>``, a folder nobody else has.

    Two runs in the same second get two folders (``_2``, ``_3``, ... is appended): making a folder
    is atomic, so the second of two processes fails and tries the next name.

    Raises
    ------
    FlowError
        Where the folder cannot be made, naming it.
    """
    if not study or study in (".", "..") or "/" in study or "\\" in study:
        raise FlowError(f"'{study}' cannot be the name of a study: it becomes the name of a folder")
    day = Path(root) / study / now.strftime("%Y-%m-%d")
    time = now.strftime("%H-%M-%S")
    try:
        day.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = day / (time if number == 1 else f"{time}_{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlowError(f"the output folder '{day}' cannot be made: {reason}") from error
    raise AssertionError("count() never ends")
