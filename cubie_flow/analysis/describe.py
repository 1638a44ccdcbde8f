"""The summary of a result, as text and as values."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from cubie_flow.analysis import attributes, runs
from cubie_flow.analysis.audited import sentences, stored
from cubie_flow.integrators.status import ENDS
from cubie_flow.storage.schema import UNWRITTEN
from cubie_flow.study.tolerance_record import faint_sentence, recorded_faint

if TYPE_CHECKING:
    from xarray import Dataset

#: What to do about runs that did not end well.
REMEDIES: Mapping[str, str] = {
    **{name: end.remedy for name, end in ENDS.items() if end.remedy},
    "not_written": "the study was interrupted; cubie-flow resume=FOLDER solves the remaining runs",
}


@frozen
class Summary:
    """A summary of a result; it prints as lines.

    Attributes
    ----------
    facts
        Name and text of each line.
    values
        The same information as numbers, texts, lists and mappings.
    """

    facts: tuple[tuple[str, str], ...]
    values: Mapping[str, Any]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.facts)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in self.facts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = (
            f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
            f'<td style="text-align:left">{escape(text)}</td></tr>'
            for name, text in self.facts
        )
        return f"<table>{''.join(rows)}</table>"


def summary(data: Dataset) -> Summary:
    """Return the summary of a result, or of runs selected from one.

    Reads the status and the step counts of every run.

    Raises
    ------
    FlowError
        If the dataset holds neither runs of a study nor placements.
    """
    if "placement" in data.sizes:
        return _of_placements(data)
    attrs = data.attrs
    total = runs.length(data)
    counts = runs.status_counts(data)
    steps = {n: _mean(data, n) for n in ("steps", "rejected") if n in data.variables}
    design = attributes.design(data)
    varied = list(design.get("values", {}))
    values: dict[str, Any] = {
        "study": attrs.get("study"),
        "title": attrs.get("title"),
        "algorithm": attrs.get("algorithm"),
        "precision": attributes.config_or_empty(data).get("precision"),
        "runs": total,
        "times": int(data.sizes.get("time", 0)),
        "design": design.get("kind"),
        "varied": varied,
        "statuses": counts,
        "mean_steps": steps.get("steps"),
        "mean_rejected": steps.get("rejected"),
        "remedies": {name: REMEDIES[name] for name in counts if name in REMEDIES},
        "device": attrs.get("device"),
        "created": attrs.get("created"),
        "version": attrs.get("version_cubie_flow"),
        "git_commit": attrs.get("git_commit"),
        "seconds": attributes.seconds(data),
        "overrides": list(attrs.get("overrides", [])),
        "audit": _audited(data),
        "below_atol": faint_sentence(recorded_faint(attrs), attrs, total),
    }
    return Summary(tuple(_facts(values)), values)


def _of_placements(data: Dataset) -> Summary:
    """Return the summary of a placement study."""
    attrs, names = data.attrs, [str(name) for name in data["placement"].values]
    values: dict[str, Any] = {
        "study": attrs.get("study"),
        "title": attrs.get("title"),
        "algorithm": attrs.get("algorithm"),
        "precision": attrs.get("precision"),
        "placements": names,
        "baseline": attrs.get("baseline"),
        "ranked_by": attrs.get("ranked_by"),
        "device": attrs.get("device"),
        "created": attrs.get("created"),
    }
    facts = [
        ("study", f"{values['study'] or 'a study'}: {values['title']}, {values['precision']}"),
        ("placements", f"{len(names):,}, ranked by {values['ranked_by']}"),
        ("best", names[0] if names else "none"),
        ("its own", str(values["baseline"])),
        ("device", str(values["device"])),
        ("made", str(values["created"])),
    ]
    return Summary(tuple(facts), values)


def _facts(v: Mapping[str, Any]) -> list[tuple[str, str]]:
    method = ", ".join(str(v[k]) for k in ("title", "algorithm", "precision") if v[k])
    facts = [("study", f"{v['study'] or 'a study'}: {method}")]
    kind = str(v["design"] or "").replace("_", " ")
    over = f" ({kind} over {', '.join(v['varied']) or 'nothing'})" if kind else ""
    times = f", {v['times']:,} saved times" if v["times"] else ", final values"
    facts.append(("runs", f"{v['runs']:,}{over}{times}"))
    facts.append(("ended", ", ".join(f"{name} {n:,}" for name, n in v["statuses"].items())))
    facts += [("remedy", f"{name}: {text}") for name, text in v["remedies"].items()]
    if v["mean_steps"] is not None:
        more = f", {v['mean_rejected']:,.1f} more rejected" if v["mean_rejected"] else ""
        facts.append(("steps", f"{v['mean_steps']:,.1f} per run{more}"))
    if v["seconds"].get("total"):
        kernel = v["seconds"].get("kernel", 0.0)
        facts.append(("time", f"{v['seconds']['total']:.2f} s, {kernel:.2f} of it solving"))
    facts += [("audited error", text) for text in v["audit"]]
    facts += [("note", v["below_atol"])] if v["below_atol"] else []
    if v["device"]:
        facts.append(("device", str(v["device"])))
    if v["created"]:
        commit = f", commit {str(v['git_commit'])[:9]}" if v["git_commit"] else ""
        version = f" by cubie_flow {v['version']}" if v["version"] else ""
        facts.append(("made", f"{v['created']}{version}{commit}"))
    return facts


def _audited(data: Dataset) -> list[str]:
    """Return what the last audit of a result found; nothing for a selection of its runs."""
    table = stored(data) if runs.is_whole(data) else None
    return [] if table is None else sentences(table)


def _mean(data: Dataset, name: str) -> float | None:
    """Return the mean of a count per run, over the runs that are written."""
    total = count = 0
    for part in runs.blocks(data):
        known = runs.column(data, "status", part) != UNWRITTEN if "status" in data else slice(None)
        values = runs.column(data, name, part)[known]
        total += int(values.sum(dtype=np.int64))
        count += values.size
    return total / count if count else None
