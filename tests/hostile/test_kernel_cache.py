"""A kernel cache holds machine code: only what this user wrote for this very key is loaded."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from pathlib import Path

import pytest

from cubie_flow.errors import FlowError
from cubie_flow.kernels.cache import KernelCache

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs owners and modes of files")


def filled(folder: Path) -> KernelCache:
    cache = KernelCache(folder)
    cache.put("one", {"entry": "one"}, {"object": b"first"})
    cache.put("two", {"entry": "two"}, {"object": b"second"})
    return cache


def test_a_file_under_another_key_is_not_loaded(tmp_path: Path) -> None:
    cache = filled(tmp_path / "c")
    shutil.copy(tmp_path / "c" / "one.kernel", tmp_path / "c" / "two.kernel")
    assert cache.get("two") is None
    assert cache.get("one") == ({"entry": "one"}, {"object": b"first"})


def test_a_link_a_pipe_and_a_file_that_others_may_write_are_not_loaded(tmp_path: Path) -> None:
    cache = filled(tmp_path / "c")
    one = tmp_path / "c" / "one.kernel"
    one.chmod(0o620)
    assert cache.get("one") is None
    one.chmod(0o600)
    assert cache.get("one") is not None
    one.rename(tmp_path / "elsewhere")
    one.symlink_to(tmp_path / "elsewhere")
    assert cache.get("one") is None
    one.unlink()
    os.mkfifo(one)
    assert cache.get("one") is None


def test_a_file_that_is_swapped_after_the_check_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that is checked is the one that is read: it is opened once."""
    cache = filled(tmp_path / "c")
    good = cache.get("one")
    evil = KernelCache(tmp_path / "evil")
    evil.put("one", {"entry": "evil"}, {"object": b"evil"})
    real, ready = os.fstat, tmp_path / "evil" / "one.kernel"

    def swap(descriptor: int) -> os.stat_result:
        if ready.exists():
            ready.replace(tmp_path / "c" / "one.kernel")
        return real(descriptor)

    monkeypatch.setattr("cubie_flow.kernels.cache.os.fstat", swap)
    assert cache.get("one") == good
    assert not ready.exists()


def test_a_folder_that_others_may_write_is_refused_once(tmp_path: Path) -> None:
    cache = filled(tmp_path / "c")
    (tmp_path / "c").chmod(0o777)
    with pytest.warns(
        UserWarning, match=r"others may write to it.*; chmod go-w .*CUBIE_FLOW_CACHE"
    ):
        assert cache.get("one") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get("one") is None
        cache.put("three", {}, {})
    assert not (tmp_path / "c" / "three.kernel").exists()
    assert "others may write" in cache.refusal
    with pytest.raises(FlowError, match="others may write"):
        cache.clear()


def test_the_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = filled(tmp_path / "c")
    uid = os.getuid()
    monkeypatch.setattr("cubie_flow.kernels.cache.os.getuid", lambda: uid + 1)
    assert "it belongs to another user" in cache.refusal


def test_parents_are_made_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        filled(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    for name in ("a", "a/b", "a/b/c"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700


def test_files_of_killed_processes_count_and_go(tmp_path: Path) -> None:
    cache = filled(tmp_path / "c")
    new, old = tmp_path / "c" / "new.tmp", tmp_path / "c" / "old.tmp"
    for path in (new, old):
        path.write_bytes(bytes(1000))
    os.utime(old, (time.time() - 7200,) * 2)
    assert cache.size()[0] == 2
    assert cache.size()[1] > 2000
    cache.put("three", {}, {})
    assert not old.exists()
    assert new.exists()
    KernelCache(tmp_path / "c", limit=500).put("four", {}, {})
    assert not new.exists()
    new.write_bytes(bytes(1000))
    assert cache.clear()[1] > 1000
    assert not list((tmp_path / "c").iterdir())
