"""One writer at a time at a URL, where there is no lock of the system's.

Beside the store lies an object, ``<store>.lock``, that says who writes and that is written anew
every few seconds. It is made on the condition that there is none, and taken from a writer that has
stopped writing it on the condition that it is still that writer's.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from time import time
from typing import Any
from uuid import uuid4

from cubie_flow.errors import FlowError
from cubie_flow.process.machine import machine_id, process_start
from cubie_flow.storage.location import ICECHUNK, Location
from cubie_flow.storage.lock import locked
from cubie_flow.storage.objects import Changed, SmallObject, Tag, small_object

#: Seconds without renewal after which a lock no longer holds.
LEASE = 60.0
#: It is renewed so many times in that time.
RENEWALS = 4
log = logging.getLogger("cubie_flow")


class Lease:
    """The right to write a store; of a folder, whose lock is the system's, it says nothing."""

    lost = ""

    def check(self) -> None:
        """Refuse to go on once another process has the lock.

        Raises
        ------
        FlowError
            Naming that process.
        """
        if self.lost:
            raise FlowError(self.lost)

    def between(self, check: Callable[[float], None] | None) -> Callable[[float], None]:
        """Return what is called between two shards: whether the lock holds, then `check`."""

        def both(seconds: float) -> None:
            self.check()
            if check is not None:
                check(seconds)

        return both


@contextmanager
def leased(place: Location, seconds: float | None = LEASE) -> Iterator[Lease]:
    """Hold a place at a URL; nobody else writes into it meanwhile.

    Parameters
    ----------
    place : Location
        A folder has the lock of its run, `cubie_flow.storage.lock.locked`, and gets none here.
    seconds : float, optional
        Without renewal, after which others may take the lock over; None: no lock.

    Raises
    ------
    FlowError
        If another process holds it, or there can be none.
    """
    if place.client == ICECHUNK and place.path is not None and not place.group:
        # It may be elsewhere than in the folder of the run, which is locked.
        place.path.mkdir(parents=True, exist_ok=True)
        with locked(place.path):
            yield Lease()
        return
    if place.path is not None or seconds is None or not _lockable(place):
        yield Lease()
        return
    held = _Held(place, seconds)
    held.acquire()
    enough = threading.Event()

    def renew() -> None:
        while not enough.wait(seconds / RENEWALS) and not held.lost:
            held.renew()

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        enough.set()
        thread.join()
        held.release()


def _lockable(place: Location) -> bool:
    """Whether there is somebody to write a lock: beside a repository of Icechunk only in S3."""
    return place.client != ICECHUNK or place.address.startswith("s3://")


class _Held(Lease):
    def __init__(self, place: Location, seconds: float) -> None:
        self._place = place
        group = f".{place.group.replace('/', '.')}" if place.group else ""
        self._address = f"{place.address}{group}.lock"
        self._seconds = seconds
        self._token = uuid4().hex
        self._owner: dict[str, Any] = {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": machine_id(),
            "started": process_start(os.getpid()),
            "seconds": seconds,
        }
        self._tag: Tag = None
        self._object: SmallObject

    def _content(self) -> bytes:
        return json.dumps({**self._owner, "renewed": time()}).encode()

    def acquire(self) -> None:
        place = self._place
        try:
            self._object = small_object(self._address, place.client, place.options)
            for _ in range(3):
                with suppress(FileExistsError, Changed):
                    self._tag = self._object.create(self._content())
                    return
                with suppress(FileNotFoundError, Changed):
                    data, tag = self._object.read()
                    if self._token.encode() in data:
                        self._tag = tag  # only the answer to its making was lost
                        return
                    self._refuse(data)
                    self._tag = self._object.replace(self._content(), tag)
                    log.info("took over the lock of '%s'", place.name)
                    return
        except FlowError:
            raise
        except Exception as error:
            refused = place.error(error)
            if "implement" in str(error).lower():
                refused = FlowError(
                    f"'{place.name}' cannot be locked: its server does not write on a condition; "
                    "storage.lease=null writes without a lock, and then it is for you to see that "
                    "nobody else writes there"
                )
            raise refused from None
        raise FlowError(f"'{place.name}' is being taken by another process at this moment")

    def _refuse(self, data: bytes) -> None:
        """Refuse a lock that holds."""
        try:
            owner = json.loads(data)
            pid, seconds, renewed = (owner[name] for name in ("pid", "seconds", "renewed"))
            age = time() - float(renewed)
            stale = age > float(seconds) or _ended(owner)
        except (ValueError, KeyError, TypeError):
            raise FlowError(
                f"'{self._address}' is no lock of cubie_flow's; delete it if nobody writes "
                f"'{self._place.name}'"
            ) from None
        if not stale:
            raise FlowError(
                f"'{self._place.name}' is being written by another process, {pid} on "
                f"{owner.get('host')}, which said so {max(age, 0.0):.0f} s ago; wait for it or "
                f"stop it first (once silent for {seconds:g} s its lock no longer holds)"
            )

    def renew(self) -> None:
        try:
            self._tag = self._object.replace(self._content(), self._tag)
        except Changed:
            self._lose()
        except Exception as error:
            # The next time may be in time; if not, somebody else has the lock by then.
            log.warning("%s", self._place.error(error, "locked"))

    def _lose(self) -> None:
        who = "another process"
        with suppress(Exception):
            data, self._tag = self._object.read()
            owner = json.loads(data)
            if owner["token"] == self._token:
                return  # the answer to the last renewal was lost, and not the lock
            who = f"process {owner['pid']} on {owner['host']}"
        self.lost = (
            f"'{self._place.name}' was taken over by {who}, because this one had not renewed its "
            f"lock for {self._seconds:g} s; what is complete is kept"
        )

    def release(self) -> None:
        if self.lost:
            return
        # A lock that stays behind ends by itself.
        with suppress(Exception):
            if json.loads(self._object.read()[0])["token"] == self._token:
                self._object.delete()


def _ended(owner: Mapping[str, Any]) -> bool:
    """Whether a process was on this machine and is no more."""
    here = owner["machine"] is not None and owner["machine"] == machine_id()
    return here and owner["started"] != process_start(owner["pid"])
