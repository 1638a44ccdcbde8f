"""Groups of a zarr store: opening, files, metadata in one place, and transactions."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import zarr
from zarr.storage import WrapperStore

from cubie_flow.errors import FlowError, is_from_store, lacks_memory, memory_sentence
from cubie_flow.storage.location import Location
from cubie_flow.storage.zarr_adapter import buffer


@contextmanager
def transaction(location: Location, store: Any, message: str) -> Iterator[None]:
    """Write in one commit, where the store has commits.

    Parameters
    ----------
    location : Location
        Named in errors.
    store : zarr store
    message : str
        Message of the commit.

    Raises
    ------
    FlowError
        In place of errors of files and networks.
    """
    with reported(location):
        store.begin()
        try:
            yield
        except FlowError:
            raise
        except Exception:
            store.check_place()  # a folder that was moved explains what is missing in it
            raise
        store.commit(message)


@contextmanager
def reported(location: Location, done: str = "written") -> Iterator[None]:
    """Raise errors of files and networks as a `FlowError`.

    Parameters
    ----------
    location : Location
    done : str
        Participle of what failed, such as ``opened``.
    """
    try:
        yield
    except FlowError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise FlowError(memory_sentence(error)) from error
        if isinstance(error, OSError):
            raise location.error(error, done) from error
        # Clients of object stores raise errors of their own, whose text may contain secrets.
        if location.folder is not None:
            if not is_from_store(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FlowError(f"'{location.name}' is damaged: zarr says {reason[:200]}") from error
        raise location.error(error, done) from None


def open_group(store: Any, path: str, mode: str = "r+") -> zarr.Group:
    """Return a group of a store, with the metadata that its files hold now.

    Parameters
    ----------
    store : zarr store
    path : str
        Path of the group; empty for the root.
    mode : {"r", "r+"}
    """
    return zarr.open_group(store, path=path, mode=mode, use_consolidated=False, zarr_format=3)


class OwnArrays(WrapperStore):  # type: ignore[misc]
    """A store whose root seems to hold its own arrays and nothing below them.

    Opening the root of a multirun then takes as long for a thousand jobs as for one.

    Parameters
    ----------
    store : zarr store
    attrs : mapping
        Attributes of the root.
    nodes : mapping
        Metadata of arrays and groups of the root, by path.
    """

    def __init__(
        self, store: Any, attrs: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]
    ) -> None:
        super().__init__(store)
        own = {n: m for n, m in nodes.items() if "/" not in n and m.get("node_type") == "array"}
        listed = {"kind": "inline", "must_understand": False, "metadata": own}
        root = {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}
        self._arguments = (attrs, own)
        self._root = json.dumps({**root, "consolidated_metadata": listed}).encode()

    def _with_store(self, store: Any) -> OwnArrays:
        return OwnArrays(store, *self._arguments)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return a file of the store, or the metadata of its root."""
        if key == "zarr.json" and byte_range is None:
            return buffer(self._root, prototype)
        return await self._store.get(key, prototype, byte_range)


def consolidate(store: Any, path: str = "") -> None:
    """Copy the metadata of a group and all below into one file, unless the store has it so."""
    if not store.supports_consolidated_metadata:
        return
    with warnings.catch_warnings():
        # Consolidated metadata is not yet in the text of the format. Readers that do not know it
        # read the same metadata array by array.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(store, path=path or None, zarr_format=3)


async def wait_for_all(tasks: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait until all tasks have ended, even if one fails; then raise the first error."""
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        if error is not None:
            raise error


async def put_files(store: Any, files: Mapping[str, Any]) -> None:
    """Write files into a store, all at once."""
    await wait_for_all(store.set(name, content) for name, content in files.items())
