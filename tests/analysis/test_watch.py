"""``cubie-results watch``: how far a study is, from its store alone."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from cubie_flow.analysis.cli import main
from cubie_flow.analysis.watch_page import PageServer, page_server
from cubie_flow.analysis.watching import Watcher
from cubie_flow.cli.app import main as flow
from cubie_flow.errors import FlowError

SMALL = ["batch.size=24", "storage.shard_runs=8", "storage.picture=false", "engine.progress=false"]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three shards, of which one is in the store, and a multirun of two jobs."""
    folder = tmp_path_factory.mktemp("watched")
    quiet = [*SMALL, "duration=1", "output.save_every=null"]
    assert flow([*quiet, f"hydra.run.dir={folder}/one"]) == 0
    for shard in ("1", "2"):
        (folder / "one" / "results.zarr" / "status" / "c" / shard).unlink()
    words = [*quiet, "algorithm=tsit5,rk4", "controller.dt=0.01", f"hydra.sweep.dir={folder}/many"]
    assert flow(["-m", *words]) == 0
    (folder / "many" / "results.zarr" / "job_1" / "status" / "c" / "0").unlink()
    return folder


def test_a_look_says_what_is_there(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(half / "one"), "--once"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "study  lorenz_sweep: Lorenz 1963, tsit5",
        "runs   8 of 24, 33.3 %",
        "ended  success 8",
    ]
    assert main(["watch", str(half / "many"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["runs"], told["ended"]) == (40, 48, {"success": 40})
    assert [job["done"] for job in told["jobs"]] == [24, 16]
    assert not told["complete"]
    with pytest.raises(FlowError, match=r"holds no results\.zarr"):
        Watcher(half)


def test_it_follows_a_study_until_it_is_complete(
    half: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cubie_flow.console.progress.INTERVAL", 0.0)

    def solved(_: float) -> None:
        assert flow([f"resume={half / 'one'}", "engine.progress=false"]) == 0

    monkeypatch.setattr("cubie_flow.analysis.commands.watch.sleep", solved)
    assert main(["watch", str(half / "one")]) == 0
    told = capsys.readouterr()
    assert "lorenz_sweep: 8 of 24 runs" in told.err
    assert "runs   24 of 24, 100.0 %" in told.out


def test_a_study_that_compiles_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "run.log").touch()
    look = Watcher(tmp_path).look()
    assert not look.complete
    assert "it compiles" in look.note


@pytest.fixture
def served(half: Path) -> Iterator[PageServer]:
    path = str(half / "many")
    server = page_server(Watcher(path), path)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(
    server: PageServer, path: str, method: str = "GET", host: str = ""
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), dict(answer.headers)


def test_the_page_is_for_who_has_its_address(served: PageServer) -> None:
    code, page, headers = ask(served, f"/{served.token}/")
    assert code == 200
    assert "40 of 48, 83.3 %" in page
    assert page.count('<th scope="row">job_') == 2
    policy = headers["Content-Security-Policy"]
    (nonce,) = re.findall("script-src 'nonce-([^']+)'", policy)
    assert policy.startswith("default-src 'none'")
    assert page.count(f'nonce="{nonce}"') == 2
    assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    assert "40 of 48" in ask(served, f"/{served.token}/now")[1]
    for path in ("/", "/now", f"/{served.token}x/", f"/{served.token}/../../etc", "//now"):
        assert ask(served, path)[0] == 404
    assert ask(served, f"/{served.token}/", host="evil.example")[0] == 404
    assert ask(served, f"/{served.token}/", "POST")[0] == 501
    assert served.server_address[0] == "127.0.0.1"
    assert len(served.token) >= 32


def test_the_page_shows_a_picture_of_what_is_there(half: Path) -> None:
    path = str(half / "one")
    server = page_server(Watcher(path), path)
    now = server.page.now()
    server.server_close()
    assert '<img alt="' in now
    assert "data:image/png;base64," in now


def test_a_port_in_use_is_one_sentence(
    half: Path, served: PageServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["watch", str(half / "one"), "--html", "--port", str(served.server_port)]
    assert main(words) == 1
    assert f"--port {served.server_port} cannot be used" in capsys.readouterr().err
