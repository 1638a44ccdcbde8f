"""Limits of a machine and of numbers: a sentence each, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cubie_flow import OdeSystem, solve
from cubie_flow.cli.app import main
from cubie_flow.errors import FlowError
from cubie_flow.expressions.block import Block, Sweep
from cubie_flow.expressions.graph import call, symbol
from cubie_flow.kernels.targets.size import announce
from cubie_flow.process.startup import process

WORDS = ["engine.progress=false", "storage.picture=false", "duration=1"]
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and POSIX limits")


@posix
@pytest.mark.parametrize("megabytes", [550, 1200])
def test_little_address_space_is_one_sentence(megabytes: int, tmp_path: Path) -> None:
    command = f"ulimit -v {megabytes * 1000}; exec '{sys.executable}' -m cubie_flow batch.size=8 "
    done = subprocess.run(
        ["bash", "-c", command + " ".join(WORDS)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"cubie-flow: this process may use {megabytes * 1.024e-3:.2f} GB of memory addresses "
        "(ulimit -v), but a study needs at least 1.5 GB; raise the limit\n"
    )


@pytest.mark.parametrize(
    "key", ["batch.size", "batch.seed", "storage.shard_runs", "target.threads", "engine.time_limit",
            "output.event_times", "controller.max_steps"]
)  # fmt: skip
def test_a_number_of_300_digits_is_refused(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, f"{key}={'9' * 300}", f"storage.folder={tmp_path}/out"]) == 1
    assert f"{key} has more than 40 digits" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_more_runs_than_memory_are_refused_at_once() -> None:
    model = OdeSystem.from_equations("x' = a - k*x", {"x": 1.0}, {"k": 1.0, "a": 1.0})
    values = [i / 100_000 for i in range(300_000)]
    with pytest.raises(FlowError, match=r"solving 90,000,000,000 runs in memory takes .* GB"):
        solve(model, parameters={"k": values, "a": values}, batch="grid", duration=1.0)


def test_a_duration_without_end_has_too_many_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["output.save_every=0.1", "duration=1e308", f"storage.folder={tmp_path}/out"]
    assert main([*WORDS[:2], *words]) == 1
    assert "saved times over a duration of 1e+308" in capsys.readouterr().err


def _kernel(calls: int) -> dict[str, Block]:
    node = symbol("x")
    for _ in range(calls):
        node = call("sin", node)
    return {"step": Block("step", (Sweep(1, (("y", 0, 0),), (node,)),))}


def test_a_large_kernel_is_announced_and_an_endless_one_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(_kernel(200))
    assert not capsys.readouterr().err, "only a command prints"
    monkeypatch.setattr(process, "owned", True)
    announce(_kernel(10))
    assert not capsys.readouterr().err
    announce(_kernel(200))
    told = capsys.readouterr().err
    assert "compiling a kernel of 201 operations, 200 of them elementary functions" in told
    with pytest.raises(FlowError, match="would compile for about"):
        announce(_kernel(100_000))


@posix
def test_a_signal_stops_compiling(tmp_path: Path) -> None:
    chain = {f"d{i}": f"0.9*sin(d{i - 1}) + 0.1*cos(d{i - 1})" for i in range(1, 61)}
    model = {"name": "chain", "states": {"x": 0.1}, "parameters": {"k": 0.5},
             "observables": {"d0": "x*k", **chain}, "equations": {"x": "-d60"}}  # fmt: skip
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(model))
    words = ["system.file=chain.yaml", "batch.values={k: [0.5, 0.6]}", *WORDS]
    environment = {**os.environ, "CUBIE_FLOW_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        [sys.executable, "-m", "cubie_flow", *words], cwd=tmp_path, text=True, env=environment,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("compiling a kernel of"), line
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("cubie-flow: interrupted: stopped by SIGTERM while")
    assert "overrides" not in err
    assert not out
    assert not list(tmp_path.glob("outputs/**/*.zarr"))


def test_the_name_of_the_current_folder_is_not_an_interpolation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "${oc.env:HOME}"
    here.mkdir()
    monkeypatch.chdir(here)
    assert main([*WORDS, "batch.size=4", "hydra.run.dir=outputs/run"]) == 0
    assert main(["resume=outputs/run"]) == 0
    assert (here / "outputs" / "run" / "results.zarr").is_dir()
