"""The standard streams of the process: opened, checked and silenced."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper


def open_streams() -> None:
    """Open standard streams that are closed, and escape characters that an encoding lacks.

    The next opened file would otherwise get the number of a closed stream, and with it everything
    that is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def stdout_error(error: BaseException) -> str:
    """Return the message for an error of standard output, empty for any other error.

    After an error of standard output, further output is discarded.
    """
    if not isinstance(error, OSError) or error.filename is not None:
        return ""
    try:
        # Writes something, because an unbuffered stream has nothing left to flush.
        print(flush=True)
    except OSError as again:
        silence_stdout()
        return f"standard output cannot be written: {again.strerror or again}"
    return ""


def silence_stdout() -> None:
    """Discard all further output, also what the interpreter flushes at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
