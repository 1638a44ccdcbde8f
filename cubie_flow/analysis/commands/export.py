"""``cubie-results export``: write a result as Parquet, CSV, NetCDF or NumPy."""

from __future__ import annotations

from pathlib import Path

import click

from cubie_flow.analysis import output
from cubie_flow.errors import FlowError


@click.command()
@output.path_argument
@click.argument("target")
@click.option(
    "--where", "condition", help="Only runs such as \"rho > 24 and status == 'success'\"."
)
@click.option("--variables", help="Names of variables, separated by commas; by default all.")
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it exists.")
@output.json_option
def export(
    path: str,
    target: str,
    condition: str | None,
    variables: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write runs of PATH into TARGET, a .parquet, .csv, .nc or .npz file.

    A table has one row per run. With a variable that was saved over time it has one row per run
    and time.
    """
    from cubie_flow.analysis import runs
    from cubie_flow.analysis.export import export as write
    from cubie_flow.analysis.opening import open_runs

    data = open_runs(path)
    if condition:
        data = runs.take(data, runs.where(data, condition))
        if not runs.length(data):
            raise FlowError(f"no run satisfies '{condition}', so there is nothing to export")
    names = [name.strip() for name in variables.split(",")] if variables else None
    count = write(data, target, names, overwrite=overwrite)
    size, unwritten = Path(target).expanduser().stat().st_size, runs.length(data) - count
    if as_json:
        values = {"path": target, "runs": count, "bytes": size, "not_written": unwritten}
        output.print_json(values)
    else:
        left = (
            f"; {unwritten:,} runs are left out, as they are not written yet" if unwritten else ""
        )
        print(f"wrote {count:,} runs into {target} ({size / 1e6:.1f} MB){left}")
