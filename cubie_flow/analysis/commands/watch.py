"""``cubie-results watch``: show how far a study is, from its store alone."""

from __future__ import annotations

from time import sleep
from typing import TYPE_CHECKING

import click

from cubie_flow.analysis import output

if TYPE_CHECKING:
    from cubie_flow.analysis.watching import Watcher


@click.command()
@output.path_argument
@click.option(
    "--every",
    type=click.FloatRange(0.1),
    default=2.0,
    metavar="SECONDS",
    help="Time between two looks at the store; by default 2.",
)
@click.option("--once", is_flag=True, help="Look once and print what is there.")
@click.option("--html", is_flag=True, help="Show a page on this machine instead of the terminal.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the page; by default a free one.",
)
@output.json_option
def watch(
    path: str, every: float, once: bool, html: bool, port: int, as_json: bool
) -> None:  # fmt: skip
    """Show how far the study of PATH is until it is complete or Ctrl-C.

    It reads the store and asks no process, so it shows studies of this machine, of Dask and of
    SLURM alike.
    """
    from cubie_flow.analysis.watching import Watcher

    watcher = Watcher(path)
    try:
        if html:
            from cubie_flow.analysis.watch_page import serve

            serve(watcher, path, port, every)
            return
        if not (once or as_json):
            _follow(watcher, every)
    except KeyboardInterrupt:
        print()
    look = watcher.look()
    if as_json:
        output.print_json(look.values)
    else:
        output.print_facts(watcher.facts(look))


def _follow(watcher: Watcher, every: float) -> None:
    """Show the progress until the study is complete."""
    from cubie_flow.console.progress import progress

    look = watcher.look()
    with progress(look.name) as show:
        while not look.complete:
            show(watcher.progress(look))
            sleep(every)
            look = watcher.look()
