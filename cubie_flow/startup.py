"""What a process that was started for this command alone may spare itself."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Process:
    """What is known of the process: whether it was started for this command alone."""

    owned = False


process = _Process()


def ending() -> None:
    """Take no notice of a further Ctrl-C, where the process only says why it ends."""
    if process.owned and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def keep_dask_out() -> None:
    """Spare this process dask, which xarray imports to ask whether arrays are made of it.

    That takes as long as solving does, and no array here is. xarray asks once and remembers.
    """
    if not process.owned or "dask" in sys.modules:
        return
    sys.modules["dask"] = None  # type: ignore[assignment]
    try:
        from xarray.namedarray import pycompat, utils

        # Where a later xarray asks in another way, dask is imported as before.
        getattr(pycompat, "array_type", len)("dask")
        getattr(utils, "module_available", len)("dask")
    finally:
        del sys.modules["dask"]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Import without garbage collections, and leave what is there then alone for good.

    A warm command spends a tenth of its time on collections that find nothing otherwise.
    """
    if not process.owned:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
