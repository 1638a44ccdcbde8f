"""``cubie-results compare``: what differs between two results?"""

from __future__ import annotations

from typing import Any

import click

from cubie_flow.analysis import output


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

    found = comparing.compare(open_runs(first), open_runs(second), rtol, atol)
    if as_json:
        output.print_json(asdict(found))
        return
    rows: list[dict[str, Any]] = [
        {"kind": kind, "key": key, "first": str(a), "second": str(b)}
        for kind, keys in found.config.items()
        for key, (a, b) in keys.items()
    ]
    if rows:
        output.print_table(rows, "configuration")
    else:
        print("configuration: the same")
    a, b = found.runs
    print(f"\nruns: {found.matched:,} in both ({found.how}), of {a:,} and {b:,}")
    for change, count in found.ended.items():
        print(f"ended differently: {change}: {count:,}")
    if found.numbers:
        table = [_row(item, found.matched) for item in found.numbers]
        output.print_table(table, f"numbers, rtol {found.rtol:g}, atol {found.atol:g}")
    if found.seconds:
        print()
        times = [
            {"phase": phase, "first": x, "second": y, "second/first": y / x if x else None}
            for phase, (x, y) in found.seconds.items()
        ]
        output.print_table(times, "seconds")


def _row(item: Any, matched: int) -> dict[str, Any]:
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
