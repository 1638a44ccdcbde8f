"""``cubie-results report``: one HTML file."""

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
    """Write a report of PATH: one HTML file that needs no network."""
    from cubie_flow.analysis.opening import open_runs
    from cubie_flow.analysis.reports.report import write_report

    data = open_runs(path)
    if target is None:
        target = str(_beside(path, str(data.flow.path)) / "report.html")
    made = write_report(data, target)
    size = made.stat().st_size
    if as_json:
        output.print_json({"report": str(made), "bytes": size})
    else:
        print(f"wrote {made} ({size / 1e6:.1f} MB)")


def _beside(path: str, store: str) -> Path:
    """Return the folder of a run: the one that was given where its store is at a URL."""
    if not folders.is_url(store):
        return Path(store).parent
    given = Path(path.partition("::")[0]).expanduser()
    return given if given.is_dir() else Path()
