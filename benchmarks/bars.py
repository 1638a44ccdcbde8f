"""The bars: required ratios and times, and whether a record reaches them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

Record = Mapping[str, Any]
#: Peers that are parts of cubie_flow.
OURS = ("kernel", "solve", "command")
#: Largest ratio of two errors that count as equal.
EQUAL = 1.05


@frozen
class Bar:
    """A required figure.

    Parameters
    ----------
    text : str
    needed, reached : float
        `reached` is NaN if nothing was measured.
    unit : str
        ``x`` or ``%`` for a figure that must be at least `needed`; any other figure must be at
        most `needed`.
    note : str
    """

    text: str
    needed: float
    reached: float
    unit: str
    note: str = ""

    @property
    def verdict(self) -> str:
        """``yes``, ``no`` or ``not measured``."""
        if math.isnan(self.reached):
            return "not measured"
        good = self.reached >= self.needed if self.unit in "x%" else self.reached <= self.needed
        return "yes" if good else "no"


def timed(case: Record) -> list[Record]:
    """Return the rows of a case that have a time and an error."""
    return [row for row in case["rows"] if "us" in row and not math.isnan(row["error"])]


def goal(case: Record) -> float:
    """Return the error to reach: that of the first entry, which is ours at the nominal setting."""
    first = case["rows"][0]
    return float(first.get("error", math.nan))


def matched(rows: list[Record], error: float) -> Record | None:
    """Return the fastest row with at most this error, or the most accurate row if there is none."""
    if not rows:
        return None
    good = [row for row in rows if row["error"] <= EQUAL * error]
    if good:
        return min(good, key=lambda row: row["us"])
    return min(rows, key=lambda row: row["error"])


def best_of(case: Record) -> dict[str, Record]:
    """Return the row of each solver at the error to reach, see `matched`; ours is ``kernel``."""
    error, rows = goal(case), timed(case)
    peers = dict.fromkeys(row["peer"] for row in rows if row["peer"] not in OURS)
    rows_of = {
        peer: matched([row for row in rows if row["peer"] == peer], error)
        for peer in ("kernel", *peers)
    }
    return {peer: row for peer, row in rows_of.items() if row is not None}


def ratio(case: Record) -> tuple[float, str]:
    """Return the time of the best peer relative to ours, and the name of that peer."""
    best = best_of(case)
    ours = best.pop("kernel", None)
    if ours is None or not best:
        return math.nan, ""
    row = min(
        (row for row in best.values() if row["error"] <= EQUAL * goal(case)),
        key=lambda row: row["us"],
        # If no peer reaches the error, the most accurate one is compared.
        default=min(best.values(), key=lambda row: row["error"]),
    )
    return row["us"] / ours["us"], f"{row['entry']} ({row['error']:.0e})"


#: Required ratio and description of cases, by name.
_RATIOS = {
    "lorenz_rk4_f64_16384": (8.0, "Lorenz, fixed RK4, float64, 16k runs"),
    "lorenz_rk4_f64_131072": (8.0, "Lorenz, fixed RK4, float64, 131k runs"),
    "lorenz_f64_16384": (7.0, "Lorenz, adaptive 1e-8, float64, 16k runs"),
    "lorenz_f64_131072": (7.0, "Lorenz, adaptive 1e-8, float64, 131k runs"),
    "lorenz_1e-6_f32_16384": (12.0, "Lorenz, adaptive 1e-6, float32, 16k runs"),
    "lorenz_1e-10_f64_16384": (3.0, "Lorenz, adaptive 1e-10, float64, 16k runs"),
    "lorenz_1e-12_f64_16384": (3.0, "Lorenz, adaptive 1e-12, float64, 16k runs"),
    "robertson_f64_1000": (8.0, "Robertson"),
    "hires_f64_1000": (8.0, "HIRES"),
    "beeler_reuter_f64_1000": (8.0, "Beeler-Reuter, a cardiac cell"),
    "hodgkin_huxley_f64_1000": (8.0, "Hodgkin-Huxley"),
    "lorenz96_400_f64_256": (2.0, "Lorenz-96, 400 states"),
    "brusselator_1d_f64_128": (2.0, "Brusselator in one dimension, 400 states"),
}


def bars(record: Record) -> Iterator[Bar]:
    """Yield every bar with the figure of a record."""
    cases = {case["name"]: case for case in record["cases"]}
    for name, (needed, text) in _RATIOS.items():
        reached, peer = ratio(cases[name]) if name in cases else (math.nan, "")
        yield Bar(text, needed, reached, "x", peer and f"best peer: {peer}")

    def figure(group: str, name: str) -> float:
        value = record["figures"].get(group, {}).get(name, math.nan)
        return value if isinstance(value, int | float) else math.inf

    small = figure("small_batches", "ratio")
    yield Bar("64 runs compared with 16k, core time per run", 2.0, small, "times")
    yield Bar("`solve()` adds to its kernel", 5.0, figure("solve_overhead", "added_ms"), "ms")
    yield Bar("default command, cold cache", 9.0, figure("first_result", "cold_s"), "s")
    yield Bar("default command, warm cache", 4.0, figure("first_result", "warm_s"), "s")
    yield Bar("`import cubie_flow`", 0.15, figure("first_result", "import_s"), "s")
    compiled = (("lorenz", 3, 3.0), ("lorenz96_40", 40, 6.0), ("lorenz96_400", 400, 15.0))
    for problem, states, needed in compiled:
        for method in ("tsit5", "rodas5p"):
            for target in ("cpu", "sm_90"):
                seconds = figure("compile_times", f"{method}_{problem}_{target}")
                yield Bar(f"compile {method}, {states} states, {target}", needed, seconds, "s")
    for precision in ("float64", "float32"):
        for method in ("rk4", "tsit5"):
            fraction = figure("efficiency", f"fraction_of_peak_{method}_{precision}")
            yield Bar(f"{method} of the CPU's peak, {precision}", 50.0, 100 * fraction, "%")
    each = [figure("sizes", f"ns_an_attempt_and_nonzero_{states}") for states in (40, 400)]
    yield Bar("400 states compared with 40, time per non-zero", 2.0, each[1] / each[0], "times")
    speed = figure("scaling", "speed_of_all_relative_to_one")
    yield Bar("two threads compared with one", 1.9, speed, "x")
