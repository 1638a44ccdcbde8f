"""What keeps a store: a folder, or an object store by fsspec or obstore."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from zarr.storage import LocalStore, WrapperStore

from cubie_flow.credentials import redacted
from cubie_flow.errors import FlowError

if TYPE_CHECKING:
    from cubie_flow.storage.location import Location


class Timed:
    """Knows how long the writing of files took; the rest is encoding."""

    seconds = 0.0

    async def set(self, key: str, value: Any) -> None:
        """Write one file."""
        began = perf_counter()
        await super().set(key, value)  # type: ignore[misc]
        self.seconds += perf_counter() - began


class Folder(Timed, LocalStore):  # type: ignore[misc]
    """A folder: every file is renamed into place when it is whole."""


class Remote(Timed, WrapperStore):  # type: ignore[misc]
    """An object store: every object is whole or not there."""


def open_backend(location: Location, read_only: bool) -> Folder | Remote:
    """Return the zarr store of a location.

    Raises
    ------
    FlowError
        If a package is missing, or the URL is none that the client knows.
    """
    if location.folder is not None:
        return Folder(location.folder, read_only=read_only)
    maker = {"fsspec": _fsspec, "obstore": _obstore}[location.client]
    try:
        return Remote(maker(location, read_only))
    except ImportError as error:
        raise FlowError(
            f"'{location.name}' needs a package that is not installed ({redacted(str(error))}); "
            "pip install 'cubie-flow[remote]' brings what s3:// needs"
        ) from None
    except FlowError:
        raise
    except Exception as error:
        raise location.error(error, "opened") from None


def _fsspec(location: Location, read_only: bool) -> Any:
    import fsspec  # noqa: F401  zarr's own message would not say what is missing
    from zarr.storage import FsspecStore

    # Other processes write too: what was listed a moment ago may no longer be true.
    options = {"use_listings_cache": False, **location.options}
    return FsspecStore.from_url(location.address, storage_options=options, read_only=read_only)


def _obstore(location: Location, read_only: bool) -> Any:
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    if location.address.startswith("memory:"):
        raise FlowError("memory:// is kept by fsspec; use storage.client=fsspec")
    return ObjectStore(from_url(location.address, **location.options), read_only=read_only)
