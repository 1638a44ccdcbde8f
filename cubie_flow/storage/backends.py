"""What keeps a store: a folder, or an object store by fsspec or obstore."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from time import perf_counter, sleep
from typing import Any

from zarr.storage import LocalStore, WrapperStore

from cubie_flow.errors import FlowError


@cache
def let_threads_end() -> None:
    """Give the threads of a client written in Rust a moment before the interpreter ends.

    The thread that hands over a result needs the interpreter once more afterwards. Where that has
    begun to end meanwhile the process is aborted, with everything done (one in about 100).
    """
    atexit.register(sleep, 0.05)


@cache
def let_requests_end() -> None:
    """Cancel at the end what was asked of a server together with something that failed.

    Left alone, each such request would print a traceback when the interpreter drops it.
    """
    atexit.register(_cancel_requests)


def _cancel_requests() -> None:
    from zarr.core.sync import sync

    async def cancel() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1.0) if left else None

    with suppress(Exception):
        sync(cancel())


class Timed:
    """Knows for how long files were written, one or several at once; the rest is encoding."""

    seconds = 0.0
    _writing = 0
    _began = 0.0

    async def set(self, key: str, value: Any) -> None:
        """Write one file."""
        if not self._writing:
            self._began = perf_counter()
        self._writing += 1
        try:
            await super().set(key, value)  # type: ignore[misc]
        finally:
            self._writing -= 1
            if not self._writing:
                self.seconds += perf_counter() - self._began

    def begin(self) -> None:
        """Begin what belongs together; a store of files writes it as it comes."""

    def commit(self, message: str) -> None:
        """End it."""


class Folder(Timed, LocalStore):  # type: ignore[misc]
    """A folder: every file is renamed into place when it is whole."""


class Remote(Timed, WrapperStore):  # type: ignore[misc]
    """An object store: every object is whole or not there."""


def open_remote(
    address: str, client: str, options: Mapping[str, Any], *, read_only: bool
) -> Remote:
    """Return the zarr store at a URL; what the client raises is not caught.

    Parameters
    ----------
    address : str
    client : {"fsspec", "obstore"}
    options : mapping
        Of the client.
    read_only : bool

    Raises
    ------
    FlowError
        If the client does not keep such URLs.
    ImportError
        If a package is missing.
    """
    let_requests_end()
    return Remote({"fsspec": _fsspec, "obstore": _obstore}[client](address, options, read_only))


def _fsspec(address: str, options: Mapping[str, Any], read_only: bool) -> Any:
    import fsspec  # noqa: F401  zarr's own message would not say what is missing
    from zarr.storage import FsspecStore

    # Other processes write too: what was listed a moment ago may no longer be true.
    options = {"use_listings_cache": False, **options}
    return FsspecStore.from_url(address, storage_options=options, read_only=read_only)


def _obstore(address: str, options: Mapping[str, Any], read_only: bool) -> Any:
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    let_threads_end()
    if address.startswith("memory:"):
        raise FlowError("memory:// is kept by fsspec; use storage.client=fsspec")
    return ObjectStore(from_url(address, **options), read_only=read_only)
