"""Studies in an object store that are killed, or that two processes want at once."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from held import held
from object_server import options_of, words_of

from cubie_flow.storage import Location
from cubie_flow.storage.objects import small_object

SHARD, RUNS = 256, 2048
STUDY = [
    "study=far", "batch.values={rho: {linspace: [0, 40, 2048]}}", "duration=1",
    "output.save_every=0.5", f"storage.shard_runs={SHARD}", "engine.progress=false",
    "target.threads=1", "storage.picture=false", "hydra.run.dir=run",
]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The arrays of a whole run, in a folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(folder, *STUDY)
    assert done.returncode == 0, done.stderr
    return arrays(folder / "run" / "results.zarr")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cubie_flow", *words],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def arrays(store: Any) -> dict[str, np.ndarray]:
    group = zarr.open_group(store, mode="r", use_consolidated=False)
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


class Far:
    """A study at a URL, and a process that solves it up to a shard."""

    def __init__(self, client: str, server: str, name: str) -> None:
        self.place = Location(
            f"s3://results/{name}.zarr", client=client, options=options_of(client, server)
        )
        self.options = words_of(client, server)
        url = f"storage.url={self.place.address}"
        self.words = [*STUDY, url, *self.options]
        self.again = [url, *self.options[1:]]

    @property
    def lock(self) -> Any:
        return small_object(f"{self.place.address}.lock", self.place.client, self.place.options)

    def complete(self) -> int:
        try:
            status = zarr.open_array(self.place.store(read_only=True), path="status", mode="r")
        except (FileNotFoundError, zarr.errors.NodeNotFoundError):
            return 0
        return int((np.asarray(status[...]).reshape(-1, SHARD) != 255).all(axis=1).sum())

    def begin(self, folder: Path, shards: int, gate: Path) -> subprocess.Popen[bytes]:
        """Start the study and return once so many shards are complete."""
        how = held(SHARD * shards, gate, *self.words)
        process = subprocess.Popen(**how, cwd=folder, stdout=subprocess.DEVNULL)
        while self.complete() < shards:
            assert process.poll() is None
            time.sleep(0.01)
        return process

    def resumed(self, folder: Path, whole: dict[str, np.ndarray], missing: int) -> None:
        """Finish it; check what was solved again and that every byte is that of `whole`."""
        done = run(folder, "resume=run", *self.again)
        assert done.returncode == 0, done.stderr
        told = re.search(r"resumed +([\d,]+) runs were missing", done.stdout)
        assert told is not None, f"something was kept: {done.stdout}"
        assert int(told[1].replace(",", "")) == missing
        after = arrays(self.place.store(read_only=True))
        assert after.keys() == whole.keys()
        for name, values in whole.items():
            assert after[name].tobytes() == values.tobytes(), name
        with pytest.raises(FileNotFoundError):
            self.lock.read()


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("client", ["fsspec", "obstore", "icechunk"])
def test_killed_and_resumed(
    client: str, tmp_path: Path, server: str, undisturbed: dict[str, np.ndarray]
) -> None:
    far = Far(client, server, f"killed-{client}")
    end(far.begin(tmp_path, 3, tmp_path / "never"))
    assert far.complete() == 3
    # Its lock is still there; this machine knows that its process is not.
    assert far.lock.read()
    far.resumed(tmp_path, undisturbed, RUNS - 3 * SHARD)


def test_the_lock_of_a_machine_that_is_gone_ends_in_time(
    tmp_path: Path, server: str, undisturbed: dict[str, np.ndarray]
) -> None:
    far = Far("fsspec", server, "gone")
    end(far.begin(tmp_path, 2, tmp_path / "never"))

    def change(**values: Any) -> None:
        data, tag = far.lock.read()
        content = {**json.loads(data), "machine": "another", "host": "node7", **values}
        far.lock.replace(json.dumps(content).encode(), tag)

    change(renewed=time.time())
    refused = run(tmp_path, "resume=run", *far.again)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert "is being written by another process" in refused.stderr
    assert "on node7" in refused.stderr
    assert "its lock expires after 60 s without renewal" in refused.stderr
    assert far.complete() == 2
    change(renewed=time.time() - 9, seconds=8)  # it is watched for a renewal and a half
    far.resumed(tmp_path, undisturbed, RUNS - 2 * SHARD)


def test_two_processes_on_one_store(
    tmp_path: Path, server: str, undisturbed: dict[str, np.ndarray]
) -> None:
    far = Far("obstore", server, "two")
    gate = tmp_path / "go"
    first = far.begin(tmp_path, 2, gate)
    try:
        # The folder of the first is locked besides; a copy of it, as on another machine, is not.
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "run", copy / "run")
        for words in (["resume=run", *far.again], [*far.words, "storage.overwrite=true"]):
            words = [word.replace("hydra.run.dir=run", "hydra.run.dir=other") for word in words]
            second = run(copy, *words)
            assert second.returncode == 1
            assert second.stderr.count("\n") == 1, second.stderr
            assert f"is being written by another process, {first.pid} on " in second.stderr
        gate.touch()
        assert first.wait() == 0
    finally:
        first.kill()
        first.wait()
    after = arrays(far.place.store(read_only=True))
    for name, values in undisturbed.items():
        assert after[name].tobytes() == values.tobytes(), name
