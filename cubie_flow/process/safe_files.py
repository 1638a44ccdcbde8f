"""Files of a folder that a stranger may have made: no link inside of it is followed.

The folder itself may be reached through links, since the user names it. Everything below is opened
part by part, each relative to the handle of the one above, where the system offers that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from cubie_flow.errors import FlowError

#: Ending of a file that is not complete yet.
PARTIAL = ".partial"
_HANDLES = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
#: Without waiting for the other end of a pipe, and as bytes.
_FILE = _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
#: A file that must not exist yet.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE
#: A folder on the way, of which only names are opened: that needs no right to list it.
_WAY = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)


class LinkRefused(FlowError):
    """A name inside a folder leads to something else than a file or folder of its own."""


def refuse_link(path: Path) -> None:
    """Refuse a path that is a symbolic link.

    Raises
    ------
    LinkRefused
        Naming it.
    """
    if path.is_symlink():
        raise LinkRefused(
            f"'{path}' is a symbolic link, and links inside a folder of results are not followed; "
            "put there what it points to"
        )


def refuse_links_below(folder: Path) -> None:
    """Refuse a folder that has a symbolic link anywhere below.

    Raises
    ------
    LinkRefused
        Naming the first.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            refuse_link(Path(parent) / name)


@contextmanager
def _parent(folder: Path, name: str, make: bool = False) -> Iterator[tuple[int | None, str]]:
    """Yield a handle of the folder that holds a name, and the name in it.

    Where the system has no such handles, yield None and the whole path.
    """
    *way, last = name.split("/")
    if any(part in ("", ".", "..") for part in (*way, last)):
        raise LinkRefused(f"'{name}' leads out of '{folder}'")
    if not _HANDLES:
        path = folder
        for part in way:
            path /= part
            refuse_link(path)
        if make:
            path.mkdir(parents=True, exist_ok=True)
        refuse_link(path / last)
        yield None, str(path / last)
        return
    handle = os.open(folder, _WAY)
    try:
        for number, part in enumerate(way):
            try:
                inner = _folder(part, handle, make)
            except OSError:
                refuse_link(folder.joinpath(*way[: number + 1]))
                raise
            os.close(handle)
            handle = inner
        yield handle, last
    finally:
        os.close(handle)


def _folder(name: str, handle: int, make: bool) -> int:
    """Return a handle of a folder in the folder of another handle."""
    try:
        return os.open(name, _WAY | _NO_LINK, dir_fd=handle)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=handle)
    return os.open(name, _WAY | _NO_LINK, dir_fd=handle)


def open_inside(folder: Path, name: str, flags: int = os.O_RDONLY) -> int:
    """Open a file of a folder and return its descriptor.

    Parameters
    ----------
    folder : Path
    name : str
        Path of the file inside, with ``/``.
    flags : int
        As of `os.open`.

    Raises
    ------
    LinkRefused
        If the name or a part of it is a link, or it is something else, such as a pipe.
    OSError
        If it cannot be opened.
    """
    with _parent(folder, name) as (handle, last):
        try:
            descriptor = os.open(last, flags | _FILE, 0o666, dir_fd=handle)
        except OSError:
            refuse_link(folder / name)
            raise
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(f"'{folder / name}' is a folder")
    raise LinkRefused(f"'{folder / name}' is not a regular file, so it is not opened; delete it")


def read_inside(folder: Path, name: str) -> bytes:
    """Return the content of a file of a folder; see `open_inside`."""
    with open(open_inside(folder, name), "rb") as file:
        return file.read()


def status_inside(folder: Path, name: str) -> os.stat_result | None:
    """Return the status of a name in a folder, None if it is missing; links are refused.

    Raises
    ------
    LinkRefused
        If the name or a part of it is a link.
    """
    try:
        with _parent(folder, name) as (handle, last):
            status = os.stat(last, dir_fd=handle, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(status.st_mode):
        refuse_link(folder / name)
    return status


def write_inside(folder: Path, name: str, data: Any, *, exclusive: bool = False) -> None:
    """Write a file of a folder, complete or not at all; a link in its place is replaced.

    Parameters
    ----------
    folder : Path
    name : str
        Path of the file inside, with ``/``; missing folders on the way are made.
    data : bytes-like
    exclusive : bool
        Whether to refuse to replace a file.

    Raises
    ------
    LinkRefused
        If a folder on the way is a link.
    FileExistsError
        If the file exists and `exclusive` is given.
    OSError
        If it cannot be written.
    """
    with _parent(folder, name, make=True) as (handle, last):
        partial = _partial_name(last)
        descriptor = os.open(partial, _NEW, 0o666, dir_fd=handle)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            if exclusive:
                os.link(partial, last, src_dir_fd=handle, dst_dir_fd=handle)
                os.unlink(partial, dir_fd=handle)
            else:
                os.replace(partial, last, src_dir_fd=handle, dst_dir_fd=handle)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial, dir_fd=handle)
            raise


def _partial_name(name: str) -> str:
    """Return the name of a temporary file that nobody can foresee."""
    head, last = os.path.split(name)
    return os.path.join(head, f".{last[:100]}.{uuid4().hex}{PARTIAL}")


@contextmanager
def replaced_when_complete(path: Path) -> Iterator[Path]:
    """Yield a new file that replaces `path` when the block ends without an error.

    A link at `path` is replaced and not followed.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    partial = Path(_partial_name(str(path)))
    os.close(os.open(partial, _NEW, 0o666))
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()


def write_file(path: Path, data: bytes | str) -> None:
    """Write a whole file, complete or not at all; a link in its place is replaced.

    Parameters
    ----------
    path : Path
        In an existing folder.
    data : bytes or str

    Raises
    ------
    OSError
        If it cannot be written.
    """
    content = data.encode() if isinstance(data, str) else data
    with replaced_when_complete(path) as partial:
        partial.write_bytes(content)
