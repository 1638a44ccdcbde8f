"""What a command needs of its process, and what one started for it alone may spare itself."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper

from cubie_flow.errors import FlowError


class _Process:
    """What is known of the process: whether it was started for this command alone."""

    owned = False


process = _Process()


def ignore_interrupts() -> None:
    """Take no notice of a further Ctrl-C, where the process only says why it ends."""
    if process.owned and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def open_streams() -> None:
    """Open standard streams that are closed, and let a stream print what its encoding lacks.

    A closed one would otherwise lend its number to the next file that is opened, which would then
    receive what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_surroundings() -> None:
    """Refuse to start where nothing could be done.

    Raises
    ------
    FlowError
        Naming what is wrong.
    """
    if not __debug__:
        raise FlowError(
            "Python runs without assertions (-O or PYTHONOPTIMIZE), which zarr needs to read a "
            "store; run it with them"
        )
    try:
        os.getcwd()
    except OSError:
        raise FlowError(
            "the current folder has been deleted; change to one that is there"
        ) from None


def stdout_error(error: BaseException) -> str:
    """Return in words that an error is of standard output, or nothing; what is left is dropped."""
    if not isinstance(error, OSError) or error.filename is not None:
        return ""
    try:
        # An unbuffered stream keeps nothing that could be flushed once more.
        print(flush=True)
    except OSError as again:
        silence_stdout()
        return f"standard output cannot be written: {again.strerror or again}"
    return ""


def silence_stdout() -> None:
    """Let what is still to be printed, and what the interpreter flushes at its end, go nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
def no_collections() -> Iterator[None]:
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
