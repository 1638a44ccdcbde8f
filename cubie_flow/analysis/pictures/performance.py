"""Pictures of the cost of results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from cubie_flow.analysis.attributes import config_or_empty, design
from cubie_flow.analysis.groups import memory as memory_group
from cubie_flow.analysis.pictures.reading import Array, as_float, in_order
from cubie_flow.analysis.pictures.style import (
    BLUE,
    COLOURS,
    GREY,
    LINES,
    MARKERS,
    ORANGE,
    RED,
    SMALL,
    Picture,
    tidy,
)
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from xarray import Dataset

ERROR = "error at the end, relative to the largest value of each state (median of the runs)"


@frozen
class Work:
    """Cost and error of one result.

    Attributes
    ----------
    name
        Method and precision; results with the same name are joined by a line.
    error
        Relative error.
    costs
        Cost by the label of its axis.
    """

    name: str
    error: float
    costs: Mapping[str, float]


def work_precision(results: Sequence[Dataset], reference: int | None = None) -> Picture:
    """Draw the error of several results of one study over what they cost.

    Parameters
    ----------
    results : sequence of xarray.Dataset
        At least two results of one study with other methods or tolerances.
    reference : int, optional
        Index of the result that is taken as exact and not drawn; by default the result with the
        highest precision, then the tightest tolerance, then the most steps.

    Raises
    ------
    FlowError
        If there are fewer than two, or their runs are not the same.
    """
    if len(results) < 2:
        raise FlowError(
            f"work_precision needs at least two results of one study, with other methods or "
            f"tolerances, and got {len(results)}"
        )
    truth = _most_exact(results) if reference is None else reference
    if not 0 <= truth < len(results):
        raise FlowError(
            f"reference is {truth}; it must be the index of a result, 0 to {len(results) - 1}"
        )
    works = [
        Work(_name(data), _error(data, results[truth]), _costs(data))
        for i, data in enumerate(results)
        if i != truth
    ]
    exact = results[truth]
    picture = Picture(9.0, 4.8)
    draw_work(picture, {"": works}, ERROR)
    title = exact.attrs.get("title", "")
    picture.headed(f"{title}: against {_name(exact)}, {_steps(exact):,.0f} steps per run")
    picture.description = f"{title}: error over cost of {len(works)} results; " + "; ".join(
        f"{work.name} {work.error:.1e}" for work in works[:12]
    )
    return picture


def draw_work(picture: Picture, results: Mapping[str, Iterable[Work]], error: str) -> None:
    """Draw error over each cost, with one row of panels per problem.

    Parameters
    ----------
    picture : Picture
    results : mapping
        Costs and errors by the name of the problem.
    error : str
        Description of the error, for the legend.
    """
    rows = {problem: list(works) for problem, works in results.items()}
    costs = list(dict.fromkeys(cost for works in rows.values() for w in works for cost in w.costs))
    names = list(dict.fromkeys(w.name for works in rows.values() for w in works))
    lines = picture.subplots(len(rows), len(costs), squeeze=False, sharey="row")
    for panels, (problem, works) in zip(lines, rows.items(), strict=True):
        for panel, cost in zip(panels, costs, strict=True):
            for number, name in enumerate(names):
                points = sorted((w.costs[cost], w.error) for w in works if w.name == name)
                points = [p for p in points if np.isfinite(p).all() and min(p) > 0]
                if points:
                    panel.loglog(*zip(*points, strict=True), label=name, ms=5, lw=1.2,
                                 **_look(number))  # fmt: skip
            panel.set_xlabel(cost)
            panel.set_title(problem, fontsize=10)
            tidy(panel)
        panels[0].set_ylabel("relative error")
    handles: dict[str, Any] = {}
    for panel in lines.ravel():
        for handle, text in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    if handles:
        picture.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=5,
            fontsize=SMALL, frameon=False, title=error, title_fontsize=SMALL,
        )  # fmt: skip


def _look(number: int) -> dict[str, Any]:
    count = len(COLOURS)
    return {
        "color": COLOURS[number % count],
        "marker": MARKERS[number % len(MARKERS)],
        "ls": LINES[number // count % len(LINES)],
    }


def _name(data: Dataset) -> str:
    return f"{data.attrs.get('algorithm', 'result')}, {_precision(data)}"


def _finals(data: Dataset) -> list[str]:
    names = in_order(data, "_final")
    if not names:
        raise FlowError("a result without final values cannot be compared")
    return names


def _precision(data: Dataset) -> str:
    return str(data[_finals(data)[0]].dtype)


def _steps(data: Dataset) -> float:
    return float((as_float(data["steps"]) + as_float(data["rejected"])).mean())


def _most_exact(results: Sequence[Dataset]) -> int:
    """Return the index of the result with the highest precision, tightest tolerance, most steps."""

    def rank(i: int) -> tuple[str, float, float]:
        # "float64" sorts after "float32".
        return _precision(results[i]), -_tolerance(results[i]), _steps(results[i])

    return max(range(len(results)), key=rank)


def _tolerance(data: Dataset) -> float:
    """Return the smallest relative tolerance; infinite if it is unknown."""
    rtol = (config_or_empty(data).get("controller") or {}).get("rtol", float("inf"))
    return float(min(rtol.values()) if isinstance(rtol, Mapping) else rtol)


def _costs(data: Dataset) -> dict[str, float]:
    costs = {"steps per run, with rejected ones": _steps(data)}
    if "seconds_kernel" in data.attrs:
        seconds = float(data.attrs["seconds_kernel"])
        # The time is that of all runs of the study, even if `data` holds only some of them.
        runs = design(data).get("size", data.sizes["run"])
        costs = {"time per run (us)": 1e6 * seconds / runs, **costs}
    return costs


def _error(data: Dataset, truth: Dataset) -> float:
    """Return the median over the runs of the largest relative error of a final state."""
    names = _finals(truth)
    if data.sizes["run"] != truth.sizes["run"] or _finals(data) != names:
        raise FlowError(
            f"the results are not of one study: {data.sizes['run']:,} runs of "
            f"{', '.join(_finals(data))} and {truth.sizes['run']:,} of {', '.join(names)}"
        )
    for name, values in truth.coords.items():
        if values.dims == ("run",) and (
            name not in data.coords or not np.array_equal(as_float(data[name]), as_float(values))
        ):
            raise FlowError(f"the results are not of one study: their runs differ in '{name}'")
    worst: Array = np.zeros(data.sizes["run"])
    for name in names:
        expected = as_float(truth[name])
        largest = np.nanmax(np.abs(expected)) or 1.0
        worst = np.maximum(worst, np.abs(as_float(data[name]) - expected) / largest)
    good = worst[np.isfinite(worst)]
    return float(np.median(good)) if good.size else float("nan")


def stalls(data: Dataset) -> Picture:
    """Draw when the shards were solved, encoded and written, and the times of waiting.

    Parameters
    ----------
    data : xarray.Dataset
        A result opened from its store, or the group ``/memory`` of one.

    Raises
    ------
    FlowError
        If the store does not hold the times of its shards.
    """
    from matplotlib.ticker import MaxNLocator

    memory = data if "kernel_seconds" in data else memory_group(data)
    if "solve_began" not in memory:
        raise FlowError("this result holds no times of its shards, so there is no timeline")
    memory = memory.sortby("solve_began").load()
    phases = _phases(memory)
    rows = np.arange(memory.sizes["shard"])
    picture = Picture(8.0, float(np.clip(2.2 + 0.16 * len(rows), 3.0, 9.0)))
    panel = picture.subplots()
    for text, left, width, colour, hatch in phases:
        panel.barh(rows, np.maximum(width, 0), left=left, color=colour, label=text, height=0.8,
                   hatch=hatch, edgecolor="white", lw=0)  # fmt: skip
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panel.set_ylabel("shard, in the order of solving")
    panel.set_xlabel("time since the first shard started (s)")
    tidy(panel)
    picture.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4,
                   frameon=False, fontsize=9)  # fmt: skip
    waits = _waits(memory)
    counted = f"{len(rows)} shards" if len(rows) > 1 else "one shard"
    picture.headed(f"{counted}{waits}")
    totals = ", ".join(
        f"{width.sum():.2f} s {text}" for text, _, width, _, _ in phases if text != _WAITING
    )
    end = max((left + width).max() for _, left, width, _, _ in phases)
    picture.description = f"Timeline of {counted} over {end:.2f} s: {totals}{waits}"
    return picture


_WAITING = "preparing, waiting for the writer"


def _phases(memory: Dataset) -> list[tuple[str, Array, Array, str, str]]:
    """Return label, start, duration, colour and hatching of the phases, with times per shard."""
    began, wrote = as_float(memory["solve_began"]), as_float(memory["write_began"])
    began, wrote = began - began.min(), wrote - began.min()
    solved = as_float(memory["kernel_seconds"]) + as_float(memory["transfer_seconds"])
    encoded, written = as_float(memory["encode_seconds"]), as_float(memory["write_seconds"])
    return [
        ("solving", began, solved, BLUE, ""),
        (_WAITING, began + solved, wrote - began - solved, GREY, "...."),
        ("encoding", wrote, encoded, ORANGE, "////"),
        ("writing", wrote + encoded, written, RED, "xxxx"),
    ]


def _waits(memory: Dataset) -> str:
    try:
        solver = float(memory.attrs["solver_waited_seconds"])
        writer = float(memory.attrs["writer_waited_seconds"])
    except KeyError:
        return ""
    return f"; the solver waited {solver:.2f} s, the writer {writer:.2f} s"
