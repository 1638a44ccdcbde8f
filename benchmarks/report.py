"""Tables and pictures of a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bars import EQUAL, OURS, bars, best_of, goal, matched, timed

Record = Mapping[str, Any]
#: From the palette of M. Okabe and K. Ito, for any colour vision; blue is ours.
OUR_COLOUR = "#0072B2"
#: Colour and marker of every solver, the same in all pictures.
LOOKS = {
    "heyoka": ("#D55E00", "s"), "numbalsoda": ("#009E73", "D"), "diffrax": ("#CC79A7", "^"),
    "torchdiffeq": ("#E69F00", "v"), "casadi": ("#56B4E9", "P"), "jax_loop": ("#000000", "*"),
    "numba_loop": ("#999999", "X"), "scipy": ("#8C6D31", "p"),
}  # fmt: skip
#: Colours and markers of our methods, in blues and violets.
METHODS = {
    "tsit5": (OUR_COLOUR, "o"), "rk4": (OUR_COLOUR, "o"), "rodas5p": (OUR_COLOUR, "o"),
    "vern7": ("#00305E", "h"), "dormand_prince_853": ("#5B2A86", "d"), "kvaerno5": ("#00305E", "s"),
    "taylor_8": ("#86C5EE", "<"), "taylor_12": ("#7B68EE", ">"), "taylor_16": ("#B39DDB", "^"),
    "radau_iia_5": ("#5B2A86", "v"),
}  # fmt: skip
NAMES = {
    "kernel": "cubie_flow", "solve": "cubie_flow, solve()",
    "command": "cubie_flow, whole command", "jax_loop": "JAX loop", "numba_loop": "numba loop",
}  # fmt: skip


#: What a picture shows, for readers who do not see it.
_SHOWS = {
    "error.png": "Time per run over the error at the end, one panel per problem",
    "runs.png": "Time per run over the runs in a batch, one panel per problem",
}


def markdown(record: Record, drawn: Sequence[Path] = ()) -> str:
    """Return the tables of a record, with its pictures."""
    parts = [_header(record["machine"]), bars_table(record), _losses(record["cases"])]
    parts += [f"![{_SHOWS[path.name]}]({path.name})\n" for path in drawn]
    parts += [_case(case) for case in record["cases"]]
    parts += [_figures(name, figures) for name, figures in record["figures"].items()]
    return "\n".join(part for part in parts if part)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def number(value: Any, digits: int = 3) -> str:
    """Return a number with a few digits, and a text unchanged."""
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
        "within one table. The error is the largest of the states of five runs, relative to "
        "|value| + atol/rtol.\n"
    )


def bars_table(record: Record) -> str:
    """Return the table of bars: needed, reached, met."""
    rows = [
        [bar.text, f"{bar.needed:g} {bar.unit}",
         "" if math.isnan(bar.reached) else f"{number(bar.reached)} {bar.unit}",
         bar.verdict, bar.note]
        for bar in bars(record)
        if record["set"] == "bars" or not math.isnan(bar.reached)
    ]  # fmt: skip
    head = ["bar", "needed", "reached", "met", ""]
    return "## Bars\n\n" + table(head, rows) if rows else ""


def _losses(cases: Sequence[Record]) -> str:
    """Return the cases in which an accurate peer is faster than our kernel or `solve()`."""
    rows = []
    for case in cases:
        best = best_of(case)
        solved = matched([row for row in timed(case) if row["peer"] == "solve"], goal(case))
        for ours in filter(None, (best.pop("kernel", None), solved)):
            rows += [
                [case["name"], row["entry"], number(row["us"]), f"{row['error']:.0e}",
                 ours["entry"], number(ours["us"]), f"{ours['error']:.0e}"]
                for row in best.values()
                if row["us"] < ours["us"] and row["error"] <= EQUAL * goal(case)
            ]  # fmt: skip
    head = ["case", "peer", "us per run", "error", "ours", "us per run", "error"]
    body = table(head, rows) if rows else "Nowhere in these cases.\n"
    about = (
        "Peers that reach the error of a case in less time than our fastest kernel that reaches "
        "it, or than `solve()`, which makes a labelled dataset.\n\n"
    )
    return "## Where we lose\n\n" + about + body


def _case(case: Record) -> str:
    title = f"## {case['name']}\n\n"
    if "missing" in case:
        return f"{title}Not run: {case['missing']}.\n"
    kept = f"{case['saves']} saved times" if case["saves"] else "final state"
    about = (
        f"{case['problem_name']}, {case['runs']:,} runs, {kept}; error to reach {goal(case):.0e}"
    )
    if "load" in case:
        # The average over a minute, which includes solvers of the previous case.
        about += f"; load {case['load']:.1f} at its start, {case['took_s']:.0f} s in all"
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
    head = ["solver", "us per run", "middle half", "core us per run", "relative to ours", "error",
            "compile s", "first result s", "peak MB", "runs"]  # fmt: skip
    note = "\nBold: the fastest row of a solver that reaches the error, or its most accurate.\n"
    return f"{title}{about}.\n\n{table(head, rows)}{note}"


def _figures(name: str, figures: Record) -> str:
    rows = [[key.replace("_", " "), number(value)] for key, value in figures.items()]
    return f"## {name.replace('_', ' ').capitalize()}\n\n" + table(["", ""], rows)


# pictures


def pictures(record: Record, folder: Path) -> list[Path]:
    """Draw time over error and time over runs, one panel per problem; return the files.

    Parameters
    ----------
    record : mapping
    folder : Path
        Folder of ``error.png`` and ``runs.png``, which are drawn if the record has cases for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cases = [case for case in record["cases"] if timed(case)]
    panels = {
        "error.png": [
            lambda axes, of=of: _against_error(axes, of)  # type: ignore[misc]
            for of in _grouped(cases, lambda case: (*_about(case), case["runs"]))
            if _spread(of)
        ],
        "runs.png": [
            lambda axes, of=of: _against_runs(axes, of)  # type: ignore[misc]
            for of in _grouped(cases, lambda case: (*_about(case), goal_tolerance(case)))
            if len({case["runs"] for case in of}) > 1
        ],
    }
    return [_drawn(drawn, folder / name) for name, drawn in panels.items() if drawn]


