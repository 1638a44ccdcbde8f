"""A multirun from the command line: one store, whatever happens to its jobs."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray
from held import held

from cubie_flow.app import main
from cubie_flow.sweeps import shares

ROOT = Path(__file__).parents[2]
MODEL = """
name: decay
states: {x: 1.0, u: 2.0}
parameters: {k: 0.5}
equations: {x: -k * x, u: x}
time: {duration: 2.0}
"""
MINE = ["system.file=decay.yaml", "storage.picture=false", "engine.progress=false"]
K = "system.parameters.k"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with a model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "decay.yaml").write_text(MODEL)
    return tmp_path


def store(folder: Path) -> Path:
    (found,) = folder.glob("outputs/*/*/*/results.zarr")
    return found


def arrays(path: Path, group: str) -> dict[str, np.ndarray]:
    """Return the arrays along ``run`` of a job, as they are stored."""
    with xarray.open_zarr(path, group=group, chunks=None, mask_and_scale=False) as data:
        return {name: data[name].values for name in data.variables if "run" in data[name].dims}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name, values in one.items():
        assert values.tobytes() == other[name].tobytes(), name


def test_one_store_with_a_group_a_job(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{K}=range(0,2,0.001)", "algorithm=tsit5,rk4", "controller.dt=0.1"]
    assert main(["-m", *MINE, *words]) == 0
    said = capsys.readouterr().out
    assert "runs     system.parameters.k=range(0,2,0.001): 2,000 values" in said
    assert "jobs     algorithm=tsit5,rk4: 2 values" in said
    assert "sweep    2 kernels x 1 shard, 4,000 runs" in said
    path = store(elsewhere)
    assert {p.name for p in path.parent.iterdir()} == {"results.zarr", "config.yaml", "run.log"}
    tree = xarray.open_datatree(path, engine="zarr", chunks=None)
    assert set(tree.children) == {"job_0", "job_1"}
    table = tree.to_dataset()
    assert table.algorithm.values.tolist() == ["tsit5", "rk4"]
    assert table.overrides.values.tolist() == ["algorithm=tsit5", "algorithm=rk4"]
    assert table.job_status.values.tolist() == [0, 0]
    assert table.runs.values.tolist() == [2000, 2000]
    assert (table.mean_steps.values > 1).all()
    assert (table.store_bytes.values > 1000).all()
    for group, algorithm in (("job_0", "tsit5"), ("job_1", "rk4")):
        data = tree[group].to_dataset()
        assert data.attrs["algorithm"] == algorithm
        np.testing.assert_array_equal(data.k, 0.001 * np.arange(2000))
        np.testing.assert_allclose(data.x_final, np.exp(-2 * data.k), rtol=1e-4)
        assert "elements" in xarray.open_zarr(path, group=f"{group}/memory", chunks=None)


@pytest.mark.parametrize(
    "words",
    [
        [f"{K}=0.5,1", "system.states.x=1,2,3"],
        [f"{K}=0.5,1,2", "duration=1,2,3", f"hydra.sweeper.zip=[[{K},duration]]"],
        ["batch=sobol", "batch.values={x: {uniform: [1, 2]}}", "batch.size=8", f"{K}=1,2"],
        ["batch=sobol", "batch.values={x: {uniform: [1, 2]}}", "batch.size=8", "batch.seed=3,4"],
        ["batch=zip", "batch.values={x: [1, 2], u: [1, 3]}", f"{K}=1,2"],
    ],
    ids=["grid", "zip", "sobol", "seeds", "zipped-batch"],
)
def test_runs_of_one_launch_are_what_jobs_would_be(words: list[str], elsewhere: Path) -> None:
    swept = [word.split("=")[0] for word in words if "," in word.split("=", 1)[1]]
    keys = [key for key in swept if key.startswith("system.") or key in ("duration", "batch.seed")]
    assert main(["-m", *MINE, *words]) == 0
    together = arrays(store(elsewhere), "job_0")
    shutil.rmtree("outputs")
    single = ["batch=single"] if not any(word.startswith("batch=") for word in words) else []
    # One trajectory alone varies nothing, so the value of the quantity is compiled in.
    assert main(["-m", *MINE, *single, *words, f"hydra.sweeper.jobs=[{','.join(keys)}]"]) == 0
    path = store(elsewhere)
    table = xarray.open_zarr(path, chunks=None)
    apart = [arrays(path, group) for group in table.group.values]
    assert len(apart) > 1
    assert sum(len(part["status"]) for part in apart) == len(together["status"])
    for name in ("x_final", "u_final"):
        joined = np.concatenate([part[name] for part in apart])
        np.testing.assert_allclose(together[name], joined, rtol=2e-6)


def test_an_interval_is_drawn_by_the_batch(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{K}=interval(1,3)", "system.states.x=1,2"]
    assert main(["-m", *MINE, "batch=sobol", "batch.size=64", *words]) == 0
    found = arrays(store(elsewhere), "job_0")
    assert len(found["k"]) == 128
    assert 1 <= found["k"].min() < 1.1 < 2.9 < found["k"].max() <= 3
    assert main(["-m", *MINE, "batch=grid", *words]) == 1
    assert "'uniform'" in capsys.readouterr().err


def test_a_job_that_fails_is_a_row(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", *MINE, f"{K}=1,2", "precision=float32,float31,float64"]) == 1
    said = capsys.readouterr()
    assert "1 of 3 jobs did not end well" in said.err.splitlines()[-1]
    path = store(elsewhere)
    table = xarray.open_zarr(path, chunks=None)
    assert table.job_status.values.tolist() == [0, 1, 0]
    assert table.job_status.attrs["flag_meanings"].split()[:2] == ["success", "failed"]
    assert "'float31'" in table.error.values[1]
    assert not (path / "job_1").exists()
    assert len(arrays(path, "job_2")["status"]) == 2
    assert f"resume={path.parent.relative_to(elsewhere)}" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["algorithm=tsit5,rk5"], "rk5"),
        ([f"{K}k=1,2"], "did you mean 'k'"),
        ([f"{K}=1,2", "batch.size=7"], "batch.size is 7"),
        (["batch.seed=1,2", "batch.values={k: [1, 2]}"], "draws nothing"),
        (["task=run,plan"], "task cannot be swept"),
        (["task=plan", "precision=float32,float64", "hydra/launcher=joblib"], "joblib"),
        (["a=1,2"], "'a'"),
    ],
)
def test_a_mistake_is_said_before_anything_starts(
    words: list[str], said: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", *MINE, *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (elsewhere / "outputs").exists()


def test_resume_finishes_what_is_missing_and_nothing_else(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{K}=range(0,40)", "precision=float32,float31,float64", "storage.shard_runs=10"]
    assert main(["-m", *MINE, *words]) == 1
    path = store(elsewhere)
    before = {group: arrays(path, group) for group in ("job_0", "job_2")}
    shutil.rmtree(path / "job_0")  # never begun
    (path / "job_2" / "status" / "c" / "1").unlink()  # one shard of four
    kept = path / "job_2" / "x_final" / "c"
    written = {file.name: file.stat().st_mtime_ns for file in kept.iterdir()}
    capsys.readouterr()
    assert main([f"resume={path.parent}", "-m"]) == 1
    assert "0 of 3 jobs were complete" in capsys.readouterr().out
    for group, values in before.items():
        assert_same(arrays(path, group), values)
    again = {file.name for file in kept.iterdir() if file.stat().st_mtime_ns != written[file.name]}
    assert again == {"1"}
    table = xarray.open_zarr(path, chunks=None)
    assert table.job_status.values.tolist() == [0, 1, 0]
    assert table.runs.values.tolist() == [40, 0, 40]
    capsys.readouterr()
    assert main([f"resume={path.parent}"]) == 1
    assert "2 of 3 jobs were complete" in capsys.readouterr().out
    assert main([f"verify={path.parent}"]) == 1
    assert "job_1: not there" in capsys.readouterr().out


def test_resume_refuses_another_science(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", *MINE, f"{K}=1,2", "precision=float32,float64"]) == 0
    folder = store(elsewhere).parent
    assert main([f"resume={folder}", "controller.rtol=1e-3"]) == 1
    assert "controller.rtol" in capsys.readouterr().err
    assert main([f"resume={folder}", "target.threads=1"]) == 0
    assert main([f"verify={folder}"]) == 0


def test_a_damaged_shard_is_found_and_solved_again(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", *MINE, f"{K}=range(0,40)", "precision=float32,float64"]) == 0
    path = store(elsewhere)
    before = arrays(path, "job_1")
    (chunk,) = (path / "job_1" / "x_final" / "c").iterdir()
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 0xFF
    chunk.write_bytes(content)
    assert main([f"verify={path.parent}"]) == 1
    assert "job_1: 1 of 1 shards complete, 1 damaged" in capsys.readouterr().out
    assert main([f"resume={path.parent}", "recheck=true"]) == 0
    assert_same(arrays(path, "job_1"), before)


def test_a_killed_multirun_is_finished_in_the_same_bytes(elsewhere: Path) -> None:
    words = [f"{K}=range(0,2000)", "controller.rtol=1e-3,1e-4,1e-5,1e-6", "storage.shard_runs=20"]
    # The third job is held, so that the last one cannot begin before the kill.
    how = held(0, elsewhere / "never", "-m", *MINE, *words, status="/job_2/status")
    process = subprocess.Popen(**how, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(elsewhere.glob("outputs/**/job_1/status/c/*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = store(elsewhere)
    assert not (killed / "job_3" / "status" / "c").exists()
    assert main([f"resume={killed.parent}"]) == 0
    shutil.move("outputs", "killed")
    assert main(["-m", *MINE, *words]) == 0
    undisturbed = store(elsewhere)
    finished = elsewhere / "killed" / killed.relative_to(elsewhere / "outputs")
    for job in range(4):
        assert_same(arrays(finished, f"job_{job}"), arrays(undisturbed, f"job_{job}"))
    assert xarray.open_zarr(finished, chunks=None).job_status.values.tolist() == [0] * 4


def test_a_limit_of_time_stops_between_jobs(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{K}=range(0,40)", "precision=float32,float64", "engine.time_limit=0.001"]
    assert main(["-m", *MINE, *words]) == 124
    assert "does the rest" in capsys.readouterr().err
    path = store(elsewhere)
    assert xarray.open_zarr(path, chunks=None).job_status.values.tolist() == [0, 255]
    assert main([f"resume={path.parent}", "engine.time_limit=null"]) == 0


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_of_a_launcher_write_one_store(launcher: str, elsewhere: Path) -> None:
    words = [f"{K}=1,2,3", "precision=float32,float31,float64"]
    command = [sys.executable, "-m", "cubie_flow", "-m", *MINE, *words]
    done = subprocess.run([*command, f"hydra/launcher={launcher}"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    path = store(elsewhere)
    table = xarray.open_zarr(path, chunks=None)
    assert table.job_status.values.tolist() == [0, 1, 0]
    assert set(xarray.open_datatree(path, engine="zarr", chunks=None).children) == {
        "job_0",
        "job_2",
    }
    there = {group: arrays(path, group) for group in ("job_0", "job_2")}
    given = xarray.open_zarr(path, group="job_0", chunks=None).attrs["overrides"]
    usable = shares.threads_of(hydra("basic"), 1)
    assert usable == (None, shares.ALL)
    assert any(word.startswith("target.threads=") for word in given)
    shutil.rmtree("outputs")
    assert main(["-m", *MINE, *words]) == 1
    for group, values in there.items():
        assert_same(arrays(store(elsewhere), group), values)


def hydra(launcher: str, **settings: int | None) -> SimpleNamespace:
    choices = {"hydra/launcher": launcher}
    node = SimpleNamespace(**{"n_jobs": -1, "cpus_per_task": None, **settings})
    return SimpleNamespace(runtime=SimpleNamespace(choices=choices), launcher=node)


@pytest.mark.parametrize(
    ("launcher", "settings", "jobs", "threads", "at_once"),
    [
        ("joblib", {}, 100, 1, shares.ALL),
        ("joblib", {}, 2, 4, shares.ALL),
        ("joblib", {"n_jobs": 4}, 100, 2, shares.ALL),
        ("joblib", {"n_jobs": -2}, 100, 1, shares.ALL),
        ("joblib", {"n_jobs": 20}, 100, 1, shares.ALL),
        ("submitit_local", {}, 100, 1, 8),
        ("submitit_local", {}, 2, 4, 2),
        ("submitit_local", {"cpus_per_task": 4}, 100, 4, 2),
        ("submitit_local", {"cpus_per_task": 64}, 100, 64, 1),
        ("submitit_slurm", {"cpus_per_task": 16}, 100, 16, shares.ALL),
        ("submitit_slurm", {}, 100, None, shares.ALL),
    ],
)
def test_threads_are_shared(
    launcher: str,
    settings: dict[str, int],
    jobs: int,
    threads: int | None,
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cubie_flow.kernels.targets.cpu.usable_threads", lambda limit=None: 8)
    assert shares.threads_of(hydra(launcher, **settings), jobs) == (threads, at_once)


def test_other_tasks_go_job_by_job(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", *MINE, "task=plan", f"{K}=range(0,30)", "precision=float32,float64"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    rows = lines[next(i for i, line in enumerate(lines) if line.startswith("job ")) + 1 :]
    assert len(rows) == 2
    assert all("arange:[0,30,1]" in row for row in rows)
    assert not (elsewhere / "outputs").exists()
