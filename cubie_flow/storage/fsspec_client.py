"""The storage client fsspec: any URL whose fsspec package is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cubie_flow.storage.client import StorageClient
from cubie_flow.storage.objects import Changed, Tag

if TYPE_CHECKING:
    from cubie_flow.storage.location import Location

#: Protocols whose servers write on a condition.
CONDITIONAL = ("s3", "s3a")
#: Other processes write too: an earlier listing may no longer be true.
NO_CACHE = {"use_listings_cache": False}


class FsspecClient(StorageClient):
    """Opens URLs by fsspec."""

    def open_store(self, location: Location, *, read_only: bool, create: bool) -> Any:
        """Return the zarr store at a URL, see `StorageClient.open_store`."""
        import fsspec  # noqa: F401  zarr's own message would not name the missing package
        from zarr.storage import FsspecStore

        from cubie_flow.storage.backends import RemoteStore

        options = {**NO_CACHE, **location.options}
        return RemoteStore(
            FsspecStore.from_url(location.address, storage_options=options, read_only=read_only)
        )

    def small_object(self, address: str, options: Mapping[str, Any]) -> FsspecObject:
        """Return the object at a URL."""
        return FsspecObject(address, options)


class FsspecObject:
    """A small object by fsspec.

    S3 writes on a condition. Other file systems differ in the meaning of ``mode="create"``, and
    some ignore it, so for them the object is read just before it is written.

    Parameters
    ----------
    address : str
    options : mapping
    """

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        import fsspec

        self._files, self._path = fsspec.core.url_to_fs(address, **{**NO_CACHE, **options})
        protocol = self._files.protocol
        protocols = (protocol,) if isinstance(protocol, str) else tuple(protocol)
        self._conditional = not {*CONDITIONAL}.isdisjoint(protocols)

    def create(self, data: bytes) -> Tag:
        """Write the object if it does not exist; return its tag."""
        if self._conditional:
            self._files.pipe_file(self._path, data, mode="create")
        elif self._files.exists(self._path):
            raise FileExistsError(self._path)
        else:
            self._files.pipe_file(self._path, data)
        return self._tag(data)

    def replace(self, data: bytes, tag: Tag) -> Tag:
        """Write the object if its tag is still `tag`; return the new tag."""
        try:
            if self._conditional:
                self._files.pipe_file(self._path, data, IfMatch=tag)
            elif self.read()[1] == tag:
                self._files.pipe_file(self._path, data)
            else:
                raise Changed
        except FileNotFoundError:
            raise Changed from None
        except OSError as error:
            if "pre-condition" in str(error).lower():
                raise Changed from None
            raise
        return self._tag(data)

    def read(self) -> tuple[bytes, Tag]:
        """Return the content and its tag."""
        # A tag older than the content is harmless: the next `replace` fails.
        tag = self._files.info(self._path)["ETag"] if self._conditional else ""
        data = bytes(self._files.cat_file(self._path))
        return data, tag or data.decode("latin-1")

    def _tag(self, data: bytes) -> Tag:
        """Return the tag of the content that was just written."""
        content, tag = self.read()
        if content != data:
            raise Changed
        return tag

    def delete(self) -> None:
        """Delete the object."""
        self._files.rm_file(self._path)
