"""``cubie-results verify``: is every shard what was written?"""

from __future__ import annotations

import click

from cubie_flow.analysis import output


@click.command()
@output.path_argument
@output.json_option
def verify(path: str, as_json: bool) -> int:
    """Compare every complete shard of PATH with its checksum; exit 1 if one differs."""
    from cubie_flow.analysis.groups import location
    from cubie_flow.analysis.opening import open_runs
    from cubie_flow.storage import ResultStore

    place = location(open_runs(path))
    assert place is not None
    store = ResultStore.open(place)
    store.refuse_gaps()
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
            folder = place.folder.parent if place.folder else path
            print(f"cubie-flow resume={folder}{more} does the rest")
    return 1 if bad else 0
