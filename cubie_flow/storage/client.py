"""The contract of a storage client: it opens the store and the lock object at an address."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cubie_flow.storage.objects import SmallObject

if TYPE_CHECKING:
    from cubie_flow.storage.location import Location


class StorageClient(ABC):
    """Opens what is at URLs, and at paths too if it keeps a repository.

    It is made without arguments; `cubie_flow.registries.CLIENTS` registers the class. Its module
    imports the client's package only in the methods, so that a `Location` stays cheap.

    Attributes
    ----------
    extra : str
        Extra of this package that installs the client's package.
    provides : str
        What that extra provides, for the message where the package is missing.
    repository : bool
        Whether the client keeps a format of its own, which is not a folder of Zarr files.
    """

    extra = "remote"
    provides = "what s3:// needs"
    repository = False

    @abstractmethod
    def open_store(self, location: Location, *, read_only: bool, create: bool) -> Any:
        """Return the zarr store at a location, with the methods of `backends.TimedStore`.

        Parameters
        ----------
        location : Location
        read_only : bool
        create : bool
            Whether to create what is missing.

        Raises
        ------
        FlowError
            If the client does not serve such addresses.
        ImportError
            If a package is missing.
        FileNotFoundError
            If nothing is there and `create` is false.
        Exception
            Other exceptions of the client; the caller turns them into a `FlowError`.
        """

    @abstractmethod
    def small_object(self, address: str, options: Mapping[str, Any]) -> SmallObject:
        """Return the object at a URL, for a lock.

        Parameters
        ----------
        address : str
        options : mapping
            Options of the client.
        """

    def lockable(self, location: Location) -> bool:
        """Return whether `small_object` works next to the store."""
        return True

    def alone(self, location: Location) -> str:
        """Return why no second process may write to the store; empty if others may."""
        in_memory = location.address.startswith("memory:")
        return "is in the memory of this process" if in_memory else ""
