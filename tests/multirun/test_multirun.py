"""A multirun from the command line: one store, whatever happens to its jobs."""

import os
import re
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

from cubie_flow.cli.app import main
from cubie_flow.integrators.run import SingleIntegratorRun
from cubie_flow.kernels import kernel
from cubie_flow.multirun.threads import UNLIMITED, divide_threads

ROOT = Path(__file__).parents[2]
MODEL = """
name: decay
states: {x: 1.0, u: 2.0}
parameters: {k: 0.5}
equations: {x: -k * x, u: x}
time: {duration: 2.0}
"""
#: With a second parameter, which a batch that nobody described varies.
TWO = MODEL.replace("{k: 0.5}", "{k: 0.5, j: 2.0}").replace("u: x}", "u: j * x}")
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


def test_jobs_that_share_a_kernel_build_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are its blocks gone through again to check where its buffers are."""
    built, checked = [], []
    build = SingleIntegratorRun.build
    monkeypatch.setattr(SingleIntegratorRun, "build", lambda self: built.append(1) or build(self))
    flat = kernel.flattened
    monkeypatch.setattr(kernel, "flattened", lambda found: checked.append(1) or flat(found))
    # A length of its own, so that no other test has left this kernel.
    words = ["batch=single", "algorithm=tsit5"]
    assert main(["-m", *MINE, *words, "duration=1.25", "controller.rtol=choice(1e-3)"]) == 0
    once = len(built), len(checked)
    assert main(["-m", *MINE, *words, "duration=1.5", "controller.rtol=1e-3,1e-4,1e-5"]) == 0
    assert (len(built), len(checked)) == (2 * once[0], 2 * once[1])


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


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ([f"{K}='1','2'"], {"k": [1, 2]}),
        ([f"{K}=${{oc.env:KV}},2"], {"k": [1.5, 2]}),
        ([f"{K}=1/4,1e-3"], {"k": [0.25, 1e-3]}),
        ([f"{K}='1',2", "system.states.x='3',4", f"hydra.sweeper.zip=[[{K},system.states.x]]"],
         {"k": [1, 2], "x_initial": [3, 4]}),
        # The study varies j besides; what is swept has its own values.
        ([f"{K}='1','2'", "batch.values={j: [5, 6]}"], {"k": [1, 1, 2, 2], "j": [5, 6, 5, 6]}),
        ([f"{K}=1,2", "batch=sobol", "batch.size=4"], {"k": [1, 1, 1, 1, 2, 2, 2, 2]}),
    ],
)  # fmt: skip
def test_the_study_is_what_was_typed(
    words: list[str], runs: dict[str, list[float]], elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (elsewhere / "decay.yaml").write_text(TWO)
    monkeypatch.setenv("KV", "1.5")
    assert main(["-m", *MINE, *words]) == 0
    found = arrays(store(elsewhere), "job_0")
    for name, values in runs.items():
        np.testing.assert_array_equal(found[name], values)
    assert not (store(elsewhere) / "job_1").exists()


def test_jobs_that_set_a_quantity_vary_nothing_else(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "decay.yaml").write_text(TWO)
    assert main(["-m", *MINE, f"{K}=1,2", f"hydra.sweeper.jobs=[{K}]"]) == 0
    assert "sweep    2 kernels x 1 shard, 2 runs" in capsys.readouterr().out
    path = store(elsewhere)
    for job, k in enumerate((1.0, 2.0)):
        data = xarray.open_zarr(path, group=f"job_{job}", chunks=None)
        assert data.sizes["run"] == 1
        assert float(data.x_final[0]) == pytest.approx(np.exp(-2 * k), rel=1e-4)


def test_a_job_that_never_began_keeps_what_was_typed(elsewhere: Path) -> None:
    """Of a batch that nobody described, what varies depends on the command line."""
    (elsewhere / "decay.yaml").write_text(TWO)
    words = [f"{K}=1.5", "batch=sobol", "batch.size=8", "precision=float32,float64"]
    assert main(["-m", *MINE, *words]) == 0
    path = store(elsewhere)
    before = arrays(path, "job_1")
    assert "j" in before
    assert "k" not in before
    shutil.rmtree(path / "job_1")
    assert main([f"resume={path.parent}"]) == 0
    assert_same(arrays(path, "job_1"), before)
    (path / "job_1" / "status" / "c" / "0").unlink()
    assert main([f"resume={path.parent}"]) == 0
    assert_same(arrays(path, "job_1"), before)


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
        ([f"{K}=null,1"], "system.parameters.k is swept over null, which is not a number"),
        ([f"{K}=1,wrong"], "k=wrong: system decay, parameter k: 'wrong' is not defined"),
        ([f"{K}=1,${{oc.env:NOT_THERE}}"], "Environment variable 'NOT_THERE' not found"),
        ([f"{K}=1,2", "batch=sobol", "batch.size=4", "batch.seed=1.5,2"], "batch.seed must be a"),
        ([f"{K}=1,2", f"{K}=3"], "the command line names it twice"),
        (["batch.values.k=[1],[x]"], "batch.values.k[0] is the text 'x', not a number"),
        (["duration=1,long"], "duration is 'long'; it must be a number"),
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
    assert "job_1: missing" in capsys.readouterr().out


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
    usable = divide_threads(hydra("basic"), 1)
    assert usable == (None, UNLIMITED)
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
        ("joblib", {}, 100, 1, UNLIMITED),
        ("joblib", {}, 2, 4, UNLIMITED),
        ("joblib", {"n_jobs": 4}, 100, 2, UNLIMITED),
        ("joblib", {"n_jobs": -2}, 100, 1, UNLIMITED),
        ("joblib", {"n_jobs": 20}, 100, 1, UNLIMITED),
        ("submitit_local", {}, 100, 1, 8),
        ("submitit_local", {}, 2, 4, 2),
        ("submitit_local", {"cpus_per_task": 4}, 100, 4, 2),
        ("submitit_local", {"cpus_per_task": 64}, 100, 64, 1),
        ("submitit_slurm", {"cpus_per_task": 16}, 100, 16, UNLIMITED),
        ("submitit_slurm", {}, 100, None, UNLIMITED),
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
    monkeypatch.setattr("cubie_flow.process.machine.usable_cores", lambda limit=None: 8)
    assert divide_threads(hydra(launcher, **settings), jobs) == (threads, at_once)


def test_a_dry_run_plans_every_job_and_starts_nothing(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{K}=range(0,30)", "precision=float32,float64", "controller.rtol=1e-3,1e-4"]
    words += ["storage.shard_runs=10", "dry_run=true", "engine.confirm_runs=100"]
    # Who would run the jobs is not asked.
    assert main(["-m", *MINE, *words, "hydra/launcher=joblib"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "sweep    4 jobs of 2 kernels x 3 shards, 120 runs"
    columns = lines[4].split()
    rows = [line.split() for line in lines[5:9]]
    assert [row[columns.index("kernel")] for row in rows] == ["1", "1", "2", "2"]
    assert "regs" not in columns
    assert rows[3][2:4] == ["precision=float64", "controller.rtol=0.0001"]
    # k, two final values, two counters and a status a run.
    size = 60 * (8 + 2 * 4 + 8 + 1) + 60 * (8 + 2 * 8 + 8 + 1)
    told = f"results of at most {size / 1e3:.1f} kB before compression"
    assert lines[9] == f"total    120 runs in 12 shards, with {told}"
    assert "above engine.confirm_runs=100; it starts with confirm=true" in lines[10]
    assert lines[11] == "dry run  nothing was solved or written"
    assert not (elsewhere / "outputs").exists()


def test_a_dry_run_names_jobs_that_cannot_run(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", *MINE, f"{K}=1,2", "precision=float32,float31", "dry_run=true"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert "job_1 of 2 jobs, precision=float31" in said[0]
    assert said[1:] == ["cubie-flow: 1 of 2 jobs cannot run"]
    assert main(["-m", *MINE, f"{K}=1,2", "dry_run=true,false"]) == 1
    assert "dry_run cannot be swept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (["engine.confirm_runs=70"], "120 runs in 4 shards.*engine.confirm_runs=70"),
        (["engine.confirm_bytes=3000"], "3.* kB before.*engine.confirm_bytes=3,000"),
    ],
)
def test_jobs_are_confirmed_together(
    words: list[str], limit: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Each job alone is below the limit.
    sweep = [f"{K}=range(0,30)", "precision=float32,float64", "controller.rtol=1e-3,1e-4"]
    assert main(["-m", *MINE, *sweep, *words]) == 1
    assert re.search(f"the 4 jobs are .*{limit}; confirm=true starts", capsys.readouterr().err)
    assert not (elsewhere / "outputs").exists()
    assert main(["-m", *MINE, *sweep, *words, "confirm=true"]) == 0


def test_a_dry_resume_says_what_each_job_lacks(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{K}=range(0,40)", "algorithm=tsit5,cash_karp_54,vern7", "storage.shard_runs=10"]
    assert main(["-m", *MINE, *words]) == 0
    path = store(elsewhere)
    (path / "job_1" / "status" / "c" / "2").unlink()
    shutil.rmtree(path / "job_2" / "status")  # left while it was made
    before = {p: p.stat().st_mtime_ns for p in path.parent.rglob("*")}
    capsys.readouterr()
    assert main([f"resume={path.parent}", "-m", "dry_run=true"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "job_0    algorithm=tsit5: complete",
        "job_1    algorithm=cash_karp_54: 10 of 40 runs are missing",
        "job_2    algorithm=vern7: not begun, 40 runs",
        "total    50 runs in 5 shards, with results of at most 1.2 kB before compression, of 2 "
        "jobs",
        "dry run  nothing was solved or written",
    ]
    assert {p: p.stat().st_mtime_ns for p in path.parent.rglob("*")} == before


def test_resume_through_a_launcher(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{K}=range(0,40)", "algorithm=tsit5,cash_karp_54,vern7", "storage.shard_runs=10"]
    assert main(["-m", *MINE, *words, "hydra.sweep.dir=run"]) == 0
    path = elsewhere / "run" / "results.zarr"
    before = {group: arrays(path, group) for group in ("job_0", "job_1", "job_2")}
    (path / "job_1" / "status" / "c" / "2").unlink()
    shutil.rmtree(path / "job_2")
    kept = path / "job_1" / "x_final" / "c"
    written = {file.name: file.stat().st_mtime_ns for file in kept.iterdir()}
    command = [sys.executable, "-m", "cubie_flow", "resume=run", "-m", "hydra/launcher=joblib"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 jobs were complete" in done.stdout
    for group, values in before.items():
        assert_same(arrays(path, group), values)
    again = {file.name for file in kept.iterdir() if file.stat().st_mtime_ns != written[file.name]}
    assert again == {"2"}
    assert xarray.open_zarr(path, chunks=None).job_status.values.tolist() == [0] * 3
    assert {p.name for p in path.parent.iterdir()} == {"results.zarr", "config.yaml", "run.log"}


def test_words_that_do_not_belong_to_resume(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*MINE, "batch=single", "hydra.run.dir=run"]) == 0
    assert main(["resume=run", "-m"]) == 0  # it is one study, and complete
    assert main(["resume=run", "-m", "hydra/launcher=joblib"]) == 1
    assert "'run' holds one study; leave it out" in capsys.readouterr().err
    assert main(["-m", *MINE, f"{K}=1,2", "hydra.sweep.dir=many"]) == 0
    assert main(["resume=many", "hydra.launcher.n_jobs=2"]) == 1
    assert "needs hydra/launcher=" in capsys.readouterr().err
    assert main(["resume=many", "-m", "hydra/launcher=jolib"]) == 1
    assert "hydra/launcher is 'jolib'" in capsys.readouterr().err


def stopped_part(folder: Path, process: subprocess.Popen[str]) -> tuple[Path, str]:
    """Send Ctrl-C as a terminal does once two shards are there; return the store and stderr."""
    deadline = time.monotonic() + 120
    while len(list(folder.glob("outputs/**/job_*/status/c/*[0-9]"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    return store(folder), said


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_ctrl_c_finishes_shards_in_flight(launcher: str, elsewhere: Path) -> None:
    words = [f"{K}=range(0,8000)", "algorithm=tsit5,rk4,vern7", "storage.shard_runs=500"]
    words += ["controller.dt=1e-4", "controller.rtol=1e-12", "controller.max_steps=100000000"]
    words += ["precision=float64", "controller.dt_max=1e-3", "target.threads=1"]
    command = [sys.executable, "-m", "cubie_flow", "-m", *MINE, *words]
    process = subprocess.Popen(
        [*command, f"hydra/launcher={launcher}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    path, said = stopped_part(elsewhere, process)
    assert said.splitlines() == [
        "cubie-flow: finishing the shard in flight; once more stops now",
        f"what was solved is kept in {path.relative_to(elsewhere)}; python -m cubie_flow "
        f"resume={path.parent.relative_to(elsewhere)} does the rest",
        "cubie-flow: interrupted: stopped by SIGINT after the shard in flight",
    ]
    table = xarray.open_zarr(path, chunks=None)
    assert set(table.job_status.values.tolist()) <= {0, 2, 255}
    assert table.job_status.values[2] == 255
    status = arrays(path, "job_0")["status"].reshape(16, 500)
    whole = (status != 255).all(axis=1)
    assert whole.any()
    assert (status[~whole] == 255).all()
    assert main([f"resume={path.parent}"]) == 0
    stopped = {f"job_{job}": arrays(path, f"job_{job}") for job in range(3)}
    shutil.rmtree("outputs")
    assert main(["-m", *MINE, *words]) == 0
    for group, values in stopped.items():
        assert_same(arrays(store(elsewhere), group), values)


ENDLESS = [
    f"{K}=range(0,80)", "precision=float64", "algorithm=tsit5,rk4", "target.threads=1",
    "controller.dt=1e-8", "controller.dt_max=1e-8", "controller.max_steps=1000000000",
]  # fmt: skip


@pytest.mark.parametrize("how", ["hydra/launcher=basic", "hydra/launcher=joblib", "engine=dask"])
def test_ctrl_c_twice_stops_now(how: str, elsewhere: Path) -> None:
    """Whoever solves, nothing of it is left and nothing but that is said."""
    package = {"hydra/launcher=joblib": "joblib", "engine=dask": "distributed"}.get(how, "zarr")
    pytest.importorskip(package, reason=f"{package} is not installed")
    process = subprocess.Popen(
        [sys.executable, "-m", "cubie_flow", "-m", *MINE, *ENDLESS, how],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(elsewhere.glob("outputs/**/job_*/status/zarr.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr is not None
    assert "finishing the shard in flight; once more stops now" in process.stderr.readline()
    os.killpg(process.pid, signal.SIGINT)
    # This ends only once nobody holds the pipe any more.
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    path = store(elsewhere).relative_to(elsewhere)
    assert said.splitlines() == [
        f"what was solved is kept in {path}; python -m cubie_flow resume={path.parent} does the "
        "rest",
        "cubie-flow: interrupted",
    ]
    assert set(xarray.open_zarr(path, chunks=None).job_status.values.tolist()) <= {2, 255}
    assert main([f"resume={path.parent}", "dry_run=true"]) == 0


def test_a_limit_of_time_is_that_of_all_jobs_on_dask(elsewhere: Path) -> None:
    """Shards in flight end, the other job never starts."""
    pytest.importorskip("distributed", reason="Dask is not installed")
    words = [f"{K}=range(0,40)", "precision=float32,float64", "storage.shard_runs=10"]
    command = [sys.executable, "-m", "cubie_flow", "-m", *MINE, *words]
    dask = ["engine=dask", "engine.workers=1", "engine.time_limit=0.001"]
    done = subprocess.run([*command, *dask], capture_output=True, text=True)
    assert done.returncode == 124, done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert "does the rest" in done.stderr
    assert "engine.time_limit (0.001 s)" in done.stderr
    path = store(elsewhere)
    assert xarray.open_zarr(path, chunks=None).job_status.values.tolist() == [2, 255]
    status = arrays(path, "job_0")["status"].reshape(4, 10)
    whole = (status != 255).all(axis=1)
    assert whole.any()
    assert (status[~whole] == 255).all()
    again = [f"resume={path.parent}", "engine.time_limit=null", "engine=local"]
    assert main(again) == 0
    assert xarray.open_zarr(path, chunks=None).job_status.values.tolist() == [0, 0]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_limit_of_time_is_that_of_all_jobs_of_a_launcher(workers: str, elsewhere: Path) -> None:
    words = [f"{K}=range(0,40)", "precision=float32,float64", "engine.time_limit=0.001"]
    words += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={workers}"]
    command = [sys.executable, "-m", "cubie_flow", "-m", *MINE, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 124, done.stderr
    assert "does the rest" in done.stderr
    assert "engine.time_limit (0.001 s)" in done.stderr
    path = store(elsewhere)
    assert xarray.open_zarr(path, chunks=None).job_status.values.tolist() == [255, 255]
    assert main([f"resume={path.parent}", "engine.time_limit=null"]) == 0


def test_two_that_divide_one_machine_are_refused(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["hydra/launcher=joblib", "engine=dask"]
    assert main(["-m", *MINE, f"{K}=1,2", "precision=float32,float64", *both]) == 1
    assert "would both divide this machine" in capsys.readouterr().err
    assert not (elsewhere / "outputs").exists()


def test_one_cluster_for_all_jobs(elsewhere: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    words = [f"{K}=range(0,40)", "precision=float32,float64", "storage.shard_runs=10"]
    words += ["engine=dask", "engine.workers=1"]
    command = [sys.executable, "-m", "cubie_flow", "-m", *MINE, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    path = store(elsewhere)
    workers = [
        set(xarray.open_zarr(path, group=f"{group}/memory", chunks=None).worker.values.tolist())
        for group in ("job_0", "job_1")
    ]
    assert len(workers[0]) == 1
    assert workers[0] == workers[1]


def test_plans_make_one_table(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", *MINE, "task=plan", f"{K}=range(0,30)", "precision=float32,float64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = lines[next(i for i, line in enumerate(lines) if line.startswith("job ")) + 1 :]
    assert len(rows) == 3
    assert [row.split()[2] for row in rows[:2]] == ["precision=float32", "precision=float64"]
    assert rows[2].startswith("total    60 runs in 2 shards")
    assert not (elsewhere / "outputs").exists()


def test_imports_go_job_by_job(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "task=import", "system=lorenz,van_der_pol"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out if line.startswith("wrote ")] == [
        "wrote lorenz.yaml",
        "wrote van_der_pol.yaml",
    ]
    found = {path.name for path in elsewhere.iterdir()}
    assert found == {"decay.yaml", "lorenz.yaml", "van_der_pol.yaml"}


@pytest.mark.parametrize("task", ["doctor", "clear_cache"])
def test_tasks_that_are_about_no_study(
    task: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", *MINE, f"task={task}", "precision=float32,float64"]) == 1
    assert capsys.readouterr().err == (
        f"cubie-flow: task={task} does the same whatever is swept; leave out -m\n"
    )
    assert not (elsewhere / "outputs").exists()
