"""Every config key is science, kernel or policy, in one table."""

import pytest

from cubie_flow.config.identity import KINDS, LATER, may_change
from cubie_flow.config.identity import kind_of as kind
from cubie_flow.config.reference import reference

KEYS = [entry.key for entry in reference()]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_belongs_to_a_kind(key: str) -> None:
    parts = key.split(".")
    prefixes = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    found = [name for name, keys in KINDS.items() if prefixes & {*keys}]
    assert found, f"config/identity.py should say what kind of key {key} is"
    assert kind(key) in found


def test_the_longest_entry_decides() -> None:
    assert kind("batch.order") == kind("target.threads") == "policy"
    assert (kind("batch.size"), kind("target.math")) == ("science", "kernel")
    assert kind("system.parameters.rho") == kind("unknown") == "science"


def test_a_resume_changes_policy_only() -> None:
    assert all(kind(key) == "policy" for key in KEYS if may_change(key))
    assert not may_change("storage.folder")


def test_keys_of_later_versions_exist() -> None:
    assert all(any(key == one or key.startswith(f"{one}.") for key in KEYS) for one in LATER)
