"""``cubie-results compare``: the differences of two results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cubie_flow.analysis import output
from cubie_flow.console.tables import print_table

if TYPE_CHECKING:
    from cubie_flow.analysis.compare import Comparison, Numbers


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--rtol", type=float, help="Relative tolerance; by default the studies' own.")
@click.option("--atol", type=float, help="Absolute tolerance; by default the studies' own.")
@output.json_option
def compare(first: str, second: str, rtol: float | None, atol: float | None, as_json: bool) -> None:
    """Compare two results: configuration, numbers and times."""
    from attrs import asdict

    from cubie_flow.analysis import compare as comparing
    from cubie_flow.analysis.opening import open_runs

    comparison = comparing.compare(open_runs(first), open_runs(second), rtol, atol)
    if as_json:
        output.print_json(asdict(comparison))
        return
    _print_config(comparison)
    _print_numbers(comparison)
    _print_seconds(comparison)


def _print_config(comparison: Comparison) -> None:
    rows: list[dict[str, Any]] = [
        {"kind": kind, "key": key, "first": str(a), "second": str(b)}
        for kind, keys in comparison.config.items()
        for key, (a, b) in keys.items()
    ]
    if rows:
        print_table(rows, "configuration")
    else:
        print("configuration: the same")


def _print_numbers(comparison: Comparison) -> None:
    a, b = comparison.runs
    print(f"\nruns: {comparison.matched:,} in both ({comparison.how}), of {a:,} and {b:,}")
    if any(comparison.unwritten):
        x, y = comparison.unwritten
        print(f"not written yet, and left out: {x:,} and {y:,}")
    for change, count in comparison.ended.items():
        print(f"ended differently: {change}: {count:,}")
    if comparison.numbers:
        table = [_row(item, comparison.matched) for item in comparison.numbers]
        print_table(table, f"numbers, rtol {comparison.rtol:g}, atol {comparison.atol:g}")


def _print_seconds(comparison: Comparison) -> None:
    if comparison.seconds:
        print()
        times = [
            {"phase": phase, "first": x, "second": y, "second/first": y / x if x else None}
            for phase, (x, y) in comparison.seconds.items()
        ]
        print_table(times, "seconds")


def _row(item: Numbers, matched: int) -> dict[str, Any]:
    if item.same == matched:
        verdict = "same bits"
    elif not item.beyond:
        verdict = "within the tolerance"
    else:
        at = "" if item.time is None else f" at {item.time:g}"
        verdict = f"part first in run {item.run}{at}"
    return {
        "variable": item.variable,
        "same": item.same,
        "beyond": item.beyond,
        "largest": item.largest,
        "relative": item.relative,
        "verdict": verdict,
    }
