"""Results in object stores, by the public command, and what must never be written there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from object_server import KEY, SECRET, options_of, words_of

from cubie_flow import credentials
from cubie_flow.analysis import open_results
from cubie_flow.analysis.cli import main as results
from cubie_flow.cli.app import main
from cubie_flow.storage import Location, ResultStore, index

STUDY = [
    "study=far", "batch=sobol", "batch.values={rho: {uniform: [0, 40]}}", "batch.size=1024",
    "duration=1", "output.save_every=0.5", "storage.shard_runs=512", "engine.progress=false",
    "target.threads=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with no credentials of the machine."""
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(credentials, "_values", {})
    return tmp_path


def place(client: str, address: str, endpoint: str) -> Location:
    return Location(address, client=client, options=options_of(client, endpoint))


def written(folder: Path, store: Location) -> str:
    """Return every byte that was written, here and there."""
    from zarr.core.sync import sync

    here = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
    there = store.store(read_only=True)

    async def all_of_it() -> list[bytes]:
        prototype = zarr.core.buffer.default_buffer_prototype()
        keys = [key async for key in there.list() if key.endswith("zarr.json")]
        return [(await there.get(key, prototype)).to_bytes() for key in keys]

    metadata = sync(all_of_it())
    assert metadata, "the store has its metadata"
    return b"".join((*here, *metadata)).decode("latin-1")


def run_folder() -> Path:
    (found,) = Path("outputs/far").glob("*/*")
    return found


@pytest.mark.parametrize("client", ["fsspec", "obstore"])
def test_a_study_in_an_object_store(
    client: str, server: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words_of(client, server)
    assert main([*STUDY, f"storage.url=s3://results/{client}", *given]) == 0
    said = "".join(capsys.readouterr())
    folder = run_folder()
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml", "location.json", "run.log", "far.png",
    }  # fmt: skip
    address = json.loads((folder / "location.json").read_text())["address"]
    assert address == f"s3://results/{client}/{'/'.join(folder.parts[1:])}/results.zarr"
    assert f"result   {address}" in said
    there = place(client, address, server)
    data = xarray.open_zarr(there.store(read_only=True), chunks=None)
    assert data.sizes == {"run": 1024, "time": 3}
    assert not data.status.any()
    # A shard that is lost is found, and solved again in the same bytes.
    before = data.z.values
    group = zarr.open_group(there.store(), mode="r+")
    group["z"][600] += 1.0
    credentials._values.clear()
    # The folder alone is not enough: the address is named again, or what it begins with.
    assert main([f"verify={folder}", *given[1:]]) == 1
    refused = capsys.readouterr().err
    assert f"type storage.url={address} if you trust it" in refused
    said += refused
    again = [f"storage.url={address}", *given[1:]]
    assert main([f"verify={folder}", *again]) == 1
    said += "".join(capsys.readouterr())
    assert "damaged: shard 1, runs 512 to 1,023" in said
    assert f"recheck=true storage.url={address} storage.options." in said
    begins = [f"storage.url=s3://results/{client}", *given[1:]]
    assert main([f"resume={folder}", "recheck=true", *begins]) == 0
    # It grows, and only the new runs are solved.
    assert main([f"resume={folder}", "batch.size=2048", *again]) == 0
    said += "".join(capsys.readouterr())
    assert re.findall(r"resumed +([\d,]+) runs were missing", said) == ["512", "1,024"]
    store = ResultStore.open(there)
    assert store.plan.runs == 2048
    assert store.completed() == {0, 1, 2, 3}
    assert store.damaged() == []
    after = xarray.open_zarr(there.store(read_only=True), chunks=None).z.values
    np.testing.assert_array_equal(after[:1024], before)
    everything = said + written(elsewhere, there)
    assert SECRET not in everything
    assert KEY not in everything


