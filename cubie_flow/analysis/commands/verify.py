"""``cubie-results verify``: compare shards with their checksums."""

from __future__ import annotations

from pathlib import Path

import click

from cubie_flow.analysis import output
from cubie_flow.console.paths import resume_command


@click.command()
@output.path_argument
@output.json_option
def verify(path: str, as_json: bool) -> int:
    """Compare every complete shard of PATH with its checksum; exit 1 if one differs."""
    from cubie_flow.analysis import groups
    from cubie_flow.analysis.opening import open_runs
    from cubie_flow.storage import ResultStore

    location = groups.location(open_runs(path))
    assert location is not None
    store = ResultStore.open(location)
    store.refuse_gaps()
    complete, damaged = store.completed(), store.damaged()
    total = len(store.plan.shards)
    bad = [
        {"shard": index, "first_run": start, "last_run": stop - 1}
        for index in damaged
        for start, stop in [store.plan.shards[index]]
    ]
    if as_json:
        output.print_json({"shards": total, "complete": len(complete), "damaged": bad})
    else:
        print(f"{len(complete):,} of {total:,} shards complete, {len(bad):,} of them damaged")
        for row in bad:
            first, last = row["first_run"], row["last_run"]
            print(f"damaged: shard {row['shard']}, runs {first:,} to {last:,}")
        if bad or len(complete) < total:
            words = ["recheck=true"] if bad else []
            if location.path is None:
                words.append(f"storage.url={location.address}")
                folder = Path("FOLDER")
            else:
                folder = location.path.parent
            print(f"{resume_command(folder, words)} does the rest")
    return 1 if bad else 0
