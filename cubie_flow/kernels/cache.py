"""The cache of compiled kernels on disk, so that a second process need not compile."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cubie_flow.errors import FlowError

_MAGIC = b"cubieflow1\n"
#: The cache is trimmed to this many bytes, least recently used first.
SIZE_LIMIT = 512 * 2**20
FOLDER_VARIABLE = "CUBIE_FLOW_CACHE"


def cache_folder() -> Path:
    """Return the folder of the kernel cache (``CUBIE_FLOW_CACHE`` overrides it)."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cubie_flow" / "kernels"


def source_digest() -> str:
    """Return a hash of the sources on which compiled kernels depend."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for folder in (root.parent / "expressions", root / "targets"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


class KernelCache:
    """Files named by key; each has a JSON header and binary parts, verified by a hash.

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

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.kernel"

    def get(self, key: str) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """Return (header, parts) of a kernel; None if it is absent, damaged or of another user."""
        path = self._path(key)
        try:
            status = path.stat()
            if hasattr(os, "getuid") and status.st_uid != os.getuid():
                return None
            data = path.read_bytes()
        except OSError:
            return None
        digest, body = data[len(_MAGIC) : len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
        if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
            return None
        (length,) = struct.unpack("<q", body[:8])
        header = json.loads(body[8 : 8 + length])
        parts, position = {}, 8 + length
        for name, size in header.pop("parts"):
            parts[name] = body[position : position + size]
            position += size
        with contextlib.suppress(OSError):
            os.utime(path)
        return header, parts

    def put(self, key: str, header: Mapping[str, Any], parts: Mapping[str, bytes]) -> None:
        """Store a kernel; a cache that cannot be written is not an error.

        Parameters
        ----------
        key : str
        header : mapping
            Values that JSON holds.
        parts : mapping
            Binary parts by name.
        """
        head = json.dumps({**header, "parts": [(n, len(p)) for n, p in parts.items()]}).encode()
        body = struct.pack("<q", len(head)) + head + b"".join(parts.values())
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=self.folder, suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(body).digest() + body)
            os.replace(name, self._path(key))
        except OSError:
            return
        self._trim()

    def _files(self) -> list[tuple[float, int, Path]]:
        files = []
        for path in self.folder.glob("*.kernel"):
            with contextlib.suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        return sorted(files)

    def _trim(self) -> None:
        files = self._files()
        excess = sum(size for _, size, _ in files) - self.limit
        for _, size, path in files:
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size

    def size(self) -> tuple[int, int]:
        """Return the number of stored kernels and their total bytes."""
        files = self._files()
        return len(files), sum(size for _, size, _ in files)

    def clear(self) -> tuple[int, int]:
        """Delete every kernel; return their number and total bytes.

        Raises
        ------
        FlowError
            If a file cannot be deleted.
        """
        files = self._files()
        try:
            for _, _, path in files:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise FlowError(f"cannot clear the kernel cache {self.folder}: {error}") from error
        return len(files), sum(size for _, size, _ in files)
