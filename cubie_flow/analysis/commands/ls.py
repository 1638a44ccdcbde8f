"""``cubie-results ls``: what there is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from cubie_flow.analysis import folders, output
from cubie_flow.errors import FlowError

#: Stores at URLs that are asked at once.
AT_ONCE = 8


@click.command()
@click.argument("folder", default="outputs")
@output.json_option
def ls(folder: str, as_json: bool) -> None:
    """List the studies below FOLDER, one line each."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FlowError(f"'{folder}' is no folder; ls lists the studies below one")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        rows = list(pool.map(_row, folders.stores_below(root)))
    if as_json:
        output.print_json(rows)
    elif rows:
        output.print_table(rows)
    else:
        print(f"no results below '{folder}'")


def _row(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"path": os.path.relpath(folders.run_of(path))}
    try:
        found = folders.head(str(path)) if path.suffix == ".zarr" else _elsewhere(path)
    except FlowError as error:
        text = str(error).removeprefix(f"'{path}' ")
        return {**row, "study": "", "runs": None, "ended": text, "algorithm": "", "made": ""}
    attrs = found.attrs
    if found.is_multirun:
        done = "" if attrs.get("completed") else f"{len(found.jobs)} with runs"
        runs, told, algorithm = None, f"{attrs[folders.MARK]} jobs{', ' if done else ''}{done}", ""
    else:
        runs, told = next(iter(found.lengths.values()), None), ended(attrs)
        algorithm = str(attrs.get("algorithm", ""))
    return {
        **row,
        "study": str(attrs.get("study", "")),
        "runs": runs,
        "ended": told,
        "algorithm": algorithm,
        "made": str(attrs.get("created", ""))[:16].replace("T", " "),
    }


def _elsewhere(path: Path) -> folders.Head:
    """Return what the first object of a store that is no folder of files says.

    Raises
    ------
    FlowError
        If it cannot be read.
    """
    from cubie_flow.analysis.groups import nodes

    place = folders.place_of(path)
    attrs, found = nodes(place)
    folders.check(place.name, attrs)
    return folders.Head(place.name, attrs, found)


def ended(attrs: Mapping[str, Any]) -> str:
    """Return how the runs ended, as the attributes of a store say it."""
    if "statuses" in attrs:
        counts = json.loads(attrs["statuses"])
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return "" if "ranked_by" in attrs else "not finished"
