"""The folder of a run: its name, and the names of the files in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cubie_flow.credentials import HIDDEN, OPTIONS, remember
from cubie_flow.documents import read_config, read_json
from cubie_flow.errors import FlowError
from cubie_flow.storage.location import ICECHUNK, Location

RESULTS, CONFIG, LOG = "results.zarr", "config.yaml", "run.log"
#: The store of a run that is an Icechunk repository.
VERSIONED = "results.icechunk"
#: Endings of addresses that are a store, and not a folder of stores.
SUFFIXES = (".zarr", ".icechunk")
#: File that states where the results are, if they are not in the folder.
ELSEWHERE = "location.json"


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
        return Location(folder / name, client=storage["client"])
    if not url.rstrip("/").endswith(SUFFIXES):
        root = Path(storage["folder"]).absolute()
        inside = folder.absolute()
        parts = inside.relative_to(root).parts if inside.is_relative_to(root) else (inside.name,)
        url = "/".join((url.rstrip("/"), *parts, name))
    return Location(url, **kwargs)


def note_location(folder: Path, location: Location) -> None:
    """Write into the folder of a run where its results are; options are left out."""
    if location.path not in (folder / RESULTS, folder / VERSIONED):
        noted = {name: getattr(location, name) for name in ("address", "client")}
        (folder / ELSEWHERE).write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")


def found_location(folder: Path, options: Mapping[str, Any] | None = None) -> Location | None:
    """Return the location of the results of a folder, None if it has none.

    Parameters
    ----------
    folder : Path
    options : mapping, optional
        Options of the client of a URL; by default those of the folder's config.

    Raises
    ------
    FlowError
        If the files of the folder cannot be read.
    """
    if (folder / RESULTS).is_dir():
        return Location(folder / RESULTS)
    if (folder / VERSIONED).is_dir():
        return Location(folder / VERSIONED, client=ICECHUNK)
    try:
        noted = read_json(folder / ELSEWHERE)
        if options is None and (folder / CONFIG).exists():
            stored = OmegaConf.select(read_config(folder / CONFIG), OPTIONS, default={})
            given: Any = OmegaConf.to_container(stored, resolve=True)
            options = {name: value for name, value in given.items() if value != HIDDEN}
            remember(options)
        return Location(**{**noted, "address": str(noted["address"])}, options=dict(options or {}))
    except FileNotFoundError:
        return None
    except FlowError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FlowError(f"'{folder / ELSEWHERE}' cannot be read: {error}") from error
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise FlowError(f"{OPTIONS} in '{folder / CONFIG}' cannot be read: {reason}") from error
