"""Stores that lost a part of what was written when they were made: one sentence each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cubie_flow.analysis.cli import main as results
from cubie_flow.cli.app import main

SMALL = ["batch.size=8", "storage.picture=false", "engine.progress=false", "output.save_every=null"]
CHECKED = "so it can be read but neither checked nor resumed"
SAID = {
    "attributes": f"lacks its attributes 'system', 'algorithm', 'design', {CHECKED}",
    "memory": "memory/zarr.json' is missing",
    "checksums": "checksums/zarr.json' is missing",
    "status": "lacks its array 'status', which tells what of it is complete",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert main([*SMALL, f"hydra.run.dir={folder}/one"]) == 0
    assert main(["-m", "algorithm=tsit5,rk4", *SMALL, f"hydra.sweep.dir={folder}/many"]) == 0
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def lose(store: Path, part: str) -> None:
    if part != "attributes":
        shutil.rmtree(store / part)
        return
    root = store / "zarr.json"
    document = json.loads(root.read_text())
    kept = {"schema_version": document["attributes"]["schema_version"]}
    root.write_text(json.dumps({**document, "attributes": kept}))


def one_sentence(capsys: pytest.CaptureFixture[str], part: str) -> None:
    said = capsys.readouterr()
    assert SAID[part] in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize("part", SAID)
def test_a_study_that_lost_a_part(
    part: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lose(copy / "one" / "results.zarr", part)
    for words in ([f"verify={copy}/one"], [f"resume={copy}/one"]):
        assert main(words) == 1
        one_sentence(capsys, part)
    assert results(["verify", str(copy / "one")]) == 1
    one_sentence(capsys, part)
    if part == "status":
        # Its metadata is gathered elsewhere, so nothing would be known of it but that.
        assert results(["show", str(copy / "one")]) == 1
        one_sentence(capsys, part)


@pytest.mark.parametrize("part", SAID)
def test_a_job_that_lost_a_part(part: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lose(copy / "many" / "results.zarr" / "job_0", part)
    assert main([f"verify={copy}/many"]) == 1
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("job_0: '")
    # A job is not compared with the metadata that the root gathers of all jobs.
    grouped = part in ("memory", "checksums")
    assert (f"lacks its group '{part}', {CHECKED}" if grouped else SAID[part]) in first
    assert second == "job_1: 1 of 1 shards complete, 0 damaged"
    if part == "status":
        # Nothing of it is known to be complete, so all of it is solved again.
        assert "does the rest" in rest[0]
        assert main([f"resume={copy}/many"]) == 0
        assert main([f"verify={copy}/many"]) == 0
    else:
        assert not rest
        assert main([f"resume={copy}/many", "recheck=true"]) == 1
        assert (
            f"lacks its group '{part}', {CHECKED}" if grouped else SAID[part]
        ) in capsys.readouterr().err
