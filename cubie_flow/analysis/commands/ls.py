"""``cubie-results ls``: list the results below a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from cubie_flow.analysis import folders, output
from cubie_flow.console.tables import print_table
from cubie_flow.documents import parse_json
from cubie_flow.errors import FlowError
from cubie_flow.process.safe_files import refuse_link
from cubie_flow.storage.folders import SUFFIXES, is_inside, noted_location
from cubie_flow.storage.inspection import MARK

#: Stores that are read at the same time.
THREADS = 8
_UNKNOWN = {"study": "", "runs": None, "ended": "", "algorithm": "", "made": ""}


@click.command()
@click.argument("folder", default="outputs")
@output.json_option
def ls(folder: str, as_json: bool) -> None:
    """List the studies below FOLDER, one per line."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FlowError(f"'{folder}' is not a folder; give one that holds results, such as outputs")
    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(_row, folders.stores_below(root)))
    if as_json:
        output.print_json(rows)
    elif rows:
        print_table(rows)
    else:
        print(f"no results below '{folder}'")


def _row(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"path": os.path.relpath(folders.run_of(path))}
    try:
        refuse_link(path)
        if (address := _elsewhere(path)) is not None:
            return {**row, **_UNKNOWN, "ended": f"not opened: the results are at '{address}'"}
        head = folders.head(str(path)) if path.suffix == ".zarr" else _remote_head(path)
    except FlowError as error:
        text = str(error).removeprefix(f"'{path}' ")
        return {**row, **_UNKNOWN, "ended": text}
    attrs = head.attrs
    if head.is_multirun:
        done = "" if attrs.get("completed") else f", {len(head.jobs)} with runs"
        runs, algorithm = None, ""
        outcome = f"{attrs[MARK]} jobs{done}"
    else:
        runs, outcome = next(iter(head.lengths.values()), None), ended(attrs)
        algorithm = str(attrs.get("algorithm", ""))
    return {
        **row,
        "study": str(attrs.get("study", "")),
        "runs": runs,
        "ended": outcome,
        "algorithm": algorithm,
        "made": str(attrs.get("created", ""))[:16].replace("T", " "),
    }


def _elsewhere(path: Path) -> str | None:
    """Return the address outside of the folder of a run at which its results are noted to be."""
    noted = None if path.suffix in SUFFIXES else noted_location(path)
    return None if noted is None or is_inside(noted, path) else noted.name


def _remote_head(path: Path) -> folders.Head:
    """Return the head of a store that is not a folder of Zarr files.

    Raises
    ------
    FlowError
        If it cannot be read.
    """
    from cubie_flow.analysis.groups import nodes

    location = folders.place_of(path)
    attrs, groups = nodes(location)
    folders.check(location.name, attrs)
    return folders.Head(location.name, attrs, groups)


def ended(attrs: Mapping[str, Any]) -> str:
    """Return how many runs ended with each status, from the attributes of a store."""
    if "statuses" in attrs:
        counts = parse_json(attrs["statuses"], "the attribute statuses of a store")
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return "" if "ranked_by" in attrs else "not finished"