def goal_tolerance(case: Record) -> float:
    """Return the nominal tolerance of a case."""
    return float(case["rows"][0]["rtol"])


def _about(case: Record) -> tuple[Any, ...]:
    fixed = bool(case["rows"][0]["dt"])
    return case["problem_name"], case["precision"], case["saves"], fixed


def _title(case: Record) -> str:
    name, precision, saves, fixed = _about(case)
    words = [name, "RK4" if fixed else "", "f32" if precision == "float32" else "f64"]
    words += [f"{saves} saves" if saves else ""]
    return " ".join(word for word in words if word)


def _grouped(cases: Sequence[Record], key: Callable[[Record], Any]) -> list[list[Record]]:
    groups: dict[Any, list[Record]] = {}
    for case in cases:
        groups.setdefault(key(case), []).append(case)
    return list(groups.values())


def _spread(cases: Sequence[Record]) -> bool:
    """Return whether errors differ, so that there is a curve to draw."""
    errors = [max(row["error"], 1e-16) for case in cases for row in timed(case)]
    return bool(max(errors) > 3 * min(errors))


def _look(peer: str, method: str = "") -> dict[str, Any]:
    if peer == "kernel":
        colour, marker = METHODS.get(method, (OUR_COLOUR, "o"))
        name = f"{NAMES[peer]} {method}".strip()
        return {"color": colour, "marker": marker, "label": name, "lw": 1.6}
    if peer in OURS:
        ending, marker = {"solve": ("--", "s"), "command": (":", "D")}[peer]
        return {
            "color": OUR_COLOUR, "marker": marker, "label": NAMES[peer], "ls": ending, "lw": 1.6,
            "mfc": "white",
        }  # fmt: skip
    colour, marker = LOOKS.get(peer, ("#555555", "1"))
    return {"color": colour, "marker": marker, "label": NAMES.get(peer, peer), "lw": 1.0}


def _against_error(axes: Any, cases: Sequence[Record]) -> None:
    lines: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for case in cases:
        for row in timed(case):
            if row["peer"] in OURS and row["peer"] != "kernel":
                continue
            line = lines.setdefault((row["peer"], row["method"]), {})
            line.setdefault(row["entry"], (max(row["error"], 1e-16), row["us"]))
    for (peer, method), points in lines.items():
        axes.plot(*zip(*sorted(points.values()), strict=True), **_look(peer, method), ms=4)
    for case in cases:
        axes.axvline(goal(case), color="0.6", lw=0.8, ls=":", zorder=0)
    axes.set_title(f"{_title(cases[0])}, {cases[0]['runs']:,} runs", fontsize=9)
    axes.set_xlabel("error", fontsize=8)


def _against_runs(axes: Any, cases: Sequence[Record]) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for case in sorted(cases, key=lambda case: case["runs"]):
        chosen = best_of(case)
        for row in timed(case):
            if row["peer"] in OURS and row["peer"] != "kernel":
                chosen.setdefault(row["peer"], row)
        for peer, row in chosen.items():
            # Entries that solve fewer runs than the batch do not depend on its size.
            if row["runs"] == case["runs"]:
                lines.setdefault(peer, []).append((row["runs"], row["us"]))
    for peer, points in lines.items():
        axes.plot(*zip(*points, strict=True), **_look(peer), ms=4)
    axes.set_title(f"{_title(cases[0])}, error {goal(cases[0]):.0e}", fontsize=9)
    axes.set_xlabel("runs in a batch", fontsize=8)


def _drawn(panels: Sequence[Callable[[Any], None]], path: Path) -> Path:
    """Draw panels in a row with one legend."""
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.1 * columns + 2.1, 2.6 * rows + 0.2), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    legend: dict[str, Any] = {}
    for axes, draw in zip(grid, panels, strict=False):
        axes.set(xscale="log", yscale="log")
        draw(axes)
        for axis in (axes.xaxis, axes.yaxis):
            _at_least_two_decades(axis)
        axes.grid(which="major", alpha=0.3)
        axes.tick_params(labelsize=8)
        handles, labels = axes.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    for axes in grid[len(panels) :]:
        axes.axis("off")
    figure.supylabel("wall time a run, microseconds", fontsize=9)
    names = sorted(legend, key=lambda name: (not name.startswith("cubie_flow"), name))
    figure.legend(
        [legend[name] for name in names], names, loc="outside right upper", frameon=False,
        fontsize=8,
    )  # fmt: skip
    return _saved(figure, path)


def _at_least_two_decades(axis: Any) -> None:
    """Widen a logarithmic axis to at least two decades, with labels at powers of ten only."""
    from matplotlib.ticker import NullFormatter

    low, high = (math.log10(value) for value in axis.get_view_interval())
    missing = max(0.0, 2.0 - (high - low)) / 2
    if missing:
        set_limits = axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim
        set_limits(10 ** (low - missing), 10 ** (high + missing))
    axis.set_minor_formatter(NullFormatter())


def _saved(figure: Any, path: Path) -> Path:
    """Write a picture with a palette, which halves the size of the file."""
    from io import BytesIO

    from PIL import Image

    drawn = BytesIO()
    figure.savefig(drawn, dpi=110)
    Image.open(drawn).convert("RGB").quantize(256).save(path, optimize=True)
    return path
