"""The cache of compiled kernels on disk, so that a second process need not compile."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from time import time
from types import TracebackType
from typing import Any
from uuid import uuid4

from cubie_flow.errors import FlowError
from cubie_flow.process.startup import process

_MAGIC = b"cubieflow2\n"
#: The cache is trimmed to this many bytes, least recently used first.
SIZE_LIMIT = 512 * 2**20
FOLDER_VARIABLE = "CUBIE_FLOW_CACHE"
#: Suffixes of a compiled kernel, a lowered batch loop, and a file that is not complete.
KERNEL, LOOP, PARTIAL = ".kernel", ".loop", ".tmp"
#: Seconds after which a file that was never completed is deleted.
ABANDONED = 3600.0
_HANDLES = os.open in os.supports_dir_fd and os.scandir in os.supports_fd
_FILE = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_told: set[Path] = set()


def cache_folder() -> Path:
    """Return the folder of the kernel cache (``CUBIE_FLOW_CACHE`` overrides it)."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cubie_flow" / "kernels"


@cache
def source_digest() -> str:
    """Return a hash of the sources on which compiled kernels depend."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for folder in (root.parent / "expressions", root / "targets"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


class _Folder:
    """The folder of a cache, checked and used through one handle where the system has them.

    Parameters
    ----------
    path : Path

    Raises
    ------
    FlowError
        If others may write to it.
    OSError
        If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY) if _HANDLES else None
        try:
            self._check()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> _Folder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            os.close(self._handle)

    def _check(self) -> None:
        status = os.stat(self._path if self._handle is None else self._handle)
        if _is_own(status):
            return
        others = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        reason = "others may write to it" if others else "it belongs to another user"
        remedy = f"chmod go-w '{self._path}', or " if others else ""
        raise FlowError(
            f"the kernel cache '{self._path}' is not used, because {reason} and could make this "
            f"process run their code; {remedy}set {FOLDER_VARIABLE} to a folder of your own"
        )

    def _name(self, name: str) -> str:
        return str(self._path / name) if self._handle is None else name

    def read(self, name: str) -> bytes | None:
        """Return the content of a file and mark it as used; None if it is not this user's own."""
        with open(self._open(name, os.O_RDONLY), "rb") as file:
            status = os.fstat(file.fileno())
            if not (_is_own(status) and stat.S_ISREG(status.st_mode)):
                return None
            with contextlib.suppress(OSError):
                os.utime(file.fileno() if os.utime in os.supports_fd else self._path / name)
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a file, complete or not at all."""
        partial = f"{uuid4().hex}{PARTIAL}"
        with open(self._open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(content)
        at = self._handle
        os.replace(self._name(partial), self._name(name), src_dir_fd=at, dst_dir_fd=at)

    def _open(self, name: str, flags: int) -> int:
        return os.open(self._name(name), flags | _FILE, 0o600, dir_fd=self._handle)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name(name), dir_fd=self._handle)

    def files(self) -> list[tuple[float, int, str]]:
        """Return time of last use, size and name of every file, the least recently used first."""
        files = []
        with os.scandir(self._path if self._handle is None else self._handle) as entries:
            for entry in entries:
                if entry.name.endswith((KERNEL, LOOP, PARTIAL)):
                    with contextlib.suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        files.append((status.st_mtime, status.st_size, entry.name))
        return sorted(files)


def _is_own(status: os.stat_result) -> bool:
    """Return whether a file or folder belongs to this user, and no other may write it."""
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _make(folder: Path) -> None:
    """Make a folder and its missing parents for this user alone."""
    missing = []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        missing.append(path)
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)


class KernelCache:
    """Files named by key; each has a JSON header and binary parts, verified by a hash.

    A file is machine code that will run, so only the user's own files count, in a folder to which
    no other user may write. Each holds the digest of its key.

    Parameters
    ----------
    folder : Path, optional
        By default `cache_folder`.
    limit : int
        Largest total size in bytes.
    """

    def __init__(self, folder: Path | None = None, limit: int = SIZE_LIMIT) -> None:
        self.folder = folder or cache_folder()
        self.limit = limit

    @property
    def refusal(self) -> str:
        """Why the folder is not used; empty if it is, or does not exist yet."""
        try:
            with contextlib.suppress(OSError), _Folder(self.folder):
                pass
        except FlowError as error:
            return str(error)
        return ""

    @contextlib.contextmanager
    def _optional(self) -> Iterator[None]:
        """Go on without the cache in the block; say so once if others may write to it."""
        try:
            with contextlib.suppress(OSError):
                yield
        except FlowError as error:
            if self.folder in _told:
                return
            _told.add(self.folder)
            if process.owned:
                print(f"cubie-flow: {error}", file=sys.stderr, flush=True)
            else:
                warnings.warn(str(error), stacklevel=4)

    def get(self, key: str, suffix: str = KERNEL) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """Return (header, parts) of a kernel, or of a lowered loop.

        None if it is absent or damaged, of another user or of another key.

        Parameters
        ----------
        key : str
        suffix : {KERNEL, LOOP}
        """
        data = None
        with self._optional(), _Folder(self.folder) as folder:
            data = folder.read(f"{key}{suffix}")
        return None if data is None else _unpacked(key, data)

    def put(
        self,
        key: str,
        header: Mapping[str, Any],
        parts: Mapping[str, bytes],
        suffix: str = KERNEL,
    ) -> None:
        """Store a kernel or a lowered loop; a cache that cannot be written is not an error.

        Parameters
        ----------
        key : str
        header : mapping
            Values that JSON holds.
        parts : mapping
            Binary parts by name.
        suffix : {KERNEL, LOOP}
        """
        with self._optional():
            _make(self.folder)
            with _Folder(self.folder) as folder:
                folder.write(f"{key}{suffix}", _packed(key, header, parts))
                self._trim(folder)

    def _trim(self, folder: _Folder) -> None:
        files = folder.files()
        excess = sum(size for _, size, _ in files) - self.limit
        for used, size, name in files:
            abandoned = name.endswith(PARTIAL) and used < time() - ABANDONED
            if excess > 0 or abandoned:
                folder.delete(name)
                excess -= size

    def size(self) -> tuple[int, int]:
        """Return the number of stored kernels and the total bytes of all files."""
        files: list[tuple[float, int, str]] = []
        with contextlib.suppress(OSError, FlowError), _Folder(self.folder) as folder:
            files = folder.files()
        return _counted(files)

    def clear(self) -> tuple[int, int]:
        """Delete every kernel, and every file that was never completed.

        Returns
        -------
        int
            Number of kernels.
        int
            Total bytes of all files.

        Raises
        ------
        FlowError
            If a file cannot be deleted, or others may write to the folder.
        """
        try:
            with _Folder(self.folder) as folder:
                files = folder.files()
                for _, _, name in files:
                    folder.delete(name)
        except FileNotFoundError:
            return 0, 0
        except OSError as error:
            raise FlowError(f"cannot clear the kernel cache {self.folder}: {error}") from error
        return _counted(files)


def _counted(files: list[tuple[float, int, str]]) -> tuple[int, int]:
    kernels = sum(name.endswith(KERNEL) for _, _, name in files)
    return kernels, sum(size for _, size, _ in files)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _packed(key: str, header: Mapping[str, Any], parts: Mapping[str, bytes]) -> bytes:
    """Return the content of a file: magic, a hash of the rest, the key's, header and parts."""
    head = json.dumps({**header, "parts": [(n, len(p)) for n, p in parts.items()]}).encode()
    body = _digest(key) + struct.pack("<q", len(head)) + head + b"".join(parts.values())
    return _MAGIC + hashlib.sha256(body).digest() + body


def _unpacked(key: str, data: bytes) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    """Return header and parts of a file, None if it is damaged or of another key."""
    digest, body = data[len(_MAGIC) : len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
    if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        return None
    if not body.startswith(_digest(key)):
        return None
    (length,) = struct.unpack("<q", body[32:40])
    header = json.loads(body[40 : 40 + length])
    parts, position = {}, 40 + length
    for name, size in header.pop("parts"):
        parts[name] = body[position : position + size]
        position += size
    return header, parts
