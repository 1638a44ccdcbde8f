"""The files of a local store: zarr's own store, but no link inside the folder is followed."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.storage import LocalStore

from cubie_flow.process.safe_files import (
    open_inside,
    refuse_link,
    status_inside,
    write_inside,
)
from cubie_flow.storage.zarr_adapter import buffer

_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class SafeLocalStore(LocalStore):  # type: ignore[misc]
    """A store in a folder; a link anywhere inside is an error that names it.

    Every file is renamed into place once it is complete.
    """

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        """Return the bytes of a key, None without such a file."""
        self._ensure_open_sync()
        try:
            with open(open_inside(self.root, _name(key)), "rb") as file:
                start, size = _span(byte_range, os.fstat(file.fileno()).st_size)
                if start:
                    file.seek(start)
                data = file.read(size)
        except _ABSENT:
            return None
        return buffer(data, prototype)

    def set_sync(self, key: str, value: Any) -> None:
        """Write the bytes of a key."""
        self._ensure_open_sync()
        self._check_writable()
        write_inside(self.root, _name(key), value.as_buffer_like())

    def delete_sync(self, key: str) -> None:
        """Delete a file or a folder, if there is one."""
        self._ensure_open_sync()
        self._check_writable()
        status = status_inside(self.root, _name(key))
        if status is None:
            return
        path = self.root / _name(key)
        if stat.S_ISDIR(status.st_mode):
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Return the bytes of a key, None without such a file."""
        return await asyncio.to_thread(
            self.get_sync, key, prototype=prototype, byte_range=byte_range
        )

    async def get_partial_values(
        self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]
    ) -> list[Any]:
        """Return parts of the bytes of some keys."""
        reads = (self.get(key, prototype, byte_range) for key, byte_range in key_ranges)
        return await asyncio.gather(*reads)

    async def _set(self, key: str, value: Any, exclusive: bool = False) -> None:
        if not self._is_open:
            await self._open()
        self._check_writable()
        data = value.as_buffer_like()
        await asyncio.to_thread(write_inside, self.root, _name(key), data, exclusive=exclusive)

    async def delete(self, key: str) -> None:
        """Delete a file or a folder, if there is one."""
        await asyncio.to_thread(self.delete_sync, key)

    async def delete_dir(self, prefix: str) -> None:
        """Delete a folder, if there is one."""
        if _name(prefix):
            await asyncio.to_thread(self.delete_sync, prefix)
        else:
            await super().delete_dir(prefix)

    async def exists(self, key: str) -> bool:
        """Return whether there is such a file."""
        status = await asyncio.to_thread(status_inside, self.root, _name(key))
        return status is not None and stat.S_ISREG(status.st_mode)

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys below a folder."""
        self._check_way(prefix)
        async for key in super().list_prefix(prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder."""
        self._check_way(prefix)
        async for name in super().list_dir(prefix):
            yield name

    async def getsize(self, key: str) -> int:
        """Return the bytes of a file."""
        status = await asyncio.to_thread(status_inside, self.root, _name(key))
        if status is None:
            raise FileNotFoundError(key)
        return status.st_size

    def _check_way(self, prefix: str) -> None:
        path: Path = self.root
        for part in filter(None, prefix.split("/")):
            path /= part
            refuse_link(path)


def _name(key: str) -> str:
    return key.strip("/")


def _span(byte_range: Any, size: int) -> tuple[int, int]:
    """Return where a range of a file begins, and its length; -1 is the rest."""
    if byte_range is None:
        return 0, -1
    if isinstance(byte_range, RangeByteRequest):
        return byte_range.start, max(0, byte_range.end - byte_range.start)
    if isinstance(byte_range, OffsetByteRequest):
        return byte_range.offset, -1
    if isinstance(byte_range, SuffixByteRequest):
        return max(0, size - byte_range.suffix), -1
    raise TypeError(f"{byte_range} is not a range of bytes")
