"""What keeps a store: a folder, or an object store by fsspec or obstore."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from zarr.storage import LocalStore, WrapperStore

from cubie_flow.errors import FlowError


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

    if address.startswith("memory:"):
        raise FlowError("memory:// is kept by fsspec; use storage.client=fsspec")
    return ObjectStore(from_url(address, **options), read_only=read_only)
