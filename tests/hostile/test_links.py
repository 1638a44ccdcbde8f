"""Inside of a folder of results no link is followed, and no stored name leads outside."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from cubie_flow import open_results
from cubie_flow.analysis.cli import main as results
from cubie_flow.cli.app import main as flow
from cubie_flow.errors import FlowError
from cubie_flow.process.safe_files import (
    LinkRefused,
    read_inside,
    replaced_when_complete,
    write_inside,
)
from cubie_flow.storage import Location
from cubie_flow.storage.backends import FolderStore
from cubie_flow.storage.folders import check_study_name
from cubie_flow.storage.zarr_adapter import buffer, sync

pytestmark = pytest.mark.skipif(os.name != "posix", reason="makes links and pipes")
WORDS = [
    "study=strange", "batch.values={rho: {linspace: [0, 40, 40]}}", "duration=1",
    "output.save_every=0.5", "engine.progress=false", "storage.picture=false",
    "storage.shard_runs=16", "target.threads=1", "hydra.run.dir=run",
]  # fmt: skip
Change = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert flow(WORDS) == 0
    return folder / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copytree(made, folder / "run")
    return folder / "run"


def unfinish(run: Path) -> None:
    shutil.rmtree(run / "results.zarr" / "status" / "c")


def moved(path: Path, outside: Path) -> None:
    """Move a file or folder outside, and put a link in its place."""
    if path.exists():
        shutil.move(path, outside)
    else:
        outside.write_text("precious\n")
    path.symlink_to(outside)


@pytest.mark.parametrize(
    "name",
    ["run.log", "config.yaml", "results.zarr", "results.zarr/x/c", "results.zarr/zarr.json",
     "results.zarr/status/zarr.json", "results.zarr/memory"],
)  # fmt: skip
def test_a_resume_refuses_a_link_and_names_it(
    run: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinish(run)
    outside = tmp_path / "outside"
    moved(run / name, outside)
    kept = outside.read_bytes() if outside.is_file() else sorted(outside.rglob("*"))
    assert flow(["resume=run"]) == 1
    printed = capsys.readouterr().err
    assert name in printed
    assert "is a symbolic link" in printed
    assert len(printed.splitlines()) == 1
    assert kept == (outside.read_bytes() if outside.is_file() else sorted(outside.rglob("*")))


@pytest.mark.parametrize("words", [["show"], ["runs"], ["report"], ["verify"], ["audit"]])
def test_no_command_reads_chunks_through_a_link(
    run: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x_final", "rho", "status", "steps"):
        moved(run / "results.zarr" / name / "c", tmp_path / name)
    assert results([*words, "run"]) == 1
    assert "is a symbolic link" in capsys.readouterr().err


def test_open_results_refuses_links(run: Path, tmp_path: Path) -> None:
    moved(run / "results.zarr" / "rho", tmp_path / "rho")
    with pytest.raises(FlowError, match=r"rho.* is a symbolic link"):
        open_results("run").rho.load()


def test_ls_says_which_store_is_a_link(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved(run / "results.zarr", tmp_path / "store")
    assert results(["ls", "."]) == 0
    assert "symbolic link" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["job_1", "job_1/x", "job_1/status/c", "job_1/zarr.json"])
def test_a_multirun_refuses_links_in_the_groups_of_its_jobs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for word in WORDS if not word.startswith("hydra")]
    assert flow(["-m", "t_start=0,1", "hydra.sweep.dir=run", *words]) == 0
    moved(tmp_path / "run" / "results.zarr" / name, tmp_path / "outside")
    capsys.readouterr()
    assert flow(["resume=run", "recheck=true"]) == 1
    assert "is a symbolic link" in capsys.readouterr().err
    assert (tmp_path / "outside").exists()


def test_a_repository_of_icechunk_has_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("icechunk")
    monkeypatch.chdir(tmp_path)
    assert flow([*WORDS, "storage.client=icechunk"]) == 0
    moved(tmp_path / "run" / "results.icechunk" / "chunks", tmp_path / "outside")
    assert results(["show", "run"]) == 1
    assert flow(["resume=run"]) == 1
    assert capsys.readouterr().err.count("chunks' is a symbolic link") == 2


def test_a_folder_that_the_user_names_may_be_a_link(run: Path, tmp_path: Path) -> None:
    unfinish(run)
    moved(run, tmp_path / "elsewhere")
    assert flow(["resume=run"]) == 0
    assert (tmp_path / "elsewhere" / "results.zarr" / "status" / "c" / "0").exists()
    (run.parent / "named.zarr").symlink_to(tmp_path / "elsewhere" / "results.zarr")
    assert open_results("named.zarr").sizes["run"] == 40


@pytest.mark.parametrize(
    ("name", "words"),
    [("report.html", ["report", "run"]),
     ("strange.png", ["plot", "bands", "run", "-o", "run/strange.png"]),
     ("strange.svg", ["plot", "bands", "run", "-o", "run/strange.svg"]),
     ("runs.csv", ["export", "run", "run/runs.csv", "--overwrite"])],
)  # fmt: skip
def test_new_files_replace_a_link(run: Path, name: str, words: list[str], tmp_path: Path) -> None:
    moved(run / name, tmp_path / "victim")
    assert results(words) == 0
    assert (tmp_path / "victim").read_text() == "precious\n"
    assert (run / name).is_file()
    assert not (run / name).is_symlink()
    assert not list(run.glob("*.partial")) + list(run.glob(".*.partial"))


def test_the_picture_of_a_resume_replaces_a_link(run: Path, tmp_path: Path) -> None:
    unfinish(run)
    moved(run / "strange.png", tmp_path / "victim")
    assert flow(["resume=run", "storage.picture=true"]) == 0
    assert (tmp_path / "victim").read_text() == "precious\n"
    assert not (run / "strange.png").is_symlink()


@pytest.mark.parametrize("name", ["../../escaped", "..", "a/b", "a\\b", "a\0b", "a\nb"])
def test_a_stored_name_of_a_study_is_checked_as_a_new_one(
    run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "study": name}))
    unfinish(run)
    before = sorted(run.parent.parent.rglob("*.png"))
    assert flow(["resume=run", "storage.picture=true"]) == 1
    assert "cannot be the name of a study" in capsys.readouterr().err
    assert sorted(run.parent.parent.rglob("*.png")) == before
    with pytest.raises(FlowError, match="cannot be the name of a study"):
        check_study_name(name)


def test_a_picture_is_written_here_whatever_a_store_is_called(run: Path) -> None:
    path = run / "results.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["study"] = "../a\\b\0c"
    path.write_text(json.dumps(document))
    assert results(["plot", "bands", "run"]) == 0
    assert [file.name for file in run.parent.glob("*.png")] == ["result_bands.png"]


def test_a_group_leads_to_no_other_folder(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="leads out of it"):
        Location(tmp_path).child("../../other")


def test_a_pipe_in_place_of_a_file_does_not_hang(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "results.zarr" / "zarr.json"
    path.unlink()
    os.mkfifo(path)
    assert results(["show", "run"]) == 1
    assert "is not a regular file" in capsys.readouterr().err


def test_the_store_of_a_folder_keeps_the_contract_of_zarr(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "s")
    content = buffer(b"0123456789")
    sync(store.set("a/c/0", content))
    assert sync(store.get("a/c/0")).to_bytes() == b"0123456789"
    assert sync(store.get("a/c")) is None
    assert sync(store.get("a/none")) is None
    sync(store.set_if_not_exists("a/c/0", buffer(b"other")))
    assert sync(store.get("a/c/0")).to_bytes() == b"0123456789"
    assert sync(store.exists("a/c/0"))
    assert not sync(store.exists("a/c"))
    assert sync(store.getsize("a/c/0")) == 10
    sync(store.delete("a/c/0"))
    sync(store.delete("a/c/0"))
    sync(store.delete_dir("a"))
    assert not list((tmp_path / "s").iterdir())


def test_parts_of_files_are_read(tmp_path: Path) -> None:
    import zarr

    values = np.arange(64.0)
    array = zarr.create_array(
        FolderStore(tmp_path), shape=(64,), chunks=(4,), shards=(32,), dtype="f8"
    )
    array[:] = values
    np.testing.assert_array_equal(array[37:39], values[37:39])


def test_writing_through_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "x").symlink_to(outside)
    with pytest.raises(LinkRefused, match="x' is a symbolic link"):
        write_inside(inside, "x/c/0", b"data")
    with pytest.raises(LinkRefused):
        read_inside(inside, "x/c/0")
    with pytest.raises(LinkRefused, match="leads out of"):
        write_inside(inside, "../outside/0", b"data")
    assert not list(outside.iterdir())


def test_a_file_is_complete_or_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("before")

    def write() -> None:
        with replaced_when_complete(target) as partial:
            partial.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]
