"""Damaged and hostile metadata: every command ends in one sentence that names the damaged file."""

from __future__ import annotations

import json
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cubie_flow import open_results
from cubie_flow.analysis.cli import main as results
from cubie_flow.cli.app import main
from cubie_flow.errors import FlowError

WORDS = [
    "batch.values={rho: {linspace: [0, 40, 8]}}", "duration=1", "output.save_every=0.5",
    "engine.progress=false", "storage.picture=false", "storage.shard_runs=4",
]  # fmt: skip
ALIASES = "a: &a [x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(9)) + "c: &c [*c]\n"
TEXTS = {
    "null": "null", "list": "[]", "digits": "9" * 400, "nested": "[" * 100_000, "empty": "",
    "number": '{"a": ' + "9" * 5000 + "}", "aliases": ALIASES,
}  # fmt: skip
FILES = ("zarr.json", "rho/zarr.json", "time/zarr.json", "checksums/crc32/zarr.json",
         "memory/bytes/zarr.json", "status/zarr.json")  # fmt: skip


def _open(run: Path) -> int:
    try:
        open_results(run)
    except FlowError:
        return 1
    return 0


COMMANDS: dict[str, Callable[[Path], int]] = {
    "show": lambda run: results(["show", str(run)]),
    "runs": lambda run: results(["runs", str(run)]),
    "export": lambda run: results(["export", str(run), str(run / "runs.csv")]),
    "verify": lambda run: main([f"verify={run}"]),
    "resume": lambda run: main([f"resume={run}"]),
    "recheck": lambda run: main([f"resume={run}", "recheck=true"]),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert main([*WORDS, f"hydra.run.dir={folder}/run"]) == 0
    return folder / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def refused(run: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that every command refuses within a second and a few megabytes."""
    capsys.readouterr()
    assert _open(run) == 1
    tracemalloc.start()
    for name, command in COMMANDS.items():
        began = time.perf_counter()
        assert command(run) == 1, name
        assert time.perf_counter() - began < 5.0, name  # tests share their processors
        told = capsys.readouterr()
        assert told.err.count("\n") == 1, (name, told.err)
        assert file in told.err, (name, told.err)
    assert tracemalloc.get_traced_memory()[1] < 100_000_000
    tracemalloc.stop()


def edit(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("text", TEXTS)
def test_metadata_that_is_something_else(
    text: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in FILES:
        path = run / "results.zarr" / file
        before = path.read_text()
        path.write_text(TEXTS[text])
        refused(run, file, capsys)
        path.write_text(before)
    assert main([f"verify={run}"]) == 0


@pytest.mark.parametrize("name", ["rho", "time", "checksums", "memory", "config", "steps"])
def test_a_part_that_is_gone(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "results.zarr" / name)
    refused(run, f"{name}", capsys)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("shape", lambda d: d.update(shape=[10**12])),
        ("both", lambda d: (d.update(shape=[10**12]), grid(d, 10**11))),
        ("chunk", lambda d: grid(d, 10**11)),
        ("dtype", lambda d: d.update(data_type="float32")),
        ("key", lambda d: d.pop("codecs")),
        ("negative", lambda d: d.update(shape=[-1])),
        ("text", lambda d: d.update(shape="8")),
        ("dimension", lambda d: d.update(dimension_names=[7])),
    ],
)
@pytest.mark.parametrize("array", ["rho", "memory/bytes"])
def test_an_array_that_is_not_what_the_store_promises(
    array: str, name: str, change: Any, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run / "results.zarr" / array / "zarr.json", change)
    refused(run, f"results.zarr/{array}" if name != "shape" or array != "rho" else "results.zarr",
            capsys)  # fmt: skip


def grid(document: Any, chunk: int) -> None:
    document["chunk_grid"]["configuration"]["chunk_shape"] = [chunk]


@pytest.mark.parametrize("name", ["system", "statuses", "config", "overrides", "seconds_total"])
@pytest.mark.parametrize("value", [None, [], -1, True, [[[]]], {"a": 1}])
def test_attributes_of_another_type(
    name: str, value: Any, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if (name, value) in (("overrides", []), ("seconds_total", -1)):
        return
    edit(run / "results.zarr" / "zarr.json", lambda d: d["attributes"].update({name: value}))
    refused(run, "results.zarr/zarr.json", capsys)


@pytest.mark.parametrize("text", [text for text in TEXTS if text != "empty"])
def test_a_config_that_is_something_else(
    text: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "config.yaml").write_text(TEXTS[text])
    capsys.readouterr()
    assert main([f"resume={run}"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "config.yaml" in error
    # Checksums are compared without a config.
    assert main([f"verify={run}"]) == 0


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_damaged_times_are_noticed(
    damage: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chunk = run / "results.zarr" / "time" / "c" / "0"
    data = bytearray(chunk.read_bytes())
    data[-8] ^= 16
    chunk.unlink() if damage == "missing" else chunk.write_bytes(bytes(data))
    for words in ([f"verify={run}"], [f"resume={run}", "recheck=true"]):
        capsys.readouterr()
        assert main(words) == 1
        assert "results.zarr/time' are damaged" in capsys.readouterr().err


def test_a_store_without_gathered_metadata_is_read_array_by_array(run: Path) -> None:
    edit(run / "results.zarr" / "zarr.json", lambda d: d.pop("consolidated_metadata"))
    assert results(["show", str(run)]) == 0
    assert main([f"resume={run}"]) == 0
