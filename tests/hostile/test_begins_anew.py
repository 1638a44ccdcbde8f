"""A study that was killed while its store was made begins from the start; nothing else does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cubie_flow.cli.app import main

WORDS = [
    "batch.values={rho: {linspace: [0, 40, 8]}}", "duration=1", "output.save_every=0.5",
    "engine.progress=false", "storage.picture=false", "storage.shard_runs=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert main([*WORDS, f"hydra.run.dir={folder}/run"]) == 0
    return folder / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def strip(store: Path, kept: tuple[str, ...]) -> None:
    """Leave of a store only some of what is made before `status`."""
    for path in store.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in kept:
        if name not in ("time", "memory"):
            shutil.rmtree(store / name / "c", ignore_errors=True)


@pytest.mark.parametrize("kept", [None, (), ("zarr.json",), ("zarr.json", "time", "rho", "x")])
def test_a_study_without_values_begins(
    kept: tuple[str, ...] | None, run: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = run / "results.zarr"
    shutil.rmtree(store) if kept is None else strip(store, kept)
    if kept:
        (store / "y").mkdir(exist_ok=True)
        (store / "y" / "zarr.json.1.partial").write_text("{")
    assert main([f"resume={run}"]) == 0
    assert "began from the start" in capsys.readouterr().out
    assert main([f"verify={run}"]) == 0
    first = whole / "results.zarr" / "x" / "c" / "1" / "0"
    assert (store / "x" / "c" / "1" / "0").read_bytes() == first.read_bytes()


def test_status_without_its_metadata_was_being_made(run: Path) -> None:
    store = run / "results.zarr"
    strip(store, ("zarr.json", "time", "rho", "x"))
    (store / "status").mkdir()
    assert main([f"resume={run}"]) == 0
    assert main([f"verify={run}"]) == 0


def test_files_that_a_kill_left_are_deleted_without_a_warning(
    run: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for name in ("results.zarr/.zarr.json", "results.zarr/memory/.zarr.json", ".config.yaml"):
        (run / name).with_name(f"{Path(name).name}.{'1' * 32}.partial").write_text("{")
    shutil.rmtree(run / "results.zarr" / "status" / "c")
    assert main([f"resume={run}"]) == 0
    assert not list(run.rglob("*.partial"))
    assert not [str(one.message) for one in recwarn]


def test_a_store_with_values_is_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = run / "results.zarr"
    shutil.rmtree(store / "status")
    assert main([f"resume={run}"]) == 1
    assert "lacks its array 'status'" in capsys.readouterr().err
    assert (store / "x" / "c" / "1" / "0").exists()


def test_what_others_put_there_is_kept(run: Path) -> None:
    store = run / "results.zarr"
    strip(store, ())
    (store / "notes.txt").write_text("mine")
    assert main([f"resume={run}"]) == 1
    assert (store / "notes.txt").read_text() == "mine"
