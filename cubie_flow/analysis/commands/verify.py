"""``cubie-results verify``: compare shards with their checksums."""

from __future__ import annotations

from pathlib import Path

import click
from attrs import asdict

from cubie_flow.analysis import output
from cubie_flow.console.verification import Verification


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
    result = Verification.of(ResultStore.open(location))
    if as_json:
        output.print_json(asdict(result))
    elif location.path is None:
        result.show(Path("FOLDER"), [f"storage.url={location.address}"])
    else:
        result.show(location.path.parent)
    return int(bool(result.damaged))
