"""What an audit found, as the store keeps it; `cubie_flow.analysis.audit` makes one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from cubie_flow.analysis.groups import group, location
from cubie_flow.batches.store_names import AUDIT
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from xarray import Dataset

GROUP = AUDIT
#: Where a run has parted from its reference.
PARTED = 0.01
#: Errors so many times the relative tolerance are worth a remark.
LARGE = 1000.0


def stored(data: Dataset) -> Dataset | None:
    """Return what the last audit of a result found, or None if there was none."""
    place = location(data)
    if place is None:
        return None
    try:
        if place.folder is not None and not (place.folder / place.group / GROUP).is_dir():
            return None
        return group(data, GROUP).load()
    except FlowError:
        return None


def sentences(table: Dataset) -> list[str]:
    """Say in words what an audit found."""
    error = table["error"].values
    known = np.isfinite(error)
    sure = known & (table["resolved"].values == 1)
    # An error as small as the reference's own is small, whatever it is exactly.
    small = known & ~sure & (error <= PARTED)
    lost = known & ~sure & ~small
    found = []
    judged = sure | small
    if judged.any():
        worst = int(np.flatnonzero(judged)[error[judged].argmax()])
        median = float(np.median(error[judged]))
        found.append(
            f"median {median:.0e}, worst {error[worst]:.0e} ({_run(table, worst)}"
            f"{_asked(table, error[worst])}), of {int(judged.sum()):,} runs"
        )
    if lost.any():
        text = (
            f"{int(lost.sum()):,} of {len(error):,} runs have no reference at their end: two "
            "tighter integrations differ there as well, as those of a chaotic system do"
        )
        if "parted_at" in table:
            at = table["parted_at"].values[lost]
            if np.isfinite(at).any():
                text += f"; they part from it by 1 % at a time of {np.nanmedian(at):.3g} (median)"
        found.append(text)
    found += _others(table)
    failed = int((~known).sum())
    if failed:
        found.append(f"the reference of {failed:,} runs failed")
    return found


def reference(table: Dataset) -> str:
    """Return in words what an audit compared with; empty if the table does not tell."""
    if "reference_method" not in table:
        return ""
    used = table["reference_method"]
    words = str(used.attrs.get("flag_meanings", "")).split()
    counts = np.bincount(used.values, minlength=len(words))
    names = [
        f"{word} ({count:,} runs)" if counts[0] < len(used) else word
        for word, count in zip(words, counts, strict=False)
        if count
    ]
    return f"{', '.join(names)}, {json.loads(table.attrs['reference']).get('text', '')}"


#: What else may differ, by its variable: whole numbers, and errors with what they are of.
_COUNTED = {
    "ends_differ": "end otherwise than their references",
    "counts_differ": "have other numbers of events than their references",
    "peaks_differ": "have other numbers of maxima than their references",
}
_MEASURED = {
    "error_over_time": "at the saved times",
    "metric_error": "of metrics",
    "misfit_error": "of misfits",
    "event_time_error": "of event times, as a part of the run",
}


def _others(table: Dataset) -> list[str]:
    """Say what an audit found of the numbers that are not final values."""
    found = []
    for name, text in _MEASURED.items():
        if name not in table or not np.isfinite(values := table[name].values).any():
            continue
        worst = int(np.nanargmax(values))
        if name == "error_over_time" and values[worst] <= max(PARTED, float(table["error"].max())):
            continue
        found.append(f"{text}: worst {values[worst]:.0e} ({_run(table, worst)})")
    for name, text in _COUNTED.items():
        if name in table and (values := table[name].values).any():
            first = int(np.flatnonzero(values)[0])
            found.append(
                f"{int((values > 0).sum()):,} of {len(values):,} runs {text} ({_run(table, first)})"
            )
    return found


def _run(table: Dataset, position: int) -> str:
    return f"run {int(table['run'].values[position])}"


def _asked(table: Dataset, error: float) -> str:
    """Say how much larger than the relative tolerance an error is, where it is far larger."""
    rtol = table.attrs.get("rtol")
    if not rtol or error < LARGE * rtol:
        return ""
    return f", {error / rtol:.0e} times controller.rtol"
