"""The stored result of an audit (see `cubie_flow.analysis.audit`), and its description in text."""

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
#: A run with a larger error has parted from its reference.
PARTED = 0.01
#: An error is reported as large if it is this many times the relative tolerance.
LARGE = 1000.0


def stored(data: Dataset) -> Dataset | None:
    """Return the stored result of the last audit, or None if there was none."""
    store = location(data)
    if store is None:
        return None
    try:
        if store.folder is not None and not (store.folder / store.group / GROUP).is_dir():
            return None
        return group(data, GROUP).load()
    except FlowError:
        return None


def sentences(table: Dataset) -> list[str]:
    """Return the result of an audit as sentences."""
    error = table["error"].values
    known = np.isfinite(error)
    resolved = known & (table["resolved"].values == 1)
    # A small error counts, even if the uncertainty of the reference is as large.
    small = known & ~resolved & (error <= PARTED)
    lost = known & ~resolved & ~small
    texts = []
    judged = resolved | small
    if judged.any():
        worst = int(np.flatnonzero(judged)[error[judged].argmax()])
        median = float(np.median(error[judged]))
        texts.append(
            f"median {median:.0e}, worst {error[worst]:.0e} ({_run(table, worst)}"
            f"{_ratio_to_rtol(table, error[worst])}), of {int(judged.sum()):,} runs"
        )
    if lost.any():
        text = (
            f"{int(lost.sum()):,} of {len(error):,} runs have no reference at their end: two "
            "tighter integrations also differ there, as they do for a chaotic system"
        )
        if "parted_at" in table:
            at = table["parted_at"].values[lost]
            if np.isfinite(at).any():
                text += f"; they part from it by 1 % at a time of {np.nanmedian(at):.3g} (median)"
        texts.append(text)
    texts += _others(table)
    failed = int((~known).sum())
    if failed:
        texts.append(f"the reference of {failed:,} runs failed")
    return texts


def reference(table: Dataset) -> str:
    """Return which references an audit used, as text; empty for audits of earlier versions."""
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


#: Other variables of an audit: whole numbers that differ, and errors.
_COUNTED = {
    "ends_differ": "end differently from their references",
    "counts_differ": "differ from their references in the number of events",
    "peaks_differ": "differ from their references in the number of maxima",
}
_MEASURED = {
    "error_over_time": "at the saved times",
    "metric_error": "of metrics",
    "misfit_error": "of misfits",
    "event_time_error": "of event times, as a share of the run",
}


def _others(table: Dataset) -> list[str]:
    """Return the result of an audit for numbers other than final values, as sentences."""
    texts = []
    for name, text in _MEASURED.items():
        if name not in table or not np.isfinite(values := table[name].values).any():
            continue
        worst = int(np.nanargmax(values))
        if name == "error_over_time" and values[worst] <= max(PARTED, float(table["error"].max())):
            continue
        texts.append(f"{text}: worst {values[worst]:.0e} ({_run(table, worst)})")
    for name, text in _COUNTED.items():
        if name in table and (values := table[name].values).any():
            first = int(np.flatnonzero(values)[0])
            texts.append(
                f"{int((values > 0).sum()):,} of {len(values):,} runs {text} ({_run(table, first)})"
            )
    return texts


def _run(table: Dataset, position: int) -> str:
    return f"run {int(table['run'].values[position])}"


def _ratio_to_rtol(table: Dataset, error: float) -> str:
    """Return the ratio of an error to the relative tolerance as text; empty unless it is large."""
    rtol = table.attrs.get("rtol")
    if not rtol or error < LARGE * rtol:
        return ""
    return f", {error / rtol:.0e} times controller.rtol"
