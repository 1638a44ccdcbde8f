"""Stores that were damaged end in one sentence, whatever reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cubie_flow.analysis.cli import main as results
from cubie_flow.cli.app import main as flow


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a small study."""
    monkeypatch.chdir(tmp_path)
    assert flow(["batch.size=20", "storage.picture=false", "hydra.run.dir=run"]) == 0
    return tmp_path / "run"


def test_a_chunk_that_cannot_be_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (chunk,) = (run / "results.zarr" / "z_max" / "c").iterdir()
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    for command in (["runs"], ["runs", "--where", "z_max > 1"], ["report"]):
        capsys.readouterr()
        assert results([command[0], str(run), *command[1:]]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("cubie-results: a chunk of the store cannot be read (")
        assert line.endswith("cubie-results verify lists the damaged shards")


def test_a_store_without_its_model_is_not_resumed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "results.zarr" / "zarr.json"
    metadata = json.loads(file.read_text())
    del metadata["attributes"]["system"]
    file.write_text(json.dumps(metadata))
    assert flow([f"resume={run}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "was damaged: it lacks its attribute 'system'" in line


def test_a_negative_seed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert results(["audit", str(run), "--seed", "-1"]) == 1
    assert "seed is -1; it must be a whole number of at least 0" in capsys.readouterr().err
