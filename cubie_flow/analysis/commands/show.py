"""``cubie-results show``: one result in a few lines."""

from __future__ import annotations

import click

from cubie_flow.analysis import output


@click.command()
@output.path_argument
@output.json_option
def show(path: str, as_json: bool) -> None:
    """Say what PATH holds: study, runs, how they ended, where it came from."""
    from cubie_flow.analysis.describe import summary
    from cubie_flow.analysis.opening import open_runs

    data = open_runs(path)
    told = summary(data)
    names = {str(n): {"dims": list(map(str, v.dims)), **v.attrs} for n, v in data.variables.items()}
    if as_json:
        output.print_json({**told.values, "path": data.flow.path, "variables": names})
        return
    output.print_facts([*told.facts, ("holds", ", ".join(names)), ("path", str(data.flow.path))])
