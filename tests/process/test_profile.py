"""Where the time of a command goes, and what a warm command does without."""

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from cubie_flow.cli import app
from cubie_flow.cli.app import main
from cubie_flow.kernels.cache import FOLDER_VARIABLE
from cubie_flow.process import profile
from cubie_flow.process.profile import Stopwatch

SMALL = ["batch.values={rho: [10, 20, 28]}", "duration=1.0", "storage.picture=false"]


def phases(text: str) -> dict[str, float]:
    """Return the seconds of each line of a profile."""
    lines = [line.split() for line in text.splitlines()]
    start = lines.index(["phase", "wall", "s", "meanwhile", "s"])
    return {line[0]: float(line[1]) for line in lines[start + 1 :] if line}


def test_every_moment_belongs_to_one_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 11.0, 13.0, 16.0, 20.0, 25.0])
    monkeypatch.setattr(profile, "perf_counter", lambda: next(moments))
    watch = Stopwatch()
    watch.start(elapsed=2.0)
    with watch.phase("solve"), watch.phase("compile"):
        pass
    watch.move("solve", "transfer", 1.5)
    watch.move("solve", "write", 100.0)
    watch.beside("encode", 7.0)
    found = phases(watch.stop())
    assert found == {
        "start-up": 2.0, "compile": 3.0, "transfer": 1.5, "write": 4.5, "encode": 0.0,
        "rest": 6.0, "total": 17.0,
    }  # fmt: skip


def test_a_stopwatch_that_was_not_started_counts_nothing() -> None:
    watch = Stopwatch()
    with watch.phase("solve"):
        watch.beside("encode", 1.0)
    assert watch.seconds == watch.meanwhile == {}


def test_the_profile_adds_up_to_the_wall_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = []
    run = app.run_task

    def timed(*given: Any) -> None:
        began = perf_counter()
        run(*given)
        inside.append(perf_counter() - began)

    monkeypatch.setattr(app, "run_task", timed)
    began = perf_counter()
    assert main(["--profile", *SMALL, f"storage.folder={tmp_path}"]) == 0
    wall = perf_counter() - began
    found = phases(capsys.readouterr().err)
    total = found.pop("total")
    rounding = 0.01
    assert sum(found.values()) == pytest.approx(total, abs=rounding)
    assert inside[0] - rounding < total < wall + rounding
    assert {"configure", "plan", "compile", "solve", "write"} <= set(found)
    assert main([*SMALL, f"storage.folder={tmp_path}"]) == 0
    assert "meanwhile" not in capsys.readouterr().err


def test_a_profile_is_shown_of_a_command_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--profile", "system=no_such_system"]) == 1
    assert "configure" in phases(capsys.readouterr().err)


def test_a_warm_command_loads_no_compiler(tmp_path: Path) -> None:
    code = (
        "import json, sys\nfrom cubie_flow.cli.app import main\n"
        "code = main()\nprint(json.dumps([code, list(sys.modules)]))"
    )
    environment = os.environ | {FOLDER_VARIABLE: str(tmp_path / "kernels")}

    def command() -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *SMALL, f"storage.folder={tmp_path}"],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        status, modules = json.loads(done.stdout.splitlines()[-1])
        assert status == 0
        return set(modules)

    unwanted = {"numba", "numba.cuda", "numba_cuda", "dask", "scipy", "matplotlib"}
    assert "numba" in command()
    assert not command() & unwanted
