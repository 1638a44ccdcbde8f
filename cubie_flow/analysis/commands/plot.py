"""``cubie-results plot``: pictures of results."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import click

from cubie_flow.analysis import output
from cubie_flow.analysis.pictures import KINDS, drawer
from cubie_flow.errors import FlowError

_KINDS = "".join(f"\n  {kind:<15} {text}" for kind, (_, text) in KINDS.items())


def _words(_: Any, __: Any, text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _runs(_: Any, __: Any, text: str | None) -> int | list[int] | None:
    """Read ``8`` as how many, and ``8,`` or ``3,17`` as which."""
    if text is None:
        return None
    try:
        found = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        found = []
    if not found:
        raise FlowError(f"--runs is '{text}'; give how many, such as 8, or which, such as 3,17")
    return found if "," in text else found[0]


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
@click.option("--x", help="The quantity across.")
@click.option("--y", help="The quantity up.")
@click.option("--over", help="The quantity of a bifurcation diagram.")
@click.option("--after", type=float, help="Share of the times left out of it as start.")
@click.option("--log", is_flag=True, default=None, help="Time of bands, colour of a heatmap.")
@click.option("--reference", type=int, help="Which PATH is the truth, from 0.")
@output.json_option
def plot(
    kind: str, paths: tuple[str, ...], target: str | None, where: str | None, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Draw a picture (the help is made from `KINDS`)."""
    draw = drawer(kind)
    given = {name: value for name, value in options.items() if value is not None}
    taken = list(signature(draw).parameters)[1:]
    for name in given:
        if name not in taken:
            takes = ", ".join(f"--{option}" for option in taken) or "no options of its own"
            raise FlowError(f"{kind} takes no --{name}; it takes {takes}")
    data, several = _open(kind, paths, where)
    picture = draw(data if several else data[0], **given)
    study = str(data[0].attrs.get("study") or data[0].attrs.get("title") or "result")
    place = picture.save(target or Path(f"{study.replace('/', '_')}_{kind}.png"))
    if as_json:
        output.print_json({"picture": str(place), "kind": kind, "shows": picture.description})
    else:
        print(f"wrote {place}: {picture.description}")


def _open(kind: str, paths: tuple[str, ...], where: str | None) -> tuple[list[Any], bool]:
    """Return the results to draw, and whether the picture takes several."""
    import xarray

    from cubie_flow.analysis import jobs
    from cubie_flow.analysis.opening import open_results, open_runs

    several = kind == "work_precision"
    if not several and len(paths) > 1:
        raise FlowError(f"{kind} draws one result, and {len(paths)} are given")
    found: list[Any] = []
    for path in paths:
        if several and "::" not in path:
            opened = open_results(path)
            if isinstance(opened, xarray.DataTree):
                found += jobs.datasets(opened).values()
            else:
                found.append(opened)
        else:
            found.append(open_results(path) if kind == "placements" else open_runs(path))
    if where is not None:
        found = [data.flow.sel_runs(where) for data in found]
        if not all(data.sizes.get("run") for data in found):
            raise FlowError(f'no run satisfies --where "{where}"')
    return found, several
