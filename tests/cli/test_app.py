"""The command line as users type it."""

import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray
import yaml

from cubie_flow import open_results
from cubie_flow.cli.app import main
from cubie_flow.config.schema import shipped

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.removeprefix("pip install -e . && ")
    for block in SHELL
    for line in block.splitlines()
    if "python -m cubie_flow" in line
]
MODEL = re.search(r"```yaml\n# decay.yaml\n(.*?)```", README, flags=re.DOTALL)
SMALL = ["batch.size=40", "storage.picture=false", "engine.progress=false"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def start(*arguments: str, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cubie_flow", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)  # type: ignore[call-overload,no-any-return]


def results(folder: Path) -> list[Path]:
    return sorted(folder.glob("outputs/**/results.zarr"))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_readme_run_as_written(command: str, elsewhere: Path) -> None:
    assert MODEL is not None
    (elsewhere / "decay.yaml").write_text(MODEL[1], encoding="utf-8")
    python, module, name, *words = shlex.split(command)
    assert (python, module, name) == ("python", "-m", "cubie_flow")
    command_line = [sys.executable, module, name, *words]
    done = subprocess.run(command_line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "--cfg" in words or "task=doctor" in words:
        assert not results(elsewhere)
        return
    (store,) = results(elsewhere)
    groups = [f"job_{i}" for i in range(4)] if "-m" in words else [None]
    for group in groups:
        data = xarray.open_zarr(store, group=group, chunks=None)
        assert (data.status == 0).all()
    assert {"config.yaml", "run.log"} < {path.name for path in store.parent.iterdir()}
    assert len(list(store.parent.glob("*.png"))) == len(groups)
    assert "trajectories/s" in done.stdout


def test_the_default_study_is_what_it_says(elsewhere: Path) -> None:
    assert main(["engine.progress=false"]) == 0
    (store,) = results(elsewhere)
    assert store.relative_to(elsewhere).parts[:2] == ("outputs", "lorenz_sweep")
    data = xarray.open_zarr(store, chunks=None)
    assert dict(data.sizes) == {"run": 100_000, "time": 51}
    resolve_algorithm = (data.rho > 2) & (data.rho < 10)
    assert abs(data.z.isel(time=-1) - (data.rho - 1)).where(resolve_algorithm).max() < 1e-2
    analyse = shipped("experiments") / "lorenz_sweep" / "analyse.py"
    done = subprocess.run([sys.executable, analyse], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_overrides_reach_the_result(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["algorithm=rk4", "precision=float64", "system.parameters.beta=2", "study=mine"]
    assert main([*SMALL, *arguments, "output.save_every=null", "output.times=[1, 2.5]"]) == 0
    (store,) = results(elsewhere)
    assert "mine" in store.parts
    data = xarray.open_zarr(store, chunks=None)
    assert data.x.dtype == "float64"
    assert data.sizes["run"] == 40
    assert data.time.values.tolist() == [1.0, 2.5]
    config = yaml.safe_load((store.parent / "config.yaml").read_text())
    assert config["system"]["parameters"]["beta"] == 2
    assert yaml.safe_load(data.attrs["config"]) == config
    assert data.attrs["overrides"][-1] == "output.times=[1, 2.5]"
    assert "success 40" in capsys.readouterr().out


def test_values_replace_what_the_study_varies(elsewhere: Path) -> None:
    assert main([*SMALL[1:], "batch.values={sigma: [8, 10, 12]}"]) == 0
    data = xarray.open_zarr(results(elsewhere)[0], chunks=None)
    assert data.sigma.values.tolist() == [8, 10, 12]
    assert "rho" not in data.coords


def test_one_value_adds_to_what_the_study_varies(elsewhere: Path) -> None:
    assert main([*SMALL, "batch.values.sigma=[8, 10]"]) == 0
    data = xarray.open_zarr(results(elsewhere)[0], chunks=None)
    assert data.sizes["run"] == 40
    assert len(set(data.rho.values)) == 20
    assert data.rho.attrs["integrated_as"] == "float32"


def test_a_secret_is_not_stored(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOW_SECRET", "hunter2")
    assert main([*SMALL, "study=${oc.env:FLOW_SECRET}"]) == 0
    (store,) = results(elsewhere)
    for path in store.parent.rglob("*"):
        if path.is_file() and path.name in ("config.yaml", "zarr.json"):
            assert "oc.env" in path.read_text() or "hunter2" not in path.read_text()
    assert "hunter2" not in (store.parent / "config.yaml").read_text()


def test_experiments_and_sweeps_are_found_wherever_hydra_finds_them(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = "# @package _global_\nstudy: mine\nbatch: {values: {rho: [1, 2, 3]}}\n"
    for file in ("conf/experiment/mine.yaml", "studies/other/experiment.yaml"):
        (elsewhere / file).parent.mkdir(parents=True)
        (elsewhere / file).write_text(study)
    for words in (
        [f"hydra.searchpath=[file://{elsewhere}/conf]", "experiment=mine"],
        [f"hydra.searchpath=[studies://{elsewhere}/studies]", "+experiment=other"],
    ):
        assert main([*words, "dry_run=true"]) == 0
        assert "3 (grid over rho)" in capsys.readouterr().out
    assert main(["experiment=null", "batch.size=5", "dry_run=true"]) == 0
    assert "plan     lorenz:" in capsys.readouterr().out
    params = "hydra.sweeper.params={precision: [float32, float64], system.parameters.rho: '1,2'}"
    assert main(["-m", params, "system.parameters.rho=range(0,3)", "dry_run=true"]) == 0
    told = capsys.readouterr().out
    assert "jobs     precision=float32,float64: 2 values" in told
    assert "runs     system.parameters.rho=range(0,3): 3 values" in told
    assert main(["-m", "hydra.sweeper.params=[a]", "precision=float32,float64"]) == 1
    assert "hydra.sweeper.params is ['a']; it must be a mapping" in capsys.readouterr().err


def test_a_folder_of_ones_own(elsewhere: Path) -> None:
    system = elsewhere / "mine" / "system"
    system.mkdir(parents=True)
    assert MODEL is not None
    (system / "fading.yaml").write_text(f"name: fading\n{MODEL[1]}")
    study = elsewhere / "mine" / "experiment"
    study.mkdir()
    (study / "trial.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /system: fading\nstudy: trial\n"
        "batch: {values: {k: [0.1, 0.2]}}\n"
    )
    assert main(["--config-dir", "mine", "experiment=trial", "storage.picture=false"]) == 0
    (store,) = results(elsewhere)
    assert "trial" in store.parts
    assert xarray.open_zarr(store, chunks=None).k.values.tolist() == [0.1, 0.2]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("batch.values.rho=[20, 30]", [20.0, 30.0]),
        ("batch.values.rho={logspace: [1, 100, 3]}", [1.0, 10.0, 100.0]),
    ],
)
def test_what_is_said_of_one_quantity_replaces_what_the_study_says(
    word: str, values: list[float], elsewhere: Path
) -> None:
    assert main([*SMALL[1:], word]) == 0
    assert main(["-m", *SMALL[1:], word, "algorithm=tsit5,vern7"]) == 0
    one, several = (xarray.open_datatree(store, engine="zarr") for store in results(elsewhere))
    assert one.rho.values.tolist() == pytest.approx(values)
    assert several["job_1"].rho.values.tolist() == pytest.approx(values)


@pytest.mark.parametrize("words", [[], ["-m", "controller.rtol=1e-4,1e-6"]])
def test_a_model_in_a_folder_of_ones_own_is_called_after_its_file(
    words: list[str], elsewhere: Path
) -> None:
    system = elsewhere / "mine" / "system"
    system.mkdir(parents=True)
    assert MODEL is not None
    (system / "fading.yaml").write_text(MODEL[1])
    assert main([*words, "--config-dir", "mine", "system=fading", "storage.picture=false"]) == 0
    (store,) = results(elsewhere)
    assert "fading" in store.parts


def test_what_can_hardly_be_meant_is_said(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "early.yaml").write_text(
        "states: {x: 1.0}\nparameters: {k: 1.0, start: -3}\nequations: {x: -k*x}\n"
        "doses: [{name: drip, into: x, amount: 1, duration: 2, at: -1}]\n"
        "events: {a: {at: [-2, 1], set: {x: 5}}, b: {at: start}, c: {at: {start: -1, every: 1}}}\n"
    )
    words = [*SMALL[1:], "system.file=early.yaml", "batch.values={k: [1, 2]}"]
    words += ["controller.rtol=1e-9"]
    assert main(words) == 0
    told = capsys.readouterr().out
    for name, early in (("a", "-2"), ("b", "-3"), ("drip_begins", "-1")):
        assert f"note     event {name} does not happen at {early}: runs start at 0\n" in told
    assert told.count("does not happen") == 3
    assert "note     controller.rtol=1e-09 is below the rounding of float32, 1.2e-07" in told
    assert main([*words, "t_start=-5", "precision=float64"]) == 0
    assert "note" not in capsys.readouterr().out


def test_start_values_that_are_expressions(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "ia.yaml").write_text(
        "parameters: {dose: 100, BW: 70, f: 0.05, V: BW*f, k: 0.1, spare: 1}\n"
        "states: {C: dose/V}\nequations: {C: -k*C}\nunused: [spare]\ntime: {duration: 10}\n"
    )
    words = ["system.file=ia.yaml", "precision=float64", "output.save_every=10", *SMALL[1:]]
    assert main([*words, "batch.values={BW: [70, 80], spare: [1, 2]}"]) == 0
    told = capsys.readouterr().out
    assert "note     the batch varies 'spare', which changes nothing: no equation" in told
    (store,) = results(elsewhere)
    data = open_results(store)
    starts = [100 / 3.5, 100 / 3.5, 25, 25]
    assert data.C.values[:, 0] == pytest.approx(starts, rel=1e-14)
    again = data.flow.rerun([1, 2])
    assert (again.C.values == data.C.values[1:3]).all()
    assert data.flow.rerun([2], parameters={"f": 0.1}).C.values[0, 0] == pytest.approx(12.5)
    assert data.flow.rerun([2], initial_values={"C": 3}).C.values[0, 0] == 3.0
    # What the command line gives is not computed, and what only that used is no mistake.
    assert main([*words, "system.parameters.V=4", "batch.size=8"]) == 0
    told = capsys.readouterr().out
    assert "every other parameter by 20 %: dose from 80 to 120; k from 0.08" in told
    assert main([*words, "system.states.C=dose/V/2", "batch=single"]) == 0
    assert open_results(results(elsewhere)[-1]).C.values[0, 0] == pytest.approx(50 / 3.5)
    capsys.readouterr()
    assert main([*words, "batch.values={dose: [1, 2], C: [3, 4]}"]) == 1
    assert "the batch varies 'dose', but also gives all that" in capsys.readouterr().err


MISTAKES = [
    (["systm=lorenz"], ["systm", "did you mean 'system'"]),
    (["system=loren"], ["loren", "did you mean 'lorenz'"]),
    (["algorithm=tsit6"], ["tsit6", "did you mean 'tsit5'"]),
    (["controller.rtoll=1"], ["controller.rtoll", "did you mean 'rtol'"]),
    (["controller.rtol=-1"], ["controller.rtol", "-1"]),
    (["controller.rtol=abc"], ["controller.rtol", "abc"]),
    (["precision=float31"], ["float31", "float32, float64"]),
    (["a=["], ["a=["]),
    (["--foo"], ["--foo"]),
    (["experiment=lorenz_swep"], ["did you mean 'lorenz_sweep'"]),
    (["system.parameters.rhoo=1"], ["rhoo"]),
    (["batch.values.rhoo=[1, 2]"], ["rhoo", "did you mean 'rho'"]),
    (["batch.values={rho: {linspac: [1, 2, 3]}}"], ["linspac", "did you mean 'linspace'"]),
    (["batch=table"], ["batch.path"]),
    (["output.variables=[w]"], ["'w'"]),
    (["output.summaries=[w]"], ["'w'"]),
    (["output.times=[1, 99]", "output.save_every=null"], ["99", "25"]),
    (["controller=fixed", "controller.dt=null"], ["controller.dt"]),
    (["algorithm=rk4", "controller=pi"], ["rk4", "fixed"]),
    (["buffers.stage_location=shared"], ["buffers.stage", "is not a buffer"]),
    (["system.file=nowhere.yaml"], ["nowhere.yaml"]),
    (["study=${nothing}"], ["nothing"]),
    (["study=a/b"], ["a/b"]),
    (["+_target_=os.system"], ["_target_", "refused"]),
    (["to=x.yaml"], ["to=x.yaml", "task=import", "task=run"]),
    (["--config-dir", "nowhere"], ["nowhere"]),
    (["controller=[[1],[2]]"], ["controller", "[[1],[2]]", "must be one of default, fixed"]),
    (["output={a: 1}"], ["output", "must be one of final, summaries"]),
    (["~hydra.job.num"], ["hydra.job.num", "cannot be changed"]),
    (["batch=0.5"], ["batch", "0.5", "must be one of grid"]),
    (["experiment=[[1]]"], ["experiment", "[[1]]", "name of an experiment"]),
    (
        ["system.drivers.rho={times: [0, 1], values: [1, 2]}", "system.suggested=1"],
        ["suggested", "mapping", "1"],
    ),
    (["output.trajectories=[x]"], ["output.trajectories=[x]", "mapping and the other a list"]),
    (["-m", "hydra/launcher=jobli"], ["hydra/launcher", "jobli", "cubie-flow[launchers]"]),
    (["storage.url=s3://"], ["storage.url", "s3://", "s3://bucket/results"]),
    (["batch.size=1e18"], ["of disk", "batch.size="]),
    (["rho=3"], ["'rho' is not a key", "a parameter of the model is system.parameters.rho"]),
    (["parameters.rho=3"], ["not a key", "a parameter of the model is system.parameters.rho"]),
    (["batch.size=1e30"], ["2^99.7 runs, more than the 2^62 that can be counted"]),
    (["-m", "algorithm=tsit5,rk5"], ["rk5"]),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_is_one_sentence_and_an_exit_code(
    arguments: list[str], words: list[str], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine.progress=false", *arguments]) == 1
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("cubie-flow: ")
    for word in words:
        assert word in lines[0]
    if "-m" not in arguments:
        assert not list(elsewhere.iterdir()), "nothing is left behind"


def test_an_output_folder_that_cannot_be_made(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "taken").write_text("a file, not a folder")
    assert main([*SMALL, "storage.folder=taken"]) == 1
    assert "taken" in capsys.readouterr().err


def test_a_disk_that_is_full(elsewhere: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    process = start("batch.size=200000", "storage.picture=false", preexec_fn=limit)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out
    last = err.splitlines()[-1]
    assert last.startswith("cubie-flow: ")
    assert "cannot be written" in last
    assert "Traceback" not in err
    for store in results(elsewhere):
        xarray.open_zarr(store, chunks=None).status.load()


def test_ctrl_c_keeps_what_was_solved(elsewhere: Path) -> None:
    words = ["batch.size=30000000", "output.save_every=null", "storage.picture=false"]
    process = start(*words, "storage.shard_runs=500000")
    while not results(elsewhere):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    (store,) = results(elsewhere)
    status = xarray.open_zarr(store, chunks=None, mask_and_scale=False).status.values
    assert set(status) == {0, 255}


def test_two_runs_in_one_second_have_two_folders(elsewhere: Path) -> None:
    running = [start(*SMALL) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    for process in running:
        process.communicate()
    assert len(results(elsewhere)) == 2


def test_help_config_and_completion_are_hydras(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capfd.readouterr().out
    assert re.search(r"experiment: buffer_locations, .*lorenz_sweep, .*van_der_pol", text)
    assert "task=doctor" in text
    assert main(["--cfg", "job", "system.parameters.rho=3"]) == 0
    assert yaml.safe_load(capfd.readouterr().out)["system"]["parameters"]["rho"] == 3
    environment = {**os.environ, "COMP_LINE": "cubie-flow algorithm=ts", "COMP_POINT": "23"}
    process = start("-sc", "query=bash", env=environment)
    assert process.communicate(timeout=60)[0].split() == ["algorithm=tsit5"]


def test_the_doctor_and_the_cache(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task=doctor"]) == 0
    text = capsys.readouterr().out
    for name in ("GPU", "driver", "toolkit", "vectors", "threads", "cache", "versions"):
        assert re.search(rf"^{name} ", text, flags=re.MULTILINE)
    assert main(["task=clear_cache"]) == 0
    assert "deleted" in capsys.readouterr().out
    assert not list(elsewhere.iterdir())


def test_a_plan_runs_nothing(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = "buffers.stage_increments_location=shared"
    assert main(["task=plan", "target.arch=sm_75,sm_90", moved]) == 0
    text = capsys.readouterr().out
    lines = {line.split()[0]: line for line in text.splitlines() if line and line[0] != " "}
    assert " ".join(lines["stage_increments"].split()[1:]) == "run.step shared float32 21 84 0 -"
    assert "84 bytes per run (21 elements of float32), stride 84" in lines["shared"]
    assert {"sm_75", "sm_90", "runs", "store", "shards", "host", "binds"} < set(lines)
    assert "limited by" in text
    assert "100,000" in lines["runs"]
    assert not list(elsewhere.iterdir()), "nothing is left behind"


def test_plans_of_a_multirun_are_one_table(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["task=plan", "-m", "algorithm=tsit5,rk4", "precision=float32,float64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("job "))
    heading, *rows, total = lines[first:]
    assert total.startswith("total    400,000 runs in ")
    assert {"shared", "stride", "regs", "spills", "occupancy", "store", "fits"} < set(
        heading.split()
    )
    jobs = [(a, p) for a in ("tsit5", "rk4") for p in ("float32", "float64")]
    assert [row.split()[:4] for row in rows] == [
        [f"job_{i - 1}", f"{i}", f"algorithm={algorithm}", f"precision={precision}"]
        for i, (algorithm, precision) in enumerate(jobs, start=1)
    ]
    assert not list(elsewhere.iterdir()), "nothing is left behind"


def test_a_plan_that_cannot_fit_says_what_would(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = ["batch.size=1000000000", "output.save_every=0.001"]
    assert main(["task=plan", *huge]) == 1
    said = capsys.readouterr()
    assert "stage_increments" in said.out
    (line,) = said.err.splitlines()
    assert re.search(r"needs up to [\d,.]+ TB of disk, but '.*outputs' has .* free", line)
    assert "batch.size=" in line
    assert main([*SMALL[1:], *huge]) == 1
    (again,) = capsys.readouterr().err.splitlines()
    assert "TB of disk" in again
    assert not list(elsewhere.iterdir()), "nothing is left behind"
