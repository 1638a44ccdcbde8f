"""The storage client icechunk: a repository of commits, at a path or at a URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cubie_flow.storage.client import StorageClient
from cubie_flow.storage.obstore_client import ObstoreObject

if TYPE_CHECKING:
    from cubie_flow.storage.location import Location

#: Options of icechunk for S3 by their names in obstore.
_RENAMED = {
    "endpoint_url": "endpoint", "anonymous": "skip_signature", "session_token": "session_token",
    "access_key_id": "access_key_id", "secret_access_key": "secret_access_key", "region": "region",
    "requester_pays": "request_payer",
}  # fmt: skip


class IcechunkClient(StorageClient):
    """Opens repositories of Icechunk.

    Icechunk cannot write a single object, so obstore, which comes with it, writes the lock next to
    a repository in S3.
    """

    extra = "icechunk"
    provides = "it"
    repository = True

    def open_store(self, location: Location, *, read_only: bool, create: bool) -> Any:
        """Return the zarr store of a repository, see `StorageClient.open_store`."""
        from cubie_flow.storage.versioned import open_versioned

        return open_versioned(
            location.address, location.options, location.name, read_only=read_only, create=create
        )

    def small_object(self, address: str, options: Mapping[str, Any]) -> ObstoreObject:
        """Return the object at a URL in S3."""
        renamed = {_RENAMED[name]: value for name, value in options.items() if name in _RENAMED}
        if options.get("allow_http"):
            renamed["client_options"] = {"allow_http": True}
        return ObstoreObject(address, renamed)

    def lockable(self, location: Location) -> bool:
        """Return whether there can be a lock next to the repository: in S3 only."""
        return location.address.startswith("s3://")

    def alone(self, location: Location) -> str:
        """Return why no second process may write; empty for a repository at a URL."""
        if location.path is None:
            return super().alone(location)
        return "is an Icechunk repository on a disk, which one process at a time may write"
