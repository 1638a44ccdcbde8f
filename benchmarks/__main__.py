"""``python -m benchmarks``: measure cases, write reports, check instruction counts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import memory
from benchmarks.conformance import command
from benchmarks.faults import command as fault_command
from benchmarks.record import RESULTS, is_record, read
from cubie_flow.errors import FlowError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure and write a record")
    which = run.add_mutually_exclusive_group()
    for name, says in (
        ("bars", "the cases of the required ratios, with their table at the end"),
        ("sizes", "Lorenz in batches of 64 to 10^6 runs"),
        ("saves", "Lorenz with 100 saved times"),
        ("methods", "our explicit methods compared with one another"),
        ("all", "all cases, two hours"),
    ):
        which.add_argument(f"--{name}", dest="set", action="store_const", const=name, help=says)
    run.add_argument("--only", default="", help="cases and figures, by name or part of a name")
    run.add_argument("--peers", default="", help="solvers to measure, comma-separated")
    run.add_argument("--rounds", type=int, default=5)
    run.add_argument("--first", type=float, default=30.0,
                     help="seconds for a first result; slower solvers are left out")  # fmt: skip
    run.add_argument("--case", type=float, default=10.0, help="seconds for the rounds of a case")
    run.add_argument("--out", type=Path, default=None, help="JSON file; its cases are skipped")
    report = commands.add_parser("report", help="tables and pictures of records")
    report.add_argument("records", nargs="*", type=Path, help="by default all in results/")
    report.add_argument(
        "--folder", type=Path, default=None, help="for tables and pictures, a subfolder per set"
    )
    guard = commands.add_parser("guard", help="compare instruction counts with instructions.txt")
    guard.add_argument("--renew", action="store_true", help="write the file again")
    gpu = commands.add_parser("gpu", help="the measurements on a GPU, in resumable parts")
    gpu.add_argument("parts", nargs="*", help="by default all parts that are not in the record")
    gpu.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    gpu.add_argument("--dry", action="store_true", help="simulate and compile; needs no GPU")
    opening = commands.add_parser("opening", help="open results of 10^7 runs, select runs")
    opening.add_argument("--out", type=Path, default=RESULTS / "opening.json")
    storage = commands.add_parser("storage", help="memory, and writing compared with zarr alone")
    storage.add_argument("--rounds", type=int, default=3)
    storage.add_argument("--out", type=Path, default=RESULTS / "storage.json")
    memory.add_arguments(commands.add_parser("memory", help="the plan and the measured peak"))
    checked = commands.add_parser("conformance", help="random models against references")
    command.add_arguments(checked)
    faults = commands.add_parser("faults", help="damages, hostile folders and kills")
    fault_command.add_arguments(faults)
    delays = commands.add_parser("delays", help="delay equations compared with SciPy and jitcdde")
    delays.add_argument("--runs", type=int, default=1024)
    sbml = commands.add_parser("sbml", help="cases of the SBML Test Suite in a folder")
    sbml.add_argument("rest", nargs=argparse.REMAINDER, help="folder and cases")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    given = _parser().parse_args(arguments)
    try:
        return int(globals()[f"_{given.command}"](given) or 0)
    except FlowError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1


def _run(given: argparse.Namespace) -> None:
    from benchmarks.measure import Effort
    from benchmarks.running import run

    effort = Effort(given.rounds, given.first, given.case)
    run(given.set, given.only, given.peers, effort, given.out)


def _report(given: argparse.Namespace) -> int:
    from benchmarks.report import markdown, pictures

    paths = given.records or sorted(RESULTS.glob("*.json"))
    shown = 0
    for path in paths:
        record = read(path)
        if not is_record(record):
            continue
        # One folder per set, so that links in documents stay valid with a new record.
        folder = given.folder / record["set"] if given.folder else path.with_suffix("")
        drawn = pictures(record, folder)
        text = markdown(record, drawn)
        (folder / "README.md").write_text(text, encoding="utf-8")
        print(text)
        shown += 1
    if not shown:
        raise FlowError("there are no records; create one with python -m benchmarks run")
    return 0


def _guard(given: argparse.Namespace) -> int:
    from benchmarks import guard

    return guard.command(given.renew)


def _opening(given: argparse.Namespace) -> None:
    from benchmarks import opening

    opening.command(given.out)


def _conformance(given: argparse.Namespace) -> int:
    return command.command(given)


def _faults(given: argparse.Namespace) -> int:
    return fault_command.command(given)


def _delays(given: argparse.Namespace) -> None:
    from benchmarks.delays import main as measure

    measure(given.runs)


def _sbml(given: argparse.Namespace) -> int:
    from benchmarks import sbml

    return sbml.main(given.rest)


def _memory(given: argparse.Namespace) -> int:
    return memory.command(given.out, given.only)


def _storage(given: argparse.Namespace) -> int:
    from benchmarks import storage

    return storage.command(given.out, given.rounds)


def _gpu(given: argparse.Namespace) -> int:
    from benchmarks import gpu

    return gpu.command(given.parts, given.out, given.dry)


if __name__ == "__main__":
    raise SystemExit(main())
