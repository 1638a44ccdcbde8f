"""Every status has a meaning, and every failure a remedy that users are shown."""

import pytest

from cubie_flow.analysis.describe import REMEDIES
from cubie_flow.integrators.status import ENDS, STATUS, WELL, ended_well


@pytest.mark.parametrize("name", ENDS)
def test_a_status_has_a_meaning_and_a_failure_a_remedy(name: str) -> None:
    assert ENDS[name].meaning, f"status {name} needs a meaning"
    assert ENDS[name].remedy or name in ("success", "event_stop"), f"status {name} needs a remedy"
    assert REMEDIES.get(name, "") == ENDS[name].remedy
    assert bool(ended_well(STATUS[name])) == (name in WELL)


def test_codes_differ() -> None:
    assert len(set(STATUS.values())) == len(STATUS)
