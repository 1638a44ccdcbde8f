"""``cubie-results ls``: what there is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from cubie_flow.analysis import folders, output
from cubie_flow.errors import FlowError


@click.command()
@click.argument("folder", default="outputs")
@output.json_option
def ls(folder: str, as_json: bool) -> None:
    """List the studies below FOLDER, one line each."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FlowError(f"'{folder}' is no folder; ls lists the studies below one")
    rows = [_row(path) for path in folders.stores_below(root)]
    if as_json:
        output.print_json(rows)
    elif rows:
        output.print_table(rows)
    else:
        print(f"no results below '{folder}'")


def _row(path: Path) -> dict[str, Any]:
    place = path.parent if path.name == folders.RESULTS else path
    row: dict[str, Any] = {"path": os.path.relpath(place)}
    try:
        found = folders.head(str(path))
    except FlowError as error:
        text = str(error).removeprefix(f"'{path}' ")
        return {**row, "study": "", "runs": None, "ended": text, "algorithm": "", "made": ""}
    attrs = found.attrs
    if found.is_multirun:
        done = "" if found.attrs.get("completed") else f"{len(found.jobs)} with runs"
        return {
            **row,
            "study": str(found.attrs.get("study", "")),
            "runs": None,
            "ended": f"{found.attrs[folders.MARK]} jobs{', ' if done else ''}{done}",
            "algorithm": "",
            "made": str(found.attrs.get("created", ""))[:16].replace("T", " "),
        }
    lengths = found.lengths
    return {
        **row,
        "study": str(attrs.get("study", "")),
        "runs": next(iter(lengths.values()), None),
        "ended": ended(attrs),
        "algorithm": str(attrs.get("algorithm", "")),
        "made": str(attrs.get("created", ""))[:16].replace("T", " "),
    }


def ended(attrs: Any) -> str:
    """Return how the runs ended, as the attributes of a store say it."""
    if "statuses" in attrs:
        counts = json.loads(attrs["statuses"])
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return "" if "ranked_by" in attrs else "not finished"
