"""``cubie-results show``: describe a result in a few lines."""

from __future__ import annotations

import click

from cubie_flow.analysis import output
from cubie_flow.console.tables import print_table


@click.command()
@output.path_argument
@output.json_option
def show(path: str, as_json: bool) -> None:
    """Show what PATH holds: study, runs, how they ended, where it came from."""
    import xarray

    from cubie_flow.analysis.describe import summary
    from cubie_flow.analysis.opening import open_results, open_runs

    opened = None if "::" in path else open_results(path)
    if isinstance(opened, xarray.DataTree):
        description = opened.flow.summary()
        if as_json:
            output.print_json({**description.values, "path": opened.encoding["source"]})
            return
        output.print_facts([*description.facts, ("path", opened.encoding["source"])])
        print()
        print_table([_short(row) for row in description.values["rows"]])
        return
    ranked = opened is not None and "placement" in opened.sizes
    data = opened if opened is not None and ranked else open_runs(path)
    description = summary(data)
    names = {str(n): {"dims": list(map(str, v.dims)), **v.attrs} for n, v in data.variables.items()}
    if as_json:
        output.print_json({**description.values, "path": data.flow.path, "variables": names})
        return
    facts = (("holds", ", ".join(names)), ("path", str(data.flow.path)))
    output.print_facts([*description.facts, *facts])


def _short(row: dict[str, object]) -> dict[str, object]:
    """Return the columns that fit a terminal; --json has all."""
    dropped = ("error", "store_bytes", "seconds_build", "seconds_write", "mean_rejected")
    return {name: value for name, value in row.items() if name not in dropped}
