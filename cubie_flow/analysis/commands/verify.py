"""``cubie-results verify``: is every shard what was written?"""

from __future__ import annotations

from pathlib import Path

import click

from cubie_flow.analysis import folders, output
from cubie_flow.errors import FlowError


@click.command()
@output.path_argument
@output.json_option
def verify(path: str, as_json: bool) -> int:
    """Compare every complete shard of PATH with its checksum; exit 1 if one differs."""
    from cubie_flow.storage import ResultStore

    store_path = folders.store_of(path)
    if folders.is_url(store_path):
        raise FlowError(f"'{path}' is a URL; verify reads local stores")
    folders.head(store_path)
    store = ResultStore.open(store_path)
    complete, damaged = store.completed(), store.damaged()
    total = len(store.plan.shards)
    bad = []
    for index in damaged:
        start, stop = store.plan.shards[index]
        bad.append({"shard": index, "first_run": start, "last_run": stop - 1})
    if as_json:
        output.print_json({"shards": total, "complete": len(complete), "damaged": bad})
    else:
        print(f"{len(complete):,} of {total:,} shards complete, {len(bad):,} of them damaged")
        for row in bad:
            first, last = row["first_run"], row["last_run"]
            print(f"damaged: shard {row['shard']}, runs {first:,} to {last:,}")
        if bad or len(complete) < total:
            more = " recheck=true" if bad else ""
            print(f"cubie-flow resume={Path(store_path).parent}{more} does the rest")
    return 1 if bad else 0
