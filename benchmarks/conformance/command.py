"""``python -m benchmarks conformance``: random models, kept cases, public models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.conformance.campaign import Plan, campaign
from benchmarks.conformance.case import read_case
from benchmarks.conformance.examination import examine
from benchmarks.conformance.reference import NoReferenceError

OUT, SHARED = Path("outputs/conformance"), Path("../shared")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--minutes", type=float, default=None, help="stop after these (default 10)")
    parser.add_argument("--count", type=int, default=None, help="stop after so many models")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="first case of the seed")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes, 0 for none")
    parser.add_argument("--out", type=Path, default=OUT, help="where disagreements go")
    parser.add_argument("--shrink", type=float, default=60.0, help="seconds per disagreement")
    parser.add_argument(
        "--replay", type=Path, nargs="+", default=None, help="kept cases to examine again"
    )
    parser.add_argument(
        "--public", type=Path, nargs="?", const=SHARED, default=None, metavar="FOLDER",
        help=f"public models of a folder, by default {SHARED}",
    )  # fmt: skip
    parser.add_argument(
        "--only", default="", help="public models with one of these in their path, with commas"
    )
    parser.add_argument(
        "--record", type=Path, default=None, help="JSON file of the rows of public models"
    )


def command(given: argparse.Namespace) -> int:
    """Do what the command line says; return 1 if something disagrees."""
    if given.replay:
        return replay(given.replay)
    if given.public is not None:
        from benchmarks.conformance import public

        return public.command(given.public, given.jobs, given.only, given.record)
    minutes = 10.0 if given.minutes is None and given.count is None else given.minutes
    plan = Plan(
        given.seed, given.start, given.count, None if minutes is None else 60 * minutes, given.jobs,
        given.out, given.shrink,
    )  # fmt: skip
    totals = campaign(plan, lambda line: print(line, flush=True))
    return int(bool(totals.kinds))


def replay(paths: Sequence[Path]) -> int:
    """Examine kept cases again; return 1 if one still disagrees."""
    wrong = 0
    for path in paths:
        case, about = read_case(path)
        try:
            findings = examine(case, about.get("checks") or (), tight=False).findings
        except NoReferenceError as error:
            print(f"{path.name}: no reference: {error}")
            continue
        wrong += bool(findings)
        told = "; ".join(f"{one.kind}: {one.text}" for _, one in findings) or "agrees"
        print(f"{path.name}: {told}", flush=True)
    return int(bool(wrong))
