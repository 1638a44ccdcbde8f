"""Where this process and those that it starts look for modules: never in the current folder.

The current folder may be one that a stranger made, with a file named like a library in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

SAFE = "PYTHONSAFEPATH"
#: What an isolated program may know of the environment: where libraries are, and the language.
_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL")


def leave_out_current_folder() -> None:
    """Take the current folder, which ``python -m`` puts first, off the path of imports.

    It stays where the user names it in ``PYTHONPATH``, and where this package itself is in it.
    Programs that are started later do not get it either.
    """
    try:
        here = os.getcwd()
    except OSError:
        return
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if package == here:
        return
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if "PYTHONPATH" in os.environ:
        # An empty entry is the current folder, which nobody means by it.
        os.environ["PYTHONPATH"] = os.pathsep.join(given)
    if here not in map(os.path.abspath, given):
        sys.path[:] = [path for path in sys.path if os.path.abspath(path or here) != here]
    os.environ[SAFE] = "1"


@contextmanager
def safe_children() -> Iterator[None]:
    """Start Python without the current folder on its path in this block."""
    before = os.environ.get(SAFE)
    os.environ[SAFE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(SAFE, None)
        else:
            os.environ[SAFE] = before


def import_library(name: str) -> ModuleType:
    """Import an optional library, but no file of its name in the current folder.

    Parameters
    ----------
    name : str

    Raises
    ------
    ImportError
        If it is not installed.
    """
    whole = sys.path
    sys.path = _without_current_folder(whole)
    try:
        return import_module(name)
    finally:
        sys.path = whole


def _without_current_folder(paths: Sequence[str], *more: str) -> list[str]:
    """Return absolute paths, except for the current folder and others."""
    refused = {os.path.abspath(path) for path in ("", *more)}
    return [path for path in paths if os.path.isabs(path) and os.path.abspath(path) not in refused]


def isolated(program: str, *without: str) -> list[str]:
    """Return the command that runs a program apart from the environment and the current folder.

    Its libraries are found where this process finds them.

    Parameters
    ----------
    program : str
        Text of the program.
    *without : str
        More folders in which no library is looked for.
    """
    paths = _without_current_folder(sys.path, *without)
    order = "import sys\nsys.path[:] = list(dict.fromkeys([*sys.argv[1:], *sys.path]))\n"
    return [sys.executable, "-I", "-c", order + program, *paths]


def small_environment() -> dict[str, str]:
    """Return the little that an isolated program needs of the environment, and no secrets."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ}
