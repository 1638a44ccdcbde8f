"""Every command that the program prints works in the state in which it is printed."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

import cubie_flow
from cubie_flow.analysis.cli import main as results
from cubie_flow.cli.app import main as flow
from cubie_flow.process.signals import StopGuard, Stopped

MODEL = """
states: {x: 1.0}
parameters: {k: 1.0}
equations: {x: "where(k > 1.9, 50*x*x, -k*x)"}
time: {duration: 1.0}
"""
STUDY = [
    "system.file=model.yaml", "study=grown", "batch=sobol", "batch.values={k: {uniform: [0.5, 2]}}",
    "batch.size=32", "storage.shard_runs=16", "storage.picture=false", "engine.progress=false",
]  # fmt: skip
COMMAND = re.compile(r"(python -m cubie_flow|cubie-results) (.*?)(?= (?:does|tries|says|lists) |$)")
FOLDER = "hydra.run.dir=run"


@pytest.fixture(autouse=True)
def _model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.yaml").write_text(MODEL)


def stopped(words: list[str]) -> int:
    """Run a command that a signal stops after the first shard, and return its exit code."""

    def stop(guard: StopGuard, took: float = 0.0) -> None:
        if took:  # it is also called before the first shard
            raise Stopped("stopped by SIGTERM after the shard in flight", 143)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopGuard, "check", stop)
        return flow(words)


def printed(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, list[str]]]:
    """Return the commands in what was printed since the last call: program and words."""
    output, error = capsys.readouterr()
    lines = [line for line in (output + error).splitlines() if "://" not in line]
    found = [match for line in lines for match in COMMAND.findall(line)]
    return [(program, shlex.split(words)) for program, words in found]


def execute(command: tuple[str, list[str]]) -> int:
    program, words = command
    return results(words) if program == "cubie-results" else flow(words)


def complete_runs(path: str = "run") -> tuple[int, int]:
    data = cubie_flow.open_results(path)
    return int((data.status != 255).sum()), data.sizes["run"]


def test_a_study_that_is_stopped_grown_stopped_and_damaged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert stopped([*STUDY, FOLDER]) == 143
    assert complete_runs() == (16, 32)
    (again,) = printed(capsys)
    assert execute(again) == 0
    assert complete_runs() == (32, 32)
    assert flow(["resume=run", "batch.size=64"]) == 0
    assert complete_runs() == (64, 64)
    capsys.readouterr()
    # A larger study than its config.yaml says, stopped while it grows once more.
    assert stopped(["resume=run", "batch.size=112"]) == 143
    assert complete_runs() == (80, 112)
    assert "completed" not in cubie_flow.open_results("run").attrs
    (again,) = printed(capsys)
    for check in (["verify=run"], None):
        code = flow(check) if check else results(["verify", "run"])
        assert code == int(bool(check))
        assert printed(capsys) == [again]
    assert execute(again) == 0
    assert complete_runs() == (112, 112)
    assert flow(["verify=run"]) == 0
    assert printed(capsys) == []
    # The same study, damaged.
    (chunk,) = Path("run/results.zarr/x_final/c").glob("2")
    chunk.write_bytes(bytes(chunk.stat().st_size))
    for check in (["verify=run"], None):
        assert (flow(check) if check else results(["verify", "run"])) == 1
        (repair,) = printed(capsys)
        assert "recheck=true" in repair[1]
    assert execute(repair) == 0
    assert results(["verify", "run"]) == 0


def test_results_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*STUDY, FOLDER, "storage.url=memory://grown"]
    assert stopped(words) == 143
    output = capsys.readouterr().err
    (line,) = [line for line in output.splitlines() if "does the rest" in line]
    (_, again) = COMMAND.findall(line)[0]
    assert flow(shlex.split(again)) == 0
    assert "ended    " in capsys.readouterr().out


def test_a_multirun_with_failures(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [*STUDY, "-m", "hydra.sweep.dir=run", "algorithm=tsit5,bogacki_shampine_32"]
    assert stopped(jobs) == 143
    (again,) = printed(capsys)
    assert execute(again) == 0
    output = capsys.readouterr().out
    assert "jobs     2 of 2 completed\nruns     64, of which 4 did not end well\n" in output
    assert "job_1 algorithm=bogacki_shampine_32: 32 runs, 2 failed" in output
    ((program, words),) = COMMAND.findall(output)
    assert results(shlex.split(words)) == 0
    assert "step_too_small 2" in capsys.readouterr().out
    assert program == "cubie-results"
    # A job whose group is lost.
    shutil.rmtree("run/results.zarr/job_1")
    assert flow(["verify=run"]) == 1
    (again,) = printed(capsys)
    assert execute(again) == 0
    assert flow(["verify=run"]) == 0
