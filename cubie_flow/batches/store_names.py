"""Names that the store of a study gives its own arrays, axes and groups.

They are defined here, below the rooms that write them, because a quantity of a model must not have
such a name: its array would replace an array of the store, or be replaced by it.
"""

from __future__ import annotations

from collections.abc import Mapping

RUN, TIME, OCCURRENCE, OBSERVATION = "run", "time", "occurrence", "observation"
#: Arrays of a table of subjects.
SUBJECT, OBSERVATION_TIME, OBSERVED = "subject", "observation_time", "DV"
STATUS, STEPS, REJECTED, ATTEMPT = "status", "steps", "rejected", "attempt"
TRAJECTORY_SAVED, LOGLIK, BATCH_SEED = "trajectory_saved", "loglik", "batch_seed"
MEMORY, CONFIG, CHECKSUMS, AUDIT = "memory", "config", "checksums", "audit"

ARRAYS = (STATUS, STEPS, REJECTED, ATTEMPT, TRAJECTORY_SAVED, LOGLIK, BATCH_SEED)
GROUPS = (MEMORY, CONFIG, CHECKSUMS, AUDIT)
#: Meaning of every name that is not one of the model's quantities.
MEANINGS: Mapping[str, str] = {
    RUN: "the axis of runs in the results",
    TIME: "the time axis of the results",
    OBSERVATION: "the axis of the observations of a subject in the results",
    OCCURRENCE: "the axis of the times of an event in the results",
    **dict.fromkeys(ARRAYS, "an array of the results"),
    **dict.fromkeys(GROUPS, "a group of the results"),
}
