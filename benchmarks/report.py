"""Tables and pictures of a record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bars import OURS, Bar, bars, best_of, goal, timed

Record = Mapping[str, Any]
#: M. Okabe and K. Ito's palette, which is told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vP*X"
#: One look a solver in all pictures, ours first.
SOLVERS = (
    "kernel", "heyoka", "numbalsoda", "diffrax", "torchdiffeq", "casadi", "jax_loop", "numba_loop",
    "scipy", "solve", "command",
)  # fmt: skip
NAMES = {
    "kernel": "cubie_flow, kernel", "solve": "cubie_flow, solve()",
    "command": "cubie_flow, whole command", "jax_loop": "JAX loop", "numba_loop": "numba loop",
}  # fmt: skip


def markdown(record: Record) -> str:
    """Return the tables of a record."""
    parts = [_header(record["machine"]), bars_table(bars(record)), _losses(record["cases"])]
    parts += [_case(case) for case in record["cases"]]
    parts += [_figures(name, figures) for name, figures in record["figures"].items()]
    return "\n".join(part for part in parts if part)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def number(value: Any, digits: int = 3) -> str:
    """Return a number in a few digits, whatever its size; words as they are."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "" if value is None else str(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    whole = math.floor(math.log10(abs(value))) + 1
    return f"{value:,.{max(0, digits - whole)}f}" if -2 < whole < 8 else f"{value:.{digits - 1}e}"


def _header(machine: Record) -> str:
    installed = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"# Benchmarks of {machine['date'][:10]}\n\n"
        f"{machine['processor']} ({machine['llvm_processor']}), {machine['threads']} threads, "
        f"{machine['vector_bits']}-bit vectors, {machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}, commit {machine['commit'] or 'unknown'}"
        f"{' with changes' if machine['modified'] else ''}.\n{installed}.\n\n"
        "Times are medians of interleaved rounds, each solver in its own process, and compare only "
        "within one table. The error is the largest over the states of five runs, beside "
        "|value| + atol/rtol.\n"
    )


def bars_table(found: Iterable[Bar]) -> str:
    """Return the table of bars: needed, reached, met."""
    rows = [
        [bar.text, f"{bar.needed:g} {bar.unit}",
         "" if math.isnan(bar.reached) else f"{number(bar.reached)} {bar.unit}",
         bar.verdict, bar.note]
        for bar in found
    ]  # fmt: skip
    return "## Bars\n\n" + table(["bar", "needed", "reached", "met", ""], rows)


def _losses(cases: Sequence[Record]) -> str:
    """Return where a peer, as accurate as is asked, is ahead of our kernel."""
    rows = []
    for case in cases:
        best = best_of(case)
        ours = best.pop("kernel", None)
        for row in best.values():
            if ours is not None and row["us"] < ours["us"]:
                rows.append(
                    [case["name"], row["entry"], number(row["us"]), f"{row['error']:.0e}",
                     ours["entry"], number(ours["us"]), f"{ours['error']:.0e}"]
                )  # fmt: skip
    head = ["case", "peer", "us a run", "error", "ours", "us a run", "error"]
    body = table(head, rows) if rows else "Nowhere in these cases.\n"
    return "## Where we lose\n\n" + body


def _case(case: Record) -> str:
    title = f"## {case['name']}\n\n"
    if "missing" in case:
        return f"{title}Not run: {case['missing']}.\n"
    kept = f"{case['saves']} saved times" if case["saves"] else "final state"
    about = (
        f"{case['problem_name']}, {case['runs']:,} runs, {kept}; error to reach {goal(case):.0e}"
    )
    best = best_of(case)
    ours = best.get("kernel")
    rows = []
    for row in case["rows"]:
        if "missing" in row:
            rows.append([row["entry"], row["missing"], *[""] * 8])
            continue
        bold = "**" if best.get(row["peer"]) is row else ""
        rows.append(
            [
                f"{bold}{row['entry']}{bold}",
                number(row["us"]),
                " to ".join(number(value) for value in row["us_spread"]),
                number(row["core_us"]),
                number(row["us"] / ours["us"]) if ours else "",
                f"{row['error']:.1e}",
                number(row["compile_s"], 2),
                number(row["first_result_s"], 2),
                f"{row['peak_bytes'] / 1e6:,.0f}",
                f"{row['runs']:,}" + (f"; {row['note']}" if row.get("note") else ""),
            ]
        )
    head = ["solver", "us a run", "middle half", "core us a run", "beside ours", "error",
            "compile s", "first result s", "peak MB", "runs"]  # fmt: skip
    note = "\nBold: a solver's fastest row that reaches the error, or else its most accurate.\n"
    return f"{title}{about}.\n\n{table(head, rows)}{note}"