def test_credentials_of_the_environment_and_of_files_stay_there(
    server: str,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    conf = elsewhere / "mine" / "storage"
    conf.mkdir(parents=True)
    shipped = (Path(__file__).parents[2] / "conf" / "storage" / "local.yaml").read_text()
    own = f"{{endpoint_url: '{server}', key: {KEY}, secret: '${{oc.env:MY_SECRET}}'}}"
    lines = [
        f"options: {own}" if line.startswith("options:") else line for line in shipped.splitlines()
    ]
    (conf / "lab.yaml").write_text("\n".join(lines))
    monkeypatch.setenv("MY_SECRET", SECRET)
    words = ["storage=lab", "storage.url=s3://results/env", "storage.picture=false"]
    assert main([*STUDY, "--config-dir", "mine", *words]) == 0
    folder = run_folder()
    address = json.loads((folder / "location.json").read_text())["address"]
    (conf / "lab.yaml").unlink()
    said = "".join(capsys.readouterr())
    assert (folder / "config.yaml").read_text().count("${oc.env:MY_SECRET}") == 1
    everything = said + written(elsewhere, place("fsspec", address, server))
    assert SECRET not in everything
    assert KEY not in everything
    # The folder names no options and no variables: they are given again.
    credentials._values.clear()
    again = [f"verify={folder}", f"storage.url={address}", f"storage.options.key={KEY}"]
    assert main([*again, "storage.options.secret=***"]) == 1
    assert "storage.options.secret is ***" in capsys.readouterr().err
    again += [f"storage.options.endpoint_url={server}"]
    assert main([*again, "storage.options.secret=${oc.env:MY_SECRET}"]) == 0


def test_a_multirun_in_an_object_store_and_its_results(
    server: str,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    url = "storage.url=s3://results/many.zarr"
    words = [url, f"storage.options.endpoint_url={server}", "-m", "algorithm=tsit5,vern7"]
    assert main([*STUDY, *words]) == 0
    (folder,) = Path("outputs/far").glob("*/*")
    capsys.readouterr()
    assert main([*STUDY, *words]) == 1
    assert "already exists" in capsys.readouterr().err
    again = words[:2]
    assert main([f"verify={folder}", *again]) == 0
    assert main([f"resume={folder}", *again]) == 0
    capsys.readouterr()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    store = "s3://results/many.zarr"
    for command, about in (("show", store), ("verify", f"{store}::0"), ("runs", f"{store}::1")):
        assert results([command, about]) == 0
    said = "".join(capsys.readouterr())
    assert "vern7" in said
    assert SECRET not in said
    assert KEY not in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["storage.url=s3://me:hunter22@results/x"], "s3://***@results/x holds a user"),
        (["-m", "storage.url=s3://me:hunter22@results/x,s3://y"], "s3://***@results/x"),
        (["storage.url=results/x"], "it must be a URL such as s3://bucket/results"),
        (["storage.url=s3:///x", "storage.client=hunter"], "one of fsspec, obstore"),
        (["storage.options=hunter22"], "storage.options must be a mapping"),
        (["storage.url=memory://m", "storage.client=obstore"], "use storage.client=fsspec"),
        (["storage.url=what://m"], "cannot be opened"),
    ],
)
def test_wrong_places_are_told_without_their_secrets(
    words: list[str], told: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*STUDY, *words]) == 1
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert "hunter22" not in said
    assert not any(p.is_file() for p in elsewhere.rglob("*"))


