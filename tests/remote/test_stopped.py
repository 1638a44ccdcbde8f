"""Servers that stop answering, and clocks that differ: a sentence in time, and one writer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_server import words_of

from cubie_flow.cli.app import main
from cubie_flow.errors import FlowError
from cubie_flow.storage import Location, backends, lease
from cubie_flow.storage.lease import _RemoteLease

DAY = 86_400.0


@pytest.fixture
def silent() -> Iterator[str]:
    """The endpoint of a server that takes requests and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("client", ["fsspec", "obstore"])
@pytest.mark.parametrize("locks", [True, False])
def test_a_server_that_stopped_is_one_sentence_in_time(
    client: str, locks: bool, silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("s3fs" if client == "fsspec" else "obstore")
    monkeypatch.setattr(backends, "PATIENCE", 1.0)
    monkeypatch.setattr(lease, "PATIENCE", 1.0)
    words = [
        "batch.size=4", "duration=1", f"hydra.run.dir={tmp_path}/run", "engine.progress=false",
        "storage.url=s3://results/stopped.zarr", *words_of(client, silent),
        *([] if locks else ["storage.lease=null"]),
    ]  # fmt: skip
    began = time.monotonic()
    assert main(words) == 1
    assert time.monotonic() - began < 30.0
    assert "server has not answered for 1 s" in capsys.readouterr().err


def _lock(name: str) -> _RemoteLease:
    return _RemoteLease(Location(f"memory://clocks/{name}.zarr"), 2.0)


@pytest.mark.parametrize("ahead", [-DAY, DAY])
def test_clocks_that_differ_neither_free_a_lock_nor_keep_it(
    ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner is of another machine, whose clock is wrong; first it renews, then it is gone."""
    here = lease.time
    monkeypatch.setattr(lease, "machine_id", lambda: None)
    owner, other = _lock(f"x{ahead > 0}"), _lock(f"x{ahead > 0}")
    owner.acquire()
    gone = threading.Event()

    def wrong_content() -> bytes:
        return lease.json.dumps({**owner._owner, "renewed": here() + ahead}).encode()

    monkeypatch.setattr(owner, "_content", wrong_content)
    owner.renew()

    def renew() -> None:
        while not gone.wait(0.5):
            owner.renew()

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(FlowError, match="is being written by another process"):
            other.acquire()
    finally:
        gone.set()
        thread.join()
    other.acquire()
    owner.renew()
    assert "was taken over" in owner.lost
