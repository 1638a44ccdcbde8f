"""How a run ends: the codes of ``status``, and which of them are a good end."""

from __future__ import annotations

from typing import Any

import numpy as np

#: How a run ended, as stored in ``status``.
STATUS = {
    "success": 0,
    "step_limit": 1,
    "step_too_small": 2,
    "non_finite": 3,
    "solver_failed": 4,
    "event_stop": 5,
    "event_limit": 6,
}
#: The ends of a run that has not failed.
WELL = ("success", "event_stop")


def ended_well(codes: Any) -> Any:
    """Return for each status code whether its run has not failed."""
    return np.isin(codes, [STATUS[name] for name in WELL])
