"""A lock for a store at a URL, where the operating system offers none.

The lock is an object next to the store, ``<store>.lock``, that names the writer. The writer renews
it every few seconds. It is created on the condition that it does not exist. Once a writer has
stopped renewing, another one takes over, on the condition that the object has not changed.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from time import monotonic, sleep, time
from typing import Any
from uuid import uuid4

from cubie_flow.errors import FlowError
from cubie_flow.process.machine import machine_id, process_start
from cubie_flow.storage.identity import FolderIdentity
from cubie_flow.storage.location import Location
from cubie_flow.storage.lock import locked
from cubie_flow.storage.objects import Changed, SmallObject, Tag, small_object

#: Seconds without renewal after which a lock expires.
LEASE = 60.0
#: Renewals in that time.
RENEWALS = 4
#: Seconds after which a server that has not answered a request about a lock counts as stopped.
PATIENCE = 60.0
#: Looks at a lock in the time in which it would be renewed.
LOOKS = 5
log = logging.getLogger("cubie_flow")


class Lease:
    """The right to write a store.

    This base class is for a folder, which the operating system locks; it is never lost.

    Attributes
    ----------
    lost : str
        Why the right was lost; empty while it holds.
    folder : FolderIdentity or None
        The folder of the run, which is not to be moved meanwhile.
    """

    lost = ""
    folder: FolderIdentity | None = None

    def check(self) -> None:
        """Raise an error once another process has the lock, or the folder of the run is gone.

        Raises
        ------
        FlowError
            Naming that process or folder.
        """
        if self.lost:
            raise FlowError(self.lost)
        if self.folder is not None:
            self.folder.check()

    def between(self, check: Callable[[float], None] | None) -> Callable[[float], None]:
        """Return the check between two shards: that the lock still holds, then `check`."""

        def both(seconds: float) -> None:
            self.check()
            if check is not None:
                check(seconds)

        return both


@contextmanager
def leased(location: Location, seconds: float | None = LEASE) -> Iterator[Lease]:
    """Hold the lock of a location, so that no other process writes to it.

    Parameters
    ----------
    location : Location
        A folder is locked with its run, see `cubie_flow.storage.lock.locked`, and not here.
    seconds : float, optional
        Time without renewal after which others may take the lock over; None takes no lock.

    Raises
    ------
    FlowError
        If another process holds the lock, or the server cannot lock.
    """
    if location.path is not None and location.folder is None and not location.group:
        # A repository may be outside the folder of the run, which is locked.
        location.path.mkdir(parents=True, exist_ok=True)
        with locked(location.path):
            yield Lease()
        return
    if location.path is not None or seconds is None or not location.lockable:
        yield Lease()
        return
    lease = _RemoteLease(location, seconds)
    lease.acquire()
    finished = threading.Event()

    def renew() -> None:
        while not finished.wait(seconds / RENEWALS) and not lease.lost:
            lease.renew()

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        finished.set()
        thread.join()
        lease.release()


class _RemoteLease(Lease):
    """A lock object and its renewal."""

    def __init__(self, location: Location, seconds: float) -> None:
        self._location = location
        group = f".{location.group.replace('/', '.')}" if location.group else ""
        self._address = f"{location.address}{group}.lock"
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
        """Create the lock, or take over an expired one."""
        location = self._location
        try:
            self._object = small_object(self._address, location.client, location.options)
            for _ in range(3):
                with suppress(FileExistsError, Changed):
                    self._tag = _answer(self._object.create, self._content())
                    return
                with suppress(FileNotFoundError, Changed):
                    data, tag = _answer(self._object.read)
                    if self._token.encode() in data:
                        self._tag = tag  # it was created, but the answer was lost
                        return
                    self._refuse_active(data)
                    self._tag = _answer(self._object.replace, self._content(), tag)
                    log.info("took over the lock of '%s'", location.name)
                    return
        except FlowError:
            raise
        except Exception as error:
            refused = location.error(error)
            if "implement" in str(error).lower():
                refused = FlowError(
                    f"'{location.name}' cannot be locked: its server does not write on a "
                    "condition; storage.lease=null writes without a lock, so make sure yourself "
                    "that no other process writes there"
                )
            raise refused from None
        raise FlowError(f"'{location.name}' is being locked by another process at this moment")

    def _refuse_active(self, data: bytes) -> None:
        """Raise an error if the owner of the lock is still active."""
        try:
            owner = json.loads(data)
            pid, seconds, renewed = (owner[name] for name in ("pid", "seconds", "renewed"))
            age = time() - float(renewed)
            stale = _ended(owner)
            if not stale and not 0.0 <= age <= float(seconds):
                stale = self._unchanged(data, float(seconds), ahead=age < 0.0)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise FlowError(
                f"'{self._address}' is not a cubie_flow lock file; delete it if no process writes "
                f"'{self._location.name}'"
            ) from None
        if not stale:
            raise FlowError(
                f"'{self._location.name}' is being written by another process, {pid} on "
                f"{owner.get('host')}, which renewed its lock {max(age, 0.0):.0f} s ago; wait for "
                f"it or stop it first (its lock expires after {seconds:g} s without renewal)"
            )

    def _unchanged(self, data: bytes, seconds: float, ahead: bool) -> bool:
        """Return whether nobody renews a lock that seems to have expired, or not to have begun.

        The clock of its owner may differ from that of this machine, so its time alone says little.

        Parameters
        ----------
        data : bytes
            What the lock says.
        seconds : float
            Time without renewal after which it expires.
        ahead : bool
            Whether its time is yet to come.
        """
        # One that seems expired is given the time of a renewal and a half.
        until = monotonic() + (seconds if ahead else 1.5 * seconds / RENEWALS)
        while monotonic() < until:
            sleep(seconds / RENEWALS / LOOKS)
            with suppress(FileNotFoundError):
                if _answer(self._object.read)[0] != data:
                    return False
        return True

    def renew(self) -> None:
        """Renew the lock, or note that it was lost."""
        try:
            self._tag = _answer(self._object.replace, self._content(), self._tag)
        except Changed:
            self._lose()
        except Exception as error:
            # The next renewal may succeed in time; if not, the lock will turn out to be lost.
            log.warning("%s", self._location.error(error, "locked"))

    def _lose(self) -> None:
        who = "another process"
        with suppress(Exception):
            data, self._tag = _answer(self._object.read)
            owner = json.loads(data)
            if owner["token"] == self._token:
                return  # the lock was renewed, but the answer was lost
            who = f"process {owner['pid']} on {owner['host']}"
        self.lost = (
            f"'{self._location.name}' was taken over by {who}, because this process had not "
            f"renewed its lock for {self._seconds:g} s; complete shards are kept"
        )

    def release(self) -> None:
        """Delete the lock, unless another process has it."""
        if self.lost:
            return
        # A lock that cannot be deleted expires.
        with suppress(Exception):
            if json.loads(_answer(self._object.read)[0])["token"] == self._token:
                _answer(self._object.delete)


def _answer(request: Callable[..., Any], *given: Any) -> Any:
    """Return what a server answers.

    Raises
    ------
    TimeoutError
        If it does not answer: clients ask again for half an hour.
    """
    answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put((request(*given), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=ask, name="lock", daemon=True).start()
    try:
        answer, error = answers.get(timeout=PATIENCE)
    except Empty:
        raise TimeoutError(f"its server has not answered for {PATIENCE:g} s") from None
    if error is not None:
        raise error
    return answer


def _ended(owner: Mapping[str, Any]) -> bool:
    """Return whether a process of this machine has ended."""
    here = owner["machine"] is not None and owner["machine"] == machine_id()
    return here and owner["started"] != process_start(owner["pid"])
