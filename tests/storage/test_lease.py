"""The lock of a store at a URL: made by one, refused to others, taken from who is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from object_server import KEY, SECRET, bucket, options_of

from cubie_flow.errors import FlowError
from cubie_flow.storage import Location, lease, leased
from cubie_flow.storage.objects import Changed, small_object

LONG = 3600.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with bucket("results") as endpoint:
        yield endpoint


@pytest.fixture(params=["memory", "fsspec", "obstore", "icechunk"])
def place(request: pytest.FixtureRequest) -> Location:
    if request.param == "memory":
        return Location(f"memory://lab/{request.node.name}.zarr")
    endpoint = request.getfixturevalue("server")
    address = f"s3://results/{request.node.name}.zarr"
    return Location(address, client=request.param, options=options_of(request.param, endpoint))


def lock_of(place: Location) -> Any:
    return small_object(f"{place.address}.lock", place.client, place.options)


def change(place: Location, **values: Any) -> None:
    """Let the lock say something else."""
    data, tag = lock_of(place).read()
    lock_of(place).replace(json.dumps({**json.loads(data), **values}).encode(), tag)


def test_one_writer_at_a_time(place: Location) -> None:
    with leased(place, LONG) as lock:
        with pytest.raises(FlowError, match=r"is being written by another process, \d+ on "):
            leased(place, LONG).__enter__()
        with leased(place.child("job_0"), LONG):
            pass  # a group has a lock of its own
        lock.check()
    with pytest.raises(FileNotFoundError):
        lock_of(place).read()
    with leased(place, LONG):
        pass


def test_a_lock_that_is_not_renewed_is_taken_over_and_its_old_owner_stops(
    place: Location,
) -> None:
    with ExitStack() as first:
        lost = first.enter_context(leased(place, LONG))
        # On another machine, and silent for longer than it said.
        change(place, machine="another", seconds=1e-9)
        with leased(place, LONG) as lock:
            lost.renew()  # type: ignore[attr-defined]
            lock.renew()  # type: ignore[attr-defined]
            lock.check()
            with pytest.raises(FlowError, match=rf"taken over by process {os.getpid()} on "):
                lost.between(None)(0.0)
            first.close()
            assert lock_of(place).read(), "who has lost it does not take it away"


def test_the_lock_of_a_process_that_was_killed_here_ends_with_it(place: Location) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    with ExitStack() as first:
        first.enter_context(leased(place, LONG))
        change(place, pid=gone.pid, host="here")
        with leased(place, LONG):
            pass


def test_only_one_of_two_takes_a_lock_over(place: Location) -> None:
    with leased(place, LONG):
        _, tag = lock_of(place).read()
        lock_of(place).replace(b"first", tag)
        with pytest.raises(Changed):
            lock_of(place).replace(b"second", tag)
        with pytest.raises(FileExistsError):
            lock_of(place).create(b"third")
        lock_of(place).delete()
        with pytest.raises(Changed):
            lock_of(place).replace(b"fourth", tag)


def test_it_is_renewed_in_the_background(place: Location) -> None:
    with leased(place, 0.05) as lock:
        before = json.loads(lock_of(place).read()[0])["renewed"]
        tries = (json.loads(lock_of(place).read()[0])["renewed"] for _ in range(200_000))
        assert any(renewed != before for renewed in tries)
        lock.check()


def test_what_else_is_there(place: Location) -> None:
    lock_of(place).create(b"mine")
    with pytest.raises(FlowError, match="is not a cubie_flow lock file"):
        leased(place).__enter__()
    lock_of(place).delete()


def test_a_server_without_conditions_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Location("memory://lab/old.zarr")

    def refuse(*_: Any) -> None:
        raise OSError("A header you provided implies functionality that is not implemented")

    monkeypatch.setattr(lease, "small_object", refuse)
    with pytest.raises(FlowError, match=r"storage\.lease=null writes without a lock"):
        leased(place).__enter__()
    with leased(place, None):
        pass


def test_the_lock_holds_no_credentials(server: str) -> None:
    place = Location("s3://results/open.zarr", options=options_of("fsspec", server))
    with leased(place):
        data = lock_of(place).read()[0].decode()
    assert SECRET not in data
    assert KEY not in data
