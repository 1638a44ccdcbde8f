"""The jobs of a multirun: a table, and one dataset each."""

from __future__ import annotations

from typing import Any

import xarray as xr

from cubie_flow.analysis import runs
from cubie_flow.analysis.describe import Summary
from cubie_flow.errors import FlowError

#: Columns of the table that are too long, or too technical, for it.
_HIDDEN = ("config", "overrides", "group")


def rows(tree: xr.DataTree) -> list[dict[str, Any]]:
    """Return one mapping a job: its group, what tells it from the others, how it ended.

    Raises
    ------
    FlowError
        If the tree has no table of jobs.
    """
    index = tree.to_dataset()
    if "job" not in index.sizes or "job_status" not in index:
        raise FlowError("this tree has no table of jobs at its root")
    swept = [str(name) for name in index.attrs.get("swept", []) if name in index]
    words = {value: word for word, value in runs.flags(index["job_status"]).items()}
    found = []
    for i in range(index.sizes["job"]):

        def at(name: str, i: int = i) -> Any:
            value = index[name].values[i]
            return value.item() if hasattr(value, "item") else value

        row: dict[str, Any] = {"job": i, **{name: str(at(name)) for name in swept}}
        row["ended"] = words.get(int(at("job_status")), "")
        for name in map(str, index.data_vars):
            if name not in (*_HIDDEN, "job_status", *swept):
                value = at(name)
                row[name] = value if isinstance(value, int | float) else str(value)
        found.append(row)
    return found


def table(tree: xr.DataTree) -> Any:
    """Return `rows` as a pandas.DataFrame."""
    import pandas as pd

    return pd.DataFrame(rows(tree)).set_index("job")


def datasets(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """Return the runs of every job that has some, by its group."""
    return {
        name: node.to_dataset(inherit=False)
        for name, node in tree.children.items()
        if "run" in node.sizes
    }


def summary(tree: xr.DataTree) -> Summary:
    """Summarise all jobs: how they ended, their runs and their time.

    Raises
    ------
    FlowError
        If the tree has no table of jobs.
    """
    found = rows(tree)
    ended: dict[str, int] = {}
    for row in found:
        ended[row["ended"]] = ended.get(row["ended"], 0) + 1
    swept = list(tree.attrs.get("swept", []))
    values: dict[str, Any] = {
        "jobs": len(found),
        "ended": ended,
        "runs": sum(int(row.get("runs") or 0) for row in found),
        "runs_failed": sum(int(row.get("runs_failed") or 0) for row in found),
        "swept": swept,
        "created": tree.attrs.get("created"),
        "rows": found,
    }
    over = ", ".join(swept) or "nothing"
    facts = [
        (
            "jobs",
            f"{len(found):,} over {over}: {', '.join(f'{w} {n:,}' for w, n in ended.items())}",
        ),
        ("runs", f"{values['runs']:,}, of which {values['runs_failed']:,} did not end well"),
        ("made", str(values["created"])),
    ]
    facts += [("error", f"job {row['job']}: {row['error']}") for row in found if row.get("error")]
    return Summary(tuple(facts), values)
