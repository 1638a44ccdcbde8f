"""No file in the current folder, or next to a model, takes the place of a library or a program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cubie_flow import OdeSystem
from cubie_flow.process.python_path import isolated, safe_children, small_environment
from cubie_flow.storage import provenance

pytestmark = pytest.mark.skipif(os.name != "posix", reason="runs scripts")
PACKAGE = Path(__file__).parents[2]
DECOYS = (
    "antimony", "libsbml", "numpy", "hydra", "omegaconf", "yaml", "zarr", "xarray", "numba",
    "llvmlite", "pyarrow", "h5netcdf", "s3fs", "difflib", "attrs", "socket", "multiprocessing",
    "logging", "hydra_plugins/evil",
)  # fmt: skip


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Make a folder of decoys the current one, and return what tells which of them ran."""
    noted = tmp_path / "noted"
    folder = tmp_path / "here"
    for name in DECOYS:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(noted)!r}, 'a').write('{name} ')\nraise ImportError\n")
    monkeypatch.chdir(folder)
    return lambda: noted.read_text() if noted.exists() else ""


def command(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), **more}
    return subprocess.run(
        [sys.executable, "-m", "cubie_flow", *words],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize("path", [str(PACKAGE), f":{PACKAGE}", f"{PACKAGE}::"])
def test_the_command_imports_nothing_from_the_current_folder(
    ran: Callable[[], str], path: str
) -> None:
    Path("model.ant").write_text("x' = -k*x; x = 1; k = 0.5;")
    done = command("system.file=model.ant", "task=import", PYTHONPATH=path)
    assert ran() == ""
    assert "antimony" not in done.stderr or "not installed" in done.stderr
    done = command("dry_run=true", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert ran() == ""


def test_workers_import_nothing_from_the_current_folder(ran: Callable[[], str]) -> None:
    pytest.importorskip("distributed")
    for name in ("dask", "distributed", "tornado", "cloudpickle", "msgpack"):
        Path(f"{name}.py").write_text(Path("yaml.py").read_text())
    done = command(
        "engine=dask", "engine.workers=2", "batch.size=64", "storage.shard_runs=16", "duration=1",
        "storage.picture=false", "engine.progress=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ran() == ""


def test_a_folder_that_the_environment_names_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hydra.py").write_text("raise SystemExit(77)\n")
    monkeypatch.chdir(tmp_path)
    assert command(PYTHONPATH=os.pathsep.join([str(tmp_path), str(PACKAGE)])).returncode == 77


@pytest.mark.parametrize("first", ["", "here", "model"])
def test_antimony_is_not_imported_from_next_to_a_model(
    ran: Callable[[], str], first: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a notebook, whose path of imports begins with the current folder."""
    pytest.importorskip("antimony")
    model = tmp_path / "model"
    model.mkdir()
    (model / "antimony.py").write_text((Path("antimony.py")).read_text())
    (model / "m.ant").write_text("x' = -k*x; x = 1; k = 0.5;")
    places = {"": "", "here": os.getcwd(), "model": str(model)}
    monkeypatch.setattr(sys, "path", [places[first], *sys.path])
    assert OdeSystem.from_file(model / "m.ant").states[0].name == "x"
    assert ran() == ""


def test_numba_is_not_configured_by_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".numba_config.yaml").write_text(f"cuda_driver: {tmp_path}/evil.so\n")
    done = command("task=doctor")
    assert done.returncode == 1
    assert "would configure numba" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_isolated_program_sees_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-secret")
    program = "import os\nprint(sorted(os.environ), sys.path)"
    done = subprocess.run(
        isolated(program), env=small_environment(), capture_output=True, text=True, check=True
    )
    assert "AWS" not in done.stdout
    assert repr(os.getcwd()) not in done.stdout


def test_processes_of_a_pool_start_without_the_current_folder(ran: Callable[[], str]) -> None:
    with safe_children():
        subprocess.run([sys.executable, "-c", "import socket"], check=True)
    assert ran() == ""
    subprocess.run([sys.executable, "-c", "import socket"], check=False, capture_output=True)
    assert ran() == "socket "


def test_no_program_of_a_checkout_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, noted = tmp_path / "checkout", tmp_path / "noted"
    folder.mkdir()
    script = folder / "git"
    script.write_text(f"#!/bin/sh\necho ran >> '{noted}'\ncat\n")
    script.chmod(0o755)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (folder / "file.txt").write_text("one\n")
    for words in (["init"], ["add", "file.txt"], ["commit", "-m", "one"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    for key in ("core.fsmonitor", "filter.evil.clean", "filter.evil.process"):
        subprocess.run([*git, "config", key, str(script)], check=True)
    (folder / ".git" / "info" / "attributes").write_text("* filter=evil\n")
    (folder / "file.txt").write_text("two\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", os.pathsep.join([".", "", os.environ["PATH"]]))
    record = provenance(folder=folder)
    assert record["git_modified"] is True
    assert not noted.exists()


def test_matplotlib_is_not_configured_by_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("matplotlibrc").write_text("text.usetex: True\nsavefig.bbox: nonsense\n")
    noted = tmp_path / "noted"
    for name in ("latex", "dvipng"):
        Path(name).write_text(f"#!/bin/sh\necho ran >> '{noted}'\n")
        Path(name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = command("batch.size=4", "duration=1", "hydra.run.dir=run", PATH=path)
    assert done.returncode == 0, done.stderr
    assert list(Path("run").glob("*.png"))
    assert not noted.exists()
