"""``cubie-results report``: write a result as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from cubie_flow.analysis import folders, output


@click.command()
@output.path_argument
@click.option("-o", "--output", "target", metavar="FILE",
              help="By default report.html in the folder of the run.")  # fmt: skip
@output.json_option
def report(path: str, target: str | None, as_json: bool) -> None:
    """Write a report of PATH as one HTML file that needs no network."""
    from cubie_flow.analysis.opening import open_runs
    from cubie_flow.analysis.reports.report import write_report

    data = open_runs(path)
    if target is None:
        target = str(_run_folder(str(data.flow.path)) / "report.html")
    file = write_report(data, target)
    size = file.stat().st_size
    if as_json:
        output.print_json({"report": str(file), "bytes": size})
    else:
        print(f"wrote {file} ({size / 1e6:.1f} MB)")


def _run_folder(store: str) -> Path:
    """Return the folder of a run, or the current folder for a store at a URL."""
    return Path() if folders.is_url(store) else Path(store).parent
