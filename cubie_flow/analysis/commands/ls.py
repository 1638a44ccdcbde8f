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
        if path.suffix == ".zarr":
            head = folders.head(str(path), comparing=False)
        else:
            from cubie_flow.analysis.opening import remote_head

            head = remote_head(folders.place_of(path))
    except FlowError as error:
        text = str(error).removeprefix(f"'{path}' ")
        return {**row, **_UNKNOWN, "ended": text}
    attrs = head.attrs
    if head.is_multirun:
        runs, algorithm = attrs.get("runs"), ""
        outcome = f"{attrs[MARK]} jobs: {_jobs_ended(head)}"
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


def _jobs_ended(head: folders.Head) -> str:
    """Return how the jobs of a multirun ended, from the attributes of its store."""
    attrs = head.attrs
    if "jobs_ended" not in attrs:  # an older store
        return f"{len(head.jobs)} with runs"
    counts = parse_json(attrs["jobs_ended"], "the attribute jobs_ended of a store")
    texts = [f"{name} {count:,}" for name, count in counts.items()]
    return ", ".join([*texts, f"{attrs.get('runs_failed', 0):,} runs failed"])


def ended(attrs: Mapping[str, Any]) -> str:
    """Return how many runs ended with each status, from the attributes of a store."""
    if "statuses" in attrs:
        counts = parse_json(attrs["statuses"], "the attribute statuses of a store")
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return "" if "ranked_by" in attrs else "not finished"
