"""Pictures of what a result cost."""

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
    """What one result cost and how good it is.

    Attributes
    ----------
    name
        Of the line it belongs to: method and precision.
    error
        Relative.
    costs
        By the label of the axis.
    """

    name: str
    error: float
    costs: Mapping[str, float]


def work_precision(results: Sequence[Dataset], reference: int | None = None) -> Picture:
    """Draw the error of several results of one study over what they cost.

    Parameters
    ----------
    results : sequence of xarray.Dataset
        At least two, with the same runs: the study with other methods or tolerances.
    reference : int, optional
        Which of them is taken for the truth and left out; by default the one of the highest
        precision, the tightest tolerance that its configuration tells, and the most steps.

    Raises
    ------
    FlowError
        If there are fewer than two, or their runs are not the same.
    """
    if len(results) < 2:
        raise FlowError(
            f"work and precision compare results, and {len(results)} is given; give several of "
            "one study, with other methods or tolerances"
        )
    truth = _most_exact(results) if reference is None else reference
    if not 0 <= truth < len(results):
        raise FlowError(f"reference is {truth}; it is one of the results, 0 to {len(results) - 1}")
    found = [
        Work(_name(data), _error(data, results[truth]), _costs(data))
        for i, data in enumerate(results)
        if i != truth
    ]
    exact = results[truth]
    picture = Picture(9.0, 4.8)
    draw_work(picture, {"": found}, ERROR)
    title = exact.attrs.get("title", "")
    picture.headed(f"{title}: against {_name(exact)}, {_steps(exact):,.0f} steps a run")
    picture.description = f"{title}: error over cost of {len(found)} results; " + "; ".join(
        f"{work.name} {work.error:.1e}" for work in found[:12]
    )
    return picture


def draw_work(picture: Picture, found: Mapping[str, Iterable[Work]], error: str) -> None:
    """Draw error over each cost, a row of panels a problem; a line joins what has one name.

    Parameters
    ----------
    found : mapping
        By the name of the problem.
    error : str
        What the error is.
    """
    rows = {problem: list(works) for problem, works in found.items()}
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
    """Return which has the highest precision, then the tightest tolerance, then most steps."""

    def rank(i: int) -> tuple[str, float, float]:
        # "float64" sorts after "float32".
        return _precision(results[i]), -_tolerance(results[i]), _steps(results[i])

    return max(range(len(results)), key=rank)


def _tolerance(data: Dataset) -> float:
    """Return the relative tolerance; infinite where the result does not say."""
    rtol = (config_or_empty(data).get("controller") or {}).get("rtol", float("inf"))
    return float(min(rtol.values()) if isinstance(rtol, Mapping) else rtol)


def _costs(data: Dataset) -> dict[str, float]:
    costs = {"steps a run, with rejected ones": _steps(data)}
    if "seconds_kernel" in data.attrs:
        seconds = float(data.attrs["seconds_kernel"])
        # Of all runs of the study, however many of them are here.
        runs = design(data).get("size", data.sizes["run"])
        costs = {"time of a run (us)": 1e6 * seconds / runs, **costs}
    return costs


def _error(data: Dataset, truth: Dataset) -> float:
    """Return the median over the runs of the largest relative error of a state at the end."""
    names = _finals(truth)
    if data.sizes["run"] != truth.sizes["run"] or _finals(data) != names:
        raise FlowError(
            f"the results are not of one study: {data.sizes['run']:,} runs of "
            f"{', '.join(_finals(data))} beside {truth.sizes['run']:,} of {', '.join(names)}"
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
    """Draw when the shards were solved, encoded and written, and who waited for whom.

    Parameters
    ----------
    data : xarray.Dataset
        A result opened from its store, or the group ``/memory`` of one.

    Raises
    ------
    FlowError
        If no times of shards were kept.
    """
    from matplotlib.ticker import MaxNLocator

    memory = data if "kernel_seconds" in data else memory_group(data)
    if "solve_began" not in memory:
        raise FlowError("this result kept no times of its shards, so there is no timeline")
    memory = memory.sortby("solve_began").load()
    began = as_float(memory["solve_began"])
    solved = as_float(memory["kernel_seconds"]) + as_float(memory["transfer_seconds"])
    wrote = as_float(memory["write_began"])
    encoded, written = as_float(memory["encode_seconds"]), as_float(memory["write_seconds"])
    zero = began.min()
    rows = np.arange(len(began))
    picture = Picture(8.0, float(np.clip(2.2 + 0.16 * len(rows), 3.0, 9.0)))
    panel = picture.subplots()
    bars: list[tuple[str, Array, Array, str, str]] = [
        ("solving", began - zero, solved, BLUE, ""),
        (
            "getting ready, waiting for the writer",
            began - zero + solved,
            wrote - began - solved,
            GREY,
            "....",
        ),
        ("encoding", wrote - zero, encoded, ORANGE, "////"),
        ("writing", wrote - zero + encoded, written, RED, "xxxx"),
    ]
    for text, left, width, colour, hatch in bars:
        panel.barh(rows, np.maximum(width, 0), left=left, color=colour, label=text, height=0.8,
                   hatch=hatch, edgecolor="white", lw=0)  # fmt: skip
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panel.set_ylabel("shard, as solved")
    panel.set_xlabel("time since the first shard was begun (s)")
    tidy(panel)
    picture.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4,
                   frameon=False, fontsize=9)  # fmt: skip
    waits = _waits(memory)
    counted = f"{len(rows)} shards" if len(rows) > 1 else "one shard"
    picture.headed(f"{counted}{waits}")
    picture.description = (
        f"Timeline of {counted} over {(wrote + encoded + written).max() - zero:.2f} s: "
        f"{solved.sum():.2f} s solving, {encoded.sum():.2f} s encoding, {written.sum():.2f} s "
        f"writing{waits}"
    )
    return picture


def _waits(memory: Dataset) -> str:
    try:
        solver = float(memory.attrs["solver_waited_seconds"])
        writer = float(memory.attrs["writer_waited_seconds"])
    except KeyError:
        return ""
    return f"; the solver waited {solver:.2f} s, the writer {writer:.2f} s"
