"""Reading of files up to a limit of their size."""

from __future__ import annotations

from pathlib import Path

from cubie_flow.errors import FlowError


def read_bytes(path: Path, most: int) -> bytes:
    """Return the bytes of a model file.

    Raises
    ------
    FlowError
        If it is not a file, cannot be read, or has more than `most` bytes.
    """
    try:
        if path.exists() and not path.is_file():  # reading from a pipe might never end
            raise FlowError(f"model file '{path}' cannot be read: it is not a regular file")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlowError(f"model file '{path}' cannot be read: {reason}") from error
    if len(content) > most:
        raise FlowError(f"model file '{path}' has more than {most} bytes")
    return content
