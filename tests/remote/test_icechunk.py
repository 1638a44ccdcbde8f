"""Stores that are Icechunk repositories: every shard a commit."""

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
from object_server import KEY, SECRET, options_of, words_of

from cubie_flow import credentials
from cubie_flow.analysis import open_results
from cubie_flow.analysis.cli import main as results
from cubie_flow.cli.app import main
from cubie_flow.errors import FlowError
from cubie_flow.storage import Location, ResultStore, leased

icechunk = pytest.importorskip("icechunk", reason="Icechunk is not installed")

SHARD, RUNS = 256, 1024
STUDY = [
    "study=far", "batch=sobol", "batch.values={rho: {uniform: [0, 40]}}", f"batch.size={RUNS}",
    "duration=1", "output.save_every=0.5", f"storage.shard_runs={SHARD}", "engine.progress=false",
    "target.threads=1", "storage.picture=false",
]  # fmt: skip
ICE = "storage.client=icechunk"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(credentials, "_values", {})
    return tmp_path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The arrays of the same study in a folder of Zarr files."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        assert main([*STUDY, f"hydra.run.dir={folder}"]) == 0
    return arrays(Location(folder / "results.zarr"))


def arrays(place: Location) -> dict[str, np.ndarray]:
    group = zarr.open_group(place.store(read_only=True), mode="r", use_consolidated=False)
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


def assert_same(place: Location, expected: dict[str, np.ndarray]) -> None:
    found = arrays(place)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].tobytes() == values.tobytes(), name


def history(folder: str) -> list[str]:
    """Return the messages of all commits, the first one first, by Icechunk alone."""
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(folder))
    return [commit.message for commit in repository.ancestry(branch="main")][::-1][1:]


SHARDS = [
    "shard 0: runs 0 to 255", "shard 1: runs 256 to 511", "shard 2: runs 512 to 767",
    "shard 3: runs 768 to 1,023",
]  # fmt: skip


def test_a_study_on_a_disk(
    plain: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*STUDY, ICE, "hydra.run.dir=run"]) == 0
    assert "results.icechunk" in capsys.readouterr().out
    place = Location("run/results.icechunk", client="icechunk")
    assert_same(place, plain)
    assert history("run/results.icechunk") == ["made for 1,024 runs", *SHARDS, "finished"]
    # It is found by its folder, and by its name.
    assert main(["verify=run"]) == 0
    assert "4 of 4 shards complete, 0 of them damaged" in capsys.readouterr().out
    for name in ("run", "run/results.icechunk"):
        assert open_results(name).sizes["run"] == RUNS
        for command in (["show", name], ["verify", name], ["report", name, "-o", "r.html"]):
            assert results(command) == 0
    # Nothing is overwritten silently; by wish it is, and stays in the history.
    assert main([*STUDY, ICE, "hydra.run.dir=run"]) == 1
    assert "already exists and is not empty" in capsys.readouterr().err
    words = ["storage.overwrite=true", "batch.size=512"]
    assert main([*STUDY, *words, ICE, "hydra.run.dir=run"]) == 0
    assert len(arrays(place)["status"]) == 512
    assert history("run/results.icechunk")[6:] == [
        "deleted, to be overwritten", "made for 512 runs", *SHARDS[:2], "finished",
    ]  # fmt: skip
    # It grows, and only the new runs are solved.
    assert main(["resume=run", f"batch.size={RUNS}"]) == 0
    assert re.search(r"resumed +512 runs were missing", capsys.readouterr().out)
    assert_same(place, plain)
    assert history("run/results.icechunk")[-4:] == [
        "lengthened to 1,024 runs", *SHARDS[2:], "finished",
    ]  # fmt: skip


