"""``cubie-results plot``: draw pictures of results."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import click

from cubie_flow.analysis import output
from cubie_flow.analysis.pictures import KINDS, drawer
from cubie_flow.errors import FlowError
from cubie_flow.storage.folders import check_study_name

_KINDS = "".join(f"\n  {kind:<15} {text}" for kind, (_, text) in KINDS.items())


def _words(_: Any, __: Any, text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _runs(_: Any, __: Any, text: str | None) -> int | list[int] | None:
    """Read ``8`` as a number of runs, and ``8,`` or ``3,17`` as the runs themselves."""
    if text is None:
        return None
    try:
        runs = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        runs = []
    if not runs:
        raise FlowError(f"--runs is '{text}'; give how many, such as 8, or which, such as 3,17")
    return runs if "," in text else runs[0]


def _numbers(_: Any, __: Any, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(word) for word in text.split(",")]
    except ValueError:
        raise FlowError(f"--quantiles is '{text}'; give numbers such as 0.05,0.5,0.95") from None


@click.command(help=f"Draw a picture of PATH, or of several.\n\n\b\nKIND is one of{_KINDS}")
@click.argument("kind")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "-o", "--output", "target", metavar="FILE",
    help="A .png, .svg or .pdf; by default <study>_<kind>.png in this folder.",
)  # fmt: skip
@click.option("--where", metavar="CONDITION", help='Only runs such as "rho > 24".')
@click.option("--variables", callback=_words, metavar="X,Y", help="Saved variables to draw.")
@click.option("--variable", help="The saved variable of a bifurcation diagram.")
@click.option("--runs", callback=_runs, metavar="N", help="How many runs, or which: 3,17")
@click.option("--quantiles", callback=_numbers, metavar="Q,Q,Q", help="Of bands: 0.05,0.5,0.95")
@click.option("--metric", help="The number of each run that a heatmap draws.")
@click.option("--x", help="The quantity on the horizontal axis.")
@click.option("--y", help="The quantity on the vertical axis.")
@click.option("--over", help="The quantity of a bifurcation diagram.")
@click.option("--after", type=float, help="Share of the times that it skips at the start.")
@click.option(
    "--log", is_flag=True, default=None, help="Logarithmic time of bands, colours of a heatmap."
)
@click.option("--reference", type=int, help="Which PATH is the reference, counted from 0.")
@output.json_option
def plot(
    kind: str, paths: tuple[str, ...], target: str | None, where: str | None, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Draw a picture; `KINDS` gives the text of the help."""
    draw = drawer(kind)
    given = {name: value for name, value in options.items() if value is not None}
    accepted = list(signature(draw).parameters)[1:]
    for name in given:
        if name not in accepted:
            takes = ", ".join(f"--{option}" for option in accepted) or "no options of its own"
            raise FlowError(f"--{name} is not an option of {kind}, which takes {takes}")
    data, several = _open(kind, paths, where)
    picture = draw(data if several else data[0], **given)
    file = picture.save(target or Path(f"{_name(data[0])}_{kind}.png"))
    if as_json:
        output.print_json({"picture": str(file), "kind": kind, "shows": picture.description})
    else:
        print(f"wrote {file}: {picture.description}")


def _name(data: Any) -> str:
    """Return the name of a study as part of the name of a file."""
    study = str(data.attrs.get("study") or data.attrs.get("title") or "result").replace("/", "_")
    try:
        check_study_name(study)
    except FlowError:
        return "result"
    return study


def _open(kind: str, paths: tuple[str, ...], where: str | None) -> tuple[list[Any], bool]:
    """Return the results to draw, and whether the picture takes several."""
    import xarray

    from cubie_flow.analysis import jobs
    from cubie_flow.analysis.opening import open_results, open_runs

    several = kind == "work_precision"
    if not several and len(paths) > 1:
        raise FlowError(f"{kind} draws one result, but {len(paths)} are given")
    results: list[Any] = []
    for path in paths:
        if several and "::" not in path:
            opened = open_results(path)
            if isinstance(opened, xarray.DataTree):
                results += jobs.datasets(opened).values()
            else:
                results.append(opened)
        else:
            results.append(open_results(path) if kind == "placements" else open_runs(path))
    if where is not None:
        results = [data.flow.sel_runs(where) for data in results]
        if not all(data.sizes.get("run") for data in results):
            raise FlowError(f'no run satisfies --where "{where}"')
    return results, several
