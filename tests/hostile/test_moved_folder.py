"""A folder that is renamed, replaced or deleted while a study writes it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "faults"))
from held import held

from cubie_flow.cli.app import main
from cubie_flow.study import run

WORDS = [
    "study=moved", "batch.values={rho: {linspace: [0, 40, 60]}}", "duration=1",
    "output.save_every=0.5", "engine.progress=false", "storage.picture=false",
    "storage.shard_runs=10", "target.threads=1",
]  # fmt: skip
STATUS = "results.zarr/status/c"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="an open folder is not renamed")


def disturbed(
    folder: Path, disturb: Callable[[], object], *words: str, status: str = "/status"
) -> subprocess.CompletedProcess[str]:
    """Start a study, disturb it once two shards are complete, and return how it ended."""
    gate = folder / "gate"
    first = folder / "run" / "results.zarr" / status.strip("/") / "c" / "1"
    with subprocess.Popen(
        **held(20, gate, *WORDS, *words, status=status), cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        for _ in range(3000):
            if first.exists() or process.poll() is not None:
                break
            time.sleep(0.02)
        disturb()
        gate.touch()
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess([], process.returncode, out, err)


def one_sentence(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1
    assert "is no longer the folder that the study writes" in done.stderr
    assert "resume=FOLDER" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_renamed_folder_is_noticed_at_the_next_shard(tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    done = disturbed(tmp_path, lambda: (tmp_path / "run").rename(moved), "hydra.run.dir=run")
    one_sentence(done)
    assert not (tmp_path / "run").exists()
    assert len(list((moved / STATUS).iterdir())) >= 2  # what was solved is kept
    more = subprocess.run(
        [sys.executable, "-m", "cubie_flow", "resume=moved"], cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert more.returncode == 0, more.stderr
    assert len(list((moved / STATUS).iterdir())) == 6


def test_another_folder_in_its_place_is_not_written(tmp_path: Path) -> None:
    def replace() -> None:
        (tmp_path / "run").rename(tmp_path / "moved")
        (tmp_path / "run" / "results.zarr").mkdir(parents=True)

    done = disturbed(tmp_path, replace, "hydra.run.dir=run")
    one_sentence(done)
    assert "another folder is there now" in done.stderr
    assert not list((tmp_path / "run" / "results.zarr").iterdir())


def test_a_multirun_does_not_go_on_into_nothing(tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    done = disturbed(
        tmp_path, lambda: (tmp_path / "run").rename(moved), "-m", "algorithm=tsit5,rk4",
        "hydra.sweep.dir=run", status="/job_0/status",
    )  # fmt: skip
    one_sentence(done)
    assert not list(tmp_path.glob("run/results.zarr/job_1"))


def test_a_folder_that_is_moved_while_compiling_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, recorded = tmp_path / "run", run.provenance

    def moved(*given: object) -> object:
        folder.rename(tmp_path / "moved")
        return recorded(*given)

    monkeypatch.setattr(run, "provenance", moved)
    assert main([*WORDS, f"hydra.run.dir={folder}"]) == 1
    assert "it was moved or deleted" in capsys.readouterr().err
    assert not folder.exists()
    (tmp_path / "moved").rename(folder)
    monkeypatch.undo()
    assert main([f"resume={folder}"]) == 0
