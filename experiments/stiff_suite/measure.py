"""Measure every stiff method on published problems: python measure.py [folder] [--quick].

Writes work_precision.csv, work_precision.md and work_precision.png: the error at the end over
steps, right-hand sides and time, for tolerances from 1e-4 to 1e-10.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cubie_flow import OdeSystem
from cubie_flow.analysis.pictures.performance import Work, draw_work
from cubie_flow.analysis.pictures.style import Picture
from cubie_flow.integrators.run import RunSettings
from cubie_flow.integrators.tableaus import EXPLICIT, METHODS
from cubie_flow.integrators.tolerances import Tolerances
from cubie_flow.kernels.kernel import BatchSolverConfig, BatchSolverKernel

#: Problems with final values from the literature.
PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
PROBLEMS: dict[str, Any] = PUBLISHED["problems"]
STIFF = [n for n, m in METHODS.items() if n not in EXPLICIT and m.embedded_order is not None]
TOLERANCES = [10.0**-k for k in range(4, 11)]
#: Number of equal runs that are solved together, and how often they are timed.
RUNS, ROUNDS = 64, 3
#: Attempted steps after which a method counts as too slow.
LIMIT = 300_000
COLUMNS = (
    "problem", "algorithm", "rtol", "status", "error", "steps", "rejected", "evaluations",
    "microseconds",
)  # fmt: skip


def model(name: str) -> OdeSystem:
    """Return a model that ships with the package."""
    from cubie_flow.config.schema import shipped

    return OdeSystem.from_file(shipped("conf") / "system" / f"{name}.yaml")


def measure(problem: str, algorithm: str, tolerances: list[float]) -> Iterator[dict[str, Any]]:
    """Yield a row of `COLUMNS` for every tolerance.

    Parameters
    ----------
    problem, algorithm : str
    tolerances : list of float
        Relative tolerances; absolute ones follow from the problem.
    """
    about = PROBLEMS[problem]
    system = model(problem).with_values(parameters=about["parameters"])
    varied = system.parameters[0]
    run = RunSettings(system, (varied.name,), algorithm=algorithm, duration=about["duration"])
    kernel = BatchSolverKernel(run, BatchSolverConfig(target="cpu"))
    columns = {varied.name: np.full(RUNS, varied.value)}
    for rtol in tolerances:
        limits = Tolerances(rtol, rtol * about["atol_over_rtol"], max_steps=LIMIT)
        results = [kernel.solve(columns, RUNS, limits) for _ in range(ROUNDS)]
        first = results[0]
        good = int(first.status[0]) == 0
        error = np.abs(first.finals[:, 0] / np.array(about["finals"]) - 1).max() if good else np.nan
        yield {
            "problem": problem,
            "algorithm": algorithm,
            "rtol": f"{rtol:.0e}",
            "status": int(first.status[0]),
            "error": f"{error:.2e}",
            "steps": int(first.steps[0]),
            "rejected": int(first.rejected[0]),
            "evaluations": int(first.evaluations[0]),
            "microseconds": f"{median(r.seconds for r in results) / RUNS * 1e6:.2f}",
        }


def write_tables(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write all rows as CSV and those at 1e-8 as Markdown."""
    with (folder / "work_precision.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    chosen = [row for row in rows if row["rtol"] == "1e-08"]
    lines += [f"| {' | '.join(str(row[name]) for name in COLUMNS)} |" for row in chosen]
    (folder / "work_precision.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw error against time and against right-hand sides, one row of panels per problem."""
    works: dict[str, list[Work]] = {}
    for row in rows:
        if not int(row["status"]):
            costs = {
                "time per trajectory (us)": float(row["microseconds"]),
                "right-hand sides per trajectory": float(row["evaluations"]),
            }
            work = Work(row["algorithm"], float(row["error"]), costs)
            works.setdefault(row["problem"], []).append(work)
    picture = Picture(10.0, 1.4 + 2.9 * len(works))
    draw_work(picture, works, "largest relative error of the final states")
    picture.save(path)


def main(arguments: list[str]) -> None:
    """Measure, tabulate and draw."""
    quick = "--quick" in arguments
    names = [word for word in arguments if not word.startswith("--")]
    folder = Path(names[0]) if names else Path("outputs/stiff_suite")
    folder.mkdir(parents=True, exist_ok=True)
    problems = ["robertson", "hires"] if quick else list(PROBLEMS)
    methods = ["rodas4", "rodas5p", "kvaerno5", "radau_iia_5", "bdf"] if quick else STIFF
    tolerances = TOLERANCES[::2] if quick else TOLERANCES
    rows: list[dict[str, Any]] = []
    for problem in problems:
        for algorithm in methods:
            rows += measure(problem, algorithm, tolerances)
            print(f"{problem:12} {algorithm:14} done", file=sys.stderr)
    write_tables(rows, folder)
    draw(rows, folder / "work_precision.png")
    print((folder / "work_precision.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