def test_a_bucket_that_is_not_there(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*STUDY, "storage.url=s3://nowhere/x", *words_of("fsspec", server)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cannot be written" in said
    assert SECRET not in said
    assert not Path("outputs").exists()


def test_in_memory_plan_overwrite_and_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    url = "storage.url=memory://lab/fixed.zarr"
    words = [*STUDY, url, "storage.picture=false"]
    assert main([*words, "task=plan"]) == 0
    assert "before compression, in memory://lab/fixed.zarr" in capsys.readouterr().out
    assert main([*words, "dry_run=true"]) == 0
    assert "nothing was solved or written" in capsys.readouterr().out
    there = Location("memory://lab/fixed.zarr")
    assert not there.holds_something()
    assert not Path("outputs").exists()
    assert main(words) == 0
    assert main(words) == 1
    assert "already exists and is not empty" in capsys.readouterr().err
    assert len(list(Path("outputs/far").glob("*/*"))) == 1, "the refused run left nothing"
    assert main([*words, "storage.overwrite=true", "batch.size=512"]) == 0
    assert ResultStore.open(there).plan.runs == 512


@pytest.mark.parametrize("client", ["fsspec", "obstore"])
def test_a_multirun_keeps_no_credentials_and_records_a_job_that_failed(
    client: str,
    server: str,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # One by value, and one by a variable of the environment that is named.
    monkeypatch.setenv("MY_KEY", KEY)
    given = words_of(client, server)
    given = [word.replace(f"={KEY}", "=${oc.env:MY_KEY}") for word in given]
    address = f"s3://results/several-{client}.zarr"
    words = [*STUDY, f"storage.url={address}", *given, "-m", "algorithm=tsit5,vern7"]
    # The second job's output is refused; a URL with a password is refused before all jobs.
    zipped = "hydra.sweeper.zip=[[algorithm,output.variables]]"
    assert main([*words, "output.variables=[x],[nobody]", zipped]) == 1
    said = "".join(capsys.readouterr())
    assert main([*words[:-2], "storage.url=s3://me:hunter22@results/x", "-m", words[-1]]) == 1
    refused = capsys.readouterr().err
    assert refused.count("\n") == 1
    assert "holds a user, a password or a signature" in refused
    there = place(client, address, server)
    rows, _ = index.read_index(there)
    assert [row["job_status"] for row in rows] == [index.SUCCESS, index.FAILED]
    assert "nobody" in rows[1]["error"]
    (folder,) = Path("outputs/far").glob("*/*")
    assert {p.name for p in folder.iterdir()} >= {"config.yaml", "run.log", "location.json"}
    everything = said + refused + written(elsewhere, there) + json.dumps(rows)
    assert "${secret:" in everything
    assert "${oc.env:MY_KEY}" in everything
    for secret in (SECRET, KEY, "hunter22"):
        assert secret not in everything
    # A server that cannot be reached is told without them, too.
    credentials._values.clear()
    lost = [word.replace(server, "http://127.0.0.1:9") for word in given]
    named = f"storage.url={address}"
    assert main([f"resume={folder}", named, *lost[1:]]) == 1
    refused = capsys.readouterr().err
    assert refused.count("\n") == 1
    assert SECRET not in refused
    assert KEY not in refused
    assert set(open_results(there).children) == {"job_0"}
    assert main([f"resume={folder}", named, *given[1:]]) == 1
    assert "1 of 2 jobs were complete" in capsys.readouterr().out


def test_workers_of_dask_write_to_a_url(
    server: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    words = ["storage.url=s3://results/spread.zarr", *words_of("fsspec", server)]
    dask = ["engine=dask", "engine.workers=2"]
    assert main([*STUDY, *words, *dask, "storage.picture=false", "hydra.run.dir=spread"]) == 0
    assert main([*STUDY, "storage.picture=false", "hydra.run.dir=here"]) == 0
    there = zarr.open_group(place("fsspec", "s3://results/spread.zarr", server).store(), mode="r")
    here = zarr.open_group("here/results.zarr", mode="r")
    for name, array in here.arrays():
        assert np.asarray(array[...]).tobytes() == np.asarray(there[name][...]).tobytes(), name
    said = "".join(capfd.readouterr())
    assert SECRET not in said + Path("spread/config.yaml").read_text()


def test_commands_about_results_at_a_url(
    server: str,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # What a client finds in the environment opens a bare URL as well.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    url = "s3://results/seen.zarr"
    words = ["storage.picture=false", f"storage.url={url}", "hydra.run.dir=run"]
    assert main([*STUDY, *words]) == 0
    capsys.readouterr()
    asked: list[str] = []
    get = zarr.storage.FsspecStore.get

    async def counted(store: zarr.storage.FsspecStore, key: str, *how: Any, **more: Any) -> Any:
        asked.append(key)
        return await get(store, key, *how, **more)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.storage.FsspecStore, "get", counted)
        assert results(["ls", ".", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["path"], row["runs"]) == ("run", None)
    assert row["ended"] == f"not opened: the results are at '{url}'"
    assert asked == [], "a list contacts nothing"
    for command in (
        ["report", url], ["plot", "overview", url, "-o", "p.png"], ["export", url, "e.csv"],
        ["show", url], ["verify", url], ["runs", url, "--limit", "3"], ["compare", url, url],
    ):  # fmt: skip
        assert results(command) == 0, command
        told = [word if word != url else "run" for word in command]
        capsys.readouterr()
        assert results(told) == 1
        assert f"type {url} in place of the folder" in capsys.readouterr().err
    assert (elsewhere / "report.html").is_file()
    assert results(["show", "."]) == 1
    assert "there is one in 'run'" in capsys.readouterr().err


@pytest.mark.parametrize("client", ["fsspec", "obstore"])
def test_a_server_that_does_not_answer_is_one_sentence(client: str, elsewhere: Path) -> None:
    """In a process of its own: what is left undone would be told when that ends."""
    (elsewhere / "run").mkdir()
    once = {"fsspec": "config_kwargs.retries.max_attempts", "obstore": "retry_config.max_retries"}
    given = [*words_of(client, "http://127.0.0.1:9")[1:], f"storage.options.{once[client]}=0"]
    address = "s3://results/lost.zarr"
    told = {"address": address, "client": client}
    (elsewhere / "run" / "location.json").write_text(json.dumps(told))
    (elsewhere / "run" / "config.yaml").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "cubie_flow", "verify=run", f"storage.url={address}", *given],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"cubie-flow: '{address}' cannot be opened: " in done.stderr
    assert "Debug" not in done.stderr
    assert SECRET not in done.stderr


def test_what_was_asked_beside_a_request_that_failed_says_nothing_at_the_end() -> None:
    code = """
import asyncio
from zarr.core.sync import sync
from cubie_flow.storage import Location

Location("memory://lab/x.zarr").store()

async def late():
    try:
        await asyncio.sleep(1000)
    finally:
        raise ValueError("as a client does that is dropped in another context")

async def lost():
    await asyncio.sleep(0)
    raise OSError("lost")

async def both():
    await asyncio.gather(late(), lost())

try:
    sync(both())
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("lost\n", "")
