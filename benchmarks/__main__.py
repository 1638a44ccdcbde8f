"""``python -m benchmarks``: run the cases, make the report, renew the guard, run on a GPU."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.record import RESULTS, is_record, read, write
from cubie_flow.errors import FlowError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure and write a record")
    which = run.add_mutually_exclusive_group()
    which.add_argument("--bars", dest="set", action="store_const", const="bars", default="quick",
                       help="what the bars ask for: 15 minutes on a quiet machine")  # fmt: skip
    which.add_argument("--all", dest="set", action="store_const", const="all",
                       help="every problem and size, an hour or more")  # fmt: skip
    run.add_argument("--only", default="", help="cases and figures with this in their name")
    run.add_argument("--peers", default=None, help="solvers that take part, comma-separated")
    run.add_argument("--rounds", type=int, default=9)
    run.add_argument("--out", type=Path, default=None, help="JSON file; by default in results/")
    report = commands.add_parser("report", help="tables and pictures of records")
    report.add_argument("records", nargs="*", type=Path, help="by default all in results/")
    report.add_argument("--folder", type=Path, default=None, help="where the pictures go")
    guard = commands.add_parser("guard", help="compare instruction counts with the file kept")
    guard.add_argument("--renew", action="store_true", help="write the file anew")
    gpu = commands.add_parser("gpu", help="the measurements on a GPU, in resumable parts")
    gpu.add_argument("parts", nargs="*", help="by default all that are not done")
    gpu.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    gpu.add_argument("--dry", action="store_true", help="simulate and compile; needs no GPU")
    opening = commands.add_parser("opening", help="opening results of 10^7 runs and choosing runs")
    opening.add_argument("--out", type=Path, default=RESULTS / "opening.json")
    storage = commands.add_parser("storage", help="memory, and writing beside zarr alone")
    storage.add_argument("--rounds", type=int, default=3)
    storage.add_argument("--out", type=Path, default=RESULTS / "storage.json")
    sbml = commands.add_parser("sbml", help="cases of the SBML Test Suite in a folder")
    sbml.add_argument("rest", nargs=argparse.REMAINDER, help="folder, and options of its own")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    given = _parser().parse_args(arguments)
    try:
        return int(globals()[f"_{given.command}"](given) or 0)
    except FlowError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1


def _run(given: argparse.Namespace) -> None:
    from attrs import evolve

    from benchmarks.cases import SETS
    from benchmarks.figures import FIGURES
    from benchmarks.machine import machine
    from benchmarks.measure import Effort, measure

    about = machine()
    out = given.out or RESULTS / f"{given.set}_{about['date'].replace(':', '')[:15]}.json"
    record: dict[str, Any] = {"machine": about, "set": given.set, "cases": [], "figures": {}}
    effort = Effort(given.rounds, case_limit=10.0 if given.set == "quick" else 25.0)
    began = perf_counter()

    def say(text: str) -> None:
        print(f"{perf_counter() - began:6.0f} s {text}", flush=True)

    for name, figure in FIGURES.items():
        if given.only in name and (given.set != "quick" or given.only):
            say(name)
            record["figures"][name] = figure()
            write(record, out)
    for case in SETS[given.set]():
        if given.only not in case.name:
            continue
        say(case.name)
        if not case.problem.available:
            missing = f"there is no model '{case.problem.model}' in conf/system"
            record["cases"].append({**case.as_dict(), "rows": [], "missing": missing})
            continue
        if given.peers:
            chosen = given.peers.split(",")
            case = evolve(case, entries=[e for e in case.entries if e.peer in chosen])
        record["cases"].append(measure(case, effort, say))
        write(record, out)
    write(record, out)
    say(f"written to {out}; python -m benchmarks report {out} shows it")


def _report(given: argparse.Namespace) -> int:
    from benchmarks.report import markdown, pictures

    paths = given.records or sorted(RESULTS.glob("*.json"))
    shown = 0
    for path in paths:
        record = read(path)
        if not is_record(record):
            continue
        folder = given.folder or path.with_suffix("")
        pictures(record, folder)
        text = markdown(record)
        (folder / "README.md").write_text(text, encoding="utf-8")
        print(text)
        shown += 1
    if not shown:
        raise FlowError("no records to report on; python -m benchmarks run makes one")
    return 0


def _guard(given: argparse.Namespace) -> int:
    from benchmarks import guard

    return guard.command(given.renew)


def _opening(given: argparse.Namespace) -> None:
    from benchmarks import opening

    opening.command(given.out)


def _sbml(given: argparse.Namespace) -> int:
    from benchmarks import sbml

    return sbml.main(given.rest)


def _storage(given: argparse.Namespace) -> int:
    from benchmarks import storage

    return storage.command(given.out, given.rounds)


def _gpu(given: argparse.Namespace) -> int:
    from benchmarks import gpu

    return gpu.command(given.parts, given.out, given.dry)


if __name__ == "__main__":
    raise SystemExit(main())
