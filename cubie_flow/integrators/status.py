"""How a run ends: every code of ``status`` with its meaning and remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen


@frozen
class End:
    """One way in which a run ends.

    Attributes
    ----------
    code : int
        Its number in ``status``.
    meaning : str
        What happened.
    remedy : str
        What to try; empty for a run that has not failed.
    """

    code: int
    meaning: str
    remedy: str

    @property
    def well(self) -> bool:
        """Whether the run has not failed."""
        return not self.remedy


#: Every end by name. Warnings, reports and docs/troubleshooting.md read this table.
ENDS = {
    "success": End(0, "the run reached the end of its duration", ""),
    "step_limit": End(
        1,
        "the run attempted controller.max_steps steps before it reached its end",
        "raise controller.max_steps, or use algorithm=auto if the model is stiff",
    ),
    "step_too_small": End(
        2,
        "the error exceeds the tolerance even with the smallest step: controller.dt_min or "
        "what the precision resolves",
        "lower controller.dt_min, or use a stiff method (algorithm=rodas5p)",
    ),
    "non_finite": End(
        3,
        "a state or a derivative is infinite or NaN even with the smallest step",
        "the solution grows without bound or leaves the model's domain; check the values",
    ),
    "solver_failed": End(
        4,
        "the equations of an implicit step have no solution even with the smallest step",
        "rescue=default solves such runs again with sturdier methods in float64",
    ),
    "event_stop": End(5, "an event ended the run, as the model says", ""),
    "event_limit": End(
        6,
        "more than 200 events happened at one time",
        "let the model stop or change its state so that the event does not recur at once",
    ),
    "event_queue": End(
        7,
        "an event with a delay had to wait more than controller.pending_events times at once, or "
        "its delay was negative or NaN",
        "raise controller.pending_events, or check the delay",
    ),
    "no_steady_state": End(
        8,
        "a dose with a steady state was repeated 8192 times, and the states did not repeat",
        "check that the doses of an interval can be eliminated within it; SS=0 with ADDL gives a "
        "known number of doses",
    ),
    "history_overflow": End(
        9,
        "a delay reaches further back than the steps that are kept",
        "raise controller.history, the number of kept steps, or loosen the tolerance",
    ),
    "short_delay": End(
        10,
        "a delay is negative, or shorter than the smallest step",
        "let the delay stay positive; a delay of 0 is the state itself",
    ),
}
#: Code by name, as stored in ``status``.
STATUS = {name: end.code for name, end in ENDS.items()}
#: Names of the ends of a run that has not failed.
WELL = tuple(name for name, end in ENDS.items() if end.well)


def ended_well(codes: Any) -> Any:
    """Return for each status code whether its run has not failed."""
    return np.isin(codes, [STATUS[name] for name in WELL])
