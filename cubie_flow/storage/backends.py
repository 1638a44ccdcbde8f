"""Zarr stores that time their writes: a folder of files, or an object store."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from functools import cache
from time import perf_counter, sleep
from typing import Any

from zarr.storage import WrapperStore

from cubie_flow.storage.identity import FolderIdentity
from cubie_flow.storage.local_files import SafeLocalStore
from cubie_flow.storage.zarr_adapter import start_thread, sync

#: Seconds after which a server that has not answered a request counts as stopped.
PATIENCE = 300.0


@cache
def let_threads_end() -> None:
    """Wait a moment at exit for the threads of a client written in Rust.

    A thread that hands over a result needs the interpreter once more. If the interpreter is
    already shutting down, the process is aborted after all its work is done (once in about 100).
    """
    atexit.register(sleep, 0.05)


@cache
def let_requests_end() -> None:
    """Cancel at exit the requests that were sent together with one that failed.

    Otherwise each of them prints a traceback when the interpreter drops it.
    """
    atexit.register(_cancel_requests)


def _cancel_requests() -> None:
    async def cancel() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1.0) if tasks else None

    with suppress(Exception):
        sync(cancel())


class TimedStore:
    """Adds up the time in which at least one file is being written.

    A writer subtracts it from its own time to get the time of encoding.

    Attributes
    ----------
    seconds : float
    """

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

    def check_place(self) -> None:
        """Refuse to go on if the store is no longer where it was opened; URLs do not move."""

    def begin(self) -> None:
        """Begin a transaction; a store of files has none and writes at once."""

    def commit(self, message: str) -> None:
        """Commit the transaction."""


class FolderStore(TimedStore, SafeLocalStore):
    """A folder: every file is renamed into place once it is complete.

    Once the folder was moved, nothing is written any more: its old path would be made again.
    """

    def __init__(self, root: Any, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        start_thread()
        self._identity = FolderIdentity.of(self.root) if self.root.is_dir() else None

    async def set(self, key: str, value: Any) -> None:
        """Write one file."""
        self.check_place()
        try:
            await super().set(key, value)
        except OSError:
            self.check_place()  # it was moved meanwhile
            raise

    def check_place(self) -> None:
        """Refuse to go on if the folder was moved, replaced or deleted.

        Raises
        ------
        FlowError
            Naming the folder.
        """
        if self._identity is not None:
            self._identity.check()


class _AnsweringStore(WrapperStore):  # type: ignore[misc]
    """A store whose server has to answer: clients ask a stopped one again for half an hour."""

    async def get(self, *given: Any, **more: Any) -> Any:
        """Return the bytes of a key, None without such an object."""
        return await _answer(super().get(*given, **more))

    async def get_partial_values(self, *given: Any, **more: Any) -> Any:
        """Return parts of the bytes of some keys."""
        return await _answer(super().get_partial_values(*given, **more))

    async def exists(self, *given: Any, **more: Any) -> Any:
        """Return whether there is such an object."""
        return await _answer(super().exists(*given, **more))

    async def set(self, *given: Any, **more: Any) -> Any:
        """Write an object."""
        return await _answer(super().set(*given, **more))

    async def delete(self, *given: Any, **more: Any) -> Any:
        """Delete an object."""
        return await _answer(super().delete(*given, **more))

    async def is_empty(self, *given: Any, **more: Any) -> Any:
        """Return whether there is nothing below a prefix."""
        return await _answer(super().is_empty(*given, **more))

    async def delete_dir(self, *given: Any, **more: Any) -> Any:
        """Delete everything below a prefix."""
        return await _answer(super().delete_dir(*given, **more))

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys below a prefix."""
        async for key in _each(super().list_prefix(prefix)):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a prefix."""
        async for name in _each(super().list_dir(prefix)):
            yield name


async def _answer(request: Awaitable[Any]) -> Any:
    try:
        return await asyncio.wait_for(request, PATIENCE)
    except TimeoutError as error:
        reason = str(error) or f"its server has not answered for {PATIENCE:g} s"
        raise TimeoutError(reason) from None


async def _each(keys: AsyncIterator[str]) -> AsyncIterator[str]:
    following = aiter(keys)
    with suppress(StopAsyncIteration):
        while True:
            yield await _answer(anext(following))


class RemoteStore(TimedStore, _AnsweringStore):
    """An object store: every object is either complete or absent."""

    def __init__(self, store: Any) -> None:
        let_requests_end()
        super().__init__(store)
