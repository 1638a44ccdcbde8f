"""Interrupted studies are finished, by the public command, and nothing is done twice."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from held import held
from omegaconf import OmegaConf

from cubie_flow.config.identity import LATER
from cubie_flow.study.run import OTHER_NUMERICS

SHARD, RUNS = 2000, 40_000
STUDY = [
    "study=killed", "batch.values={rho: {linspace: [0, 40, 40000]}}", "duration=60",
    "output.save_every=20", "engine.progress=false", "storage.picture=false",
    f"storage.shard_runs={SHARD}", "target.threads=1",
]  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cubie_flow", *arguments]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


def finished_shards(folder: Path) -> int:
    return len(list(folder.glob("outputs/killed/*/*/results.zarr/status/c/*[0-9]")))


def arrays(store: Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(store, mode="r")
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


def only_run(folder: Path) -> Path:
    (found,) = folder.glob("outputs/killed/*/*")
    return found


def wait_for_shards(folder: Path, process: subprocess.Popen[str], count: int) -> None:
    while finished_shards(folder) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.fixture(scope="module")
def no_collections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(folder, *STUDY)
    assert done.returncode == 0, done.stderr
    return arrays(only_run(folder) / "results.zarr")


def killed(folder: Path, after: int) -> tuple[Path, int]:
    """Start the study, kill it once `after` shards are complete, return folder and runs done."""
    # The last shard is held, so that the study cannot end before it is killed.
    how = held(RUNS - SHARD, folder / "never", *STUDY)
    process = subprocess.Popen(**how, cwd=folder, stdout=subprocess.DEVNULL)
    wait_for_shards(folder, process, after)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    found = only_run(folder)
    status = arrays(found / "results.zarr")["status"]
    return found, int((status != 255).sum())


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_killed_run_is_finished_in_the_same_bytes(
    tmp_path: Path, no_collections: dict[str, np.ndarray], after: int
) -> None:
    found, done = killed(tmp_path, after)
    assert after * SHARD <= done < RUNS
    # A new policy is welcome: other threads, other lanes.
    resumed = run(tmp_path, f"resume={found}", "target.threads=2", "target.lanes=16")
    assert resumed.returncode == 0, resumed.stderr
    missing = re.search(r"resumed +([\d,]+) runs were missing", resumed.stdout)
    assert missing is not None, resumed.stdout
    assert int(missing[1].replace(",", "")) == RUNS - done
    after_all = arrays(found / "results.zarr")
    assert after_all.keys() == no_collections.keys()
    for name, values in no_collections.items():
        assert after_all[name].tobytes() == values.tobytes(), name
    again = run(tmp_path, f"resume={found}")
    assert "resumed  0 runs were missing" in again.stdout


def test_resume_refuses_another_study(tmp_path: Path) -> None:
    small = [*STUDY, "batch.values={rho: [10, 20]}", "duration=1", "output.save_every=null"]
    assert run(tmp_path, *small).returncode == 0
    found = only_run(tmp_path)
    for override, words in (
        ("controller.rtol=1e-9", "controller.rtol=1e-06"),
        ("algorithm=rk4", "algorithm=tsit5"),
        ("system.parameters.beta=3", "system.parameters.beta=8/3"),
        ("nonsense=1", "nonsense=None"),
        ("nonsense", "key=value"),
    ):
        refused = run(tmp_path, f"resume={found}", override)
        assert refused.returncode == 1
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr
    assert run(tmp_path, f"resume={found}", "algorithm=tsit5").returncode == 0
    nowhere = run(tmp_path, "resume=nowhere")
    assert nowhere.returncode == 1
    assert "resume=nowhere: it has no results.zarr" in nowhere.stderr


def test_a_sobol_study_grows(tmp_path: Path) -> None:
    """Only the new runs are computed, and the old ones keep their bytes."""
    sampled = [
        "study=killed", "batch=sobol", "batch.values={rho: {uniform: [0, 40]}}", "duration=2",
        "output.save_every=null", "engine.progress=false", "storage.picture=false",
    ]  # fmt: skip
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = run(tmp_path / "a", *sampled, "batch.size=1024", "storage.shard_runs=512")
    assert first.returncode == 0, first.stderr
    found = only_run(tmp_path / "a")
    grown = run(tmp_path / "a", f"resume={found}", "batch.size=2048")
    assert grown.returncode == 0, grown.stderr
    assert "resumed  1,024 runs were missing" in grown.stdout
    assert run(tmp_path / "b", *sampled, "batch.size=2048").returncode == 0
    large = arrays(only_run(tmp_path / "b") / "results.zarr")
    for name, values in arrays(found / "results.zarr").items():
        np.testing.assert_array_equal(values, large[name])
    shrunk = run(tmp_path / "a", f"resume={found}", "batch.size=512")
    assert shrunk.returncode == 1
    assert "the batch is not what it was" in shrunk.stderr


def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    how = held(SHARD, tmp_path / "never", *STUDY)
    process = subprocess.Popen(**how, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        wait_for_shards(tmp_path, process, 1)
        refused = run(tmp_path, f"resume={only_run(tmp_path)}")
        assert refused.returncode == 1
        assert "is being written by another process" in refused.stderr
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 128 + signal.SIGUSR1)],
)
def test_a_signal_finishes_the_shard_in_flight(tmp_path: Path, sent: int, code: int) -> None:
    gate = tmp_path / "go"
    process = subprocess.Popen(
        **held(3 * SHARD, gate, *STUDY), cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_shards(tmp_path, process, 1)
    process.send_signal(sent)
    assert process.stderr is not None
    assert "finishing the shard in flight" in process.stderr.readline()
    gate.touch()
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    found = only_run(tmp_path)
    assert f"resume={found.relative_to(tmp_path)}" in said
    assert "Traceback" not in said
    status = arrays(found / "results.zarr")["status"].reshape(-1, SHARD)
    whole = (status != 255).all(axis=1)
    assert 0 < whole.sum() < len(whole)
    assert (status[~whole] == 255).all()


def test_a_limit_of_time(tmp_path: Path) -> None:
    stopped = run(tmp_path, *STUDY, "engine.time_limit=0.01s")
    assert stopped.returncode == 124, stopped.stdout
    assert "stopped before engine.time_limit (0.01 s)" in stopped.stderr
    wrong = run(tmp_path, *STUDY, "engine.time_limit=soon")
    assert "engine.time_limit is 'soon'; it must be seconds, or such as 90s" in wrong.stderr


def test_damage_is_found_and_mended(tmp_path: Path) -> None:
    small = [*STUDY, "batch.values={rho: {linspace: [0, 40, 4000]}}", "duration=5"]
    small += ["storage.shard_runs=1000", "output.save_every=1"]
    assert run(tmp_path, *small).returncode == 0
    found = only_run(tmp_path)
    store = found / "results.zarr"
    whole = arrays(store)
    sound = run(tmp_path, f"verify={found}")
    assert sound.returncode == 0
    assert "4 of 4 shards complete, 0 of them damaged" in sound.stdout
    # One file is cut short, one array holds another number, one status file is gone.
    piece = max((store / "x" / "c").rglob("*"), key=lambda p: (p.is_file(), p.parts))
    piece.write_bytes(piece.read_bytes()[:-40])
    zarr.open_group(store, mode="r+")["y_final"][1500] += 1e-6
    (store / "status" / "c" / "0").unlink()
    told = run(tmp_path, f"verify={found}")
    assert told.returncode == 1
    assert "3 of 4 shards complete, 2 of them damaged" in told.stdout
    assert "damaged: shard 1, runs 1,000 to 1,999" in told.stdout
    mended = run(tmp_path, f"resume={found}", "recheck=true")
    assert mended.returncode == 0, mended.stderr
    assert "resumed  3,000 runs were missing" in mended.stdout
    for name, values in arrays(store).items():
        assert values.tobytes() == whole[name].tobytes(), name


def test_folders_of_an_earlier_version_are_finished(tmp_path: Path) -> None:
    """Keys that came later are filled in, and other numerics are said."""
    small = ["batch.values={rho: {linspace: [0, 9, 40]}}", "study=killed", "storage.shard_runs=20"]
    quick = ["duration=0.1", "output.save_every=0.05", "storage.picture=false"]
    assert run(tmp_path, *small, *quick).returncode == 0
    folder = only_run(tmp_path)
    config = folder / "config.yaml"
    kept = OmegaConf.load(config)
    OmegaConf.set_struct(kept, False)
    for key in LATER:
        parent, _, name = key.rpartition(".")
        del (OmegaConf.select(kept, parent) if parent else kept)[name]
    config.write_text(OmegaConf.to_yaml(kept))
    done = run(tmp_path, f"resume={folder}")
    assert done.returncode == 0, done.stderr
    assert OTHER_NUMERICS not in done.stdout
    root = zarr.open_group(folder / "results.zarr", mode="r+", use_consolidated=False)
    root.attrs["numerics"] = "of another version"
    (folder / "results.zarr" / "status" / "c" / "1").unlink()
    done = run(tmp_path, f"resume={folder}")
    assert done.returncode == 0, done.stderr
    assert OTHER_NUMERICS in done.stdout
