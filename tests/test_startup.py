"""What a process that is the command's own may do, and no other."""

from __future__ import annotations

import gc

import pytest

from cubie_flow.startup import process, undisturbed


def test_only_a_process_of_its_own_puts_off_garbage_collection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "owned", False)
    with undisturbed():
        assert gc.isenabled()
    monkeypatch.setattr(process, "owned", True)
    try:
        with undisturbed():
            assert not gc.isenabled()
        assert gc.isenabled()
    finally:
        gc.unfreeze()
