"""The origin of a result: versions, commit, machine and time, but no secrets."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from time import monotonic

from cubie_flow.credentials import redacted
from cubie_flow.process.machine import cpu_name

#: By folder: the time of the last look, the commit of its checkout, and whether it is modified.
_CHECKOUTS: dict[Path, tuple[float, str, bool]] = {}
SCHEMA_VERSION = 1
PACKAGES = ("cubie-flow", "numpy", "numba", "llvmlite", "numba-cuda", "scipy", "xarray", "zarr")


def provenance(overrides: Sequence[str] = (), folder: str | Path = ".") -> dict[str, object]:
    """Return the record of a store's origin.

    It never contains the environment, the user or the arguments of the process.

    Parameters
    ----------
    overrides
        Overrides of the command line to record.
    folder
        Folder whose git commit is recorded, if it is in a checkout.

    Returns
    -------
    dict
        ``schema_version``, ``created`` (UTC, ISO 8601), ``python``, ``platform``, ``cpu``, one
        ``version_<package>`` per installed package, ``overrides``, and in a checkout
        ``git_commit`` and ``git_modified``.
    """
    record: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "created": utc_now(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "overrides": [redacted(word) for word in overrides],
        **_versions(),
    }
    # Every job of a multirun asks, so the answer for a checkout is kept for a minute.
    path = Path(folder).absolute()
    known, commit, modified = _CHECKOUTS.get(path, (-inf, "", False))
    if monotonic() > known + 60.0:
        commit = _git(folder, "rev-parse", "HEAD")
        modified = bool(commit and _git(folder, "status", "--porcelain", "-uno"))
        _CHECKOUTS[path] = monotonic(), commit, modified
    if commit:
        record["git_commit"] = commit
        record["git_modified"] = modified
    return record


@cache
def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[f"version_{package.replace('-', '_')}"] = version(package)
    return versions


def utc_now() -> str:
    """Return the current time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(folder: str | Path, *arguments: str) -> str:
    """Return the output of git; empty without git or a checkout, or if it is too slow."""
    # Optional locks off: recording must not write into a checkout.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
