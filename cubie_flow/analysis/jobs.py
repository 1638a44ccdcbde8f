"""The jobs of a multirun: their table, and the dataset of each."""

from __future__ import annotations

from collections import Counter
from typing import Any

import xarray as xr

from cubie_flow.analysis import runs
from cubie_flow.analysis.describe import Summary
from cubie_flow.errors import FlowError

#: Arrays of the root that are too long or too technical for the table.
_HIDDEN = ("config", "overrides", "group")


def rows(tree: xr.DataTree) -> list[dict[str, Any]]:
    """Return one mapping per job: the values that distinguish it, how it ended, its counts.

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
    rows = []
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
        rows.append(row)
    return rows


def table(tree: xr.DataTree) -> Any:
    """Return `rows` as a pandas.DataFrame."""
    import pandas as pd

    return pd.DataFrame(rows(tree)).set_index("job")


def datasets(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """Return the dataset of every job that has runs, by the name of its group."""
    return {
        name: node.to_dataset(inherit=False)
        for name, node in tree.children.items()
        if "run" in node.sizes
    }


def text(tree: xr.DataTree) -> str:
    """Return a tree of jobs as a few lines, without opening a job."""
    try:
        lines = str(summary(tree))
    except FlowError as error:
        lines = str(error)
    names = list(tree.children)
    groups = f"{names[0]} to {names[-1]}" if len(names) > 1 else ", ".join(names) or "none"
    example = f'; tree["{names[0]}"].to_dataset() is one of them' if names else ""
    return f"{lines}\ngroups  {groups}{example}; tree.flow.jobs() is their table"


def summary(tree: xr.DataTree) -> Summary:
    """Return the summary of all jobs: how they ended and their runs.

    Raises
    ------
    FlowError
        If the tree has no table of jobs.
    """
    jobs = rows(tree)
    ended = Counter(row["ended"] for row in jobs)
    swept = list(tree.attrs.get("swept", []))
    values: dict[str, Any] = {
        "study": tree.attrs.get("study"),
        "jobs": len(jobs),
        "ended": dict(ended),
        "runs": sum(int(row.get("runs") or 0) for row in jobs),
        "runs_failed": sum(int(row.get("runs_failed") or 0) for row in jobs),
        "swept": swept,
        "created": tree.attrs.get("created"),
        "rows": jobs,
    }
    over = ", ".join(swept) or "nothing"
    counts = ", ".join(f"{word} {count:,}" for word, count in ended.items())
    facts = [
        ("jobs", f"{len(jobs):,} over {over}: {counts}"),
        ("runs", f"{values['runs']:,}, of which {values['runs_failed']:,} did not end well"),
        ("made", str(values["created"])),
    ]
    facts += [("error", f"job {row['job']}: {row['error']}") for row in jobs if row.get("error")]
    return Summary(tuple(facts), values)
