"""The studies of a folder by their age: ``latest``, or ``@1``, ``@2``, ...

These names stand wherever the folder of a run is asked for. They count the runs below ``outputs``
and in the current folder; ``FOLDER/@1`` counts those below another folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cubie_flow.errors import FlowError
from cubie_flow.storage.folders import CONFIG, ELSEWHERE, LOG, RESULTS, VERSIONED

LATEST = "latest"
#: Default of ``storage.folder``.
OUTPUTS = "outputs"
#: Levels below a folder at which runs are looked for: STUDY/DATE/TIME is the deepest.
DEPTH = 3
_NUMBER = re.compile(r"@([1-9]\d{0,8})")


def named_run(given: str | Path) -> Path:
    """Return the folder of a run that a name stands for; any other path as it is.

    Parameters
    ----------
    given
        ``latest`` or ``@1`` for the newest run, ``@2`` for the one before, after the folder to look
        in if it is another one than ``outputs``. A file or folder of that name comes first.

    Raises
    ------
    FlowError
        If there are not that many runs.
    """
    path = Path(given)
    match = _NUMBER.fullmatch(path.name)
    if (match is None and path.name != LATEST) or path.exists():
        return path
    number = int(match[1]) if match else 1
    alone = path.parent == Path()
    places = [(Path(), 1), (Path(OUTPUTS), DEPTH)] if alone else [(path.parent, DEPTH)]
    found = [run for place, depth in places for run in _runs(place, depth)]
    newest = sorted({run: _age(run) for run in found}.items(), key=lambda item: item[1])
    if len(newest) < number:
        where = f"in '{OUTPUTS}' and the current folder" if alone else f"below '{path.parent}'"
        raise FlowError(
            f"'{given}' is the name of a study by its age, but there are {len(newest)} {where}"
        )
    return newest[-number][0]


def _runs(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the folders of runs at most `depth` levels below a folder."""
    for level in range(1, depth + 1):
        for config in folder.glob("/".join(["*"] * level + [CONFIG])):
            run = config.parent
            if any((run / name).exists() for name in (RESULTS, VERSIONED, ELSEWHERE, LOG)):
                yield run


def _age(run: Path) -> tuple[int, str]:
    """Return when a run began: its configuration is written first, and once."""
    try:
        return (run / CONFIG).stat().st_mtime_ns, str(run)
    except OSError:
        return 0, str(run)
