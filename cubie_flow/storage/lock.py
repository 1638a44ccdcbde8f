"""The lock of a folder: one writer at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cubie_flow.errors import FlowError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder of a run, so that no other process writes into it.

    The operating system holds the lock (flock) and releases it when the process ends, however that
    happens.

    Raises
    ------
    FlowError
        If another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # no such lock on this system
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlowError(f"the folder '{folder}' cannot be opened: {reason}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FlowError(
                f"'{folder}' is being written by another process; wait for it, or stop it first"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)
