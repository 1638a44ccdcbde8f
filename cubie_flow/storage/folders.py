"""The folder of a run: its name, and the names of the files in it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cubie_flow.credentials import redacted
from cubie_flow.documents import read_json
from cubie_flow.errors import FlowError
from cubie_flow.process.safe_files import PARTIAL, refuse_link, write_file
from cubie_flow.registries import CLIENTS
from cubie_flow.storage.location import FSSPEC, ICECHUNK, Location

RESULTS, CONFIG, LOG = "results.zarr", "config.yaml", "run.log"
#: The store of a run that is an Icechunk repository.
VERSIONED = "results.icechunk"
#: Endings of addresses that are a store, and not a folder of stores.
SUFFIXES = (".zarr", ".icechunk")
#: File that states where the results are, if they are not in the folder.
ELSEWHERE = "location.json"
#: Characters of the longest name of a study: files add an ending to it.
LONGEST_NAME = 120


def new_run_folder(root: str | Path, study: str, now: datetime) -> Path:
    """Create ``<root>/<study>/<date>/<time>`` for one run alone, and return it.

    Runs of the same second get ``_2``, ``_3``, ... appended. Creating a folder is atomic, so the
    second of two processes fails and tries the next name.

    Parameters
    ----------
    root : path
    study : str
        Name of the study.
    now : datetime

    Raises
    ------
    FlowError
        If the folder cannot be created.
    """
    check_study_name(study)
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


def new_location(storage: Mapping[str, Any], folder: Path) -> Location:
    """Return the location of the store of a new run.

    Parameters
    ----------
    storage
        Group ``storage`` of the config. A ``url`` that ends in ``.zarr`` or ``.icechunk`` is the
        store itself; any other corresponds to ``folder`` on a disk.
    folder
        Folder of the run.
    """
    kwargs = {name: storage[name] for name in ("client", "options")}
    url, name = storage["url"], VERSIONED if storage["client"] == ICECHUNK else RESULTS
    if url is None:
        refuse_link(folder / name)
        return Location(folder / name, client=storage["client"])
    if not url.rstrip("/").endswith(SUFFIXES):
        root = Path(storage["folder"]).absolute()
        inside = folder.absolute()
        parts = inside.relative_to(root).parts if inside.is_relative_to(root) else (inside.name,)
        url = "/".join((url.rstrip("/"), *parts, name))
    return Location(url, **kwargs)


def delete_partials(folder: Path) -> None:
    """Delete incomplete files that a killed command left in the folder of a run.

    Call it with the lock of the folder. Reports and pictures that others are writing stay.

    Parameters
    ----------
    folder : Path
    """
    for name in (CONFIG, ELSEWHERE):
        for partial in folder.glob(f".{name}.*{PARTIAL}"):
            partial.unlink(missing_ok=True)


def note_location(folder: Path, location: Location) -> None:
    """Write into the folder of a run where its results are; options are left out."""
    inside = [(folder / name).absolute() for name in (RESULTS, VERSIONED)]
    if location.path is None or location.path.absolute() not in inside:
        noted = {name: getattr(location, name) for name in ("address", "client")}
        write_file(folder / ELSEWHERE, json.dumps(noted, indent=1) + "\n")


def noted_location(folder: Path) -> Location | None:
    """Return where the results of a folder are, None if it has none; nothing is contacted.

    Options of clients are never those of the folder.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    FlowError
        If the files of the folder cannot be read.
    """
    for name in (RESULTS, VERSIONED, ELSEWHERE, CONFIG):
        refuse_link(folder / name)
    if (folder / RESULTS).is_dir():
        return Location(folder / RESULTS)
    if (folder / VERSIONED).is_dir():
        return Location(folder / VERSIONED, client=ICECHUNK)
    path = folder / ELSEWHERE
    try:
        noted = read_json(path)
        address, client = noted["address"], noted.get("client", FSSPEC)
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise FlowError(f"'{path}' is damaged: it has no {error}") from error
    if not (isinstance(address, str) and isinstance(client, str) and address.isprintable()):
        raise FlowError(f"'{path}' is damaged: its address and its client must be texts")
    CLIENTS.check(client)
    if "://" not in address:
        address = str(folder.absolute() / address)
    return Location(address, client=client)


def found_location(
    folder: Path, named: str | None, to_name: Callable[[str], str]
) -> Location | None:
    """Return the location of the results of a folder, None if it has none.

    A folder may come from a stranger. Results outside of it are used only if the user names them.

    Parameters
    ----------
    folder : Path
    named : str or None
        The address that the user names, or the beginning of it.
    to_name : callable
        Returns what the user has to type to name an address.

    Raises
    ------
    FlowError
        If the files of the folder cannot be read, or they name an address that the user does not.
    """
    location = noted_location(folder)
    if location is None or is_inside(location, folder) or _is_named(location, named):
        return location
    other = f", and not below '{redacted(named)}'" if named else ""
    raise FlowError(
        f"'{folder / ELSEWHERE}' says that the results are at '{location.name}'{other}; an address "
        f"that only a folder names is not used, so type {to_name(shlex.quote(location.address))} "
        "if you trust it"
    )


def is_inside(location: Location, folder: Path) -> bool:
    """Return whether a location is in the folder of a run, links resolved."""
    path = location.path
    return path is not None and path.resolve().is_relative_to(folder.resolve())


def _is_named(location: Location, named: str | None) -> bool:
    """Return whether a location is at an address or below it."""
    if not named:
        return False
    one = Location(named)
    if location.path is not None:
        return one.path is not None and location.path.resolve().is_relative_to(one.path.resolve())
    below = location.address.removeprefix(one.address)
    if below == "" or not urlsplit(one.address).netloc:
        return below == ""
    return below.startswith("/") and ".." not in below.split("/")


def refuse_noted_results(folder: Path, location: Location) -> None:
    """Refuse the folder of a run that has results already, other than at the new location.

    Raises
    ------
    FlowError
        If it has; an address in the folder is not asked whether they are still there.
    """
    noted = noted_location(folder)
    if noted is None or noted.address == location.address:
        return
    if is_inside(noted, folder):
        noted.require_empty()
    else:
        raise FlowError(
            f"'{folder / ELSEWHERE}' says that this run has results at '{noted.name}'; choose "
            f"another folder, or delete this file if they are no longer there"
        )


def check_study_name(study: str) -> None:
    """Refuse a name of a study that cannot name a folder or a file.

    Parameters
    ----------
    study : str

    Raises
    ------
    FlowError
        If it would lead elsewhere or cannot be written.
    """
    leads_elsewhere = study in ("", ".", "..") or "/" in study or "\\" in study
    if leads_elsewhere or not study.isprintable() or len(study) > LONGEST_NAME:
        raise FlowError(
            f"{study[:LONGEST_NAME]!r} cannot be the name of a study: it becomes the name of "
            "folders and files; give another one, such as study=mine"
        )
