"""``cubie-results runs``: list runs as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cubie_flow.analysis import output
from cubie_flow.console.tables import print_table
from cubie_flow.errors import FlowError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from xarray import Dataset


@click.command()
@output.path_argument
@click.option(
    "--where", "condition", help="Only runs such as \"rho > 24 and status == 'success'\"."
)
@click.option("--sort", help="Quantity to sort by; -NAME for the largest first.")
@click.option("--limit", default=20, show_default=True, help="Rows to print; 0 for all.")
@click.option("--columns", help="Names to print, separated by commas; all by default.")
@output.json_option
def runs(
    path: str,
    condition: str | None,
    sort: str | None,
    limit: int,
    columns: str | None,
    as_json: bool,
) -> None:
    """List runs of PATH: what varied, how they ended, and their metrics."""
    from cubie_flow.analysis import runs as choose
    from cubie_flow.analysis.opening import open_runs

    if limit < 0:
        raise FlowError(f"--limit is {limit}; it must be at least 0 (0 prints all)")
    data = open_runs(path)
    names = _names(data, columns)
    matching = choose.where(data, condition) if condition else None
    total = choose.length(data) if matching is None else matching.size
    positions = _sorted(data, matching, sort, limit)
    rows = _rows(choose.take(data, positions)[["run", *names]].load(), names)
    if as_json:
        output.print_json({"matching": total, "runs": rows})
        return
    print_table(rows)
    if len(rows) < total:
        click.echo(f"{len(rows):,} of {total:,} runs; --limit 0 prints all", err=True)
    elif not rows:
        click.echo("no run satisfies the condition", err=True)


def _rows(table: Dataset, names: list[str]) -> list[dict[str, Any]]:
    """Return runs as rows, with the words of coded values such as ``status``."""
    from cubie_flow.analysis.runs import flags

    columns = {"run": table["run"].values.tolist()}
    for name in names:
        words = {value: word for word, value in flags(table[name]).items()}
        columns[name] = [words.get(value, value) for value in table[name].values.tolist()]
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _names(data: Dataset, columns: str | None) -> list[str]:
    """Return the columns to print: coordinates first, then status and counts, then the rest."""
    known = [str(n) for n, v in data.variables.items() if v.dims == ("run",) and n != "run"]
    if columns:
        chosen = [name.strip() for name in columns.split(",")]
        for name in chosen:
            if name not in known:
                raise FlowError(
                    f"--columns names '{name}', but the columns are {', '.join(known)}"
                    f"{nearest(name, known)}"
                )
        return chosen
    first = [name for name in known if name in data.coords]
    first += [name for name in ("status", "steps", "rejected", "attempt") if name in known]
    return first + [name for name in known if name not in first]


def _sorted(
    data: Dataset, matching: NDArray[np.int64] | None, sort: str | None, limit: int
) -> NDArray[np.int64]:
    """Return the positions of the runs to print."""
    import numpy as np

    from cubie_flow.analysis import runs as choose

    positions = np.arange(choose.length(data)) if matching is None else matching
    if sort:
        name = sort.removeprefix("-")
        known = [str(n) for n, column in choose.columns(data).items() if not column.problem]
        if name not in known:
            raise FlowError(
                f"--sort names '{name}', but the columns are {', '.join(known)}"
                f"{nearest(name, known)}"
            )
        every = np.concatenate([choose.column(data, name, part) for part in choose.blocks(data)])
        keys = every[positions].astype(np.float64)
        # Runs without a value come last in both directions.
        positions = positions[np.argsort(-keys if sort.startswith("-") else keys, kind="stable")]
    return positions[:limit] if limit else positions