def test_killed_on_a_disk(elsewhere: Path, plain: dict[str, np.ndarray]) -> None:
    """What was written of a shard and not committed is not there."""
    how = held(2 * SHARD, elsewhere / "never", *STUDY, ICE, "hydra.run.dir=run")
    process = subprocess.Popen(**how, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    place = Location("run/results.icechunk", client="icechunk")

    def complete() -> int:
        try:
            return len(ResultStore.open(place).completed())
        except FlowError:
            return 0

    while complete() < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.communicate()[1] == b""
    assert history("run/results.icechunk") == ["made for 1,024 runs", *SHARDS[:2]]
    done = subprocess.run(
        [sys.executable, "-m", "cubie_flow", "resume=run"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"resumed +512 runs were missing", done.stdout)
    assert_same(place, plain)
    assert history("run/results.icechunk")[3:] == [*SHARDS[2:], "finished"]


def test_a_multirun_and_a_failed_job(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["hydra.sweep.dir=many", "-m", "precision=float32,float31"]
    assert main([*STUDY, ICE, *words]) == 1
    said = "".join(capsys.readouterr())
    assert "1 of 2 jobs did not end well" in said
    assert history("many/results.icechunk") == [
        "table of the jobs", "made for 1,024 runs of job_0",
        *[f"{message} of job_0" for message in SHARDS], "finished of job_0", "table of the jobs",
    ]  # fmt: skip
    assert open_results("many")["error"].values.tolist()[0] == ""
    assert "float31" in open_results("many")["error"].values.tolist()[1]
    assert results(["show", "many::0"]) == 0


def test_in_s3_with_workers_that_commit_side_by_side(
    server: str, plain: dict[str, np.ndarray], capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    words = ["storage.url=s3://results/ice", *words_of("icechunk", server)]
    assert main([*STUDY, *words, "hydra.run.dir=run", "engine=dask", "engine.workers=2"]) == 0
    said = "".join(capfd.readouterr())
    address = "s3://results/ice/run/results.icechunk"
    place = Location(address, client="icechunk", options=options_of("icechunk", server))
    assert_same(place, plain)
    kept = Path("run/config.yaml").read_text() + Path("run/run.log").read_text()
    assert SECRET not in said + kept
    assert KEY not in said + kept
    assert open_results(address, options=dict(place.options)).sizes["run"] == RUNS


def test_who_else_writes(server: str, elsewhere: Path) -> None:
    here = Location(elsewhere / "x.icechunk", client="icechunk")
    there = Location(
        "s3://results/x.icechunk", client="icechunk", options=options_of("icechunk", server)
    )
    with leased(here), pytest.raises(FlowError, match="is being written by another process"):
        leased(here).__enter__()
    for place in (here, there):
        one, other = place.store(create=True), place.store(create=True)
        one.begin()
        zarr.create_array(one, name="x", shape=(4,), chunks=(1,), dtype="f8")
        one.commit("made")
        one.begin()
        other.begin()
        for store, part in ((one, slice(0, 2)), (other, slice(2, 4))):
            zarr.open_array(store, path="x", mode="r+")[part] = 1.0
            store.commit("a part")
        # Parts of two writers are joined; what both change is refused.
        assert zarr.open_array(place.store(read_only=True), path="x", mode="r")[:].sum() == 4
        one.begin()
        other.begin()
        for store in (one, other):
            zarr.open_array(store, path="x", mode="r+")[0] = 2.0
        one.commit("first")
        with pytest.raises(FlowError, match="was written by another process meanwhile"):
            other.commit("second")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["engine=dask", "engine.workers=1"], "so workers of engine=dask cannot"),
        (["hydra/launcher=joblib", "-m", "algorithm=tsit5,vern7"], "so jobs of hydra/launcher"),
        (["storage.url=memory://x"], "keeps no memory://; use a folder, s3://, gs:// or az://"),
        (["storage.url=s3://x/y", "storage.options={nobody: 3}"], "are not those of icechunk for"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    words: list[str], told: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*STUDY, ICE, *words]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert told in said


def test_without_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "icechunk", None)
    monkeypatch.delitem(sys.modules, "cubie_flow.storage.versioned", raising=False)
    assert main([*STUDY, ICE]) == 1
    assert "pip install 'cubie-flow[icechunk]' brings it" in capsys.readouterr().err
