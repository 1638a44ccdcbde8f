"""Folders of strangers: what they name is not contacted, and the environment stays unread."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
import zarr

from cubie_flow import open_results
from cubie_flow.analysis.cli import main as results
from cubie_flow.cli.app import main
from cubie_flow.config.stored import location_of, words_of_new
from cubie_flow.engines.clusters import make_cluster
from cubie_flow.errors import FlowError
from cubie_flow.storage import Location

STUDY = [
    "study=mine", "batch.values={rho: {linspace: [0, 40, 40]}}", "duration=2",
    "output.save_every=0.5", "engine.progress=false", "storage.picture=false",
    "storage.shard_runs=16", "target.threads=1",
]  # fmt: skip
COMMANDS = (
    ["show", "run"], ["runs", "run"], ["report", "run"], ["export", "run", "e.csv"],
    ["audit", "run"], ["compare", "run", "run"], ["verify", "run"], ["plot", "overview", "run"],
)  # fmt: skip
SECRET = "${oc.env:STOLEN}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good study in ``run`` and a good multirun in ``many``."""
    home = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main([*STUDY, "hydra.run.dir=run"]) == 0
        assert main([*STUDY, "hydra.sweep.dir=many", "-m", "algorithm=tsit5,vern7"]) == 0
    return home


@pytest.fixture
def home(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them, in which a shard is missing, as the current folder."""
    copy = tmp_path / "home"
    shutil.copytree(whole, copy)
    (copy / "run" / "results.zarr" / "status" / "c" / "1").unlink()
    monkeypatch.chdir(copy)
    monkeypatch.setenv("STOLEN", "the-secret")
    return copy


@pytest.fixture
def stranger() -> Iterator[str]:
    """The address of a server; the test fails if anybody connects to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def change(run: Path, **values: Any) -> None:
    """Change keys of a stored config; ``__`` stands for a dot."""
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key, value in values.items():
        *groups, last = key.split("__")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    path.write_text(yaml.safe_dump(config))


def attributes(run: Path, **values: Any) -> None:
    path = run / "results.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"].update(values)
    path.write_text(json.dumps(document))


