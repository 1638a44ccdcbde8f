"""Instruction counts of a few kernels are what the file says: a slow-down is seen in review."""

from __future__ import annotations

import pytest

from benchmarks import guard

HOW = "if that is meant, renew the file with: python -m benchmarks guard --renew"


@pytest.mark.parametrize("group", guard.GROUPS, ids=lambda group: group.name)
def test_kernels_are_made_of_as_many_instructions_as_before(group: guard.Group) -> None:
    versions, held = guard.read()
    if not group.usable:
        pytest.skip("its compiler is not installed")
    if versions.get(group.name) != group.versions:
        pytest.skip(f"the file is of {versions.get(group.name)}, here is {group.versions}")
    found: dict[str, int] = {}
    for name in guard.kernels():
        found |= guard.measure(name, group)
    assert found
    changed = list(guard.differences(held, found))
    assert not changed, [*changed, HOW]


def test_a_changed_count_is_told() -> None:
    (told,) = guard.differences({"a x": 100, "b x": 5}, {"a x": 103, "b x": 5})
    assert told == "a x is 103, was 100 (+3.0 %)"
    (told,) = guard.differences({}, {"c x": 1})
    assert "the file does not have it" in told