def _figures(name: str, figures: Record) -> str:
    rows = [[key.replace("_", " "), number(value)] for key, value in figures.items()]
    return f"## {name.replace('_', ' ').capitalize()}\n\n" + table(["", ""], rows)


# pictures


def pictures(record: Record, folder: Path) -> list[Path]:
    """Draw time against error for every case, and time against runs; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for case in record["cases"]:
        if "rows" in case and len(timed(case)) > 1:
            written.append(_work_precision(case, folder / f"{case['name']}.png"))
    families: dict[str, list[Record]] = {}
    for case in record["cases"]:
        if "rows" in case:
            families.setdefault(case["name"].replace(f"_{case['runs']}", ""), []).append(case)
    for name, cases in families.items():
        if len(cases) > 1:
            written.append(_against_runs(name, cases, folder / f"{name}_runs.png"))
    return written


def _style(peer: str) -> dict[str, Any]:
    place = SOLVERS.index(peer) if peer in SOLVERS else len(SOLVERS) - 1
    wraps = place // len(COLOURS)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[(place + wraps) % len(MARKERS)],
        "label": NAMES.get(peer, peer),
        "lw": 2.0 if peer == "kernel" else 1.2,
        "ls": "--" if wraps else "-",
        "ms": 6,
    }


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y, title=title)
    axes.grid(which="major", alpha=0.3)
    return figure, axes


def _finish(figure: Any, axes: Any, path: Path) -> Path:
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)
    return path


def _work_precision(case: Record, path: Path) -> Path:
    figure, axes = _axes(
        f"{case['problem_name']}, {case['runs']:,} runs", "error at the end, relative",
        "wall time a run, microseconds",
    )  # fmt: skip
    rows = timed(case)
    for peer in dict.fromkeys(row["peer"] for row in rows):
        points = sorted(
            (max(row["error"], 1e-16), row["us"], row["method"])
            for row in rows
            if row["peer"] == peer
        )
        style = _style(peer)
        by_method: dict[str, list[tuple[float, float]]] = {}
        for error, us, method in points:
            by_method.setdefault(method, []).append((error, us))
        for line in by_method.values():
            axes.plot(*zip(*line, strict=True), **style)
            style = style | {"label": None}
        for method, line in by_method.items():
            if peer == "kernel":
                axes.annotate(
                    method, line[0], xytext=(5, -11), textcoords="offset points", fontsize=7,
                    color=style["color"],
                )  # fmt: skip
    axes.axvline(goal(case), color="0.5", lw=1, ls=":")
    axes.annotate(
        "to reach", (goal(case), 1), xycoords=("data", "axes fraction"), xytext=(3, -10),
        textcoords="offset points", fontsize=8, color="0.35",
    )  # fmt: skip
    return _finish(figure, axes, path)


def _against_runs(name: str, cases: Sequence[Record], path: Path) -> Path:
    figure, axes = _axes(name.replace("_", " "), "runs in a batch", "wall time a run, microseconds")
    lines: dict[str, list[tuple[int, float]]] = {}
    for case in sorted(cases, key=lambda case: case["runs"]):
        chosen = best_of(case)
        for row in case["rows"]:
            if row["peer"] in OURS and row["peer"] != "kernel" and "us" in row:
                chosen.setdefault(row["peer"], row)
        for peer, row in chosen.items():
            lines.setdefault(peer, []).append((row["runs"], row["us"]))
    for peer, points in lines.items():
        axes.plot(*zip(*points, strict=True), **_style(peer))
    return _finish(figure, axes, path)
