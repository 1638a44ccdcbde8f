"""What goes wrong while a study runs, by the public command in a process of its own.

Each ends in the bytes of an undisturbed run, or in a clear refusal; and what is solved again is
what was missing.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from held import held

SHARD, RUNS = 1000, 20_000
STUDY = [
    "study=faults", "batch.values={rho: {linspace: [0, 40, 20000]}}", "duration=40",
    "output.save_every=4", "engine.progress=false", "storage.picture=false",
    f"storage.shard_runs={SHARD}", "target.threads=1", "hydra.run.dir=run",
]  # fmt: skip
#: Kills at random moments: 20 where it is asked for.
KILLS = int(os.environ.get("CUBIE_FLOW_FAULT_KILLS", "3"))
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and POSIX limits")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cubie_flow", *arguments]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


def arrays(folder: Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(folder / "run" / "results.zarr", mode="r", use_consolidated=False)
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


def complete(folder: Path) -> np.ndarray:
    """Return which shards have their status, by a reader that is not ours."""
    status = zarr.open_array(folder / "run" / "results.zarr" / "status", mode="r")[...]
    return (np.asarray(status).reshape(-1, SHARD) != 255).all(axis=1)


def finished(folder: Path) -> int:
    return len(list(folder.glob("run/results.zarr/status/c/*[0-9]")))


@pytest.fixture(scope="module")
def no_collections(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A whole run: its folder and its arrays."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(folder, *STUDY)
    assert done.returncode == 0, done.stderr
    return folder, arrays(folder)


def copy(no_collections: tuple[Path, dict[str, np.ndarray]], folder: Path) -> Path:
    """Return a copy of the whole run to be damaged."""
    shutil.copytree(no_collections[0] / "run", folder / "run")
    return folder / "run" / "results.zarr"


def resumed(folder: Path, whole: dict[str, np.ndarray], missing: int, *words: str) -> None:
    """Finish a study; check what was solved again and that every byte is that of `whole`."""
    done = run(folder, "resume=run", *words)
    assert done.returncode == 0, done.stderr
    told = re.search(r"resumed +([\d,]+) runs were missing", done.stdout)
    assert told is not None, f"something was kept: {done.stdout}"
    assert int(told[1].replace(",", "")) == missing
    after = arrays(folder)
    assert after.keys() == whole.keys()
    for name, values in whole.items():
        assert after[name].tobytes() == values.tobytes(), name
    assert not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_a_random_moment(
    number: int, tmp_path: Path, no_collections: tuple[Path, dict[str, np.ndarray]]
) -> None:
    chance = random.Random(number)
    after = chance.randrange(1, RUNS // SHARD - 4)
    # The last shard is held, so that the study cannot end before it is killed.
    how = held(RUNS - SHARD, tmp_path / "never", *STUDY)
    process = subprocess.Popen(**how, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        while finished(tmp_path) < after:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.02))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
    done = complete(tmp_path)
    assert after <= done.sum() < len(done)
    resumed(tmp_path, no_collections[1], RUNS - SHARD * int(done.sum()))


def test_killed_between_the_data_of_a_shard_and_its_status(
    tmp_path: Path, no_collections: tuple[Path, dict[str, np.ndarray]]
) -> None:
    """The moment that matters most: all arrays of a shard are there, but it does not count."""
    script = (
        "import os, signal, sys\n"
        "from cubie_flow.cli.app import main\n"
        "from cubie_flow.storage import ResultStore\n"
        "original = ResultStore._write\n"
        "def write(self, names, index, arrays):\n"
        "    if 'status' in names and index == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    original(self, names, index, arrays)\n"
        "ResultStore._write = write\n"
        "main(sys.argv[1:])\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, *STUDY], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    (third,) = (tmp_path / "run" / "results.zarr" / "z" / "c" / "2").rglob("*[0-9]")
    assert third.is_file(), "the data of the shard in flight were written"
    assert complete(tmp_path).sum() == 2
    resumed(tmp_path, no_collections[1], RUNS - 2 * SHARD)


def test_a_full_disk(tmp_path: Path, no_collections: tuple[Path, dict[str, np.ndarray]]) -> None:
    """A small disk of its own; tests/storage has a limit on the size of files everywhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(p.stat().st_size for p in no_collections[0].rglob("*") if p.is_file()) // 2
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        # The plan would refuse what cannot fit; compressed, it might have.
        script = (
            "import sys\nfrom cubie_flow.study import plan\n"
            "plan.free_disk = lambda folder: 10**12\n"
            "from cubie_flow.cli.app import main\nsys.exit(main(sys.argv[1:]))\n"
        )
        full = subprocess.run(
            [sys.executable, "-c", script, *STUDY],
            cwd=disk, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert full.returncode == 1
        assert full.stderr.count("\n") == 1, full.stderr
        assert "cannot be written: No space left on device" in full.stderr
        assert "the study can be resumed once the cause is removed" in full.stderr
        done = complete(disk)
        assert 0 < done.sum() < len(done)
        again = subprocess.run(
            ["mount", "-o", "remount,size=64m", str(disk)], capture_output=True, check=False
        )
        assert again.returncode == 0, again.stderr
        resumed(disk, no_collections[1], RUNS - SHARD * int(done.sum()))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_store_that_is_read_only(
    tmp_path: Path, no_collections: tuple[Path, dict[str, np.ndarray]]
) -> None:
    if os.geteuid() == 0:
        pytest.skip("the administrator may write everywhere")
    store = copy(no_collections, tmp_path)
    (store / "status" / "c" / "4").unlink()
    folders = [p for p in (store, *store.rglob("*")) if p.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        refused = run(tmp_path, "resume=run")
        assert refused.returncode == 1
        assert "cannot be written: Permission denied" in refused.stderr
        assert refused.stderr.count("\n") == 1
    finally:
        for folder in folders:
            folder.chmod(0o755)
    resumed(tmp_path, no_collections[1], SHARD)


def test_a_disk_that_is_mounted_read_only(
    tmp_path: Path, no_collections: tuple[Path, dict[str, np.ndarray]]
) -> None:
    copy(no_collections, tmp_path)
    (tmp_path / "run" / "results.zarr" / "status" / "c" / "4").unlink()
    place = str(tmp_path / "run" / "results.zarr")
    for options in (["--bind", place, place], ["-o", "remount,ro,bind", place]):
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False)
        if mounted.returncode:
            subprocess.run(["umount", "-l", place], capture_output=True, check=False)
            pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        refused = run(tmp_path, "resume=run")
        assert refused.returncode == 1
        assert "cannot be written: Read-only file system" in refused.stderr
        assert refused.stderr.count("\n") == 1
    finally:
        subprocess.run(["umount", "-l", place], check=False)
    resumed(tmp_path, no_collections[1], SHARD)


@pytest.mark.parametrize("damage", ["truncated", "one byte", "gone"])
def test_a_shard_is_damaged(
    damage: str, tmp_path: Path, no_collections: tuple[Path, dict[str, np.ndarray]]
) -> None:
    store = copy(no_collections, tmp_path)
    (piece,) = (store / "y" / "c" / "7").rglob("*[0-9]")
    data = bytearray(piece.read_bytes())
    if damage == "truncated":
        piece.write_bytes(data[: len(data) // 2])
    elif damage == "one byte":
        data[len(data) // 2] ^= 1
        piece.write_bytes(data)
    else:
        piece.unlink()
    told = run(tmp_path, "verify=run")
    assert told.returncode == 1
    assert "20 of 20 shards complete, 1 of them damaged" in told.stdout
    assert "damaged: shard 7, runs 7,000 to 7,999" in told.stdout
    resumed(tmp_path, no_collections[1], SHARD, "recheck=true")


def test_two_processes_on_one_folder(
    tmp_path: Path, no_collections: tuple[Path, dict[str, np.ndarray]]
) -> None:
    gate = tmp_path / "go"
    how = held(2 * SHARD, gate, *STUDY)
    first = subprocess.Popen(**how, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        while finished(tmp_path) < 2:
            assert first.poll() is None
            time.sleep(0.001)
        for words in (["resume=run"], STUDY, [*STUDY, "storage.overwrite=true"]):
            second = run(tmp_path, *words)
            assert second.returncode == 1
            assert "is being written by another process" in second.stderr
        gate.touch()
        assert first.wait() == 0
    finally:
        first.kill()
        first.wait()
    for name, values in arrays(tmp_path).items():
        assert values.tobytes() == no_collections[1][name].tobytes(), name


def test_nothing_is_overwritten_but_by_wish(
    tmp_path: Path, no_collections: tuple[Path, dict[str, np.ndarray]]
) -> None:
    copy(no_collections, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    other = [*STUDY, "batch.values={rho: [1, 2, 3]}", "duration=1"]
    refused = run(tmp_path, *other)
    assert refused.returncode == 1
    assert "results are never overwritten silently" in refused.stderr
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    looked = run(tmp_path, "resume=run", "dry_run=true")
    assert "0 of 20,000 runs of faults are missing" in looked.stdout
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    wished = run(tmp_path, *other, "storage.overwrite=true")
    assert wished.returncode == 0, wished.stderr
    assert arrays(tmp_path)["status"].shape == (3,)


def test_a_large_study_asks_first(tmp_path: Path) -> None:
    for limit, words in (
        ("engine.confirm_runs=1000", "20,000 runs in"),
        ("engine.confirm_bytes=1e5", "before compression, above engine.confirm_bytes=100,000"),
    ):
        asked = run(tmp_path, *STUDY, limit)
        assert asked.returncode == 1
        assert words in asked.stderr
        assert "confirm=true starts it" in asked.stderr
        assert asked.stderr.count("\n") == 1
        assert not (tmp_path / "run" / "config.yaml").exists()
    done = run(tmp_path, *STUDY, "engine.confirm_runs=1000", "confirm=true")
    assert done.returncode == 0, done.stderr
