"""Where a result came from, and the folder it goes to."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from cubie_flow.errors import FlowError
from cubie_flow.storage import new_run_folder, provenance

NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


def test_provenance_is_plain_and_names_versions_and_time() -> None:
    record = provenance(["batch.size=4"])
    assert json.loads(json.dumps(record)) == record
    assert record["schema_version"] == 1
    assert record["version_numpy"] == np.__version__
    assert record["overrides"] == ["batch.size=4"]
    created = datetime.fromisoformat(str(record["created"]))
    assert created.utcoffset() is not None
    assert abs((datetime.now(UTC) - created).total_seconds()) < 60
    assert record["cpu"]


def test_provenance_holds_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hunter2-secret")
    assert "hunter2-secret" not in json.dumps(provenance())


def test_the_commit_is_recorded_only_in_a_checkout(tmp_path: Path) -> None:
    assert "git_commit" not in provenance(folder=tmp_path)
    assert "git_commit" not in provenance(folder=tmp_path / "absent")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init"], ["commit", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    record = provenance(folder=checkout)
    assert record["git_commit"] == head.stdout.strip()
    assert record["git_modified"] is False


def test_no_git_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = sys.modules["cubie_flow.storage.provenance"]
    monkeypatch.setattr(module, "_CHECKOUTS", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git_commit" not in provenance()


def test_two_runs_in_one_second_get_two_folders(tmp_path: Path) -> None:
    first = new_run_folder(tmp_path, "lorenz", NOW)
    assert first == tmp_path / "lorenz" / "2024-05-06" / "07-08-09"
    assert new_run_folder(tmp_path, "lorenz", NOW).name == "07-08-09_2"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_run_folder(tmp_path, "lorenz", NOW), range(20)))
    assert len(set(made)) == 20
    assert all(folder.is_dir() for folder in made)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlowError, match=r"file/lorenz/2024-05-06' cannot be made: Not a directory"):
        new_run_folder(tmp_path / "file", "lorenz", NOW)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FlowError, match="Permission denied"):
        new_run_folder(tmp_path, "lorenz", NOW)


@pytest.mark.parametrize("study", ["", "..", "a/b"])
def test_a_study_name_must_be_one_folder(study: str, tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="name of a study"):
        new_run_folder(tmp_path, study, NOW)


def test_a_folder_is_looked_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each job of a multirun asks, and git takes as long as a small job."""
    asked: list[str] = []
    module = importlib.import_module("cubie_flow.storage.provenance")
    monkeypatch.setattr(module, "_output", lambda git, *words: asked.append(words[1]) or "")
    for _ in range(3):
        assert "git_commit" not in provenance(folder=tmp_path)
    assert asked == ["rev-parse"]
