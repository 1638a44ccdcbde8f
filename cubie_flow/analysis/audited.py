"""What an audit found, as the store keeps it; `cubie_flow.analysis.audit` makes one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cubie_flow.analysis.groups import group, location
from cubie_flow.errors import FlowError
from cubie_flow.store_names import AUDIT

if TYPE_CHECKING:
    from xarray import Dataset

GROUP = AUDIT
#: Where a run has parted from its reference.
PARTED = 0.01


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
    told = []
    judged = sure | small
    if judged.any():
        worst = int(np.flatnonzero(judged)[error[judged].argmax()])
        median = float(np.median(error[judged]))
        told.append(
            f"median {median:.0e}, worst {error[worst]:.0e} (run {int(table['run'].values[worst])})"
            f", of {int(judged.sum()):,} runs"
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
        told.append(text)
    failed = int((~known).sum())
    if failed:
        told.append(f"the reference of {failed:,} runs failed")
    return told
