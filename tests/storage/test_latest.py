"""``latest``, ``@1``, ``@2``: studies by their age."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cubie_flow.analysis.cli import main
from cubie_flow.errors import FlowError
from cubie_flow.storage.latest import named_run

RUNS = ("outputs/a/2026-01-01/10-00-00", "outputs/b/2026-01-02/10-00-00", "mine")


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate((*RUNS, "elsewhere/c/2026-01-03/10-00-00")):
        run = tmp_path / name
        (run / "results.zarr").mkdir(parents=True)
        (run / "config.yaml").touch()
        os.utime(run / "config.yaml", (1000 - number, 1000 - number))


def test_studies_are_counted_from_the_newest() -> None:
    assert [str(named_run(f"@{number}")) for number in (1, 2, 3)] == list(RUNS)
    assert named_run("latest") == Path(RUNS[0])
    assert named_run("outputs/@2") == Path(RUNS[1])
    assert named_run("elsewhere/latest") == Path("elsewhere/c/2026-01-03/10-00-00")
    with pytest.raises(FlowError, match="but there are 3 in 'outputs' and the current folder"):
        named_run("@4")
    for other in ("@0", "@x", "results.zarr", RUNS[2]):
        assert named_run(other) == Path(other)
    Path("latest").mkdir()
    assert named_run("latest") == Path("latest")


def test_every_command_takes_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    from cubie_flow.cli.app import main as flow

    for words in (["show", "@2"], ["report", "@2"], ["verify", "@2"]):
        assert main(words) == 1
        assert str(Path(RUNS[1]) / "results.zarr") in capsys.readouterr().err
    for word in ("resume=@2", "verify=@2"):
        assert flow([word]) == 1
        assert str(Path(RUNS[1]) / "results.zarr") in capsys.readouterr().err


def test_a_shell_completes_commands_and_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_CUBIE_RESULTS_COMPLETE", "bash_complete")
    for words, completed in (
        ("cubie-results sh", "plain,show"),
        ("cubie-results show la", "plain,latest"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        with pytest.raises(SystemExit):
            main([])
        assert capsys.readouterr().out.split() == [completed]
