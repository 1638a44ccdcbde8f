"""The origin of a result: versions, commit, machine and time, but no secrets."""

from __future__ import annotations

import os
import platform
import shutil
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
from cubie_flow.process.python_path import small_environment

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
        commit, modified = _git_state(str(path))
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


def _git_state(folder: str) -> tuple[str, bool]:
    """Return the commit of a checkout, and whether it is modified; no program of it is run."""
    git = _program("git")
    commit = _output(git, folder, "rev-parse", "HEAD") if git else ""
    if not commit:
        return "", False
    # The config in a checkout may name programs through which git reads files.
    asked = ("config", "--name-only", "--show-scope", "--get-regexp", r"^filter\.")
    named = [line.partition("\t") for line in _output(git, folder, *asked).splitlines()]
    filters = [key for scope, _, key in named if scope in ("local", "worktree")]
    status = ("status", "--porcelain", "-uno", "--ignore-submodules=dirty")
    return commit, bool(_output(git, folder, *status, without=filters))


def _program(name: str) -> str:
    """Return the path of a program, which is never looked for in the current folder."""
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = shutil.which(name, path=os.pathsep.join(filter(os.path.isabs, places)) or os.sep)
    return found if found and os.path.isabs(found) else ""


def _output(git: str, folder: str, *arguments: str, without: Sequence[str] = ()) -> str:
    """Return the output of git; empty outside of a checkout, or if it is too slow."""
    # Optional locks off: recording must not write into a checkout.
    options = ["--no-optional-locks", "-c", "core.fsmonitor=false"]
    options += ["-c", f"core.hooksPath={os.devnull}"]
    emptied = {"GIT_CONFIG_COUNT": str(len(without))}
    for number, key in enumerate(without):
        emptied |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": ""}
    try:
        done = subprocess.run(
            [git, *options, "-C", folder, *arguments],
            env=_git_environment() | emptied,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _git_environment() -> dict[str, str]:
    """Return what git needs to find its own config; no credentials."""
    names = ("HOME", "XDG_CONFIG_HOME", "USERPROFILE")
    known = {name: os.environ[name] for name in names if name in os.environ}
    return small_environment() | known | {"GIT_TERMINAL_PROMPT": "0"}