def refused(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """Return the one sentence of a command that was refused."""
    said = capsys.readouterr().err
    assert code == 1
    assert said.count("\n") == 1, said
    assert "the-secret" not in said
    return said


def test_a_scheduler_is_not_contacted(
    home: Path, stranger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(home / "run", engine__kind="dask", engine__scheduler=f"tcp://{stranger}")
    for words in (["resume=run"], ["resume=run", "recheck=true", "target.threads=1"]):
        said = refused(capsys, main(words))
        assert f"engine.scheduler is 'tcp://{stranger}' in 'run/config.yaml'" in said
        assert "pass it again (engine.scheduler=...), or engine=local" in said
    assert main(["resume=run", "engine=local"]) == 0
    assert "16 runs were missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"engine__cluster": "slurm"}, "engine.cluster is 'slurm'"),
        ({"engine__options": {"queue": "x"}}, "engine.options is"),
        ({"engine___target_": "os.system"}, "'engine._target_' is refused"),
        ({"hydra": {"launcher": {"_target_": "os.system"}}}, "'hydra.launcher._target_'"),
        ({"hydra": {"launcher": {"n_jobs": 2}}}, "'hydra' is not a key of the config"),
        ({"engine__kind": "os.system"}, "engine.kind is 'os.system'"),
        ({"study": "../../../escaped"}, "cannot be the name of a study"),
        ({"study": SECRET}, f"study is '{SECRET}' in 'run/config.yaml'"),
        ({"t_start": "${oc.env:STOLEN,0}"}, "t_start is '${oc.env:STOLEN,0}'"),
        ({"t_start": "${oc.decode:${oc.env:STOLEN}}"}, "so give t_start=VALUE"),
        ({"t_start": "${precision}{oc.env:STOLEN}", "precision": "$"}, "t_start is"),
        ({"duration": "${t_start}", "t_start": "${duration}"}, "may only refer to its own keys"),
    ],
)
def test_what_a_stored_config_must_not_say(
    changes: dict[str, Any], sentence: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(home / "run", **changes)
    assert sentence in refused(capsys, main(["resume=run"]))


def test_what_a_stored_config_may_say(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A local cluster of its own, references to its own keys, and keys with a new value."""
    change(
        home / "run", engine__kind="dask", duration="${batch.values.two}", t_start=SECRET,
        batch__values={"rho": {"linspace": [0, 40, 40]}}, storage__options={"key": SECRET},
    )  # fmt: skip
    text = (home / "run" / "config.yaml").read_text()
    change(home / "run", duration="${output.twice}", output__twice=2)
    assert "'output.twice' is not a key" in refused(capsys, main(["resume=run", "t_start=0.0"]))
    (home / "run" / "config.yaml").write_text(text.replace("${batch.values.two}", "2"))
    change(home / "run", output__save_every="${duration}")
    assert main(["resume=run", "t_start=0.0", "dry_run=true"]) == 0
    assert "16 of 40 runs of mine are missing" in capsys.readouterr().out


def test_jobs_name_no_machines_and_no_groups_outside(
    home: Path, stranger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = zarr.open_group(home / "many" / "results.zarr", mode="r+", use_consolidated=False)
    texts = root["config"][:]
    named = [t.replace("scheduler: null", f"scheduler: tcp://{stranger}") for t in texts]
    root["config"][:] = np.array(named, object)
    said = refused(capsys, main(["resume=many"]))
    assert f"engine.scheduler is 'tcp://{stranger}' in the table of jobs" in said
    assert main(["resume=many", "engine=local"]) == 0
    root["group"][:] = np.array(["job_0", "../../run/results.zarr"], object)
    capsys.readouterr()
    for words in (["resume=many", "engine=local"], ["verify=many"]):
        said = refused(capsys, main(words))
        assert "job 1 is in the group '../../run/results.zarr', not in job_1" in said


def test_the_name_of_a_folder_is_not_resolved(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(home / "many", home / "${oc.env:STOLEN}")
    words = [f"resume={home}/${{oc.env:STOLEN}}", "-m", "hydra/launcher=joblib"]
    assert "has a name that Hydra would resolve" in refused(capsys, main(words))


@pytest.mark.parametrize("client", ["fsspec", "obstore", "icechunk"])
def test_an_address_of_a_folder_is_not_contacted(
    client: str, home: Path, stranger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address = (
        "s3://bucket/results.icechunk" if client == "icechunk" else f"http://{stranger}/x.zarr"
    )
    change(home / "run", storage__options={"endpoint_url": f"http://{stranger}", "key": SECRET})
    shutil.rmtree(home / "run" / "results.zarr")
    note = {"address": address, "client": client}
    (home / "run" / "location.json").write_text(json.dumps(note))
    assert results(["ls", "run"]) == 0
    assert f"not opened: the results are at '{address}'" in capsys.readouterr().out
    for words in COMMANDS:
        said = refused(capsys, results(words))
        assert f"type {address} in place of the folder if you trust it" in said
    for word in ("resume=run", "verify=run"):
        assert f"type storage.url={address} if you trust it" in refused(capsys, main([word]))
        said = refused(capsys, main([word, "storage.url=http://127.0.0.1:9/x.zarr"]))
        assert "and not below 'http://127.0.0.1:9/x.zarr'" in said
    with pytest.raises(FlowError, match="in place of the folder"):
        open_results("run")
    # Another study does not begin there, and nobody asks whether there is one.
    assert "has results at" in refused(capsys, main([*STUDY, "hydra.run.dir=run"]))
    # Named by the user it is used, with options of the command line alone.
    assert location_of(Path("run"), [f"storage.url={address}"]).options == {}
    given = location_of(Path("run"), [f"storage.url={address}", "storage.options.key=k"])
    assert (given.address, given.client, given.options) == (address, client, {"key": "k"})


@pytest.mark.parametrize(
    "text",
    [
        '{"address": "http://${oc.env:STOLEN}/x.zarr", "client": "fsspec"}',
        '{"address": "s3://x\\u001b[2J", "client": "fsspec"}', '{"address": ["s3://x"]}', "[]",
        '{"address": "s3://x; touch made", "client": "os.system"}', "null", "{}", "[" * 100_000,
        '{"address": "s3://x; touch made/y.zarr", "client": "fsspec"}',
    ],
)  # fmt: skip
def test_what_a_note_of_a_location_may_hold(
    text: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(home / "run" / "results.zarr")
    (home / "run" / "location.json").write_text(text)
    for said in (refused(capsys, results(["show", "run"])), refused(capsys, main(["verify=run"]))):
        assert "\x1b" not in said
        if "touch made/y.zarr" in text:
            assert "'s3://x; touch made/y.zarr'" in said, "quoted as a shell needs it"
    assert results(["ls", "run"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_note_may_lead_to_no_other_study(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = home / "other.zarr"
    shutil.move(home / "run" / "results.zarr", other)
    note = home / "run" / "location.json"
    for address in (str(other), "../other.zarr"):
        note.write_text(json.dumps({"address": address, "client": "fsspec"}))
        assert "in place of the folder" in refused(capsys, results(["show", "run"]))
        assert "if you trust it" in refused(capsys, main(["resume=run"]))
    assert results(["show", str(other)]) == 0
    note.write_text(json.dumps({"address": "inside.zarr"}))
    shutil.copytree(other, home / "run" / "inside.zarr")
    assert results(["show", "run"]) == 0
    note.write_text(json.dumps({"address": str(other)}))
    shutil.rmtree(home / "run" / "inside.zarr")
    assert main(["resume=run", f"storage.url=file://{other}"]) == 0
    assert "16 runs were missing" in capsys.readouterr().out


def test_attributes_are_never_interpolated(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load((home / "run" / "config.yaml").read_text())
    config["t_start"] = "${oc.env:STOLEN,0}"
    attributes(home / "run", config=yaml.safe_dump(config), study=SECRET, title=SECRET)
    data = open_results("run")
    with pytest.raises(FlowError, match=r"t_start is .* in the configuration of this dataset"):
        data.flow.rerun([0])
    assert data.flow.rerun([0], t_start=0.0).sizes["run"] == 1
    attributes(home / "run", algorithm=SECRET)
    with pytest.raises(FlowError, match=r"algorithm.name is '\$\{oc.env:STOLEN\}'"):
        open_results("run").flow.rerun([0], t_start=0.0)


def test_names_of_studies_stay_inside(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path for path in home.parent.rglob("*") if "cache" not in path.name}
    said = refused(capsys, main([*STUDY[1:], "study=../x", "hydra.run.dir=new"]))
    assert "'../x' cannot be the name of a study" in said
    attributes(home / "run", study="../../\x1bescaped", title="../x")
    assert results(["plot", "overview", "run"]) == 0
    made = {path for path in home.parent.rglob("*") if "cache" not in path.name} - before
    assert made - {home / "new"} == {home / "result_overview.png"}


def test_the_command_that_is_printed_works_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"storage.url=file://{tmp_path}/far/x.zarr"
    assert main([*STUDY, url, "engine.time_limit=0.001", "hydra.run.dir=run"]) == 124
    said = capsys.readouterr().err
    command = said.partition("python -m cubie_flow ")[2].partition(" does the rest")[0]
    assert command == f"resume=run storage.url={tmp_path}/far/x.zarr"
    assert main([*shlex.split(command), "engine.time_limit=null"]) == 0
    assert main(["verify=run", f"storage.url={tmp_path}/far"]) == 0


def test_words_that_a_resume_needs_again() -> None:
    engine = {"scheduler": None, "cluster": "slurm", "options": {"cores": 4, "queue": "a b"}}
    options = {"key": "${secret:storage.options.key}", "secret": "${oc.env:MY}", "anon": True}
    folder = Path("run").absolute()
    words = words_of_new(engine, options, Location("s3://b/x.zarr"), folder)
    assert words == [
        "engine.cluster=slurm", "engine.options.cores=4", "engine.options.queue=a b",
        "storage.url=s3://b/x.zarr", "storage.options.key=***",
        "storage.options.secret=${oc.env:MY}", "storage.options.anon=true",
    ]  # fmt: skip
    local = {"scheduler": None, "cluster": None, "options": {}}
    assert words_of_new(local, {}, Location(folder / "results.zarr"), folder) == []


def test_clusters_of_this_machine_listen_to_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    module = SimpleNamespace(LocalCUDACluster=lambda **options: given.update(options))
    monkeypatch.setitem(sys.modules, "dask_cuda", module)  # type: ignore[arg-type]
    make_cluster("cuda", {}, 2)
    assert (given["host"], given["dashboard_address"], given["n_workers"]) == ("127.0.0.1", None, 2)
    assert given["scheduler_kwargs"] == {"dashboard_address": "127.0.0.1:0"}
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("cryptography")
    distributed = pytest.importorskip("distributed")
    from cubie_flow.engines import EngineOptions
    from cubie_flow.engines.dask_engine import open_client

    def listening() -> set[str]:
        this = psutil.Process()
        return {
            link.laddr.ip
            for process in (this, *this.children(recursive=True))
            for link in process.net_connections("inet")
            if link.status == "LISTEN"
        }

    with open_client(EngineOptions(), 1) as client:
        assert listening() == {"127.0.0.1"}
        address = client.scheduler.address
        assert address.startswith("tls://")
        # Nobody else has the certificates, whether without or with some of his own.
        with (
            pytest.raises(FlowError, match="no Dask scheduler answers there"),
            open_client(EngineOptions(scheduler=address), 1),
        ):
            pass
        others = distributed.Security.temporary()
        with pytest.raises(OSError, match="tls"):
            distributed.Client(address, timeout=2, security=others, set_as_default=False)


def test_clusters_of_batch_systems_have_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    pytest.importorskip("cryptography")
    given: dict[str, Any] = {}

    def cluster(**options: Any) -> SimpleNamespace:
        given.update(options)
        return SimpleNamespace(scale=lambda jobs: None)

    module = SimpleNamespace(SLURMCluster=cluster)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", module)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    make_cluster("slurm", {"cores": 1}, 1)
    assert given["security"].require_encryption
    (tmp_path / "a; touch b").mkdir()
    monkeypatch.chdir(tmp_path / "a; touch b")
    with pytest.raises(FlowError, match=r"give engine\.options\.shared_temp_directory"):
        make_cluster("slurm", {"cores": 1}, 1)
    make_cluster("slurm", {"cores": 1, "shared_temp_directory": str(tmp_path)}, 1)
