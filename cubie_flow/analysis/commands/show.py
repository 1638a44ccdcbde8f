"""``cubie-results show``: one result in a few lines."""

from __future__ import annotations

import click

from cubie_flow.analysis import output


@click.command()
@output.path_argument
@output.json_option
def show(path: str, as_json: bool) -> None:
    """Say what PATH holds: study, runs, how they ended, where it came from."""
    import xarray

    from cubie_flow.analysis.describe import summary
    from cubie_flow.analysis.opening import open_results, open_runs

    opened = None if "::" in path else open_results(path)
    if isinstance(opened, xarray.DataTree):
        told = opened.flow.summary()
        if as_json:
            output.print_json({**told.values, "path": opened.encoding["source"]})
            return
        output.print_facts([*told.facts, ("path", opened.encoding["source"])])
        print()
        output.print_table([_short(row) for row in told.values["rows"]])
        return
    data = open_runs(path)
    told = summary(data)
    names = {str(n): {"dims": list(map(str, v.dims)), **v.attrs} for n, v in data.variables.items()}
    if as_json:
        output.print_json({**told.values, "path": data.flow.path, "variables": names})
        return
    output.print_facts([*told.facts, ("holds", ", ".join(names)), ("path", str(data.flow.path))])


def _short(row: dict[str, object]) -> dict[str, object]:
    """Return the columns that fit a terminal; --json has all."""
    dropped = ("error", "store_bytes", "seconds_build", "seconds_write", "mean_rejected")
    return {name: value for name, value in row.items() if name not in dropped}
