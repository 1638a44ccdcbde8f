"""The storage client obstore: S3, Google and Azure URLs, with every condition the server's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cubie_flow.errors import FlowError
from cubie_flow.storage.client import StorageClient
from cubie_flow.storage.objects import Changed, Tag

if TYPE_CHECKING:
    from cubie_flow.storage.location import Location


class ObstoreClient(StorageClient):
    """Opens URLs by obstore."""

    def open_store(self, location: Location, *, read_only: bool, create: bool) -> Any:
        """Return the zarr store at a URL, see `StorageClient.open_store`."""
        from obstore.store import from_url
        from zarr.storage import ObjectStore

        from cubie_flow.storage.backends import RemoteStore, let_threads_end

        let_threads_end()
        if location.address.startswith("memory:"):
            raise FlowError("memory:// is kept by fsspec; use storage.client=fsspec")
        objects = from_url(location.address, **location.options)
        return RemoteStore(ObjectStore(objects, read_only=read_only))

    def small_object(self, address: str, options: Mapping[str, Any]) -> ObstoreObject:
        """Return the object at a URL."""
        return ObstoreObject(address, options)


class ObstoreObject:
    """A small object by obstore.

    Parameters
    ----------
    address : str
    options : mapping
    """

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        from obstore.store import from_url

        folder, _, self._name = address.rpartition("/")
        self._store = from_url(folder, **options)

    def create(self, data: bytes) -> Tag:
        """Write the object if it does not exist; return its tag."""
        from obstore.exceptions import AlreadyExistsError

        try:
            return _tag(self._store.put(self._name, data, mode="create"))
        except AlreadyExistsError:
            raise FileExistsError(self._name) from None

    def replace(self, data: bytes, tag: Tag) -> Tag:
        """Write the object if its tag is still `tag`; return the new tag."""
        from obstore.exceptions import PreconditionError

        try:
            return _tag(self._store.put(self._name, data, mode=tag))
        except (PreconditionError, FileNotFoundError):
            raise Changed from None

    def read(self) -> tuple[bytes, Tag]:
        """Return the content and its tag."""
        answer = self._store.get(self._name)
        return bytes(answer.bytes()), _tag(answer.meta)

    def delete(self) -> None:
        """Delete the object."""
        self._store.delete(self._name)


def _tag(answer: Mapping[str, Any]) -> Tag:
    """Return what a server compares: S3 and Azure the ETag, Google the version."""
    return {name: answer[name] for name in ("e_tag", "version") if answer[name] is not None}
