"""A design restored from its description in a store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cubie_flow.batches.design import Design
from cubie_flow.batches.designs import make_design
from cubie_flow.batches.subjects import Chosen, subjects_design
from cubie_flow.batches.swept import swept_design
from cubie_flow.errors import FlowError


def described_design(described: Mapping[str, Any]) -> Design:
    """Return the design that `Design.describe` described.

    Raises
    ------
    FlowError
        If that is impossible, because the file of a table is missing or has changed.
    """
    if "runs" in described:
        whole = described_design({k: v for k, v in described.items() if k != "runs"})
        return Chosen(whole, [int(run) for run in described["runs"]])
    kind, values = str(described["kind"]), described.get("values") or {}
    sweep, path = described.get("sweep") or [], described.get("path")
    own = own_size(described)

    def make(seed: int) -> Design:
        if kind == "subjects" and path is None:
            return subjects_design(described["table"], values, own, described["options"])
        return make_design(kind, values, own, seed, path, described.get("options"))

    seed = int(described.get("seed", 0))
    design = swept_design(sweep, seed, make) if sweep else make(seed)
    hashed = design.describe().get("rows_hash")
    if hashed != described.get("rows_hash"):
        raise FlowError(f"'{path}' no longer holds the rows that it held when the study began")
    return design


#: Kinds of designs whose number of runs is ``batch.size``.
_SIZED = ("sobol", "latin_hypercube", "table", "subjects")


def own_size(described: Mapping[str, Any]) -> int | None:
    """Return the ``batch.size`` of a described design; None if its kind takes none.

    Parameters
    ----------
    described : mapping
        What `Design.describe` returned. Its ``size`` counts the runs of the sweep around it too.
    """
    if described["kind"] not in _SIZED or "size" not in described:
        return None
    sweep = described.get("sweep") or []
    return int(described["size"]) // math.prod(make_design("zip", axis).size for axis in sweep)
