"""Which runs keep their trajectories: a condition on what is kept of every run."""

from __future__ import annotations

from cubie_flow.batches import store_names
from cubie_flow.errors import FlowError
from cubie_flow.integrators.status import STATUS
from cubie_flow.storage.schema import PER_RUN
from cubie_flow.study.conditions import Column, Condition, read_condition
from cubie_flow.study.store_schema import coordinate_name, counters, variables
from cubie_flow.study.study import Study

KEY = "output.trajectories.where"


def trajectory_filter(study: Study) -> Condition | None:
    """Return the condition for which runs trajectories are saved; None saves those of all.

    Raises
    ------
    FlowError
        If the condition cannot be read, names what is not kept of every run, or no trajectories
        are saved.
    """
    if study.output.where is None:
        return None
    if not study.saved:
        raise FlowError(
            f"{KEY} is '{study.output.where}', but no trajectories are saved; give "
            "output.save_every or output.times"
        )
    first = study.first_pass
    known = {name: Column() for name in (*first.design.names, *first.design.labels)}
    known = {coordinate_name(first, name): column for name, column in known.items()}
    for variable in (*variables(first), *counters(first)):
        if variable.dims == PER_RUN:
            known[variable.name] = Column()
    known[store_names.STATUS] = Column(STATUS)
    return read_condition(study.output.where, known, KEY)
