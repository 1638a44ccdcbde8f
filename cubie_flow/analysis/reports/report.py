"""What a report shows, and the file it is written to."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from cubie_flow.analysis import attributes, describe, groups, runs
from cubie_flow.analysis.pictures import drawer
from cubie_flow.analysis.pictures.reading import even_sample, saved
from cubie_flow.analysis.reports import charts, tables
from cubie_flow.analysis.runs import swept
from cubie_flow.errors import FlowError
from cubie_flow.process.safe_files import write_file

if TYPE_CHECKING:
    from xarray import Dataset

#: Width of a picture in inches, and dots per inch.
NARROW, SHARP = 6.4, 150
#: Most runs whose quantiles are computed, and the number of places from which they are taken.
SAMPLED, PLACES = 500_000, 500


@frozen
class Figure:
    """A picture in the page.

    Attributes
    ----------
    source
        PNG as a ``data:`` address.
    description
        For those who do not see it.
    caption
    """

    source: str
    description: str
    caption: str


def write_report(data: Dataset, target: str | Path) -> Path:
    """Write the report of a result: one file that needs no network and no other file.

    Parameters
    ----------
    data : xarray.Dataset
        A result opened with `cubie_flow.open_results`.
    target : path
        The ``.html`` file; an existing file is replaced.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    FlowError
        If the file cannot be written, or the dataset holds no runs.
    """
    path = Path(target)
    if path.suffix.lower() not in (".html", ".htm"):
        raise FlowError(f"the report is '{target}'; it must end in .html")
    text = page(data)
    try:
        write_file(path, text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlowError(f"the report '{target}' cannot be written: {reason}") from error
    return path


def page(data: Dataset) -> str:
    """Return the report as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cubie_flow.analysis", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    folder = files("cubie_flow.analysis.reports")
    style, script = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    # A browser runs this script and this style sheet, and nothing that a model might bring.
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src {_source_hash(style)}; script-src {_source_hash(script)}"
    )
    template = environment.get_template("report.html.j2")
    return template.render(content(data), style=style, script=script, policy=policy)


def _source_hash(text: str) -> str:
    """Return the source expression of a content security policy that allows a text."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def content(data: Dataset) -> dict[str, Any]:
    """Return everything that the page shows, by the names that its template uses."""
    attrs = data.attrs
    runs.length(data)
    summary = describe.summary(data)
    # What the pictures, charts and tables of a study that was interrupted are made of.
    written = runs.written(data)
    sample = even_sample(written.sizes["run"], SAMPLED, PLACES)
    model = attributes.model(data)
    memory_attrs, buffers = _memory(data)
    return {
        "title": str(attrs.get("title") or attrs.get("study") or "Result"),
        "study": str(attrs.get("study", "")),
        "summary": [fact for fact in summary.facts if fact[0] != "remedy"],
        "model": {name: str(model.get(name, "")) for name in ("description", "source")},
        "equations": tables.equations(model),
        "swept": tables.varied(written, summary.values["design"], sample),
        "settings": tables.settings(attributes.config_or_empty(data), attrs),
        "statuses": tables.statuses(summary.values),
        "numbers": tables.spread(written, sample),
        "figures": _figures(written),
        "explored": {
            "time": charts.over_time(written),
            "quantities": charts.over_quantities(written, sample),
        },
        "sampled": sample.size if sample.size < written.sizes["run"] else 0,
        "memory": tables.memory(memory_attrs),
        "compiler": tables.compiler(memory_attrs),
        "buffers": buffers,
        "times": tables.times(attributes.seconds(data)),
        "provenance": tables.provenance(attrs),
        "command": _command(attrs),
        "changed": bool(attrs.get("git_modified")),
        "config": str(attrs.get("config", "")),
    }


def _memory(data: Dataset) -> tuple[Mapping[str, Any], tables.Table | None]:
    """Return the attributes of ``/memory`` and the table of buffers; empty without a store."""
    try:
        return groups.memory(data).attrs, tables.buffers(groups.memory_table(data, "buffer"))
    except FlowError:
        return {}, None


def _command(attrs: Mapping[str, Any]) -> str:
    """Return the command line that reproduces the result; empty for a result made in Python."""
    if "overrides" not in attrs or not attrs.get("config"):
        return ""
    return shlex.join(["python", "-m", "cubie_flow", *map(str, attrs["overrides"])])


def _figures(data: Dataset) -> list[Figure]:
    """Return the pictures that suit the result."""
    varied = swept(data)
    many = data.sizes["run"] > 1
    if not data.sizes["run"]:
        return []
    pictures = [("overview", "What the result holds")]
    if len(varied) == 1 and many and saved(data):  # otherwise the overview shows this
        pictures.append(("bands", "The runs over time"))
    if len(varied) >= 2 and many:
        caption = f"Over {varied[0]} and {varied[1]}; the mean where several runs meet"
        pictures.append(("heatmap", caption))
    # A result made in memory, or before the times of shards were stored, has no timeline.
    with suppress(FlowError):
        if groups.memory(data).sizes.get("shard", 0) > 1:
            pictures.append(("stalls", "When the shards were solved and written"))
    return [_figure(kind, data, caption) for kind, caption in pictures]


def _figure(kind: str, data: Dataset, caption: str) -> Figure:
    picture = drawer(kind)(data)
    # On a narrower sheet letters are larger in relation to the rest, for phones.
    _, height = picture.get_size_inches()
    picture.set_size_inches(NARROW, 0.92 * height)
    source = base64.b64encode(picture.png(SHARP)).decode("ascii")
    return Figure(f"data:image/png;base64,{source}", picture.description, caption)
