"""``cubie-results``: what it prints, as tables, as JSON, and when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import cubie_flow
from cubie_flow.analysis.cli import COMMANDS, main


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(list(words)) == code, capsys.readouterr().err
    return capsys.readouterr().out


def data_of(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    return json.loads(said(capsys, *words, "--json", code=code))


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys)
    assert all(name in told for name in COMMANDS)
    for name in COMMANDS:
        assert "--json" in said(capsys, name, "--help"), name


def test_ls(capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "broken" / "results.zarr").mkdir(parents=True)
    rows = data_of(capsys, "ls", ".")
    assert [row["path"] for row in rows] == ["broken", "settling"]
    assert "not a Zarr store" in rows[0]["ended"]
    assert rows[1]["runs"] == 60
    assert rows[1]["study"] == "settling"
    assert "success" in rows[1]["ended"]
    lines = said(capsys, "ls", ".").splitlines()
    assert len(lines) == 3
    assert lines[2].split("\t")[:3] == ["settling", "settling", "60"]


def test_show(capsys: pytest.CaptureFixture[str], kept: Path) -> None:
    told = said(capsys, "show", str(kept))
    assert "60 (grid over rho, x), 9 saved times" in told
    values = data_of(capsys, "show", str(kept))
    assert values["runs"] == 60
    assert values["variables"]["z"]["dims"] == ["run", "time"]
    assert sum(values["statuses"].values()) == 60


def test_runs(capsys: pytest.CaptureFixture[str], kept: Path) -> None:
    data = cubie_flow.open_results(kept)
    found = data_of(
        capsys, "runs", str(kept), "--where", "rho > 5 and status == 'success'",
        "--sort", "-z_max", "--limit", "3", "--columns", "rho,status,z_max",
    )  # fmt: skip
    wanted = np.flatnonzero((data.rho.values > 5) & (data.status.values == 0))
    assert found["matching"] == len(wanted)
    order = wanted[np.argsort(-data.z_max.values[wanted], kind="stable")][:3]
    assert [row["run"] for row in found["runs"]] == order.tolist()
    assert found["runs"][0]["status"] == "success"
    lines = said(capsys, "runs", str(kept), "--limit", "0").splitlines()
    assert len(lines) == 61
    assert lines[0].startswith("run\trho\tx_initial\tstatus\tsteps")


def test_compare_export_and_audit(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    found = data_of(capsys, "compare", str(folder), str(folder))
    assert found["matched"] == 60
    assert "same bits" in said(capsys, "compare", str(folder), str(folder))
    out = tmp_path / "runs.csv"
    words = ("export", str(folder), str(out), "--where", "rho > 12")
    assert data_of(capsys, *words)["runs"] == 8
    assert len(out.read_text().splitlines()) == 9
    assert said(capsys, *words, code=1) == ""
    assert said(capsys, *words, "--overwrite").startswith("wrote 8 runs")
    audited = data_of(capsys, "audit", str(folder), "--seed", "3")
    assert len(audited["runs"]["error"]) == 8
    assert audited["attributes"]["seed"] == 3
    assert "audited error" in said(capsys, "show", str(folder))


def test_verify(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert "0 of them damaged" in said(capsys, "verify", str(folder))
    x = zarr.open_array(folder / "results.zarr" / "x", mode="r+")
    x[20, 2] += 1e-9
    found = data_of(capsys, "verify", str(folder), code=1)
    assert found["damaged"] == [{"shard": 1, "first_run": 16, "last_run": 31}]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["shw", "x"], "did you mean 'show'"),
        (["show"], "Missing argument 'PATH'"),
        (["show", "nowhere"], "'nowhere' does not exist"),
        (["runs", "{kept}", "--limit", "-1"], "--limit is -1"),
        (["runs", "{kept}", "--limit", "many"], "not a valid integer"),
        (["runs", "{kept}", "--sort", "z"], "but the columns are"),
        (["runs", "{kept}", "--columns", "zmax"], "did you mean 'z_max'"),
        (["runs", "{kept}", "--where", "rhoo > 3"], "did you mean 'rho'"),
        (["runs", "{kept}", "--whre", "rho > 3"], "No such option"),
        (["export", "{kept}", "a.csv", "--where", "rho > 1000"], "nothing to export"),
        (["compare", "{kept}", "nowhere"], "does not exist"),
        (["verify", "memory://nowhere/results.zarr"], "cannot be opened"),
        (["show", "{kept}::3"], "is one study"),
        (["ls", "nowhere"], "is not a folder"),
    ],
)
def test_mistakes_are_one_sentence(
    capsys: pytest.CaptureFixture[str], kept: Path, words: list[str], told: str
) -> None:
    assert main([word.replace("{kept}", str(kept)) for word in words]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("cubie-results: ")
    assert told in shown.err
    assert shown.err.count("\n") == 1


def test_it_is_quiet_when_its_reader_goes(kept: Path) -> None:
    code = "import sys; from cubie_flow.analysis.cli import main; sys.exit(main())"
    command = f'"{sys.executable}" -c "{code}" runs "{kept}" --limit 0 | head -1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") <= 0
    assert done.stdout.startswith("run\t")
