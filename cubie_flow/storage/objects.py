"""Small objects at URLs that are written on a condition; a lock consists of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from cubie_flow.registries import CLIENTS

#: Identifies the content of an object; its form depends on the client.
Tag = Any


class Changed(Exception):
    """The object was changed or deleted since it was read."""


class SmallObject(Protocol):
    """An object that several processes may write; its tag identifies its content."""

    def create(self, data: bytes) -> Tag:
        """Write the object if it does not exist; return its tag.

        Raises
        ------
        FileExistsError
            If it exists.
        """
        ...

    def replace(self, data: bytes, tag: Tag) -> Tag:
        """Write the object if its tag is still `tag`; return the new tag.

        Raises
        ------
        Changed
            If it was changed or deleted.
        """
        ...

    def read(self) -> tuple[bytes, Tag]:
        """Return the content and its tag.

        Raises
        ------
        FileNotFoundError
            If it does not exist.
        """
        ...

    def delete(self) -> None:
        """Delete the object."""
        ...


def small_object(address: str, client: str, options: Mapping[str, Any]) -> SmallObject:
    """Return the object at a URL; exceptions of the client are not caught.

    Parameters
    ----------
    address : str
    client : str
        Name of a storage client.
    options : mapping
        Its options.
    """
    small: SmallObject = CLIENTS.get(client)().small_object(address, options)
    return small
